"""One invented report, made once: its tables, figures and page are read by every test of the room."""

from __future__ import annotations

import pytest
from fakes import context

from bulkprobe.report.context import ReportContext
from bulkprobe.report.page import render_page

TYPES = ("BRCA", "COADREAD", "KIRC", "KIRP", "LUAD", "PAAD", "SKCM")  # half of them: drawing takes the time


@pytest.fixture(scope="session")
def report() -> ReportContext:
    return context(patients_per_type=30, types=TYPES)


@pytest.fixture(scope="session")
def page(report: ReportContext) -> str:
    return render_page(report)
