"""Paired comparisons of encoders: what is compared, over which labels, and with which uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from bulkprobe.probes.units import rounded
from bulkprobe.report.tables import TASKS, labels_of, survival_labels, without_counts
from bulkprobe.stages.resampling import Floats, percentile_interval
from bulkprobe.statistics import RankComparison, average_ranks, holm, paired_test

Metrics = Mapping[str, Any]
Scores = list[float | None]
WITHIN = "within_type_auroc"
NO_BOOTSTRAP = "predictions are kept of the embedding at its own width only"
Variant = Literal["own", "common_width", "clinical", "with_clinical"]
Side = tuple[str, Variant]  # an encoder and which of its scores
MISSING = {
    "common_width": "not probed at a common width",
    "clinical": "not set beside clinical data",
    "with_clinical": "not joined with clinical data",
}


@dataclass(frozen=True)
class Unit:
    """One label scored by one measure: auroc, within_type_auroc or c_index."""

    label: str
    measure: str


@dataclass(frozen=True)
class Study:
    """What is compared: metrics of every encoder, its draws, and the protocol.

    metrics: encoder -> {"mutation": ..., "survival": ...}, as the probes write them. draws: unit -> encoder ->
    (1 + n_boot,) mean score over splits in each draw of patients, the first being all patients; tested: unit -> ids of
    the patients tested in any split. test_fraction: share of patients in a test part. level: of the intervals.
    """

    metrics: Mapping[str, Mapping[str, Metrics]]
    test_fraction: float
    level: float
    draws: Mapping[Unit, Mapping[str, Floats]] = field(default_factory=dict)
    tested: Mapping[Unit, frozenset[str]] = field(default_factory=dict)

    @property
    def encoders(self) -> list[str]:
        """Names in the order of params.yaml."""
        return list(self.metrics)

    def block(self, encoder: str, unit: Unit, variant: Variant = "own") -> Metrics:
        """The scores of a unit as the metrics hold them: mean, per_split, reason."""
        metrics = self.metrics[encoder]["survival" if unit.measure == "c_index" else "mutation"]
        if metrics.get("absent"):
            return {"reason": str(metrics["absent"])}
        entry = (metrics.get("labels") or {}).get(unit.label)
        if entry is None:
            return {"reason": "this label was not probed"}
        if variant != "own":
            entry = entry.get(variant)
            if entry is None:
                return {"reason": MISSING[variant]}
        if unit.measure == WITHIN:
            whole, entry = entry, entry.get("within_type")
            if entry is None:
                return {"reason": whole.get("reason") or "not computed for this cohort"}
        return entry  # type: ignore[no-any-return]

    def scores(self, encoder: str, unit: Unit, variant: Variant = "own") -> list[float] | None:
        """The scores of all splits, or None where any is undefined."""
        values: Scores = list(self.block(encoder, unit, variant).get("per_split") or [])
        known = [value for value in values if value is not None]
        return known if known and len(known) == len(values) else None


def task_units(study: Study) -> dict[str, list[Unit]]:
    """Return the labels behind every summary task: those that the summary averages."""
    found = {}
    for task in TASKS:
        source = "survival" if task == "survival" else "mutation"
        labels = [name for metrics in study.metrics.values() for name in labels_of(metrics[source], task)]
        found[task] = [Unit(name, measure_of(task)) for name in dict.fromkeys(labels)]
    return found


def survival_units(study: Study, endpoint: str) -> list[Unit]:
    """Return the labels whose mean is the C-index of an endpoint."""
    labels = [name for metrics in study.metrics.values() for name in survival_labels(metrics["survival"], endpoint)]
    return [Unit(name, "c_index") for name in dict.fromkeys(labels)]


def measure_of(task: str) -> str:
    """Name the measure of a summary task."""
    return {"survival": "c_index", "mutation_within_type": WITHIN}.get(task, "auroc")


def label_units(study: Study) -> list[Unit]:
    """Return every label with every measure that any encoder has for it."""
    units = []
    for metrics in study.metrics.values():
        for label, entry in (metrics["mutation"].get("labels") or {}).items():
            units += [Unit(label, "auroc"), *([Unit(label, WITHIN)] if "within_type" in entry else [])]
        units += [Unit(label, "c_index") for label in metrics["survival"].get("labels") or {}]
    return list(dict.fromkeys(units))


def pair(study: Study, units: Sequence[Unit], a: Side, b: Side) -> dict[str, Any]:
    """Compare side a with b over the labels that are defined for both.

    The difference of a split is the mean over labels of a - b; splits of the same number test the same patients.
    """
    both, left_out = [], {}
    for unit in units:
        missing = [side for side in (a, b) if study.scores(side[0], unit, side[1]) is None]
        if missing:
            name, variant = missing[0]
            why = study.block(name, unit, variant).get("reason") or "undefined in some splits"
            left_out[unit.label] = f"{name}: {why}"
        else:
            both.append(unit)
    differences: Scores = []
    if both:
        first, second = (np.array([study.scores(side[0], unit, side[1]) for unit in both]) for side in (a, b))
        differences = [float(x) for x in (first - second).mean(axis=0)]
    test = asdict(paired_test(differences, study.test_fraction, level=study.level))
    reason = test.pop("reason")
    if not both:
        reasons = list(dict.fromkeys(without_counts(why) for why in left_out.values()))
        reason = f"no label is defined for both ({'; '.join(reasons) if reasons else 'none was probed'})"
    numbers = {key: value if key in ("n", "n_undefined") else _written(key, value) for key, value in test.items()}
    return {
        "n_splits": numbers.pop("n"),
        **numbers,
        "p_holm": None,
        "bootstrap": _bootstrap(study, both, a, b),
        "labels": [unit.label for unit in both],
        "left_out": left_out,
        "reason": reason,
    }


def _bootstrap(study: Study, units: Sequence[Unit], a: Side, b: Side) -> dict[str, Any]:
    nothing = {"low": None, "high": None, "n_patients": None, "n_undefined": None}
    if not units:
        return {**nothing, "reason": "no label is defined for both"}
    if (a[1], b[1]) != ("own", "own"):
        return {**nothing, "reason": NO_BOOTSTRAP}
    drawn = [study.draws.get(unit, {}) for unit in units]
    if any(name not in one for one in drawn for name in (a[0], b[0])):
        return {**nothing, "reason": "without predictions there is nothing to draw"}
    differences = np.mean([one[a[0]] - one[b[0]] for one in drawn], axis=0)[1:]
    low, high, undefined, reason = percentile_interval(differences, study.level)
    patients = len(frozenset().union(*(study.tested[unit] for unit in units)))
    return {
        "low": rounded(low),
        "high": rounded(high),
        "n_patients": patients,
        "n_undefined": undefined,
        "reason": reason,
    }


def _written(key: str, value: float | None) -> float | None:
    """Six decimals for scores; four significant digits for p-values, which may be small but are never 0."""
    return rounded(value) if value is None or not key.startswith("p_") else float(f"{value:.4g}")


def adjusted(entries: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Fill `p_holm`: the calibrated p-values of one family, adjusted over its encoders."""
    values = holm([entry["p_calibrated"] for entry in entries.values()])
    return {
        name: {**entry, "p_holm": _written("p_holm", value)}
        for (name, entry), value in zip(entries.items(), values, strict=True)
    }


