"""Planted effects against what the encoders recover, on the same test patients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bulkprobe.cohort.schema import GROUPS
from bulkprobe.files import read_json
from bulkprobe.probes.metrics import Undefined, auroc, harrell_c, within_type_auroc

ORDER = ("none", "weak", "strong")


def planted_rows(
    truth: Path,
    predictions: Mapping[str, pd.DataFrame],
    mutation: Mapping[str, Mapping[str, Any]],
    survival: Mapping[str, Mapping[str, Any]],
    types: pd.Series,
) -> list[dict[str, Any]] | None:
    """Return one row a planted label with the true predictor's score and every encoder's; None for real data.

    The true predictor is scored on the test patients of each split and averaged over splits, as the encoders are.
    Where nothing is planted it is constant within a type: undefined, so null.
    """
    planted = read_json(truth / "truth.json")
    if not planted["simulated"] or not predictions:
        return None
    scores = pd.read_parquet(truth / "scores.parquet")
    by_target = {str(target): part.set_index("patient_id").score for target, part in scores.groupby("target")}
    reference = next(iter(predictions.values()))  # the test patients are the same for every encoder
    rows = []
    for label, patients in reference.groupby("label", sort=False, observed=True):
        cohort, name = str(label).split("/")
        if patients.task.iloc[0] == "mutation":
            if name not in planted["genes"]:
                continue  # hotspot labels are a part of what is planted
            measures: dict[str, Callable[[pd.DataFrame], float]] = {"AUROC": auroc_of}
            if cohort == "pan_cancer":
                measures["within-type AUROC"] = within(types)
            truth_score, strength, task = by_target[name], planted["genes"][name]["strength"], "mutation"
        else:
            measures = {"C-index": c_index_of}
            truth_score, task = by_target["survival"], "survival"
            strength = _strength(cohort, planted["prognosis"])
        entries = mutation if task == "mutation" else survival
        known = (metrics.get("labels", {}) for metrics in entries.values())
        size: Mapping[str, Any] = next((labels[label] for labels in known if label in labels), {})
        for measure, function in measures.items():
            rows.append(
                {
                    "task": task,
                    "label": label,
                    "measure": measure,
                    "strength": strength,
                    "positives": size.get("positives", size.get("events")),
                    "true": mean_over_splits(patients.assign(score=patients.patient_id.map(truth_score)), function),
                    "scores": {encoder: _score(metrics, str(label), measure) for encoder, metrics in entries.items()},
                }
            )
    return rows


def mean_over_splits(patients: pd.DataFrame, function: Callable[[pd.DataFrame], float]) -> float | None:
    """The mean over splits of a score of test patients; None where it is undefined in every split."""
    values = []
    for _, part in patients.groupby("split"):
        try:
            values.append(function(part))
        except Undefined:
            continue
    return round(float(np.mean(values)), 6) if values else None


def auroc_of(part: pd.DataFrame) -> float:
    """AUROC of `score` for `truth`."""
    return auroc(part.truth.to_numpy(bool), part.score.to_numpy())


def within(types: pd.Series) -> Callable[[pd.DataFrame], float]:
    """Within-type AUROC of `score` for `truth`, with each patient's type."""

    def score(part: pd.DataFrame) -> float:
        kinds = part.patient_id.map(types).to_numpy(dtype=str)
        return within_type_auroc(part.truth.to_numpy(bool), part.score.to_numpy(), kinds).value

    return score


def c_index_of(part: pd.DataFrame) -> float:
    """Harrell's C of `score` for `time` and `event`."""
    return harrell_c(part.time.to_numpy(float), part.event.to_numpy(bool), part.score.to_numpy())


def _score(metrics: Mapping[str, Any], label: str, measure: str) -> float | None:
    entry = metrics.get("labels", {}).get(label)
    if entry is None:
        return None
    value: float | None = (
        (entry.get("within_type") or {}).get("mean") if measure.startswith("within") else entry["mean"]
    )
    return value


def _strength(cohort: str, prognosis: Mapping[str, Mapping[str, Any]]) -> str:
    kinds = [prognosis[code]["strength"] for code in (*GROUPS.get(cohort, ()), cohort) if code in prognosis]
    return max(kinds, key=ORDER.index, default="none")
