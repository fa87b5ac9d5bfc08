"""The section on distributional shift: what it says follows from the numbers, and every gap has its reason."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import fakes_measures
import pandas as pd
import pytest
from test_page import visible, with_encoders

from bulkprobe.report import shift_figures, shift_tables
from bulkprobe.report.context import ReportContext
from bulkprobe.report.page import render_page

CARDS: dict[str, dict[str, Any]] = {
    "geneformer": {"kind": "foundation", "untrained": True, "saw_tcga": False, "priors": "none"},
    "bulkformer": {"kind": "foundation", "saw_tcga": None, "priors": "gene graph: co-expression in TCGA"},
    "pca": {"kind": "baseline"},
}


@pytest.fixture(name="shift")
def fixture_shift() -> dict[str, dict[str, Any]]:
    return {name: fakes_measures.shift(name, 0.7, untrained=name == "geneformer") for name in CARDS}


def rung(depth: int, within: float | None) -> dict[str, Any]:
    return {"depth": depth, "scores": {"mutation_within_type": {"value": within, "reason": "one class only"}}}


def ladder_of(full: float | None, *steps: tuple[int, float | None]) -> dict[str, Any]:
    entry = {"value": full, "reason": "one class only"}
    return {"n": 40, "full": {"mutation_within_type": entry}, "depths": [rung(*step) for step in steps]}


def test_the_depth_at_which_the_signal_is_lost() -> None:
    # Signal at full depth 0.2 above guessing: 0.68 and more is kept.
    block = ladder_of(0.7, (1000, 0.69), (10_000, 0.6), (100_000, 0.681), (1_000_000, 0.7))
    said = shift_tables.kept("x", block)  # what comes back at 10^3 after it was lost does not count
    assert said == (
        "x keeps 90% of its within-type signal above 0.5 (AUROC 0.700 at full depth, n = 40 test patients) "
        "down to 10⁵ counts."
    )
    assert shift_tables.kept("x", ladder_of(0.7, (1000, 0.7))).endswith("down to 10³ counts, the lowest depth tried.")
    assert shift_tables.kept("x", ladder_of(0.7, (2500, 0.6))).endswith("already at 2,500 counts.")
    assert "almost no within-type signal to lose (AUROC 0.520" in shift_tables.kept("x", ladder_of(0.52, (1000, 0.5)))
    assert shift_tables.kept("x", ladder_of(None)) == "x: no within-type AUROC at full depth (one class only)."
    assert "already at 10⁴ counts" in shift_tables.kept("x", ladder_of(0.7, (10_000, None)))


def test_bulk_stands_above_the_reference(shift: dict[str, Any]) -> None:
    table = shift_tables.overview(shift, CARDS)
    cells = dict(zip(table.columns, table.rows[0], strict=True))
    block = shift["geneformer"]
    assert (cells["Expressed"].text, cells["Expressed"].spread) == ("2,710", "(1,204)")
    assert cells["Lost: length"].text == f"{100 * block['input']['bulk']['lost_to_length']['mean']:.1f} %"
    domain = block["space"]["domain_auroc"]
    assert cells["Domain AUROC"].spread == f"{domain['low']:.2f} to {domain['high']:.2f}"
    assert cells["MMD"].spread == "p 0.001"
    assert table.caption == "Bulk against the reference: 300 tumours, 300 cells"
    of_pca = dict(zip(table.columns, table.rows[2], strict=True))
    assert of_pca["Zeros"].tip == fakes_measures.NO_TOKENISER
    assert table.notes == [fakes_measures.NO_TOKENISER]


def test_what_an_encoder_saw_stands_beside_its_scores(shift: dict[str, Any]) -> None:
    place = shift_tables.overview(shift, CARDS).columns.index("Saw TCGA / priors")
    cells = [row[place] for row in shift_tables.overview(shift, CARDS).rows]
    assert [(cell.text, cell.spread) for cell in cells] == [("no", ""), ("not stated", "gene graph"), ("no", "")]
    assert cells[1].tip == "saw TCGA: not stated; priors: gene graph: co-expression in TCGA"


def test_lost_biomarkers_by_gene_and_encoder(shift: dict[str, Any]) -> None:
    table = shift_tables.biomarkers(shift)
    assert table.columns == ["Gene", "geneformer", "bulkformer"]  # PCA has no tokeniser
    rows = {row[0].text: row[1] for row in table.rows}
    lost = shift["geneformer"]["input"]["biomarkers"]["KRAS"]["lost_to_length"]
    assert rows["KRAS"].text == f"{100 * lost:.1f} %"
    assert (rows["GATA3"].text, rows["GATA3"].spread) == ("100.0 %", "no token")
    assert rows["MIR21"].tip == "the cohort does not measure this gene"


def test_feeding_is_set_beside_the_spread_of_the_models(shift: dict[str, Any]) -> None:
    shift["bulkformer"] = fakes_measures.shift("bulkformer", 0.6)
    said = shift_tables.feeding_said(shift)
    assert "input=tpm, within-type AUROC −0.040 (260 patients)" in said
    assert "the models' own, fed by default, run from 0.600 to 0.700" in said
    rows = [row for row in shift_tables.feeding(shift).rows if row[1].text == "route=singlecell"]
    assert all(cell.tip == "this cohort has no TPM" for cell in rows[0][3:])


def test_pseudo_cells_are_called_a_lower_bound(shift: dict[str, Any]) -> None:
    assert "lower bound" in shift_tables.reference_said(shift)[0]
    given = copy.deepcopy(shift)
    for content in given.values():
        content["reference"] |= {"kind": "file", "said": "the cells of atlas.h5ad."}
    assert shift_tables.reference_said(given) == ["The cells of atlas.h5ad."]
    for content in given.values():
        content["reference"] = {"reason": "the cohort is on a log scale"}
    assert "There is no single-cell reference" in shift_tables.reference_said(given)[0]


def test_the_page_has_the_section(page: str) -> None:
    text = visible(page)
    assert text.count("lower bound") == 1
    assert "Without a ladder: cellfm, bulkformer, scgpt: switched off in params.yaml (ladder: false)" in text
    assert "The simulated plates carry no effect" in text
    for table in ("shift", "shift-biomarkers", "shift-ladder", "shift-feeding", "shift-nuisance"):
        assert f'id="t-{table}"' in page
    assert page.count("f-shift_input-figure_1") == 1
    assert page.count("f-shift_ladder-figure_1") == 1
    assert "mathdefault" not in page


def test_without_files_there_is_no_section(report: ReportContext) -> None:
    bare = dataclasses.replace(with_encoders(report, {"pca": "pca"}), shift={}, biology={}, compare=None)
    page = render_page(bare)
    assert all(f'id="{section}"' not in page for section in ("shift", "biology", "relations"))
    assert '<a href="#shift">' not in page


def test_every_encoder_absent(report: ReportContext) -> None:
    gone = {
        "scbert": fakes_measures.shift("scbert", absent="no weights"),
        "sclong": {"absent": "x", "kind": "foundation"},
    }
    assert shift_figures.drawn(gone, {}) == {}
    section = shift_tables.section({"scbert": gone["scbert"]}, {})
    assert section["ladder"].rows == []
    assert section["no_ladder"] == "scbert: no weights"
    assert {cell.tip for cell in section["overview"].rows[0][2:]} == {"no weights"}
    bare = dataclasses.replace(
        with_encoders(report, {"pca": "pca"}), shift={"scbert": gone["scbert"]}, biology={}, compare=None
    )
    assert "There is no single-cell reference (scbert: no weights)" in visible(render_page(bare))


def test_no_value_at_all_draws_no_histogram(shift: dict[str, Any]) -> None:
    for content in shift.values():
        content["input"]["histogram"] = {"edges": [], "bulk": [], "reference": None}
    assert set(shift_figures.drawn(shift, CARDS)) == {"shift_ladder"}


def test_plot_tables_keep_values_and_reasons(shift: dict[str, Any]) -> None:
    ladder = shift_tables.ladder_plot(shift).set_index(["encoder", "depth", "measure"])
    assert ladder.loc[("pca", 1000, "drift"), "high"] > ladder.loc[("pca", 1000, "drift"), "value"]
    assert ladder.loc[("geneformer", 10_000_000, "within-type AUROC"), "value"] == 0.7
    table = shift_tables.shift_plot(shift).set_index(["encoder", "measure"])
    assert pd.isna(table.loc[("pca", "zeros"), "value"])
    assert table.loc[("pca", "zeros"), "reason"] == fakes_measures.NO_TOKENISER
    assert table.loc[("pca", "domain AUROC"), "n"] == 300
