"""Choosing the ridge penalty on inner folds of the training part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bulkprobe.errors import UserError
from bulkprobe.probes.cox import PartialLikelihood, fit_cox_path
from bulkprobe.probes.logistic import fit_logistic_path
from bulkprobe.probes.metrics import Undefined
from bulkprobe.probes.solver import Floats
from bulkprobe.probes.transform import FittedTransform, Transform

TIE = 1e-8  # losses this close, relative to the best, count as equal
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Choice:
    """The penalty chosen; curve: held-out loss of each penalty in nats per patient, lower is better.

    grid_edge: whether it is the smallest or the largest of the grid. folds: inner folds that could be used.
    """

    penalty: float
    grid_edge: bool
    curve: tuple[float, ...]
    folds: int


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


def check_penalties(penalties: Sequence[float]) -> Floats:
    """Return the grid in rising order; raise UserError unless it is positive and without repeats."""
    grid = np.sort(np.asarray(penalties, dtype=np.float64))
    if grid.ndim != 1 or len(grid) == 0 or not np.isfinite(grid).all() or grid[0] <= 0 or (np.diff(grid) == 0).any():
        raise UserError(f"probe penalties are {list(penalties)}; give distinct positive numbers")
    return grid


def choose(grid: Floats, curve: Floats, folds: int) -> Choice:
    """Take the penalty of the lowest loss; equal losses go to the larger penalty. grid rises."""
    best = curve.min()
    number = int(np.flatnonzero(curve <= best + TIE * abs(best))[-1])
    edge = len(grid) > 1 and number in (0, len(grid) - 1)
    return Choice(float(grid[number]), edge, tuple(float(x) for x in curve), folds)


def has_both_classes(truth: Bools, fold: npt.ArrayLike) -> Bools:
    """Tell for each label (n_labels,) whether it can be tuned: both classes in all, and to train on in some fold."""
    parts = [truth[train] for train, _ in _folds(fold)]
    usable = [part.any(axis=0) & ~part.all(axis=0) for part in parts]
    return np.asarray(np.any(usable, axis=0) if usable else np.zeros(truth.shape[1], dtype=bool))


def tune_logistic(rows: Rows, truth: Bools, fold: npt.ArrayLike, grid: Floats, transform: Transform) -> Tuned:
    """Choose each label's penalty by mean held-out log-loss over the inner folds, then refit on all rows.

    rows: (n, width) of training patients. truth: (n, n_labels), both classes in each column. fold: (n,). The
    transform is fitted anew on the training part of every fold. A fold whose training part lacks a class is left
    out for that label; Undefined if no fold is left for a label.
    """
    n_labels = truth.shape[1]
    total, counted, used = np.zeros((n_labels, len(grid))), np.zeros(n_labels), np.zeros(n_labels, dtype=int)
    for train, held in _folds(fold):
        fits = np.flatnonzero(truth[train].any(axis=0) & ~truth[train].all(axis=0))
        if len(fits) == 0:
            continue
        fitted, prepared = transform.fit(rows[train])
        path = fit_logistic_path(prepared, truth[train][:, fits], grid)
        linear = path.decision(fitted.apply(rows[held]))  # (labels, penalties, held)
        signed = np.where(truth[held][:, fits].T[:, None, :], -linear, linear)
        total[fits] += np.logaddexp(0.0, signed).sum(axis=2)
        counted[fits] += int(held.sum())
        used[fits] += 1
    if (used == 0).any():
        raise Undefined("no inner fold has both classes to train on", {"labels": int((used == 0).sum())})
    choices = tuple(choose(grid, total[label] / counted[label], int(used[label])) for label in range(n_labels))
    fitted, prepared = transform.fit(rows)
    final = fit_logistic_path(prepared, truth, np.array([[choice.penalty] for choice in choices]))
    return Tuned(fitted, final.coef[:, 0], final.intercept[:, 0], choices)


def tune_cox(rows: Rows, time: Floats, event: Bools, fold: npt.ArrayLike, grid: Floats, transform: Transform) -> Tuned:
    """Choose the penalty by cross-validated partial likelihood over the inner folds, then refit on all rows.

    A fold k gives l(b without k; all training rows) - l(b without k; training rows without k); the curve is minus
    its sum per patient. Folds whose training part has no event are left out; Undefined if none is left.
    Verweij and van Houwelingen 1993, DOI 10.1002/sim.4780122407.
    """
    if not event.any():
        raise Undefined("no event in the training part", {"n": len(event)})
    total, counted, used = np.zeros(len(grid)), 0, 0
    everyone = PartialLikelihood(time, event, "efron")
    for train, held in _folds(fold):
        if not event[train].any():
            continue
        fitted, prepared = transform.fit(rows[train])
        path = fit_cox_path(prepared, time[train], event[train], grid)
        linear = np.empty((len(event), len(grid)))
        linear[train] = prepared @ path.coef.T
        linear[held] = fitted.apply(rows[held]) @ path.coef.T
        without = PartialLikelihood(time[train], event[train], "efron")
        total += everyone.value(linear[everyone.order]) - without.value(linear[train][without.order])
        counted += int(held.sum())
        used += 1
    if used == 0:
        raise Undefined("no inner fold has an event to train on", {"n": len(event), "events": int(event.sum())})
    choice = choose(grid, total / counted, used)
    fitted, prepared = transform.fit(rows)
    final = fit_cox_path(prepared, time, event, [choice.penalty])
    return Tuned(fitted, final.coef, np.zeros(1), (choice,))


def _folds(fold: npt.ArrayLike) -> Iterator[tuple[Bools, Bools]]:
    """Training and held-out rows of every inner fold."""
    fold = np.asarray(fold)
    if (fold < 0).any():
        raise ValueError("training rows must stand in an inner fold; the splits table has -1 for some")
    for number in np.unique(fold):
        held = fold == number
        if not held.all():
            yield ~held, held