def against(study: Study, units: Sequence[Unit], other: str, variant: Variant = "own") -> dict[str, dict[str, Any]]:
    """Compare every encoder but `other` with it."""
    names = [name for name in study.encoders if name != other]
    return adjusted({name: pair(study, units, (name, variant), (other, variant)) for name in names})


def against_twin(study: Study, units: Sequence[Unit], twins: Mapping[str, str | None]) -> dict[str, dict[str, Any]]:
    """Compare every encoder with its untrained twin, where it has one."""
    found = {name: pair(study, units, (name, "own"), (twin, "own")) for name, twin in twins.items() if twin}
    return adjusted(found)


def twins_of(study: Study) -> dict[str, str | None]:
    """Return the untrained twin of every encoder that is no twin itself: `twin_of` in its metrics, or its name."""
    stated: dict[str, str] = {}
    for name, metrics in study.metrics.items():
        owner = metrics["mutation"].get("twin_of") or metrics["survival"].get("twin_of")
        plain = name.removesuffix("_untrained")
        if owner or (plain != name and plain in study.metrics):
            stated[str(owner or plain)] = name
    return {name: stated.get(name) for name in study.encoders if name not in stated.values()}


def against_best(study: Study, units: Sequence[Unit]) -> dict[str, Any]:
    """Compare every encoder with the one of the highest mean, and list those that cannot be told apart from it.

    The best is chosen on the scores that it is then compared on, so its lead is overstated. Only encoders that are
    defined on every label that any encoder is defined on can be the best.
    """
    means = {
        name: [float(np.mean(values)) if (values := study.scores(name, unit)) is not None else None for unit in units]
        for name in study.encoders
    }
    wanted = [any(of_name[place] is not None for of_name in means.values()) for place in range(len(units))]
    able = {}
    for name, of_name in means.items():
        known = [mean for mean, need in zip(of_name, wanted, strict=True) if need]
        if known and all(mean is not None for mean in known):
            able[name] = float(np.mean([mean for mean in known if mean is not None]))
    if not able:
        reason = "no encoder is defined on all labels" if any(wanted) else "no label is defined"
        return {
            "best": None,
            "mean": None,
            "not_distinguishable": [],
            "undecided": {},
            "against_best": {},
            "reason": reason,
        }
    best = max(able, key=lambda name: able[name])
    entries = against(study, units, best)
    alike = [
        name for name, entry in entries.items() if entry["p_holm"] is not None and entry["p_holm"] > 1 - study.level
    ]
    return {
        "best": best,
        "mean": rounded(able[best]),
        "not_distinguishable": alike,
        "undecided": {name: entry["reason"] for name, entry in entries.items() if entry["p_holm"] is None},
        "against_best": entries,
        "reason": None,
    }


