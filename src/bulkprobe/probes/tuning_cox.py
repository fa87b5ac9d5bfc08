"""Choosing the penalty of Cox models on inner folds of the training part, for all splits of a label together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bulkprobe.probes.arrays import Floats, Ints
from bulkprobe.probes.cox import solve_cox
from bulkprobe.probes.cox_elastic_net import fit_cox_elastic_net
from bulkprobe.probes.metrics import Undefined
from bulkprobe.probes.partial_likelihood import Outcome, PartialLikelihood
from bulkprobe.probes.transform import Prepared, Transform
from bulkprobe.probes.tuning import Choice, Mask, Settings, Tuned, Variant, batches, choose, folds

Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class FollowedPart:
    """A split's training part: rows (n, width), time (n,), event (n,) bool, fold (n,), covariates (n, q) or None."""

    rows: Rows
    time: Floats
    event: Bools
    fold: Ints
    covariates: Rows | None = None


@dataclass(frozen=True)
class TunedCox:
    """A Cox model refitted on the whole training part: of an embedding, of covariates, or of both.

    linear: (n,) its linear predictor of the training rows, for baseline hazards.
    """

    embedding: Tuned | None
    covariates: Tuned | None
    linear: Floats

    @property
    def choice(self) -> Choice:
        """The choice of the embedding's penalty; of the covariates' where there is no embedding."""
        tuned = self.covariates if self.embedding is None else self.embedding
        if tuned is None:
            raise ValueError("a Cox model needs an embedding or covariates")
        return tuned.choices[0]

    def score(self, rows: Rows, covariates: Rows | None = None) -> Floats:
        """Log relative hazards of rows (m, width), (m,)."""
        total = np.zeros(len(rows))
        if self.embedding is not None:
            total += self.embedding.score(rows)[:, 0]
        if self.covariates is not None:
            if covariates is None:
                raise ValueError("this Cox model needs covariates to score with")
            total += self.covariates.score(covariates)[:, 0]
        return total


@dataclass(frozen=True)
class _Job:
    """One path to solve: prepared rows, perhaps prepared covariates and the choice of their penalty, an outcome."""

    prepared: Prepared
    outcome: Outcome
    penalties: Floats
    facts: Prepared | None = None
    facts_choice: Choice | None = None


def tune_cox(
    rows: Rows, time: Floats, event: Bools, fold: npt.ArrayLike, settings: Settings
) -> dict[Variant, TunedCox]:
    """Tune one training part; see `tune_cox_parts`."""
    return tune_cox_parts([FollowedPart(rows, time, event, np.asarray(fold))], settings)[0]


def tune_cox_parts(parts: Sequence[FollowedPart], settings: Settings) -> list[dict[Variant, TunedCox]]:
    """Choose penalties by cross-validated partial likelihood over the inner folds, then refit on all rows of a part.

    A fold k gives l(b without k; all training rows) - l(b without k; training rows without k); the loss is minus
    that. Folds whose training part has no event are left out; Undefined if none is left for a part. Covariates are
    tuned alone first ("covariates"), and keep that penalty beside the embedding ("with_covariates"); both are
    missing where no covariate varies.
    Verweij and van Houwelingen 1993, DOI 10.1002/sim.4780122407.
    """
    masks = []
    for number, part in enumerate(parts):
        check_followed(part)
        masks += [Mask(number, train, held) for train, held in folds(part.fold) if part.event[train].any()]
    facts = [part.covariates for part in parts]
    if not all(fact is not None and _varies(fact) for fact in facts) or settings.l1_ratio > 0:
        return _tune(parts, masks, settings, None)
    bare = [replace(part, rows=np.asarray(part.covariates), covariates=None) for part in parts]
    alone = _tune(bare, masks, replace(settings, transform=Transform(), common_width=None), None)
    results = _tune(parts, masks, settings, [one["own"].choice for one in alone])
    for result, one in zip(results, alone, strict=True):
        result["covariates"] = TunedCox(None, one["own"].embedding, one["own"].linear)
    return results


def check_followed(part: FollowedPart) -> None:
    """Raise Undefined where no Cox model can be tuned on a training part."""
    if not part.event.any():
        raise Undefined("no event in the training part", {"n": len(part.event)})
    if not any(part.event[train].any() for train, _ in folds(part.fold)):
        counts = {"n": len(part.event), "events": int(part.event.sum())}
        raise Undefined("no inner fold has an event to train on", counts)


def _varies(rows: Rows) -> bool:
    return bool((rows != rows[:1]).any())


