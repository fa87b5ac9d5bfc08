"""Probes of an encoder as the metrics file has them: fitted at full depth, at the penalties that were chosen there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from bulkprobe.errors import UserError
from bulkprobe.probes import units
from bulkprobe.probes.cox import solve_cox
from bulkprobe.probes.cox_elastic_net import fit_cox_elastic_net
from bulkprobe.probes.logistic import solve_logistic
from bulkprobe.probes.metrics import Undefined, auroc, harrell_c, within_type_auroc
from bulkprobe.probes.partial_likelihood import Outcome
from bulkprobe.probes.transform import FittedTransform, Prepared
from bulkprobe.stages import probing
from bulkprobe.stages.shift_scores import LabelScores, Value
from bulkprobe.stages.shift_subject import Subject
from bulkprobe.stages.tasks import PAN_CANCER, mutation_labels

AGREED = 1e-4  # a difference of scores above this is no rounding


@dataclass(frozen=True)
class Probes:
    """Probes of labels that share their patients, fitted on the training part of one split.

    tested: (n_test,) places of its test patients among the probed patients, rising. coef: (n_labels, features) on
    prepared features. trained: how many patients they were fitted on.
    """

    task: str
    labels: tuple[str, ...]
    place: int  # of the split in the lists of the metrics file
    tested: np.ndarray
    trained: int
    transform: FittedTransform
    coef: np.ndarray
    intercept: np.ndarray

    def score(self, vectors: np.ndarray) -> np.ndarray:
        """Linear predictors of vectors (m, width): (m, n_labels)."""
        return self.transform.score(vectors, self.coef.T, self.intercept)


@dataclass(frozen=True)
class Part:
    """A label in a split: places of its training and test patients."""

    label: str
    place: int
    penalty: float
    train: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class Truth:
    """What is known of the probed patients, in their order: mutation status (NA where not profiled), follow-up."""

    mutation: pd.DataFrame
    followed: Mapping[str, pd.DataFrame]  # by endpoint: time (days), event

    @classmethod
    def of(cls, subject: Subject) -> Truth:
        """Read the labels of a subject's patients."""
        index = subject.patients.types.index
        table = subject.cohort.survival.set_index("patient_id")
        followed = {
            str(endpoint): table[table.endpoint == endpoint].reindex(index)[["time_days", "event"]]
            for endpoint in subject.params.probe_survival.endpoints
        }
        return cls(mutation_labels(subject.cohort, subject.patients, subject.params.probe_mutation), followed)

    def status(self, label: str, places: np.ndarray) -> np.ndarray:
        """Mutation status (n,) bool of profiled patients."""
        return np.asarray(self.mutation[label].iloc[places].to_numpy(dtype=bool))

    def outcome(self, label: str, places: np.ndarray) -> Outcome:
        """Follow-up of patients."""
        rows = self.followed[label.split("/")[1]].iloc[places]
        return Outcome(rows.time_days.to_numpy(dtype=np.float64), rows.event.to_numpy(dtype=bool))


def fit_probes(subject: Subject, truth: Truth, n_splits: int) -> list[Probes]:
    """Fit every label of the metrics files in the first splits; labels of the same patients share one preparation.

    Reads labels of training patients only. A split in which a label has no penalty is left out for it.
    """
    embedding, transform = probing.embedding_of(subject.store, subject.patients), probing.transform_of(subject.store)
    fitted = []
    with threadpool_limits(1):  # so that bytes do not depend on the number of threads
        for task, solve in (("mutation", _logistic), ("survival", _cox(subject))):
            for parts in _together(_parts(subject, truth, task, n_splits)):
                train = parts[0].train
                prepared = transform.fit(embedding[train])
                coef, intercept = solve(prepared, parts, truth)
                labels = tuple(part.label for part in parts)
                fitted.append(
                    Probes(task, labels, parts[0].place, parts[0].test, len(train), prepared.fitted, coef, intercept)
                )
    return fitted


def _parts(subject: Subject, truth: Truth, task: str, n_splits: int) -> list[Part]:
    entries = subject.metrics[task]["labels"]
    first = sorted(subject.splits.split.unique())[:n_splits]
    table = subject.splits[subject.splits.split.isin(first) & (subject.splits.task == task)]
    labels = [label for label, entry in entries.items() if any(p is not None for p in entry["penalty"][:n_splits])]
    index = pd.Index(subject.patients.types.index)
    parts = []
    for label, of_label in units.parts_of(table, task, labels, index).items():
        for part in of_label:
            place = first.index(part.split)
            penalty = entries[label]["penalty"][place]
            if penalty is None:
                continue
            known = np.ones(len(part.rows), bool)
            if task == "mutation":
                known = truth.mutation[label].notna().to_numpy()[part.rows]
            train, test = part.rows[known & ~part.test], part.rows[known & part.test]
            parts.append(Part(label, place, float(penalty), train, test))
    return parts


def _together(parts: Sequence[Part]) -> list[list[Part]]:
    groups: dict[tuple[Any, ...], list[Part]] = {}
    for part in parts:
        cohort = part.label.split("/")[0]
        groups.setdefault((cohort, part.place, part.train.tobytes(), part.test.tobytes()), []).append(part)
    return list(groups.values())


def _logistic(prepared: Prepared, parts: Sequence[Part], truth: Truth) -> tuple[np.ndarray, np.ndarray]:
    status = np.stack([truth.status(part.label, part.train) for part in parts], axis=1)
    penalties = np.array([[[part.penalty] for part in parts]])
    coef, intercept = solve_logistic([prepared.basis], [status], penalties)[0]
    return coef[:, 0], intercept[:, 0]


