"""The files behind `dvc plots show`, and the templates that draw them."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from bulkprobe.report import plots
from bulkprobe.report.context import ReportContext

TEMPLATES = sorted((Path(__file__).parents[2] / ".dvc" / "plots").glob("*.json"))
# Template -> the file it draws and its x and y.
DRAWN = {
    "difference_dots": ("compare.csv", "mean", "encoder"),
    "task_bars": ("tasks.csv", "mean", "encoder"),
    "interval_dots": ("genes.csv", "mean", "encoder"),
    "roc": ("roc.csv", "fpr", "tpr"),
    "kaplan_meier": ("kaplan_meier.csv", "years", "survival"),
    "planted": ("planted.csv", "true", "recovered"),
    "shift_dots": ("shift.csv", "value", "encoder"),
    "depth_ladder": ("ladder.csv", "depth", "value"),
    "biology_dots": ("biology.csv", "mean", "encoder"),
    "relations": ("relations.csv", "x", "y"),
}


def write(folder: Path, report: ReportContext) -> list[Path]:
    return plots.write_plots(
        folder,
        report.mutation,
        report.survival,
        report.cards,
        report.predictions,
        report.planted,
        report.compare,
        report.shift,
        report.biology,
    )


def test_files_columns_and_equal_bytes(report: ReportContext, tmp_path: Path) -> None:
    first, second = write(tmp_path / "a", report), write(tmp_path / "b", report)
    assert [path.name for path in first] == list(plots.FILES)
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
        table = pd.read_csv(one)
        assert list(table.columns) == plots.FILES[one.name]
        assert len(table)


def test_intervals_are_one_sd_and_missing_values_keep_their_reason(report: ReportContext, tmp_path: Path) -> None:
    write(tmp_path, report)
    genes = pd.read_csv(tmp_path / "genes.csv").set_index(["encoder", "panel", "measure"])
    row, label = genes.loc[("pca", "TP53", "within type")], report.mutation["pca"]["labels"]["pan_cancer/TP53"]
    assert row["high"] - row["mean"] == pytest.approx(label["within_type"]["sd"], abs=2e-6)
    empty = genes.loc[("cancer_type", "TP53", "within type")]
    assert pd.isna(empty["mean"])
    assert "constant within every cancer type" in empty["reason"]


def test_nothing_to_draw_leaves_headers(tmp_path: Path) -> None:
    for path in plots.write_plots(tmp_path, {}, {}, {}, {}, None):
        assert path.read_text() == ",".join(plots.FILES[path.name]) + "\n"


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_template_is_filled_by_dvc(path: Path, report: ReportContext, tmp_path: Path) -> None:
    from dvc_render.vega import VegaRenderer

    name, x, y = DRAWN[path.stem]
    write(tmp_path, report)
    rows = pd.read_csv(tmp_path / name, dtype=str, keep_default_na=False).assign(rev="workspace").to_dict("records")
    renderer = VegaRenderer(
        rows, name, template=path.stem, template_dir=str(path.parent), x=x, y=y, x_label="x axis", y_label="y axis"
    )
    text = json.dumps(renderer.get_filled_template())
    assert "<DVC_METRIC" not in text
    spec = json.loads(text)
    assert spec["data"]["values"] == rows
    # DVC hands over text: every column drawn as a number must be parsed as one.
    assert {x, y} - {"encoder"} <= set(spec["data"]["format"]["parse"])


def test_every_template_is_tested() -> None:
    assert [path.stem for path in TEMPLATES] == sorted(DRAWN)
