"""Values of the tables, from metrics small enough to average by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bulkprobe.report import tables
from bulkprobe.report.context import ReportContext

CONSTANT = "the score is constant within every cancer type"


def label(cohort: str, gene: str, scores: list[float | None], **more: Any) -> dict[str, Any]:
    known = [score for score in scores if score is not None]
    return {
        "cohort": cohort,
        "gene": gene,
        "kind": more.pop("kind", "nonsilent"),
        "n": 100,
        "positives": 30,
        "mean": float(np.mean(known)) if known else None,
        "sd": float(np.std(known, ddof=1)) if len(known) > 1 else None,
        "per_split": scores,
        "reason": None if known else "too few positives: 3",
        "penalty": [0.1 if score is not None else None for score in scores],
        "grid_edge_hits": 0,
        **more,
    }


@pytest.fixture
def mutation() -> dict[str, dict[str, Any]]:
    within = {"mean": 0.6, "sd": 0.1, "per_split": [0.5, 0.7], "reason": None, "pairs": 40, "macro_mean": 0.55}
    nothing = {"mean": None, "sd": None, "per_split": [None, None], "reason": CONSTANT, "pairs": 0, "macro_mean": None}
    labels = {
        "pan_cancer/TP53": label("pan_cancer", "TP53", [0.8, 0.9], within_type=within, grid_edge_hits=2),
        "pan_cancer/KRAS": label("pan_cancer", "KRAS", [0.6, 0.7], within_type=nothing),
        "pan_cancer/BAP1": label("pan_cancer", "BAP1", [None, None]),
        "pan_cancer/KRAS_hotspot": label("pan_cancer", "KRAS", [0.99, 0.99], kind="hotspot"),
        "BRCA/TP53": label("BRCA", "TP53", [0.7, None]),
        "BRCA/PIK3CA": label("BRCA", "PIK3CA", [0.5, 0.9]),
        "COAD/KRAS": label("COAD", "KRAS", [None, None]),
        "KIRC/PBRM1": label("KIRC", "PBRM1", [0.9, 0.9]),
    }
    absent = {"encoder": "gone", "absent": "no weights in models/gone", "labels": {}}
    return {"a": {"encoder": "a", "absent": None, "labels": labels}, "gone": absent}


@pytest.fixture
def survival() -> dict[str, dict[str, Any]]:
    def one(cohort: str, endpoint: str, scores: list[float | None]) -> dict[str, Any]:
        row = label(cohort, "", scores)
        return {**row, "endpoint": endpoint, "events": 40, "advice": None}

    labels = {
        "LUAD/OS": one("LUAD", "OS", [0.6, 0.7]),
        "KIRC/OS": one("KIRC", "OS", [0.7, 0.8]),
        "PAAD/OS": one("PAAD", "OS", [None, None]),
        "GBMLGG/OS": one("GBMLGG", "OS", [0.7, 0.7]),
        "LGG/OS": one("LGG", "OS", [0.9, 0.9]),
        "LUAD/PFI": one("LUAD", "PFI", [0.1, 0.1]),
    }
    return {"a": {"encoder": "a", "absent": None, "labels": labels}}


def test_summary_values(mutation: dict[str, Any], survival: dict[str, Any]) -> None:
    summary = tables.summarise(mutation, survival)
    assert summary == {
        "a": {
            "mutation_pan_cancer": 0.75,  # (0.85 + 0.65) / 2: neither the undefined gene nor the hotspot label
            "mutation_within_type": 0.6,
            "mutation_BRCA": 0.7,
            "mutation_COAD": None,
            "mutation_LUAD": None,
            "mutation_RCC": None,  # KIRC alone stands beside RCC, not in its place
            "survival": 0.7,
        },
        "gone": dict.fromkeys(tables.TASKS),
    }


def test_a_mean_over_other_labels_than_the_others_have_is_none(survival: dict[str, Any]) -> None:
    fewer = {name: row for name, row in survival["a"]["labels"].items() if name != "KIRC/OS"}
    both = {**survival, "b": {"encoder": "b", "absent": None, "labels": fewer}}
    summary = tables.summarise({}, both)
    assert summary["a"]["survival"] == pytest.approx(0.7)
    assert summary["b"]["survival"] is None
    row = next(
        r for r in tables.records(tables.task_table({}, both)) if r["encoder"] == "b" and r["task"] == "survival"
    )
    assert row["reason"].startswith("defined for 2 of 3 labels, so its mean would not compare")


def test_task_table_spread_and_reasons(mutation: dict[str, Any], survival: dict[str, Any]) -> None:
    rows = {(row["encoder"], row["task"]): row for row in tables.records(tables.task_table(mutation, survival))}
    pan = rows["a", "mutation_pan_cancer"]
    assert pan["sd"] == pytest.approx(np.std([0.7, 0.8], ddof=1), abs=1e-6)
    assert (pan["splits"], pan["labels"], pan["undefined"]) == (2, 2, "pan_cancer/BAP1")
    # In one of two splits a label is undefined: one complete split has no spread.
    assert np.isnan(rows["a", "mutation_BRCA"]["sd"])
    assert rows["a", "mutation_BRCA"]["splits"] == 1
    assert rows["a", "mutation_COAD"]["reason"] == "too few positives: 3"
    assert rows["a", "mutation_LUAD"]["reason"] == "no label of this task was probed"
    assert rows["gone", "mutation_within_type"]["reason"] == "no weights in models/gone"
    assert rows["gone", "survival"]["reason"] == "no survival metrics were given"
    # LGG stands beside the merged type: it enters neither the mean nor its spread.
    assert rows["a", "survival"]["labels"] == 3
    assert rows["a", "survival"]["undefined"] == "PAAD/OS"


def test_headline_names_every_missing_value(mutation: dict[str, Any], survival: dict[str, Any]) -> None:
    cards = {
        "a": {"kind": "foundation", "absent": None},
        "gone": {"kind": "foundation", "absent": "no weights in models/gone"},
        "pca": {"kind": "baseline", "absent": None},
        "hvg": {"kind": "baseline", "absent": None},
    }
    summary = tables.summarise(mutation, survival)
    summary["a"]["survival"] = None
    values, missing = tables.headline(summary, cards)
    assert values == {"within_type_auroc": {"a": 0.6}, "c_index": {}}
    assert {(row["encoder"], row["measure"], row["reason"]) for row in missing} == {
        ("a", "c_index", "no cancer type has a defined C-index"),
        ("gone", "within_type_auroc", "no weights in models/gone"),
        ("gone", "c_index", "no weights in models/gone"),
        ("pca", "within_type_auroc", "no metrics were given"),
        ("pca", "c_index", "no metrics were given"),
    }


def test_mutation_table_keeps_reasons(mutation: dict[str, Any]) -> None:
    table = tables.mutation_table(mutation).set_index("label")
    assert table.loc["pan_cancer/KRAS", "within_reason"] == CONSTANT
    assert np.isnan(table.loc["pan_cancer/KRAS", "within_mean"])
    assert table.loc["BRCA/TP53", "within_reason"] == "not computed for this cohort"
    assert table.loc["BRCA/TP53", "splits"] == 1
    assert table.loc["pan_cancer/TP53", "within_macro"] == 0.55
    assert table.loc["pan_cancer/BAP1", "reason"] == "too few positives: 3"


def test_grid_edges_count_fits_and_name_the_worst(mutation: dict[str, Any], survival: dict[str, Any]) -> None:
    (row,) = tables.records(tables.grid_edges(mutation, survival))
    assert (row["encoder"], row["task"], row["hits"], row["fits"]) == ("a", "mutation", 2, 11)
    assert row["worst"] == "pan_cancer/TP53"


def test_planted_difference(report: ReportContext) -> None:
    row = {"task": "mutation", "label": "x", "measure": "AUROC", "strength": "weak", "true": 0.7, "positives": 9}
    table = tables.planted_table([{**row, "scores": {"a": 0.6, "b": None}}])
    assert table["difference"].tolist()[0] == pytest.approx(-0.1)
    assert table["difference"].isna().tolist() == [False, True]
    assert tables.planted_table(None).empty


def test_summary_of_nothing() -> None:
    assert tables.summarise({}, {}) == {}
    assert tables.headline({}, {}) == ({"within_type_auroc": {}, "c_index": {}}, [])
