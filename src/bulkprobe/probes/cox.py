"""Ridge Cox regression of many training parts and a whole path of penalties at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from bulkprobe.probes.arrays import Floats, to_device
from bulkprobe.probes.basis import Basis, Stack, threads_for
from bulkprobe.probes.newton import solve_newton
from bulkprobe.probes.partial_likelihood import Outcome, PartialLikelihood, Ties
from bulkprobe.probes.solver import ConvergenceError, solve_path

__all__ = [
    "ConvergenceError",
    "CoxPath",
    "Ties",
    "cox_objective",
    "fit_cox_path",
    "log_partial_likelihood",
    "solve_cox",
]

Bools = npt.NDArray[np.bool_]
TOL = 1e-6  # gradient norm relative to that of the model without features
MAX_ITER = 2_000


@dataclass(frozen=True)
class CoxPath:
    """Fitted models: coef (n_penalties, d); a higher linear predictor means a higher hazard."""

    coef: Floats

    def risk(self, features: npt.NDArray[np.floating[Any]]) -> Floats:
        """Log relative hazards of features (m, d): (n_penalties, m)."""
        return np.asarray((features @ self.coef.T).T)


def fit_cox_path(
    X: npt.NDArray[np.floating[Any]],
    time: npt.ArrayLike,
    event: npt.ArrayLike,
    penalties: npt.ArrayLike,
    ties: Ties = "efron",
    *,
    strata: npt.ArrayLike | None = None,
    tol: float = TOL,
    max_iter: int = MAX_ITER,
    solver: Literal["lbfgs", "newton"] = "lbfgs",
    device: str = "cpu",
) -> CoxPath:
    """Minimise -(log partial likelihood) / n + penalty / 2 * |b|^2 for every penalty.

    X: (n, d) features, float32 or float64. time: (n,) follow-up, any unit. event: (n,) bool, True = died. penalties:
    (n_penalties,), positive, in any order. strata: (n,) names or numbers; patients are at risk beside those of their
    own stratum only. The optimum is that of float64 arithmetic. "newton" is the reference solver, quadratic in its
    convergence and slower. device: "cpu" or a torch device such as "cuda" (not run on a GPU so far).
    Raises ValueError on what cannot be fitted (no event, NaN), ConvergenceError at max_iter.
    """
    X, time = np.asarray(X), np.asarray(time, dtype=np.float64)
    X = X if X.dtype == np.float32 else X.astype(np.float64, copy=False)
    event, grid = np.asarray(event), np.asarray(penalties, dtype=np.float64)
    check_problem(X, time, event, grid, ties)
    outcome = Outcome(time, event, None if strata is None else _codes(strata, len(X)))
    with threads_for(X):
        basis = Basis(X - X.mean(axis=0, dtype=np.float64).astype(X.dtype))
        if solver == "newton":
            design = basis.design.astype(np.float64)
            loss = PartialLikelihood.build([outcome], ties, over=[float(len(X))])
            return CoxPath(np.ascontiguousarray(basis.back(solve_newton(design, loss, grid, tol)).T))
        coef = solve_cox([basis], [outcome], grid[None], ties, tol=tol, max_iter=max_iter, device=device)[0][0]
    return CoxPath(coef)


def solve_cox(
    bases: Sequence[Basis],
    outcomes: Sequence[Outcome],
    grid: Floats,
    ties: Ties = "efron",
    *,
    covariates: Sequence[Floats] | None = None,
    covariate_penalties: Sequence[float] | None = None,
    tol: float = TOL,
    max_iter: int = MAX_ITER,
    device: str = "cpu",
) -> list[tuple[Floats, Floats]]:
    """Solve several training parts, one basis each, along a path of penalties.

    grid: (parts, n_penalties), in any order. covariates: (rows, q) for each part, beside the basis's features and
    with one penalty a part of their own, which stays. Returns for each part coefficients (n_penalties, d) on the
    basis's features and (n_penalties, q) on the covariates.
    """
    extra = [np.zeros((len(outcome.time), 0)) for outcome in outcomes] if covariates is None else list(covariates)
    loss = PartialLikelihood.build(outcomes, ties, over=[float(len(o.time)) for o in outcomes], device=device)
    stack = Stack.build(bases, extra, device)
    (m, n_penalties), a, q = grid.shape, stack.width, extra[0].shape[1]
    own = np.zeros(m) if covariate_penalties is None else np.asarray(covariate_penalties, dtype=np.float64)
    order = np.argsort(-grid, axis=1, kind="stable")
    falling = np.take_along_axis(grid, order, axis=1)
    ridges = []
    for number in range(n_penalties):
        ridge = np.ones((m, a + q, 1)) * own[:, None, None]
        ridge[:, :a, 0] = falling[:, number, None]
        ridges.append(to_device(ridge, device))
    start = to_device(np.zeros((m, a + q, 1)), device)
    found = solve_path(stack, loss, ridges, start, tol=tol, max_iter=max_iter)
    path = np.empty((m, n_penalties, a + q))
    np.put_along_axis(path, order[..., None], np.concatenate(found, axis=2).transpose(0, 2, 1), axis=1)
    results = []
    for basis, weights in zip(bases, path, strict=True):
        coef = np.ascontiguousarray(basis.back(weights[:, : basis.rank].T).T)
        results.append((coef, np.ascontiguousarray(weights[:, a:])))
    return results


def log_partial_likelihood(
    time: Floats, event: Bools, linear: npt.NDArray[np.floating[Any]], ties: Ties = "efron"
) -> Floats:
    """Log partial likelihoods of linear predictors (n, c), (c,), in nats over all events; 0 without an event."""
    loss = PartialLikelihood.build([Outcome(time, event)], ties, over=[1.0])
    return -np.asarray(loss.evaluate(np.asarray(linear, dtype=np.float64)[None])[0][0])


def cox_objective(
    X: npt.NDArray[np.floating[Any]],
    time: Floats,
    event: Bools,
    coef: Floats,
    penalty: float,
    ties: Ties = "efron",
    strata: npt.ArrayLike | None = None,
) -> float:
    """Return what is minimised, -(log partial likelihood) / n + penalty / 2 * |b|^2, for one model; coef (d,)."""
    outcome = Outcome(np.asarray(time), np.asarray(event), None if strata is None else _codes(strata, len(X)))
    loss = PartialLikelihood.build([outcome], ties, over=[float(len(X))])
    return float(loss.evaluate((X @ coef)[None, :, None])[0][0, 0] + penalty / 2 * coef @ coef)


def _codes(strata: npt.ArrayLike, n: int) -> npt.NDArray[np.int64]:
    values = np.asarray(strata)
    if values.shape != (n,):
        raise ValueError(f"strata has shape {values.shape} for {n} patients; (n,) is expected")
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def check_problem(
    X: npt.NDArray[np.floating[Any]], time: Floats, event: npt.NDArray[Any], grid: Floats, ties: str
) -> None:
    """Raise ValueError on what no Cox model can be fitted to."""
    if X.ndim != 2 or time.shape != (len(X),) or event.shape != (len(X),):
        raise ValueError(f"X has shape {X.shape}, time {time.shape}, event {event.shape}; (n, d), (n,), (n,) expected")
    if event.dtype != np.bool_:
        raise ValueError(f"event has type {event.dtype}; it must be bool without missing values")
    if not np.isfinite(X).all() or not np.isfinite(time).all():
        raise ValueError("X or time holds values that are NaN or infinite")
    if not event.any():
        raise ValueError(f"none of {len(X)} patients has an event; a Cox model needs at least one")
    if grid.ndim != 1 or not (grid > 0).all() or not np.isfinite(grid).all():
        raise ValueError(f"penalties of shape {grid.shape} must be positive numbers in one row")
    if ties not in get_args(Ties):
        raise ValueError(f"ties is {ties!r}; it must be one of {', '.join(get_args(Ties))}")
