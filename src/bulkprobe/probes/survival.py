"""The survival probe: who dies (or progresses) sooner?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bulkprobe.errors import UserError, some
from bulkprobe.probes import units
from bulkprobe.probes.metrics import Undefined, harrell_c
from bulkprobe.probes.solver import Floats, Ints
from bulkprobe.probes.transform import Transform
from bulkprobe.probes.tuning import Choice, check_penalties, tune_cox

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Scored:
    """One label and split: rows of the tested patients, their risks, the choice; or why there is none."""

    rows: Ints
    risk: Floats
    choice: Choice | None
    reason: str | None


@dataclass(frozen=True)
class _Outcome:
    """Follow-up of an endpoint in the order of the embedding; time is NaN where it is not known."""

    time: Floats
    event: Bools


def probe_survival(
    embedding: units.Rows,
    patients: Sequence[str],
    survival: pd.DataFrame,
    splits: pd.DataFrame,
    *,
    transform: Transform,
    penalties: Sequence[float],
    labels: Sequence[str] | None = None,
    advice: Mapping[str, str] | None = None,
    min_events: int = 10,
    n_jobs: int = 2,
) -> tuple[dict[str, Any], dict[str, Any], pd.DataFrame]:
    """Train and test a ridge Cox regression for every label ("<cohort>/<endpoint>") and split.

    embedding: (n_patients, width), a row for each of `patients`. survival: patient_id, endpoint, time_days (days
    > 0), event (bool). splits: the table of `splits.assemble`; labels: which of its labels, all by default.
    advice: a sentence on the endpoint by label, passed on. A label with fewer than min_events events is not
    probed: null with counts.

    Returns the "labels" and the "overall" part of the metrics file (unweighted mean of the cohorts of an endpoint
    whose C is defined; never pooled) and the predictions; a score is the log relative hazard, higher = worse
    survival. Byte-equal for any order of patients and any n_jobs.
    """
    index = units.check_embedding(embedding, patients)
    grid = check_penalties(penalties)
    if labels is None:
        labels = sorted(splits.loc[splits["task"] == "survival", "label"].astype(str).unique())
    parts = units.parts_of(splits, "survival", labels, index)
    outcomes = _outcomes(survival, index, {label.rpartition("/")[2] for label in parts})
    known = {label: np.unique(np.concatenate([part.rows for part in of])) for label, of in parts.items()}
    for label, rows in known.items():
        unknown = index[rows[np.isnan(outcomes[label.rpartition("/")[2]].time[rows])]]
        if len(unknown):
            raise UserError(
                f"Patients of {label!r} in the splits table have no follow-up: {some(unknown)}; make the splits again"
            )
    too_few = {
        label: _too_few(outcomes[label.rpartition("/")[2]].event[rows], min_events) for label, rows in known.items()
    }
    chosen = [part for label, of in parts.items() if too_few[label] is None for part in of]
    chosen.sort(key=lambda part: (-len(part.rows), part.label, part.split))
    work = []
    for part in chosen:
        outcome = outcomes[part.label.rpartition("/")[2]]
        work.append((part, outcome.time[part.rows], outcome.event[part.rows], grid, transform))
    results = units.run_units(_score_unit, work, embedding, n_jobs, "survival probes")
    scored = {(part.label, part.split): result for part, result in zip(chosen, results, strict=True)}
    metrics = {}
    columns: dict[str, list[Any]] = {key: [] for key in ("label", "split", "patient_id", "score", "time", "event")}
    names = index.to_numpy(dtype=object)
    for label, of_label in parts.items():
        outcome = outcomes[label.rpartition("/")[2]]
        metrics[label] = _label_metrics(label, of_label, scored, known[label], outcome, too_few[label])
        metrics[label]["advice"] = None if advice is None else advice.get(label)
        for part in of_label:
            result = scored.get((label, part.split))
            if result is not None and result.choice is not None:
                columns["label"] += [label] * len(result.rows)
                columns["split"] += [part.split] * len(result.rows)
                columns["patient_id"] += names[result.rows].tolist()
                columns["score"] += result.risk.tolist()
                columns["time"] += outcome.time[result.rows].tolist()
                columns["event"] += outcome.event[result.rows].tolist()
    whole = {**columns, "task": ["survival"] * len(columns["label"]), "truth": [None] * len(columns["label"])}
    return metrics, overall(metrics), units.prediction_table(whole)


def overall(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return, by endpoint, the unweighted mean over cohorts with a value, how many, and the labels without one."""
    result = {}
    for endpoint in sorted({str(entry["endpoint"]) for entry in metrics.values()}):
        here = {label: entry["mean"] for label, entry in metrics.items() if entry["endpoint"] == endpoint}
        means = [mean for mean in here.values() if mean is not None]
        result[endpoint] = {
            "mean": units.rounded(np.mean(means)) if means else None,
            "types": len(means),
            "undefined": sorted(label for label, mean in here.items() if mean is None),
        }
    return result