def _tune(
    parts: Sequence[FollowedPart], masks: Sequence[Mask], settings: Settings, beside: Sequence[Choice] | None
) -> list[dict[Variant, TunedCox]]:
    """Tune and refit all variants that the settings ask for, and "with_covariates" at each part's choice `beside`."""
    grid = settings.grid
    losses = {variant: np.zeros((len(masks), len(grid))) for variant in _variants(settings, beside)}
    sizes = np.array([mask.held.sum() for mask in masks], dtype=np.float64)
    outcomes = [Outcome(part.time, part.event) for part in parts]
    everyone = [PartialLikelihood.build([outcome], settings.ties, over=[1.0]) for outcome in outcomes]
    without: dict[int, PartialLikelihood] = {}  # without the fold
    for numbers in batches(masks, [int(mask.train.sum()) for mask in masks], parts[0].rows.shape[1]):
        owners, jobs = [], []
        for number in numbers:
            mask = masks[number]
            choice = None if beside is None else beside[mask.part]
            for variant, job in _jobs(parts[mask.part], mask.train, dict.fromkeys(losses, grid), settings, choice):
                owners.append((number, variant))
                jobs.append(job)
        for (number, variant), job, (coef, more) in zip(owners, jobs, _solve(jobs, settings), strict=True):
            mask = masks[number]
            part = parts[mask.part]
            linear = np.empty((len(part.time), len(grid)))
            linear[mask.train] = job.prepared.rows.astype(np.float64) @ coef.T
            linear[mask.held] = job.prepared.fitted.apply(part.rows[mask.held]) @ coef.T
            if job.facts is not None:
                linear += job.facts.fitted.apply(np.asarray(part.covariates)) @ more.T
            if number not in without:
                without[number] = PartialLikelihood.build([job.outcome], settings.ties, over=[1.0])
            inside = without[number].evaluate(linear[None, mask.train])[0]
            losses[variant][number] = (everyone[mask.part].evaluate(linear[None])[0] - inside)[0]
        if "common" in losses:  # where it is no narrower, it is the same model and was not solved again
            alike = [number for number in numbers if (number, "common") not in owners]
            losses["common"][alike] = losses["own"][alike]
    owner = np.array([mask.part for mask in masks], dtype=np.int64)
    chosen = {
        variant: [
            choose(grid, found[owner == number], sizes[owner == number], settings.selection)
            for number in range(len(parts))
        ]
        for variant, found in losses.items()
    }
    return _refit(parts, chosen, settings, beside)


def _refit(
    parts: Sequence[FollowedPart],
    chosen: dict[Variant, list[Choice]],
    settings: Settings,
    beside: Sequence[Choice] | None,
) -> list[dict[Variant, TunedCox]]:
    results: list[dict[Variant, TunedCox]] = [{} for _ in parts]
    for numbers in batches(parts, [len(part.rows) for part in parts], parts[0].rows.shape[1]):
        owners, jobs = [], []
        for number in numbers:
            part, choice = parts[number], None if beside is None else beside[number]
            grids = {variant: np.array([choices[number].penalty]) for variant, choices in chosen.items()}
            for variant, job in _jobs(part, np.ones(len(part.rows), dtype=bool), grids, settings, choice):
                owners.append((number, variant))
                jobs.append(job)
        for (number, variant), job, (coef, more) in zip(owners, jobs, _solve(jobs, settings), strict=True):
            embedding = Tuned(job.prepared.fitted, coef, np.zeros(1), (chosen[variant][number],))
            linear = job.prepared.rows.astype(np.float64) @ coef[0]
            covariates = None
            if job.facts is not None and job.facts_choice is not None:
                covariates = Tuned(job.facts.fitted, more, np.zeros(1), (job.facts_choice,))
                linear = linear + job.facts.rows.astype(np.float64) @ more[0]
            results[number][variant] = TunedCox(embedding, covariates, linear)
        for number in numbers:
            if "common" in chosen and "common" not in results[number]:
                results[number]["common"] = results[number]["own"]
    return results


def _variants(settings: Settings, beside: Sequence[Choice] | None) -> Iterator[Variant]:
    yield "own"
    if settings.common_width is not None:
        yield "common"
    if beside is not None:
        yield "with_covariates"


def _jobs(
    part: FollowedPart, rows: Bools, grids: Mapping[Variant, Floats], settings: Settings, choice: Choice | None
) -> Iterator[tuple[Variant, _Job]]:
    """The paths to solve on some training rows, all from one transform; none at a common width that changes nothing."""
    prepared = settings.transform.fit(part.rows[rows])
    outcome = Outcome(part.time[rows], part.event[rows])
    yield "own", _Job(prepared, outcome, grids["own"])
    if settings.common_width is not None:
        narrow = prepared.narrow(settings.common_width)
        if narrow is not prepared:
            yield "common", _Job(narrow, outcome, grids["common"])
    if choice is not None:
        facts = Transform().fit(np.asarray(part.covariates)[rows])
        yield "with_covariates", _Job(prepared, outcome, grids["with_covariates"], facts, choice)


def _solve(jobs: Sequence[_Job], settings: Settings) -> list[tuple[Floats, Floats]]:
    """Coefficients of each job's prepared rows (penalties, features) and of its covariates (penalties, q)."""
    if settings.l1_ratio > 0:
        nothing = np.zeros((len(jobs[0].penalties), 0))
        return [
            (
                fit_cox_elastic_net(
                    one.prepared.rows, *one.outcome[:2], one.penalties, settings.l1_ratio, settings.ties
                ).coef,
                nothing,
            )
            for one in jobs
        ]
    widest = max((job.facts.rows.shape[1] for job in jobs if job.facts is not None), default=0)
    covariates = []
    for job in jobs:
        padded = np.zeros((len(job.outcome.time), widest))  # jobs without covariates have columns of zeros
        if job.facts is not None:
            padded[:, : job.facts.rows.shape[1]] = job.facts.rows
        covariates.append(padded)
    solved = solve_cox(
        [job.prepared.basis for job in jobs],
        [job.outcome for job in jobs],
        np.stack([job.penalties for job in jobs]),
        settings.ties,
        covariates=covariates,
        covariate_penalties=[1.0 if job.facts_choice is None else job.facts_choice.penalty for job in jobs],
    )
    widths = [0 if job.facts is None else job.facts.rows.shape[1] for job in jobs]
    return [(coef, more[:, :width]) for (coef, more), width in zip(solved, widths, strict=True)]
