"""Figures and tables as files: all there, readable by machines, equal bytes."""

from __future__ import annotations

import dataclasses
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_page import HOSTILE, few_curves, with_encoders

from bulkprobe.report import exports
from bulkprobe.report.cells import Cell, Table
from bulkprobe.report.context import ReportContext
from bulkprobe.report.page import make_parts, render


@pytest.fixture(scope="module")
def parts(report: ReportContext) -> dict[str, Any]:
    small = with_encoders(report, {"pca": "pca", "scgpt": "scgpt", HOSTILE: "cellfm"})
    compare = {**(report.compare or {}), "encoders": {**(report.compare or {})["encoders"]}}
    return make_parts(dataclasses.replace(small, predictions={"pca": few_curves(report, "pca")}, compare=compare))


def test_every_link_of_the_page_has_its_file_and_no_file_is_left_over(parts: dict[str, Any], tmp_path: Path) -> None:
    stale = tmp_path / "figures" / "stale.svg"
    stale.parent.mkdir()
    stale.touch()
    for _ in range(2):
        exports.write_figures(tmp_path / "figures", parts["drawings"])
        exports.write_tables(tmp_path / "tables", parts)
    links = set(re.findall(r'href="((?:figures|tables)/[^"]+)"', render(parts)))
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    shown = {link for link in written if not link.startswith("tables/") or link in links}
    assert shown == links
    assert written - links <= {"tables/planted.csv", "tables/cohorts.csv", "tables/every-label.csv"}
    assert not stale.exists()


def test_tables_hold_the_numbers_of_the_page_unrounded(parts: dict[str, Any], report: ReportContext) -> None:
    headline = pd.read_csv(io.StringIO(exports.csv(parts["headline"]))).set_index(["encoder", "task", "width"])
    expected = report.summary["scgpt"]["mutation_within_type"]
    assert headline.loc[("scgpt", "mutation_within_type", "own"), "mean"] == expected
    assert HOSTILE in headline.index.get_level_values("encoder")
    added = next(table for table in parts["added_value"] if table.name == "added-OS")
    numbers = pd.read_csv(io.StringIO(exports.csv(added))).set_index(["encoder", "cohort", "measure"])
    label = report.survival["pca"]["labels"]["KIRC/OS"]["added_value"]
    assert numbers.loc[("pca", "KIRC", "added_value"), "mean"] == pytest.approx(label["mean"], abs=1e-9)
    compare = report.compare or {}
    assert numbers.loc[("pca", "mean", "added_value"), "p_holm"] == compare["added_value"]["OS"]["pca"]["p_holm"]


def test_every_table_is_a_csv_with_as_many_names_as_columns(parts: dict[str, Any]) -> None:
    tables = list(exports.tables_among(parts.values()))
    assert {"headline", "genes", "cancers", "differences", "to-reference", "register", "flow"} <= {
        t.name for t in tables
    }
    assert len({table.file for table in tables}) == len(tables)
    for table in tables:
        text = exports.csv(table)
        frame = pd.read_csv(io.StringIO(text))
        assert len(frame.columns) == len(set(frame.columns)), table.name
        assert len(frame) >= len(table.rows) or table.name in ("differences",), table.name
        assert "–" not in text.replace(HOSTILE, "") or table.name == "register"


def test_a_table_without_a_frame_is_read_from_its_cells() -> None:
    rows = [[Cell("A", sort="a"), Cell("0.123", sort="0.123456", spread="± 0.1", number=True), Cell("–", number=True)]]
    table = Table("x/../y z", "c", ["Encoder", "AUROC", "AUROC"], rows, groups=[("", 1), ("BRCA\n1 / 2", 2)])
    assert table.file == "x-y-z"
    frame = exports.cells_frame(table)
    assert frame.to_dict("list") == {
        "Encoder": ["A"],
        "BRCA 1 / 2 AUROC": ["0.123456"],
        "BRCA 1 / 2 AUROC, spread": ["± 0.1"],
        "BRCA 1 / 2 AUROC (3)": [""],
    }


def test_small_p_values_keep_their_digits() -> None:
    frame = pd.DataFrame({"p": [1.234e-9, np.nan], "mean": [0.123456, 1.0]})
    assert exports.csv(Table("x", "c", [], [], frame=frame)) == "p,mean\n1.234e-09,0.123456\n,1\n"
