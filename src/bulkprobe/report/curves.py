"""Curves from test predictions: ROC averaged over splits, Kaplan-Meier by tertile of predicted risk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from lifelines import KaplanMeierFitter
from numpy.typing import NDArray

from bulkprobe.report.tables import ENDPOINT, REFERENCE

POINTS = 50  # false-positive rates at which the curves of the splits are averaged
STEPS = 100  # at most as many points in one Kaplan-Meier curve
DAYS_PER_YEAR = 365.25
TERTILES = ("low", "middle", "high")

ROC_COLUMNS = ["encoder", "label", "gene", "fpr", "tpr", "splits"]
TERTILE_COLUMNS = ["cancer_type", "patient_id", "risk", "tertile", "time", "event"]
SURVIVAL_COLUMNS = ["encoder", "cancer_type", "tertile", "years", "survival", "patients", "events"]


def roc_table(predictions: Mapping[str, pd.DataFrame], labels: Sequence[str]) -> pd.DataFrame:
    """Average the ROC curves of the splits vertically: mean sensitivity at each false-positive rate.

    Scores of different splits come from different fits, so they are never ranked together. Columns: encoder,
    label, gene, fpr, tpr, splits (with both classes in the test part). At most 51 points a curve (Fawcett 2006
    10.1016/j.patrec.2005.10.010, algorithm 3).
    """
    grid = np.linspace(0, 1, POINTS)
    parts = []
    for encoder, frame in predictions.items():
        chosen = frame[(frame["task"] == "mutation") & frame["score"].notna() & frame["truth"].notna()]
        for label in labels:
            rows = chosen[chosen["label"] == label]
            curves = [
                np.interp(grid, *_roc(part["score"].to_numpy(float), part["truth"].to_numpy(bool)))
                for _, part in rows.groupby("split", sort=True)
                if part["truth"].nunique() == 2
            ]
            if not curves:
                continue
            mean = np.mean(curves, axis=0)
            part = pd.DataFrame({"fpr": np.r_[0.0, grid], "tpr": np.r_[0.0, mean]})
            constant: dict[str, Any] = {
                "encoder": encoder,
                "label": label,
                "gene": label.split("/")[-1],
                "splits": len(curves),
            }
            parts.append(part.assign(**constant)[ROC_COLUMNS])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=ROC_COLUMNS)


def _roc(score: NDArray[np.float64], truth: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    order = np.argsort(-score, kind="stable")
    last = np.r_[np.flatnonzero(np.diff(score[order])), len(score) - 1]  # equal scores make one slanted step
    positive = np.cumsum(truth[order])[last]
    negative = last + 1 - positive
    return np.r_[0.0, negative / negative[-1]], np.r_[0.0, positive / positive[-1]]


def curve_encoders(cards: Mapping[str, Mapping[str, Any]], predictions: Mapping[str, pd.DataFrame]) -> list[str]:
    """Choose whose survival curves are drawn: the foundation model that covers most genes, and the PCA baseline.

    The choice looks at gene coverage, never at a score: curves of the best encoder would be its luck drawn large.
    """
    able = [name for name, frame in predictions.items() if (frame["task"] == "survival").any()]
    models = [name for name in able if cards.get(name, {}).get("kind") == "foundation"]
    models.sort(key=lambda name: (-(cards[name].get("coverage") or 0.0), name))
    chosen = models[:1] + [name for name in able if name == REFERENCE]
    return chosen or able[:1]


def risk_tertiles(predictions: pd.DataFrame) -> pd.DataFrame:
    """Sort the patients of each cancer type into thirds of predicted risk (overall survival).

    A patient's risk is the mean, over the splits in which the patient was tested, of the patient's percentile
    among the tested (0 to 1, higher = worse survival): linear predictors of fits with different penalties have
    different scales. Ties share the mean rank. Columns: cancer_type, patient_id, risk, tertile, time (days),
    event.
    """
    rows = predictions[
        (predictions["task"] == "survival")
        & predictions["label"].str.endswith(f"/{ENDPOINT}")
        & predictions["score"].notna()
    ]
    if rows.empty:
        return pd.DataFrame(columns=TERTILE_COLUMNS)
    rows = rows.assign(
        cancer_type=rows["label"].astype(str).str.rsplit("/", n=1).str[0],
        risk=rows.groupby(["label", "split"], observed=True)["score"].rank(pct=True),
        event=rows["event"].astype(bool),
    )
    grouped = rows.groupby(["cancer_type", "patient_id"], sort=True, observed=True)
    patients = grouped.agg(risk=("risk", "mean"), time=("time", "first"), event=("event", "first")).reset_index()
    by_type = patients.groupby("cancer_type")["risk"]
    third = 3 * (by_type.rank() - 0.5) / by_type.transform("size")
    patients["tertile"] = [TERTILES[min(int(value), 2)] for value in third]
    return patients[TERTILE_COLUMNS]


def kaplan_meier_table(predictions: Mapping[str, pd.DataFrame], encoders: Sequence[str]) -> pd.DataFrame:
    """Estimate survival over time in each third of predicted risk.

    Columns: encoder, cancer_type, tertile, years, survival (probability), patients, events (of the third). A curve
    has at most 100 points; the first is (0, 1) and the last the end of follow-up.
    """
    parts = []
    for encoder in encoders:
        for (cancer_type, tertile), group in risk_tertiles(predictions[encoder]).groupby(
            ["cancer_type", "tertile"], sort=True
        ):
            time = group["time"].to_numpy(float) / DAYS_PER_YEAR
            fitted = KaplanMeierFitter().fit(time, group["event"].to_numpy(bool))
            curve = fitted.survival_function_
            years, survival = curve.index.to_numpy(float), curve.iloc[:, 0].to_numpy(float)
            # Censoring leaves the curve where it is: only its steps, its start and its end are needed.
            steps = np.flatnonzero(np.r_[True, np.diff(survival) != 0])
            kept = np.unique(np.r_[steps, len(years) - 1])
            if len(kept) > STEPS:
                kept = kept[np.unique(np.linspace(0, len(kept) - 1, STEPS).round().astype(int))]
            part = pd.DataFrame({"years": years[kept], "survival": survival[kept]})
            counts: dict[str, Any] = {"patients": len(group), "events": int(group["event"].sum())}
            names: dict[str, Any] = {"encoder": encoder, "cancer_type": cancer_type, "tertile": tertile}
            parts.append(part.assign(**names, **counts)[SURVIVAL_COLUMNS])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=SURVIVAL_COLUMNS)
