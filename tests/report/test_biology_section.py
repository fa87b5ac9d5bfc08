"""The sections on gene vectors and on what goes with transfer."""

from __future__ import annotations

from typing import Any

import fakes_measures
import numpy as np
import pandas as pd
import pytest
from test_page import visible

from bulkprobe.report import biology_figures, biology_tables, relations
from bulkprobe.report.context import ReportContext

CARDS: dict[str, dict[str, Any]] = {
    "geneformer": {"kind": "foundation", "untrained": True},
    "bulkformer": {"kind": "foundation", "saw_tcga": None, "priors": "gene graph: co-expression in TCGA"},
    "pca": {"kind": "baseline"},
}


@pytest.fixture(name="biology")
def fixture_biology() -> dict[str, dict[str, Any]]:
    return {name: fakes_measures.biology(name, untrained=name == "geneformer") for name in CARDS}


def test_circular_scores_carry_a_dagger_and_their_reason(biology: dict[str, Any]) -> None:
    table = biology_tables.overview(biology, CARDS)
    of_bulkformer = table.rows[1]
    recovery, coexpression, spearman = of_bulkformer[3], of_bulkformer[5], of_bulkformer[6]
    assert "†" not in recovery.text
    for cell in (coexpression, spearman):
        assert cell.text.endswith("†")
        assert cell.note is not None
        assert "its graph is TCGA co-expression" in table.notes[cell.note - 1]
    assert "†" not in table.rows[0][5].text


def test_scores_stand_with_random_sets_and_p(biology: dict[str, Any]) -> None:
    table = biology_tables.overview(biology, CARDS)
    entry = biology["geneformer"]["vectors"]["input"]["recovery"]
    assert (table.rows[0][3].text, table.rows[0][3].spread) == (f"{entry['mean']:.3f}", "(0.501) p 0.005")
    inside = biology["geneformer"]["vectors"]["contextual"]["recovery"]
    assert table.rows[0][7].text == f"{inside['mean']:.3f}"
    assert table.rows[2][7].tip == "switched off in params.yaml (contextual: false)"
    del biology["geneformer"]  # now none has states inside: no columns for them
    assert len(biology_tables.overview(biology, CARDS).columns) == 7


def test_the_sentence_counts_the_encoders_above_chance(biology: dict[str, Any]) -> None:
    biology["pca"]["vectors"]["input"]["recovery"]["p"] = 0.4
    said = biology_tables.recovered_said(biology)
    assert said[0] == "5 gene sets of “planted” (the simulator's modules)."
    assert said[1].startswith("2 of 3 encoders place the genes of a set closer together")
    assert "(geneformer, bulkformer); p ≤ 0.05, not corrected" in said[1]


def test_sets_are_ordered_by_their_mean_and_capped(biology: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    names = [row[0].text for row in biology_tables.sets(biology).rows]
    per_set = {
        name: np.mean([c["vectors"]["input"]["recovery"]["sets"][int(name[-1])]["auroc"] for c in biology.values()])
        for name in names
    }
    assert names == sorted(names, key=lambda name: -per_set[name])
    monkeypatch.setattr(biology_tables, "MOST_SETS", 2)
    capped = biology_tables.sets(biology)
    assert [row[0].text for row in capped.rows] == names[:2]
    assert "each of 5 gene sets, the 2 of the highest mean" in capped.caption


def test_plot_table_of_biology(biology: dict[str, Any]) -> None:
    table = biology_tables.biology_plot(biology).set_index(["encoder", "vectors", "measure"])
    row, entry = table.loc[("pca", "input", "set recovery")], biology["pca"]["vectors"]["input"]["recovery"]
    assert row["high"] - row["mean"] == pytest.approx(entry["sd"])
    assert (row["null"], row["n"]) == (0.5012, 5)
    assert table.loc[("bulkformer", "input", "co-expression R²"), "circular"] == "its graph is TCGA co-expression"
    nothing = table.loc[("pca", "contextual", "set recovery")]
    assert pd.isna(nothing["mean"])
    assert nothing["reason"] == "switched off in params.yaml (contextual: false)"


def test_relations_name_the_models_they_rest_on(report: ReportContext) -> None:
    section = relations.section(report.compare, report.cards)
    assert section["headline"].startswith("Over 5 encoders, all of them untrained stand-ins: of ")
    rows = {(row[0].text, row[1].text): row for row in section["tests"].rows}
    circular = rows["Co-expression R²", "within-type AUROC"]
    assert (circular[2].text, circular[-1].text) == ("4", "bulkformer")
    assert rows["Set recovery", "C-index"][2].text == "5"
    assert rows["Number of training samples", "C-index"][3].tip == "0 pairs; at least 4 are needed"
    assert any("leaves out bulkformer: circular by construction" in note for note in section["tests"].notes)
    assert any("Left out as circular: bulkformer." in sentence for sentence in section["sentences"])


def test_dots_are_those_of_the_tests(report: ReportContext) -> None:
    found = relations.relations_of(report.compare)
    table = relations.relation_plot(report.compare, list(report.mutation))
    for test in found["tests"]:
        part = table[
            (table["predictor"] == relations.titles(test)[0]) & (table["transfer"] == relations.titles(test)[1])
        ]
        assert len(part) == test["n"]
        if test["spearman"] is not None:
            rho = part["x"].corr(part["y"], method="spearman")
            assert rho == pytest.approx(test["spearman"], abs=1e-6)


def test_every_figure_says_n(report: ReportContext) -> None:
    drawn = biology_figures.drawn(report.biology, report.compare, report.cards)
    assert "AUROC (n = 5 sets)" in drawn["biology"][0]
    panels = [test for test in relations.relations_of(report.compare)["tests"] if test["spearman"] is not None]
    assert drawn["relations"][0].count(">n = ") == len(panels)
    assert biology_figures.drawn({}, None, {}) == {}
    gone = {"scbert": fakes_measures.biology("scbert", absent="no weights")}
    assert biology_figures.drawn(gone, {"tasks": {}}, {}) == {}


def test_the_page_has_both_sections(page: str) -> None:
    text = visible(page)
    assert "What goes with transfer?" in text
    assert "none can be told from chance" in text
    assert "circular by construction, left out of every relation: its graph is TCGA co-expression" in text
    for table in ("biology", "biology-sets", "relations", "relation-models"):
        assert f'id="t-{table}"' in page
    head = page[page.index('id="t-headline"') :]
    line = head[head.index(">bulkformer") : head.index("</tr>", head.index(">bulkformer"))]
    assert '<span class="tag TCGA">TCGA</span>' in line
    assert '<span class="tag prior">prior</span>' in line