def _cox(subject: Subject) -> Callable[[Prepared, Sequence[Part], Truth], tuple[np.ndarray, np.ndarray]]:
    ties, l1_ratio = subject.params.probe_survival.ties, subject.params.probe_survival.l1_ratio

    def solve(prepared: Prepared, parts: Sequence[Part], truth: Truth) -> tuple[np.ndarray, np.ndarray]:
        outcomes = [truth.outcome(part.label, part.train) for part in parts]
        if l1_ratio > 0:
            paths = [
                fit_cox_elastic_net(prepared.rows, one.time, one.event, [part.penalty], l1_ratio, ties).coef
                for part, one in zip(parts, outcomes, strict=True)
            ]
        else:
            penalties = np.array([[part.penalty] for part in parts])
            paths = [coef for coef, _ in solve_cox([prepared.basis] * len(parts), outcomes, penalties, ties)]
        return np.concatenate(paths), np.zeros(len(parts))

    return solve


class Predictions:
    """Linear predictors of the test patients of every probe, filled in block by block; NaN: nothing to score."""

    def __init__(self, probes: Sequence[Probes]) -> None:
        """Begin with no patient scored."""
        self.probes = probes
        self.linear = [np.full((len(one.tested), len(one.labels)), np.nan) for one in probes]

    def add(self, places: np.ndarray, vectors: np.ndarray) -> None:
        """Score vectors (m, width) of patients at `places` (m,), wherever they are test patients."""
        for one, linear in zip(self.probes, self.linear, strict=True):
            _, here, there = np.intersect1d(one.tested, places, assume_unique=True, return_indices=True)
            if len(here):
                linear[here] = one.score(vectors[there])

    def judge(self, truth: Truth, types: np.ndarray, metrics: Mapping[str, Any], n_splits: int) -> Judged:
        """Compare with the truth, label by label and split by split; labels without a probe keep their reason."""
        judged = Judged.empty(metrics, n_splits)
        for one, linear in zip(self.probes, self.linear, strict=True):
            for number, label in enumerate(one.labels):
                left = np.isfinite(linear[:, number])
                places, score = one.tested[left], linear[left, number]
                if one.task == "survival":
                    time, event, _ = truth.outcome(label, places)
                    judged.survival[label][one.place] = _attempt(len(places), harrell_c, time, event, score)
                    continue
                status = truth.status(label, places)
                judged.mutation[label][one.place] = _attempt(len(places), auroc, status, score)
                if label in judged.within_type:
                    value = _attempt(len(places), within_type_auroc, status, score, types[places])
                    judged.within_type[label][one.place] = value
        return judged


@dataclass(frozen=True)
class Judged:
    """Scores by label, one a split: AUROC, within-type AUROC of pan-cancer labels, C-index."""

    mutation: dict[str, list[Value]]
    within_type: dict[str, list[Value]]
    survival: dict[str, list[Value]]

    @classmethod
    def empty(cls, metrics: Mapping[str, Any], n_splits: int) -> Judged:
        """Nothing scored: every label has the reason that its metrics give."""

        def table(task: str, prefix: str = "") -> dict[str, list[Value]]:
            return {
                label: [
                    (None, entry["reasons"].get(str(place)) or "no penalty was chosen in this split")
                    for place in range(n_splits)
                ]
                for label, entry in metrics[task]["labels"].items()
                if label.startswith(prefix)
            }

        return cls(table("mutation"), table("mutation", f"{PAN_CANCER}/"), table("survival"))

    def means(self) -> LabelScores:
        """Means over splits; None unless every split has a value."""
        return LabelScores(
            *(
                {label: _over_splits(values) for label, values in table.items()}
                for table in (self.mutation, self.within_type, self.survival)
            )
        )

    def gap(self, metrics: Mapping[str, Any], encoder: str) -> float:
        """Largest difference from the metrics files, over labels and splits.

        A pair of patients whose scores differ by rounding may change places; where half of all scores differ by more
        than 1e-4, embeddings, splits and metrics are not of one run: UserError.
        """
        found = []
        for table, task, block in (
            (self.mutation, "mutation", None),
            (self.within_type, "mutation", "within_type"),
            (self.survival, "survival", None),
        ):
            for label, values in table.items():
                entry = metrics[task]["labels"][label]
                there = entry if block is None else entry.get(block)
                if there is None:  # a label of one type alone has no within-type score
                    continue
                pairs = zip(values, there["per_split"][: len(values)], strict=True)  # probes are of the first splits
                found += [abs(ours - theirs) for (ours, _), theirs in pairs if None not in (ours, theirs)]
        if found and float(np.median(found)) > AGREED:
            raise UserError(
                f"probes of {encoder} fitted again score {max(found):.4f} away from metrics/: embeddings, splits and "
                "metrics are not of one run; run `dvc repro`"
            )
        return max(found, default=0.0)


def _over_splits(values: Sequence[Value]) -> Value:
    numbers = [value for value, _ in values if value is not None]
    if len(numbers) < len(values):
        return None, next(why for value, why in values if value is None)
    return float(np.mean(numbers)), None


def _attempt(n: int, metric: Callable[..., Any], *arguments: Any) -> Value:
    """A score rounded as in the metrics files, or why there is none."""
    if n == 0:
        return None, "nobody of the test part is left"
    try:
        value = metric(*arguments)
    except Undefined as undefined:
        return None, undefined.reason
    return units.rounded(getattr(value, "value", value)), None
