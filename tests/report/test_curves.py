"""Curves against hand-made and independent answers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from bulkprobe.report import curves
from bulkprobe.report.context import ReportContext


def mutation_rows(split: int, score: list[float], truth: list[bool]) -> pd.DataFrame:
    count = len(score)
    return pd.DataFrame(
        {
            "task": "mutation",
            "label": "pan_cancer/TP53",
            "split": split,
            "patient_id": [f"p{row}" for row in range(count)],
            "score": score,
            "truth": pd.array(truth, dtype="boolean"),
            "time": np.nan,
            "event": pd.array([None] * count, dtype="boolean"),
        }
    )


def test_roc_area_is_the_mean_auroc(report: ReportContext) -> None:
    predictions = report.predictions["pca"]
    label = "pan_cancer/TP53"
    table = curves.roc_table({"pca": predictions}, [label])
    rows = predictions[predictions["label"] == label]
    expected = np.mean([roc_auc_score(part["truth"].astype(bool), part["score"]) for _, part in rows.groupby("split")])
    assert np.trapezoid(table["tpr"], table["fpr"]) == pytest.approx(expected, abs=0.01)
    assert len(table) <= 100
    assert table["tpr"].is_monotonic_increasing


def test_roc_of_equal_scores_is_the_diagonal_and_one_class_is_left_out() -> None:
    rows = pd.concat(
        [mutation_rows(0, [0.3] * 4, [True, False, True, False]), mutation_rows(1, [0.1, 0.2], [True, True])]
    )
    table = curves.roc_table({"a": rows}, ["pan_cancer/TP53"])
    assert np.allclose(table["tpr"], table["fpr"])
    assert table["splits"].unique().tolist() == [1]
    assert curves.roc_table({"a": rows[rows["split"] == 1]}, ["pan_cancer/TP53"]).empty


def survival_rows(split: int, patients: list[str], score: list[float]) -> pd.DataFrame:
    days = {"a": 100.0, "b": 200.0, "c": 300.0}
    return pd.DataFrame(
        {
            "task": "survival",
            "label": "LUAD/OS",
            "split": split,
            "patient_id": patients,
            "score": score,
            "truth": pd.array([None] * len(patients), dtype="boolean"),
            "time": [days[name] for name in patients],
            "event": pd.array([True] * len(patients), dtype="boolean"),
        }
    )


def test_tertiles_do_not_depend_on_the_scale_of_a_split() -> None:
    rows = [survival_rows(0, ["a", "b", "c"], [3, 2, 1]), survival_rows(1, ["a", "b", "c"], [30, 2, -10])]
    one = curves.risk_tertiles(pd.concat(rows))
    assert dict(zip(one["patient_id"], one["tertile"], strict=True)) == {"a": "high", "b": "middle", "c": "low"}
    rows[1]["score"] *= 1000
    pd.testing.assert_frame_equal(one, curves.risk_tertiles(pd.concat(rows)))


def test_kaplan_meier_steps_by_hand() -> None:
    table = curves.kaplan_meier_table({"x": survival_rows(0, ["a", "b", "c"], [1, 1, 1])}, ["x"])
    assert table["tertile"].unique().tolist() == ["middle"]  # equal risk: nobody is high or low
    assert table["survival"].tolist() == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert table["years"].tolist() == pytest.approx([0, 100 / 365.25, 200 / 365.25, 300 / 365.25])


def test_kaplan_meier_is_thinned(report: ReportContext) -> None:
    count = 900
    rows = pd.DataFrame(
        {
            "task": "survival",
            "label": "BRCA/OS",
            "split": 0,
            "patient_id": [f"p{row:04d}" for row in range(count)],
            "score": np.arange(count, dtype=float),
            "time": np.arange(1.0, count + 1),
            "event": True,
        }
    )
    table = curves.kaplan_meier_table({"x": rows}, ["x"])
    assert table.groupby("tertile").size().max() == curves.STEPS
    low = table[table["tertile"] == "low"]
    assert (low["years"].iloc[0], low["survival"].iloc[0]) == (0, 1)
    assert low["survival"].iloc[-1] == 0


def test_curves_are_chosen_by_coverage_never_by_score(report: ReportContext) -> None:
    assert curves.curve_encoders(report.cards, report.predictions) == ["scfoundation", "pca"]
    assert curves.curve_encoders(report.cards, {"clinical": report.predictions["clinical"]}) == ["clinical"]
    assert curves.curve_encoders(report.cards, {}) == []
    assert curves.risk_tertiles(report.predictions["pca"].iloc[:0]).empty


def test_columns_may_be_categories(report: ReportContext) -> None:
    rows = report.predictions["pca"]
    coded = rows.assign(**{name: rows[name].astype("category") for name in ("task", "label", "patient_id")})
    pd.testing.assert_frame_equal(
        curves.kaplan_meier_table({"pca": coded}, ["pca"]), curves.kaplan_meier_table({"pca": rows}, ["pca"])
    )
    label = ["pan_cancer/KRAS"]
    pd.testing.assert_frame_equal(curves.roc_table({"pca": coded}, label), curves.roc_table({"pca": rows}, label))
