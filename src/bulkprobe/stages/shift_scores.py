"""The three numbers that say what a probe still reads: means over labels, made as the summary makes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bulkprobe.cohort.schema import GROUPS
from bulkprobe.errors import some
from bulkprobe.probes.units import rounded
from bulkprobe.stages.tasks import HOTSPOT, PAN_CANCER

MEANS = ("mutation_pan_cancer", "mutation_within_type", "survival")  # as the summary calls them
ENDPOINT = "OS"  # the endpoint that the summary averages
Value = tuple[float | None, str | None]  # and why it is None


@dataclass(frozen=True)
class LabelScores:
    """Scores by label: AUROC of mutation labels, within-type AUROC of the pan-cancer ones, C-index of survival."""

    mutation: Mapping[str, Value]
    within_type: Mapping[str, Value]
    survival: Mapping[str, Value]

    def minus(self, other: LabelScores) -> LabelScores:
        """Label by label, where both have a value."""
        pairs = [(getattr(self, kind), getattr(other, kind)) for kind in ("mutation", "within_type", "survival")]
        return LabelScores(*({label: _minus(ours[label], theirs[label]) for label in ours} for ours, theirs in pairs))

    def written(self) -> dict[str, Any]:
        """Means over the labels that the summary averages, as far as they have a value, and every label's own score."""
        pan_cancer, survival = in_the_mean(self.mutation), _overall_survival(self.survival)
        tables = (
            {label: self.mutation[label] for label in pan_cancer},
            {label: self.within_type[label] for label in pan_cancer},
            {label: self.survival[label] for label in survival},
        )
        return {
            **{task: _mean(values) for task, values in zip(MEANS, tables, strict=True)},
            "labels": {label: rounded(v) for label, (v, _) in sorted([*self.mutation.items(), *self.survival.items()])},
            "labels_within_type": {label: rounded(value) for label, (value, _) in sorted(self.within_type.items())},
        }


def in_the_mean(labels: Iterable[str]) -> list[str]:
    """The pan-cancer labels of non-silent mutation."""
    return [label for label in labels if label.startswith(f"{PAN_CANCER}/") and not label.endswith(HOTSPOT)]


def _overall_survival(labels: Iterable[str]) -> list[str]:
    """The labels of overall survival, without types that stand beside their merger."""
    labels = list(labels)
    cohorts = {label.split("/")[0] for label in labels}
    beside = {kind for group, kinds in GROUPS.items() if group in cohorts for kind in kinds}
    return [label for label in labels if label.split("/")[1] == ENDPOINT and label.split("/")[0] not in beside]


def _mean(values: Mapping[str, Value]) -> dict[str, Any]:
    found = [value for value, _ in values.values() if value is not None]
    reason = None
    if len(found) < len(values):
        listed = some((f"{label} ({why})" for label, (value, why) in sorted(values.items()) if value is None), 3)
        reason = f"undefined for {len(values) - len(found)} of {len(values)} labels: {listed}"
    elif not values:
        reason = "no label of this task is probed here"
    return {"value": rounded(np.mean(found)) if found else None, "n_labels": len(found), "reason": reason}


def _minus(one: Value, other: Value) -> Value:
    if one[0] is None or other[0] is None:
        return None, one[1] or other[1]
    return one[0] - other[0], None