def _outcomes(survival: pd.DataFrame, index: pd.Index, endpoints: set[str]) -> dict[str, _Outcome]:
    outcomes = {}
    for endpoint in sorted(endpoints):
        rows = survival[survival["endpoint"] == endpoint].set_index("patient_id")
        if rows.empty:
            has = sorted(survival["endpoint"].astype(str).unique())
            raise UserError(f"The survival table has no endpoint {endpoint!r}; it has {some(has)}")
        time = units.by_patient(rows["time_days"].astype(float), index, f"the survival table for {endpoint}")
        event = rows["event"].astype("boolean").reindex(index)
        time = time.where(event.notna().to_numpy())
        if (time <= 0).any():
            bad = time.index[time <= 0]
            raise UserError(f"Follow-up of {endpoint} is not above 0 days for {some(bad)}; leave these patients out")
        outcomes[endpoint] = _Outcome(time.to_numpy(dtype=np.float64), event.to_numpy(dtype=bool, na_value=False))
    return outcomes


def _too_few(event: Bools, min_events: int) -> str | None:
    events = int(event.sum())
    if events >= min_events:
        return None
    return f"too few events: {events} of {len(event)} patients, at least {min_events} are needed"


def _score_unit(
    embedding: units.Rows, part: units.Part, time: Floats, event: Bools, grid: Floats, transform: Transform
) -> _Scored:
    """Tune and fit on the training patients and score the test patients."""
    train, tested = ~part.test, part.rows[part.test]
    try:
        tuned = tune_cox(
            np.asarray(embedding[part.rows[train]]), time[train], event[train], part.fold[train], grid, transform
        )
    except Undefined as undefined:
        return _Scored(tested, np.zeros(0), None, str(undefined))
    return _Scored(tested, tuned.score(np.asarray(embedding[tested]))[:, 0], tuned.choices[0], None)


def _label_metrics(
    label: str,
    parts: Sequence[units.Part],
    scored: Mapping[tuple[str, int], _Scored],
    known: Ints,
    outcome: _Outcome,
    too_few: str | None,
) -> dict[str, Any]:
    cohort, _, endpoint = label.rpartition("/")
    splits = [part.split for part in parts]
    results = [scored.get((label, split)) for split in splits]
    values: list[tuple[float | None, str | None]] = []
    for result in results:
        if result is None or result.choice is None:
            values.append((None, None if result is None else result.reason))
            continue
        time, event, risk = outcome.time[result.rows], outcome.event[result.rows], result.risk
        values.append(units.attempt(lambda time=time, event=event, risk=risk: harrell_c(time, event, risk)))  # type: ignore[misc]
    choices = [None if result is None else result.choice for result in results]
    curves = [choice.curve for choice in choices if choice is not None]
    return {
        "cohort": cohort,
        "endpoint": endpoint,
        "n": len(known),
        "events": int(outcome.event[known].sum()),
        **(units.refused(too_few, splits) if too_few is not None else units.summarise(values, splits)),
        "penalty": [None if choice is None else choice.penalty for choice in choices],
        "grid_edge_hits": sum(choice is not None and choice.grid_edge for choice in choices),
        "tuning_curve": [units.rounded(x) for x in np.mean(curves, axis=0)] if curves else None,
    }
