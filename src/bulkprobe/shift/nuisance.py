"""How well a linear probe reads what is no biology: library size, number of expressed genes, site, plate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score

from bulkprobe.probes.metrics import ROUNDING

Floats = npt.NDArray[np.float64]
FOLDS = 5
PENALTIES = np.logspace(-6, 1, 8)  # of the mean squared error, features scaled to total variance 1
MIN_CLASS = 10  # samples of a site or plate

# From training and test rows (n, width), (m, width) to features, fitted on the training rows alone: centred, scaled,
# total variance 1, not many more than there are training rows.
Prepare = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Number:
    """A continuous nuisance: values (n,), NaN where not known; or why there is none."""

    values: Floats
    reason: str | None = None


@dataclass(frozen=True)
class Classes:
    """A categorical nuisance: names (n,), "" where not known."""

    names: np.ndarray
    reason: str | None = None


def read_nuisances(
    vectors: np.ndarray,
    targets: Mapping[str, Number | Classes],
    types: np.ndarray,
    prepare: Prepare,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Score cross-validated ridge regressions from vectors (n, width), one row a patient, on every nuisance.

    types: (n,) cancer types. The penalty is chosen in the training fold by leave-one-out error, for each target.
    Numbers: R2 over all held-out predictions; 0 = as good as the mean, and below 0 is worse. Classes: mean over classes
    of at least MIN_CLASS patients of the AUROC of one class against the rest, by pairs within a fold (folds have
    intercepts of their own); within_type: by pairs that are also of one cancer type, so that the type earns nothing.
    """
    n = len(vectors)
    wanted = {name: _columns(target) for name, target in targets.items() if target.reason is None}
    fold = np.empty(n, dtype=np.intp)
    fold[np.random.default_rng(seed).permutation(n)] = np.arange(n) % FOLDS
    scores = {name: np.full(columns.shape, np.nan) for name, columns in wanted.items()}
    if n >= 2 * FOLDS:
        for number in range(FOLDS):
            _fill(scores, vectors, wanted, prepare, fold, number)
    return {
        name: _number(target, scores.get(name), n)
        if isinstance(target, Number)
        else _classes(target, scores.get(name), types, fold)
        for name, target in targets.items()
    }


def _columns(target: Number | Classes) -> Floats:
    """Return what is regressed on: (n, 1), or an indicator for each class that is large enough; NaN where not known."""
    if isinstance(target, Number):
        return target.values[:, None].astype(np.float64)
    columns: Floats = (target.names[:, None] == _large(target)[None, :]).astype(np.float64)
    columns[target.names == ""] = np.nan
    return columns


def _large(target: Classes) -> np.ndarray:
    names, counts = np.unique(target.names, return_counts=True)
    kept: np.ndarray = names[(counts >= MIN_CLASS) & (names != "")]
    return kept


def _fill(
    scores: dict[str, Floats],
    vectors: np.ndarray,
    wanted: Mapping[str, Floats],
    prepare: Prepare,
    fold: npt.NDArray[np.intp],
    number: int,
) -> None:
    """Write the held-out predictions of one fold."""
    test = fold == number
    train, held_out = prepare(vectors[~test], vectors[test])
    if not train.shape[1]:
        train, held_out = np.zeros((len(train), 1)), np.zeros((len(held_out), 1))
    for name, columns in wanted.items():
        known = np.asarray(np.isfinite(columns).all(axis=1))
        rows = known[~test]
        if columns.shape[1] and rows.sum() >= FOLDS and known[test].any():
            fitted = RidgeCV(PENALTIES * rows.sum(), alpha_per_target=columns.shape[1] > 1)
            fitted.fit(train[rows].astype(np.float64), columns[~test][rows])
            found = fitted.predict(held_out[known[test]].astype(np.float64))
            scores[name][test & known] = found.reshape(len(found), -1)


def _number(target: Number, scores: Floats | None, n: int) -> dict[str, Any]:
    if scores is None:
        return {"measure": "R2", "value": None, "n": 0, "reason": target.reason}
    known = np.isfinite(scores[:, 0])
    reason = None
    if known.sum() < 2 * FOLDS:
        reason = f"{int(known.sum())} of {n} patients have a value: at least {2 * FOLDS} are needed"
    elif np.ptp(target.values[known]) == 0:
        reason = "all patients have the same value"
    value = None if reason else float(r2_score(target.values[known], scores[known, 0]))
    return {"measure": "R2", "value": value, "n": int(known.sum()), "reason": reason}


def _classes(target: Classes, scores: Floats | None, types: np.ndarray, fold: np.ndarray) -> dict[str, Any]:
    nothing = {"measure": "AUROC", "value": None, "within_type": None, "classes": 0, "n": 0}
    if scores is None:
        return {**nothing, "reason": target.reason}
    known = target.names != ""
    names = _large(target)
    nothing |= {"classes": len(names), "n": int(known.sum())}
    if not len(names) or not np.isfinite(scores[known]).all():
        return {**nothing, "reason": f"no class has {MIN_CLASS} of the {int(known.sum())} patients that are known"}
    truth = target.names[known, None] == names
    of_type = np.unique(types, return_inverse=True)[1] * FOLDS + fold
    overall, within = (aurocs_within(truth, scores[known], strata[known]) for strata in (fold, of_type))
    reason = None if overall is not None else "there is one class only, or nothing is read of any"
    if overall is not None and within is None:
        reason = "within_type: no cancer type has patients of two classes"
    return {**nothing, "value": overall, "within_type": within, "reason": reason}


def aurocs_within(truth: npt.NDArray[np.bool_], scores: Floats, strata: np.ndarray) -> float | None:
    """Return the mean over columns of truth and scores (n, c) of the AUROC over pairs of one stratum.

    For a column the same as `probes.metrics.within_type_auroc`, all columns in one pass; a tied pair counts one half. A
    column that has no pair, or nothing but ties, is left out; None where all are.
    """
    won, pairs = np.zeros(truth.shape[1]), np.zeros(truth.shape[1])
    told = np.zeros(truth.shape[1], bool)
    for stratum in np.unique(strata):
        here = strata == stratum
        positives, score = truth[here].sum(axis=0), scores[here]
        found = positives * (here.sum() - positives)
        ranks = np.where(truth[here], rankdata(score, axis=0), 0.0).sum(axis=0)
        won += np.where(found > 0, ranks - positives * (positives + 1) / 2, 0.0)
        pairs += found
        told |= (found > 0) & (np.ptp(score, axis=0) > ROUNDING * np.abs(score).max(axis=0))
    return float((won[told] / pairs[told]).mean()) if told.any() else None
