"""Whatever stands in data, names and notes is text on the page: genes, cancers, samples, patients, files, reasons."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from test_page import HOSTILE, few_curves, parse, visible, with_encoders

from bulkprobe.report.context import ReportContext
from bulkprobe.report.page import render_page

WORDS = ("kind", "source", "expression")  # what the page decides by


def soiled(value: Any, key: str = "") -> Any:
    """The same content with script in every text of it."""
    if isinstance(value, str):
        return value if key in WORDS else f"{value}{HOSTILE}"
    if isinstance(value, Mapping):
        return {name: soiled(part, str(name)) for name, part in value.items()}
    if isinstance(value, Sequence):
        return [soiled(part, key) for part in value]
    return value


def test_texts_of_data_are_text(report: ReportContext) -> None:
    few = with_encoders(report, {"pca": "pca", "bulkformer": "bulkformer"})
    few = dataclasses.replace(few, cards={**few.cards, "scbert": report.cards["scbert"]})  # which has no weights
    samples, curves = few.samples.copy(), few_curves(report, "pca").copy()
    for table in (samples, curves):
        for column in table.columns.intersection(["sample_id", "patient_id", "sex", "stage", "subtype", "msi"]):
            table[column] = table[column].map(soiled)
    files = {f"{HOSTILE}.tsv": {"sha256": HOSTILE, "bytes": 5, "url": f"https://a/{HOSTILE}"}}
    content = {
        name: soiled(getattr(few, name))
        for name in ("flow", "provenance", "cards", "planted", "shift", "biology", "version")
    }
    content["provenance"]["files"] |= files
    page = render_page(dataclasses.replace(few, **content, samples=samples, predictions={"pca": curves}))
    parse(page)
    assert "<script>alert" not in page
    assert page.count("<script") == 1
    shown = visible(page)
    for part in (f"{HOSTILE}.tsv", f"redacted by TCGA-CDR{HOSTILE}", f"PanglaoDB{HOSTILE}", f"{few.version}{HOSTILE}"):
        assert part in shown
