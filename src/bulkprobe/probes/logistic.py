"""Ridge logistic regression of many labels, training parts and penalties at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from bulkprobe.probes.arrays import Array, Floats, Ints, namespace, to_device
from bulkprobe.probes.basis import Basis, Stack, threads_for
from bulkprobe.probes.solver import ConvergenceError, solve_path

__all__ = ["ConvergenceError", "LogisticPath", "fit_logistic_path", "logistic_objective", "solve_logistic"]

TOL = 1e-6  # gradient norm relative to that of the model without features
MAX_ITER = 2_000
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class LogisticPath:
    """Fitted models: coef (n_labels, n_penalties, d), intercept (n_labels, n_penalties)."""

    coef: Floats
    intercept: Floats

    def decision(self, features: npt.NDArray[np.floating[Any]]) -> Floats:
        """Linear predictors (log-odds) of features (m, d): (n_labels, n_penalties, m)."""
        n_labels, n_penalties, d = self.coef.shape
        flat = features @ self.coef.reshape(n_labels * n_penalties, d).T
        return np.asarray(flat.T.reshape(n_labels, n_penalties, len(features)) + self.intercept[..., None])


def fit_logistic_path(
    X: npt.NDArray[np.floating[Any]],
    Y: Bools,
    penalties: npt.ArrayLike,
    *,
    tol: float = TOL,
    max_iter: int = MAX_ITER,
    solver: Literal["own", "sklearn"] = "own",
    device: str = "cpu",
) -> LogisticPath:
    """Minimise mean log-loss + penalty / 2 * |w|^2, intercept free, for every label and penalty.

    X: (n, d) features, float32 or float64. Y: (n, n_labels) bool, both classes in every column. penalties:
    (n_penalties,), or (n_labels, n_penalties) for penalties of each label's own; all positive. The optimum is that of
    float64 arithmetic whatever X is. "sklearn" is the reference solver, one problem after the other. device: "cpu",
    or a torch device such as "cuda" (not run on a GPU so far).
    Raises ValueError on what cannot be fitted, ConvergenceError at max_iter.
    """
    X = np.asarray(X)
    X = X if X.dtype == np.float32 else X.astype(np.float64, copy=False)
    Y, grid = _check(X, np.asarray(Y), np.asarray(penalties, dtype=np.float64))
    if solver == "sklearn":
        return _reference(X, Y, grid, tol, max_iter)
    centre = X.mean(axis=0, dtype=np.float64)
    if np.abs(centre).max(initial=0.0) > 1e-6 * np.abs(X).max(initial=0.0):  # else the intercept alone centres
        X = X - centre.astype(X.dtype)
        centre = centre.astype(X.dtype).astype(np.float64)
    else:
        centre = np.zeros_like(centre)
    with threads_for(X):
        coef, intercept = solve_logistic([Basis(X)], [Y], grid[None], tol=tol, max_iter=max_iter, device=device)[0]
    return LogisticPath(coef, intercept - coef @ centre)


def solve_logistic(
    bases: Sequence[Basis],
    labels: Sequence[Bools],
    grid: Floats,
    *,
    tol: float = TOL,
    max_iter: int = MAX_ITER,
    device: str = "cpu",
) -> list[tuple[Floats, Floats]]:
    """Solve every label of several training parts, one basis each, along a path of penalties.

    labels: (rows, n_labels) for each part. grid: (parts, n_labels, n_penalties), in any order. Returns for each
    part coefficients (n_labels, n_penalties, d) on the basis's features and intercepts (n_labels, n_penalties).
    """
    stack = Stack.build(bases, [np.ones((len(truth), 1)) for truth in labels], device)
    m, n_labels, n_penalties = grid.shape
    share = np.stack([truth.mean(axis=0) for truth in labels])  # (m, labels)
    start = np.zeros((m, stack.width + 1, n_labels))
    start[:, -1] = np.log(share / (1 - share))
    order = np.argsort(-grid, axis=2, kind="stable")
    falling = np.take_along_axis(grid, order, axis=2)
    ridges = []
    for number in range(n_penalties):
        ridge = np.zeros((m, stack.width + 1, n_labels))
        ridge[:, :-1] = falling[:, None, :, number]
        ridges.append(to_device(ridge, device))
    loss = _LogLoss.build(labels, device)
    found = solve_path(stack, loss, ridges, to_device(start, device), tol=tol, max_iter=max_iter)
    path = np.empty((m, n_labels, n_penalties, stack.width + 1))
    np.put_along_axis(path, order[..., None], np.stack(found, axis=-1).transpose(0, 2, 3, 1), axis=2)
    results = []
    for basis, weights in zip(bases, path, strict=True):
        flat = weights[..., : basis.rank].reshape(n_labels * n_penalties, basis.rank)
        coef = np.ascontiguousarray(basis.back(flat.T).T).reshape(n_labels, n_penalties, -1)
        results.append((coef, np.ascontiguousarray(weights[..., -1])))
    return results


def logistic_objective(
    X: npt.NDArray[np.floating[Any]], truth: Bools, coef: Floats, intercept: float, penalty: float
) -> float:
    """Return what is minimised, mean log-loss + penalty / 2 * |w|^2, for one model; coef (d,)."""
    linear = X @ coef + intercept
    return float(np.logaddexp(0.0, np.where(truth, -linear, linear)).mean() + penalty / 2 * coef @ coef)


@dataclass(frozen=True)
class _LogLoss:
    """Mean log-loss. sign: (m, n, labels) -1 where the label is true, else 1. share: (m, n, 1), 1 / rows of the mask.

    Where rows are padded share is 0.
    """

    sign: Array
    share: Array
    device: str

    @classmethod
    def build(cls, labels: Sequence[Bools], device: str) -> _LogLoss:
        n = max(len(truth) for truth in labels)
        sign = np.ones((len(labels), n, labels[0].shape[1]))
        share = np.zeros((len(labels), n, 1))
        for number, status in enumerate(labels):
            sign[number, : len(status)][status] = -1.0
            share[number, : len(status)] = 1.0 / len(status)
        return cls(to_device(sign, device), to_device(share, device), device)

    def take(self, masks: Ints) -> _LogLoss:
        index = to_device(masks, self.device)
        return _LogLoss(self.sign[index], self.share[index], self.device)

    def evaluate(self, eta: Array) -> tuple[Array, Array]:
        xp = namespace(self.device)
        wrong = self.sign * eta  # the loss is log(1 + exp(wrong))
        small = xp.exp(-xp.abs(wrong))
        total = small + 1.0
        slope = xp.where(wrong >= 0, xp.ones_like(small), small)
        slope /= total
        slope *= self.sign * self.share
        softplus = xp.maximum(wrong, xp.zeros_like(wrong))
        softplus += xp.log(total)
        value = xp.matmul(xp.permute_dims(self.share, (0, 2, 1)), softplus)[:, 0]
        return value, slope

    def weight(self, eta: Array) -> Array:
        xp = namespace(self.device)
        small = xp.exp(-xp.abs(eta))
        total = 1.0 + small
        return xp.sum(self.share * small / (total * total), axis=1, keepdims=True)  # p (1 - p) without cancellation


def _check(X: npt.NDArray[np.floating[Any]], Y: npt.NDArray[np.generic], grid: Floats) -> tuple[Bools, Floats]:
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


def _reference(X: npt.NDArray[np.floating[Any]], Y: Bools, grid: Floats, tol: float, max_iter: int) -> LogisticPath:
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
