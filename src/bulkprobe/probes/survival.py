"""The survival probe: who dies (or progresses) sooner?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from bulkprobe.errors import UserError, some
from bulkprobe.probes import units
from bulkprobe.probes.arrays import Floats, Ints
from bulkprobe.probes.cox import Ties
from bulkprobe.probes.metrics import Undefined, harrell_c
from bulkprobe.probes.survival_metrics import breslow_survival, brier_times, default_tau, integrated_brier_score, uno_c
from bulkprobe.probes.transform import Transform
from bulkprobe.probes.tuning import Choice, Selection, Settings, Variant, check_penalties
from bulkprobe.probes.tuning_cox import FollowedPart, check_followed, tune_cox_parts

Bools = npt.NDArray[np.bool_]


Value = tuple[float | None, str | None]  # and why it is None


@dataclass(frozen=True)
class _Scored:
    """One label and split: rows of the tested patients; risks and choice of each variant, or why there are none.

    uno, brier: of the embedding at its own width; they need the training patients' follow-up. tau_days: Uno's limit.
    """

    rows: Ints
    risks: Mapping[Variant, Floats]
    choices: Mapping[Variant, Choice]
    reason: str | None
    uno: Value = (None, None)
    tau_days: float | None = None
    brier: Value = (None, None)


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
    selection: Selection = "lowest",
    common_width: int | None = None,
    ties: Ties = "efron",
    l1_ratio: float = 0.0,
    covariates: units.Rows | None = None,
    no_covariates: str = "no clinical covariates were given",
    labels: Sequence[str] | None = None,
    advice: Mapping[str, str] | None = None,
    min_events: int = 10,
    n_jobs: int = 2,
) -> tuple[dict[str, Any], dict[str, Any], pd.DataFrame]:
    """Train and test a ridge Cox regression for every label ("<cohort>/<endpoint>") and split.

    embedding: (n_patients, width), a row for each of `patients`. survival: patient_id, endpoint, time_days (days
    > 0), event (bool). splits: the table of `splits.assemble`; labels: which of its labels, all by default.
    advice: a sentence on the endpoint by label, passed on. A label with fewer than min_events events is not
    probed: null with counts. covariates: (n_patients, q) of the same patients, for "clinical" (they alone),
    "with_clinical" (beside the embedding) and "added_value" (their difference, split by split), which are null with
    the reason `no_covariates` without them. "common_width" is another probe, of the first common_width principal
    components.

    Returns the "labels" and the "overall" part of the metrics file (unweighted mean of the cohorts of an endpoint
    whose C is defined; never pooled) and the predictions; a score is the log relative hazard, higher = worse
    survival. Byte-equal for any order of patients and any n_jobs.
    """
    index = units.check_embedding(embedding, patients)
    settings = Settings(check_penalties(penalties), transform, selection, common_width, ties, l1_ratio)
    if covariates is not None:
        units.check_embedding(covariates, patients)
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
    work, names = [], []
    for label, of_label in parts.items():
        if too_few[label] is not None:
            continue
        outcome = outcomes[label.rpartition("/")[2]]
        for numbers in units.chunks(len(of_label), len(of_label[0].rows), embedding.shape[1]):
            chosen = [of_label[number] for number in numbers]
            followed = [(outcome.time[part.rows], outcome.event[part.rows]) for part in chosen]
            facts = None if covariates is None else [covariates[part.rows] for part in chosen]
            work.append((chosen, followed, facts, settings))
            names.append([(label, part.split) for part in chosen])
    order = sorted(range(len(work)), key=lambda number: -sum(len(part.rows) for part in work[number][0]))
    results = units.run_units(_score_unit, [work[number] for number in order], embedding, n_jobs, "survival probes")
    scored = {
        name: one
        for number, of_unit in zip(order, results, strict=True)
        for name, one in zip(names[number], of_unit, strict=True)
    }
    missing = no_covariates if covariates is None else None
    metrics = {}
    columns: dict[str, list[Any]] = {key: [] for key in ("label", "split", "patient_id", "score", "time", "event")}
    ids = index.to_numpy(dtype=object)
    for label, of_label in parts.items():
        outcome = outcomes[label.rpartition("/")[2]]
        metrics[label] = _label_metrics(of_label, scored, known[label], outcome, too_few[label], settings, missing)
        metrics[label]["advice"] = None if advice is None else advice.get(label)
        for part in of_label:
            result = scored.get((label, part.split))
            if result is not None and result.reason is None:
                columns["label"] += [label] * len(result.rows)
                columns["split"] += [part.split] * len(result.rows)
                columns["patient_id"] += ids[result.rows].tolist()
                columns["score"] += result.risks["own"].tolist()
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
    embedding: units.Rows,
    parts: Sequence[units.Part],
    followed: Sequence[tuple[Floats, Bools]],
    facts: Sequence[units.Rows] | None,
    settings: Settings,
) -> list[_Scored]:
    """Tune and fit on the training patients of some splits of a label and score their test patients."""
    scored: dict[int, _Scored] = {}
    ready: dict[int, FollowedPart] = {}
    for number, (part, (time, event)) in enumerate(zip(parts, followed, strict=True)):
        train = ~part.test
        one = FollowedPart(
            np.asarray(embedding[part.rows[train]]),
            time[train],
            event[train],
            part.fold[train],
            None if facts is None else facts[number][train],
        )
        try:
            check_followed(one)
        except Undefined as undefined:
            scored[number] = _Scored(part.rows[part.test], {}, {}, str(undefined))
        else:
            ready[number] = one
    tuned = tune_cox_parts(list(ready.values()), settings) if ready else []
    for (number, one), models in zip(ready.items(), tuned, strict=True):
        part, (time, event) = parts[number], followed[number]
        tested = np.asarray(embedding[part.rows[part.test]])
        covariates = None if facts is None else facts[number][part.test]
        risks = {variant: model.score(tested, covariates) for variant, model in models.items()}
        followed_test = _Followed(one.time, one.event, time[part.test], event[part.test])
        tau, why = units.attempt(followed_test.tau)
        uno: Value = (None, why)
        brier: Value = (None, why)
        if tau is not None:
            uno = units.attempt(partial(followed_test.uno, risks["own"], tau))
            brier = units.attempt(partial(followed_test.brier, risks["own"], models["own"].linear, tau))
        choices = {variant: model.choice for variant, model in models.items()}
        scored[number] = _Scored(part.rows[part.test], risks, choices, None, uno, tau, brier)
    return [scored[number] for number in range(len(parts))]


class _Followed(NamedTuple):
    """Follow-up of the training and the test patients of a split: what weighting by censoring needs."""

    train_time: Floats
    train_event: Bools
    time: Floats
    event: Bools

    def tau(self) -> float:
        return default_tau(self.train_time, self.time)

    def uno(self, risk: Floats, tau: float) -> float:
        return uno_c(*self, risk, tau)

    def brier(self, risk: Floats, train_linear: Floats, tau: float) -> float:
        times = brier_times(self.time, tau)
        survival = breslow_survival(self.train_time, self.train_event, train_linear, risk, times)
        return integrated_brier_score(*self, survival, times)


def _label_metrics(
    parts: Sequence[units.Part],
    scored: Mapping[tuple[str, int], _Scored],
    known: Ints,
    outcome: _Outcome,
    too_few: str | None,
    settings: Settings,
    no_covariates: str | None,
) -> dict[str, Any]:
    label = parts[0].label
    cohort, _, endpoint = label.rpartition("/")
    splits = [part.split for part in parts]
    results = [scored.get((label, split)) for split in splits]

    def over(value: Callable[[_Scored], Value]) -> list[Value]:
        return [
            (None, None if result is None else result.reason)
            if result is None or result.reason is not None
            else value(result)
            for result in results
        ]

    def c_index(variant: Variant, otherwise: str) -> Callable[[_Scored], Value]:
        def score(result: _Scored) -> Value:
            if variant not in result.risks:
                return None, otherwise
            time, event = outcome.time[result.rows], outcome.event[result.rows]
            return units.attempt(lambda: harrell_c(time, event, result.risks[variant]))

        return score

    def summary(values: Sequence[Value]) -> dict[str, Any]:
        return units.refused(too_few, splits) if too_few is not None else units.summarise(values, splits)

    otherwise = no_covariates or "no clinical covariate varies among the training patients"
    if settings.l1_ratio > 0:
        otherwise = "covariates are not combined with an elastic net (probe_survival.l1_ratio)"
    alone = over(c_index("covariates", otherwise))
    beside = over(c_index("with_covariates", otherwise))
    metrics: dict[str, Any] = {
        "cohort": cohort,
        "endpoint": endpoint,
        "n": len(known),
        "events": int(outcome.event[known].sum()),
        **summary(over(c_index("own", ""))),
        **units.choice_columns([None if result is None else result.choices.get("own") for result in results]),
        "uno_c": {
            **summary(over(lambda result: result.uno)),
            "tau_days": [None if result is None else units.rounded(result.tau_days) for result in results],
        },
        "integrated_brier": summary(over(lambda result: result.brier)),
        "clinical": summary(alone),
        "with_clinical": summary(beside),
        "added_value": summary([_difference(one, two) for one, two in zip(beside, alone, strict=True)]),
    }
    if settings.common_width is not None:
        metrics["common_width"] = {
            "width": settings.common_width,
            **summary(over(c_index("common", ""))),
            **units.choice_columns([None if result is None else result.choices.get("common") for result in results]),
        }
    return metrics


def _difference(one: Value, two: Value) -> Value:
    if one[0] is None or two[0] is None:
        return None, one[1] or two[1]
    return one[0] - two[0], None