def widths(study: Study, units: Sequence[Unit]) -> dict[str, dict[str, Any]]:
    """Compare every encoder at its own width with itself at the common width (own - common)."""
    return adjusted({name: pair(study, units, (name, "own"), (name, "common_width")) for name in study.encoders})


def added_value(study: Study, units: Sequence[Unit]) -> dict[str, dict[str, Any]]:
    """Compare clinical data with every embedding to clinical data alone (C with - C without)."""
    sides: list[tuple[Side, Side]] = [((name, "with_clinical"), (name, "clinical")) for name in study.encoders]
    return adjusted({a[0]: pair(study, units, a, b) for a, b in sides})


def ranks(study: Study, tasks: Mapping[str, Sequence[Unit]]) -> dict[str, dict[str, Any]]:
    """Rank the encoders over labels, for mutation and for survival."""
    mutation = [unit for task, units in tasks.items() if measure_of(task) == "auroc" for unit in units]
    return {
        "mutation": _ranked(study, list(dict.fromkeys(mutation))),
        "survival": _ranked(study, list(tasks["survival"])),
    }


def _ranked(study: Study, units: Sequence[Unit]) -> dict[str, Any]:
    """Rank over the labels that half of the encoders or more are defined on, and only encoders defined on all those."""
    rows = {}
    for name in study.encoders:
        scores = [study.scores(name, unit) for unit in units]
        rows[name] = [np.nan if values is None else float(np.mean(values)) for values in scores]
    table = pd.DataFrame(rows, index=[unit.label for unit in units], columns=study.encoders, dtype=float)
    present = table.columns[table.notna().any()]
    used = table.loc[table[present].notna().mean(axis=1) >= 0.5] if len(present) else table.iloc[:0]
    out = {}
    for name in study.encoders:
        lacking = used.index[used[name].isna()]
        if len(lacking) or not len(used):
            out[name] = f"undefined on {len(lacking)} of {len(used)} labels" if len(used) else "no label is defined"
    kept = [name for name in study.encoders if name not in out]
    result: dict[str, Any] = {"labels": [str(label) for label in used.index], "left_out": out}
    if len(kept) < 2:
        empty = RankComparison(tuple(kept), (), 0, None, None, 1 - study.level, (), 0, "fewer than two encoders")
        return {**result, **_rank_numbers(empty)}
    return {**result, **_rank_numbers(average_ranks(used[kept], 1 - study.level))}


def _rank_numbers(found: RankComparison) -> dict[str, Any]:
    averages = zip(found.names, found.average_ranks, strict=True) if found.average_ranks else ()
    return {
        "average_ranks": {name: rounded(rank) for name, rank in averages},
        "n_blocks": found.n_blocks,
        "friedman_p": _written("p_friedman", found.friedman_p),
        "critical_difference": rounded(found.critical_difference),
        "significance": rounded(found.level),
        "groups": [list(group) for group in found.groups],
        "reason": found.reason,
    }
