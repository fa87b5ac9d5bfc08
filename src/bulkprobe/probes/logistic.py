"""Ridge logistic regression of many labels and penalties at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from bulkprobe.probes.solver import ConvergenceError, Eigenbasis, Floats, Ints, minimise

__all__ = ["ConvergenceError", "LogisticPath", "fit_logistic_path", "logistic_objective"]

TOL = 1e-6  # gradient norm relative to that of the model without features
MAX_ITER = 2_000
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class LogisticPath:
    """Fitted models: coef (n_labels, n_penalties, d), intercept (n_labels, n_penalties)."""

    coef: Floats
    intercept: Floats

    def decision(self, features: Floats) -> Floats:
        """Linear predictors (log-odds) of features (m, d): (n_labels, n_penalties, m)."""
        n_labels, n_penalties, d = self.coef.shape
        flat = features @ self.coef.reshape(n_labels * n_penalties, d).T
        return np.asarray(flat.T.reshape(n_labels, n_penalties, len(features)) + self.intercept[..., None])


def fit_logistic_path(
    X: Floats,
    Y: Bools,
    penalties: npt.ArrayLike,
    *,
    tol: float = TOL,
    max_iter: int = MAX_ITER,
    solver: Literal["own", "sklearn"] = "own",
) -> LogisticPath:
    """Minimise mean log-loss + penalty / 2 * |w|^2, intercept free, for every label and penalty.

    X: (n, d) features. Y: (n, n_labels) bool, both classes in every column. penalties: (n_penalties,), or
    (n_labels, n_penalties) for penalties of each label's own; all positive. "sklearn" is the reference solver,
    one problem after the other. Raises ValueError on what cannot be fitted, ConvergenceError at max_iter.
    """
    X = np.asarray(X, dtype=np.float64)
    Y, grid = _check(X, np.asarray(Y), np.asarray(penalties, dtype=np.float64))
    if solver == "sklearn":
        return _reference(X, Y, grid, tol, max_iter)
    n, _ = X.shape
    centre = X.mean(axis=0)
    basis = Eigenbasis(X - centre)
    rank = len(basis.spread)
    design = np.concatenate([basis.scores, np.ones((n, 1))], axis=1)
    n_labels, n_penalties = grid.shape
    label = np.repeat(np.arange(n_labels), n_penalties)
    share = Y.mean(axis=0)[label]
    ridge = np.concatenate([np.broadcast_to(grid.ravel(), (rank, len(label))), np.zeros((1, len(label)))])
    variance = np.append(basis.spread**2 / n, 1.0)
    bound = (share * (1 - share)) * variance[:, None] + ridge
    start = np.zeros((rank + 1, len(label)))
    start[-1] = np.log(share / (1 - share))
    weights = minimise(design, _LogLoss(Y, label), ridge, bound, start, tol=tol, max_iter=max_iter)
    coef = basis.back(weights[:-1])  # (d, labels x penalties)
    intercept = weights[-1] - centre @ coef
    return LogisticPath(
        np.ascontiguousarray(coef.T).reshape(n_labels, n_penalties, coef.shape[0]),
        intercept.reshape(n_labels, n_penalties),
    )


def logistic_objective(X: Floats, truth: Bools, coef: Floats, intercept: float, penalty: float) -> float:
    """Return what is minimised, mean log-loss + penalty / 2 * |w|^2, for one model; coef (d,)."""
    linear = X @ coef + intercept
    return float(np.logaddexp(0.0, np.where(truth, -linear, linear)).mean() + penalty / 2 * coef @ coef)


class _LogLoss:
    """Mean log-loss; column j of the predictors belongs to label `label[j]`."""

    def __init__(self, truth: Bools, label: Ints) -> None:
        self._truth = truth.astype(np.float64)
        self._label = label

    def evaluate(self, eta: Floats, columns: Ints) -> tuple[Floats, Floats, Floats]:
        truth = self._truth[:, self._label[columns]]
        small = np.exp(-np.abs(eta))
        total = 1.0 + small
        softplus = np.maximum(eta, 0.0) + np.log1p(small)
        value = (softplus.sum(axis=0) - np.einsum("nc,nc->c", truth, eta)) / len(eta)
        probability = np.where(eta >= 0, 1.0, small) / total
        weight = small / (total * total)  # p (1 - p) without cancellation
        return value, (probability - truth) / len(eta), weight

    def curvature(self, state: Floats, direction: Floats) -> Floats:
        return np.asarray(np.einsum("nc,nc,nc->c", state, direction, direction) / len(direction))


def _check(X: Floats, Y: npt.NDArray[np.generic], grid: Floats) -> tuple[Bools, Floats]:
    if X.ndim != 2 or Y.ndim != 2 or len(X) != len(Y):
        raise ValueError(f"X has shape {X.shape} and Y {Y.shape}; (n, d) and (n, n_labels) are expected")
    if Y.dtype != np.bool_:
        raise ValueError(f"Y has type {Y.dtype}; it must be bool without missing values")
    if not np.isfinite(X).all():
        raise ValueError(f"X holds {int((~np.isfinite(X)).sum())} values that are NaN or infinite")
    single = np.flatnonzero(Y.all(axis=0) | ~Y.any(axis=0))
    if len(single):
        raise ValueError(f"label columns {single[:10].tolist()} hold one class only; both are needed to fit")
    if grid.ndim == 1:
        grid = np.broadcast_to(grid, (Y.shape[1], len(grid)))
    if grid.ndim != 2 or len(grid) != Y.shape[1] or not (grid > 0).all() or not np.isfinite(grid).all():
        raise ValueError(f"penalties of shape {grid.shape} must be positive, one row for all labels or one each")
    return np.asarray(Y, dtype=np.bool_), grid


def _reference(X: Floats, Y: Bools, grid: Floats, tol: float, max_iter: int) -> LogisticPath:
    """Fit by scikit-learn, which minimises the sum of losses + |w|^2 / (2 C): C = 1 / (n * penalty)."""
    from sklearn.linear_model import LogisticRegression  # slow to import, and seldom wanted

    coef = np.zeros((*grid.shape, X.shape[1]))
    intercept = np.zeros(grid.shape)
    for label, row in enumerate(grid):
        for number, penalty in enumerate(row):
            model = LogisticRegression(C=1 / (len(X) * penalty), tol=tol, max_iter=max_iter)
            model.fit(X, Y[:, label])
            if model.n_iter_.max() >= max_iter:
                raise ConvergenceError(f"scikit-learn did not converge in {max_iter} iterations; raise max_iter")
            coef[label, number], intercept[label, number] = model.coef_[0], model.intercept_[0]
    return LogisticPath(coef, intercept)
