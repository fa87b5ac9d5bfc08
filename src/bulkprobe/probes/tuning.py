"""Choosing the ridge penalty on inner folds of the training part, for all splits of a label together.

Three variants of a probe share one standardisation and one eigendecomposition a training part: the embedding at its
own width, at a common number of principal components, and (survival) beside clinical covariates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from bulkprobe.errors import UserError
from bulkprobe.probes.arrays import Floats, Ints
from bulkprobe.probes.cox import Ties
from bulkprobe.probes.logistic import solve_logistic
from bulkprobe.probes.metrics import Undefined
from bulkprobe.probes.transform import FittedTransform, Prepared, Transform

TIE = 1e-8  # losses this close, relative to the best, count as equal
STACK = 1 << 21  # numbers of float32 solved together: few enough to stay in a cache
Selection = Literal["lowest", "one_standard_error"]
Variant = Literal["own", "common", "with_covariates", "covariates"]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.floating[Any]]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Choice:
    """The penalty chosen; curve: held-out loss of each penalty in nats per patient, lower is better.

    errors: its standard error over the inner folds (None with one fold). grid_edge: whether the penalty is the
    smallest or the largest of the grid. folds: inner folds that could be used.
    """

    penalty: float
    grid_edge: bool
    curve: tuple[float, ...]
    folds: int
    errors: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Tuned:
    """Models refitted on the whole training part at the penalties chosen.

    coef: (n_models, features) on prepared features. intercept: (n_models,), 0 for Cox. choices: one a model.
    """

    transform: FittedTransform
    coef: Floats
    intercept: Floats
    choices: tuple[Choice, ...]

    def score(self, rows: Rows) -> Floats:
        """Linear predictors of rows (m, width): (m, n_models)."""
        return self.transform.score(rows, self.coef.T, self.intercept)


@dataclass(frozen=True)
class Settings:
    """How penalties are chosen. grid: rising. common_width: components of the variant "common", None for none."""

    grid: Floats
    transform: Transform
    selection: Selection = "lowest"
    common_width: int | None = None
    ties: Ties = "efron"
    l1_ratio: float = 0.0  # of the Cox penalty; above 0 an elastic net is solved by another library

    def __post_init__(self) -> None:
        if self.selection not in get_args(Selection):
            raise UserError(f"selection is {self.selection!r}; it must be one of {', '.join(get_args(Selection))}")
        if self.common_width is not None and self.common_width < 1:
            raise UserError(f"common_width is {self.common_width}; at least 1 component is needed, or null for none")


def check_penalties(penalties: Sequence[float]) -> Floats:
    """Return the grid in rising order; raise UserError unless it is positive and without repeats."""
    grid = np.sort(np.asarray(penalties, dtype=np.float64))
    if grid.ndim != 1 or len(grid) == 0 or not np.isfinite(grid).all() or grid[0] <= 0 or (np.diff(grid) == 0).any():
        raise UserError(f"probe penalties are {list(penalties)}; give distinct positive numbers")
    return grid


def choose(grid: Floats, losses: Floats, sizes: Floats, selection: Selection = "lowest") -> Choice:
    """Choose a penalty by held-out losses (folds, n_penalties), sums in nats over `sizes` (folds,) patients.

    "lowest": the lowest mean loss; equal losses go to the larger penalty. "one_standard_error": the largest penalty
    whose mean loss is within one standard error (over the folds' own means) of the lowest (Breiman et al. 1984). The
    grid rises.
    """
    curve = losses.sum(axis=0) / sizes.sum()
    folds = len(sizes)
    errors = (losses / sizes[:, None]).std(axis=0, ddof=1) / np.sqrt(folds) if folds > 1 else None
    best = float(curve.min())
    allowed = best + TIE * abs(best)
    if selection == "one_standard_error" and errors is not None:
        allowed += float(errors[int(curve.argmin())])
    number = int(np.flatnonzero(curve <= allowed)[-1])
    edge = len(grid) > 1 and number in (0, len(grid) - 1)
    listed = None if errors is None else tuple(float(x) for x in errors)
    return Choice(float(grid[number]), edge, tuple(float(x) for x in curve), folds, listed)


def has_both_classes(truth: Bools, fold: npt.ArrayLike) -> Bools:
    """Tell for each label (n_labels,) whether it can be tuned: both classes in all, and to train on in some fold."""
    parts = [truth[train] for train, _ in folds(fold)]
    usable = [part.any(axis=0) & ~part.all(axis=0) for part in parts]
    return np.asarray(np.any(usable, axis=0) if usable else np.zeros(truth.shape[1], dtype=bool))


@dataclass(frozen=True)
class Mask:
    """One inner training part: of which split, its rows, and the rows held out."""

    part: int
    train: Bools
    held: Bools


@dataclass(frozen=True)
class LabelledPart:
    """A split's training part: rows (n, width), truth (n, n_labels) with both classes in each, fold (n,)."""

    rows: Rows
    truth: Bools
    fold: Ints


def tune_logistic(rows: Rows, truth: Bools, fold: npt.ArrayLike, settings: Settings) -> dict[Variant, Tuned]:
    """Tune one training part; see `tune_logistic_parts`."""
    return tune_logistic_parts([LabelledPart(rows, truth, np.asarray(fold))], settings)[0]


def tune_logistic_parts(parts: Sequence[LabelledPart], settings: Settings) -> list[dict[Variant, Tuned]]:
    """Choose each label's penalty by mean held-out log-loss over the inner folds, then refit on all rows of a part.

    Every part has the same labels. The transform is fitted anew on the training part of every fold. A fold whose
    training part lacks a class is left out for that label; Undefined if no fold is left for a label.
    """
    grid, n_labels = settings.grid, parts[0].truth.shape[1]
    masks = [Mask(i, train, held) for i, part in enumerate(parts) for train, held in folds(part.fold)]
    variants: list[Variant] = ["own"] if settings.common_width is None else ["own", "common"]
    losses = {variant: np.full((len(masks), n_labels, len(grid)), np.nan) for variant in variants}
    sizes = np.array([mask.held.sum() for mask in masks], dtype=np.float64)
    for numbers in batches(masks, [int(mask.train.sum()) for mask in masks], parts[0].rows.shape[1]):
        chunk = [masks[number] for number in numbers]
        whole = [settings.transform.fit(parts[mask.part].rows[mask.train]) for mask in chunk]
        truths = [parts[mask.part].truth[mask.train] for mask in chunk]
        fits = np.stack([truth.any(axis=0) & ~truth.all(axis=0) for truth in truths])  # (masks, labels)
        for variant, prepared in widths(whole, settings):
            if prepared is None:  # no wider than the common width: the same model
                losses[variant][numbers] = losses["own"][numbers]
                continue
            for labels, able in _together(fits):
                bases = [prepared[place].basis for place in able]
                of_labels = [truths[place][:, labels] for place in able]
                solved = solve_logistic(bases, of_labels, np.broadcast_to(grid, (len(able), len(labels), len(grid))))
                for place, (coef, intercept) in zip(able, solved, strict=True):
                    mask = chunk[place]
                    features = prepared[place].fitted.apply(parts[mask.part].rows[mask.held])
                    linear = features @ coef.reshape(intercept.size, -1).T  # (held, labels x penalties)
                    linear = linear.reshape(len(features), *intercept.shape) + intercept
                    truth = parts[mask.part].truth[mask.held][:, labels, None]
                    signed = np.where(truth, -linear, linear)
                    losses[variant][numbers[place], labels] = np.logaddexp(0.0, signed).sum(axis=0)
    owner = np.array([mask.part for mask in masks], dtype=np.int64)
    chosen: dict[Variant, list[list[Choice]]] = {variant: [] for variant in variants}
    for variant in variants:
        for number in range(len(parts)):
            of_part = losses[variant][owner == number]
            used = ~np.isnan(of_part[:, :, 0])
            if not used.any(axis=0).all():
                nothing = int((~used.any(axis=0)).sum())
                raise Undefined("no inner fold has both classes to train on", {"labels": nothing})
            size = sizes[owner == number]
            choices = [choose(grid, of_part[u, i], size[u], settings.selection) for i, u in enumerate(used.T)]
            chosen[variant].append(choices)
    return _refit_logistic(parts, chosen, settings)


def _refit_logistic(
    parts: Sequence[LabelledPart], chosen: dict[Variant, list[list[Choice]]], settings: Settings
) -> list[dict[Variant, Tuned]]:
    results: list[dict[Variant, Tuned]] = [{} for _ in parts]
    for numbers in batches(parts, [len(part.rows) for part in parts], parts[0].rows.shape[1]):
        whole = [settings.transform.fit(parts[number].rows) for number in numbers]
        for variant, prepared in widths(whole, settings):
            if prepared is None:
                for number in numbers:
                    results[number][variant] = results[number]["own"]
                continue
            penalties = np.array([[[c.penalty] for c in chosen[variant][number]] for number in numbers])
            truths = [parts[number].truth for number in numbers]
            solved = solve_logistic([one.basis for one in prepared], truths, penalties)
            for number, one, (coef, intercept) in zip(numbers, prepared, solved, strict=True):
                choices = tuple(chosen[variant][number])
                results[number][variant] = Tuned(one.fitted, coef[:, 0], intercept[:, 0], choices)
    return results


def widths(whole: list[Prepared], settings: Settings) -> Iterator[tuple[Variant, list[Prepared] | None]]:
    """The prepared parts at their own width and at the common one; None where that is the same for all of them."""
    yield "own", whole
    if settings.common_width is not None:
        width = settings.common_width
        wide = any(one.rows.shape[1] > width for one in whole)
        yield "common", [one.narrow(width) for one in whole] if wide else None


def _together(fits: Bools) -> Iterator[tuple[Ints, Ints]]:
    """Labels that can be fitted on the same masks, with those masks; (masks, labels) says which can."""
    patterns, group = np.unique(fits.T, axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        if pattern.any():
            yield np.flatnonzero(group.ravel() == number), np.flatnonzero(pattern)


def batches(items: Sequence[Item], sizes: Sequence[int], width: int) -> Iterator[list[int]]:
    """Numbers of items that are solved in one stack: as many as keep it in a few ten megabytes, at least one."""
    most = max(sizes, default=1)
    count = max(1, STACK // (most * max(1, min(most, width))))
    for start in range(0, len(items), count):
        yield list(range(start, min(start + count, len(items))))


def folds(fold: npt.ArrayLike) -> Iterator[tuple[Bools, Bools]]:
    """Training and held-out rows of every inner fold."""
    fold = np.asarray(fold)
    if (fold < 0).any():
        raise ValueError("training rows must stand in an inner fold; the splits table has -1 for some")
    for number in np.unique(fold):
        held = fold == number
        if not held.all():
            yield ~held, held
