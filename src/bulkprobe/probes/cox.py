"""Ridge Cox regression, a whole path of penalties at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
from scipy import linalg

from bulkprobe.probes.solver import ROUNDING, ConvergenceError, Eigenbasis, Floats, Ints, minimise

__all__ = ["ConvergenceError", "CoxPath", "PartialLikelihood", "Ties", "cox_objective", "fit_cox_path"]

Ties = Literal["efron", "breslow"]
Bools = npt.NDArray[np.bool_]
TOL = 1e-6  # gradient norm relative to that of the model without features
MAX_ITER = 2_000
NEWTON_RANK = 200  # up to this many axes Newton's Hessians cost less than the more numerous steps of L-BFGS
NEWTON_STEPS = 100
HALVINGS = 60
WIDEST = 600.0  # range of log hazards up to which sums of exp() keep their digits


@dataclass(frozen=True)
class CoxPath:
    """Fitted models: coef (n_penalties, d); a higher linear predictor means a higher hazard."""

    coef: Floats

    def risk(self, features: Floats) -> Floats:
        """Log relative hazards of features (m, d): (n_penalties, m)."""
        return np.asarray((features @ self.coef.T).T)


class _State(NamedTuple):
    """What second derivatives need, at one point; one column a problem.

    Hazards are exp(eta) up to a factor; None when their range does not fit into a float, and the sums over risk
    sets are then taken from eta and the logarithms.
    """

    eta: Floats  # (n, c)
    hazard: Floats | None  # (n, c)
    denominator: Floats  # (events, c), its logarithm where hazard is None
    exposure: Floats  # (n, c), hazard x its share in the denominators


class PartialLikelihood:
    """Negative log partial likelihood of Efron (1977) or Breslow (1974), for many predictors at once.

    Predictors are given in `order`, that is sorted by time. `over` divides everything, 1 gives plain nats.
    DOI 10.1080/01621459.1977.10480613 and 10.2307/2529620.
    """

    def __init__(self, time: Floats, event: Bools, ties: Ties, over: float = 1.0) -> None:
        self.order: Ints = np.lexsort((~event, time))
        time, event = time[self.order], event[self.order]
        self.over = over
        self._died = np.flatnonzero(event)
        moments, group, size = np.unique(time[self._died], return_inverse=True, return_counts=True)
        self._group: Ints = group
        self._first: Ints = np.searchsorted(time, moments)  # where the risk set of each moment begins
        self._starts: Ints = np.concatenate([[0], np.cumsum(size)[:-1]]).astype(np.int64)
        place = np.arange(len(group)) - self._starts[group]
        self._fraction = place / size[group] if ties == "efron" else np.zeros(len(group))
        # Moments of death up to each patient's own time: those whose risk set holds the patient.
        self._reached: Ints = np.searchsorted(moments, time, side="right")
        self._tied = bool((self._fraction > 0).any())

    def _denominators(self, hazard: Floats) -> Floats:
        """Sums over the risk set less the fraction of the tied deaths, for each death: (events, c)."""
        at_risk = np.cumsum(hazard[::-1], axis=0)[::-1][self._first][self._group]
        if not self._tied:
            return np.asarray(at_risk)
        tied = np.add.reduceat(hazard[self._died], self._starts, axis=0)[self._group]
        return np.asarray(at_risk - self._fraction[:, None] * tied)

    def value(self, eta: Floats) -> Floats:
        """Return the loss of predictors (n, c), (c,)."""
        return self.evaluate(eta, np.arange(eta.shape[1]))[0]

    def evaluate(self, eta: Floats, columns: Ints) -> tuple[Floats, Floats, _State]:
        """Return values (c,), gradients by eta (n, c), and the state that `curvature` needs."""
        if len(self._died) == 0:
            zero = np.zeros_like(eta)
            return np.zeros(eta.shape[1]), zero, _State(eta, zero, np.zeros((0, eta.shape[1])), zero)
        top = eta.max(axis=0)
        narrow = bool((top - eta.min(axis=0) < WIDEST).all())
        value, state = self._by_sums(eta, top) if narrow else self._by_logarithms(eta)
        gradient = state.exposure.copy()
        gradient[self._died] -= 1.0
        return (value - eta[self._died].sum(axis=0)) / self.over, gradient / self.over, state

    def _by_sums(self, eta: Floats, top: Floats) -> tuple[Floats, _State]:
        hazard = np.exp(eta - top)  # the factor cancels; nothing overflows
        denominator = self._denominators(hazard)
        inverse = 1.0 / denominator
        by_moment = np.add.reduceat(inverse, self._starts, axis=0)
        reach = np.concatenate([np.zeros((1, eta.shape[1])), np.cumsum(by_moment, axis=0)])[self._reached]
        if self._tied:
            spared = np.add.reduceat(self._fraction[:, None] * inverse, self._starts, axis=0)
            reach[self._died] -= spared[self._group]
        value = np.log(denominator).sum(axis=0) + len(self._died) * top
        return value, _State(eta, hazard, denominator, hazard * reach)

    def _by_logarithms(self, eta: Floats) -> tuple[Floats, _State]:
        """The same where exp(eta) would underflow: unhurried, and seldom needed (tiny penalties)."""
        log_denominator = np.logaddexp.accumulate(eta[::-1], axis=0)[::-1][self._first][self._group]
        if self._tied:
            tied = np.logaddexp.reduceat(eta[self._died], self._starts, axis=0)[self._group]
            share = self._fraction[:, None] * np.exp(tied - log_denominator)
            log_denominator = log_denominator + np.log1p(-share)
        by_moment = np.logaddexp.reduceat(-log_denominator, self._starts, axis=0)
        nothing = np.full((1, eta.shape[1]), -np.inf)
        reach = np.concatenate([nothing, np.logaddexp.accumulate(by_moment, axis=0)])[self._reached]
        exposure = np.exp(eta + reach)
        if self._tied:
            with np.errstate(divide="ignore"):  # the first of tied deaths spares nothing
                log_fraction = np.log(self._fraction)[:, None]
            spared = np.logaddexp.reduceat(log_fraction - log_denominator, self._starts, axis=0)
            exposure[self._died] -= np.exp(eta[self._died] + spared[self._group])
        return log_denominator.sum(axis=0), _State(eta, None, log_denominator, exposure)

    def _means(self, state: _State, column: int, values: Floats) -> Floats:
        """Hazard-weighted means over the risk set of each death of values (n, r), at one column: (events, r)."""
        if state.hazard is not None:
            hazard = state.hazard[:, column, None]
            return np.asarray(self._denominators(hazard * values) / state.denominator[:, column, None])
        eta, moment_of = state.eta[:, column], np.full(len(values), -1)
        moment_of[self._died] = self._group
        means = np.empty((len(self._died), values.shape[1]))
        for death, log_denominator in enumerate(state.denominator[:, column].tolist()):
            first, group = int(self._first[self._group[death]]), self._group[death]
            weight = np.exp(eta[first:] - log_denominator)
            weight[moment_of[first:] == group] *= 1.0 - self._fraction[death]
            means[death] = weight @ values[first:]
        return means

    def curvature(self, state: _State, direction: Floats) -> Floats:
        """Return the second derivative along direction (n, c), (c,)."""
        if len(self._died) == 0:
            return np.zeros(direction.shape[1])
        if state.hazard is not None:
            mean = self._denominators(state.hazard * direction) / state.denominator
        else:
            mean = np.concatenate([self._means(state, c, direction[:, [c]]) for c in range(direction.shape[1])], axis=1)
        whole = np.einsum("nc,nc,nc->c", state.exposure, direction, direction)
        return np.asarray((whole - np.einsum("ec,ec->c", mean, mean)) / self.over)

    def hessian(self, state: _State, column: int, design: Floats) -> Floats:
        """Return the Hessian by the coefficients of design (n, r), (r, r), at one column of the state."""
        mean = self._means(state, column, design)
        return np.asarray((design.T @ (state.exposure[:, column, None] * design) - mean.T @ mean) / self.over)

    def diagonal(self, design: Floats) -> Floats:
        """Return the diagonal of the Hessian at zero coefficients, (r,)."""
        state = self.evaluate(np.zeros((len(design), 1)), np.arange(1))[2]
        mean = self._means(state, 0, design)
        whole = np.einsum("nc,nr,nr->r", state.exposure, design, design)
        return np.asarray((whole - np.einsum("er,er->r", mean, mean)) / self.over)


def fit_cox_path(
    X: Floats,
    time: npt.ArrayLike,
    event: npt.ArrayLike,
    penalties: npt.ArrayLike,
    ties: Ties = "efron",
    *,
    tol: float = TOL,
    max_iter: int = MAX_ITER,
) -> CoxPath:
    """Minimise -(log partial likelihood) / n + penalty / 2 * |b|^2 for every penalty.

    X: (n, d) features. time: (n,) follow-up, any unit. event: (n,) bool, True = died. penalties: (n_penalties,),
    positive. Raises ValueError on what cannot be fitted (no event, NaN), ConvergenceError at max_iter.
    """
    X, time = np.asarray(X, dtype=np.float64), np.asarray(time, dtype=np.float64)
    event, grid = np.asarray(event), np.asarray(penalties, dtype=np.float64)
    _check(X, time, event, grid, ties)
    basis = Eigenbasis(X - X.mean(axis=0))
    loss = PartialLikelihood(time, event, ties, over=len(X))
    design = basis.scores[loss.order]
    rank = design.shape[1]
    if rank <= NEWTON_RANK:
        weights = _newton(design, loss, grid, tol)
    else:
        ridge = np.broadcast_to(grid, (rank, len(grid)))
        bound = np.maximum(loss.diagonal(design), 0.0)[:, None] + ridge
        weights = minimise(design, loss, ridge, bound, np.zeros_like(bound), tol=tol, max_iter=max_iter)
    return CoxPath(np.ascontiguousarray(basis.back(weights).T))


def cox_objective(X: Floats, time: Floats, event: Bools, coef: Floats, penalty: float, ties: Ties = "efron") -> float:
    """Return what is minimised, -(log partial likelihood) / n + penalty / 2 * |b|^2, for one model; coef (d,)."""
    loss = PartialLikelihood(time, event, ties, over=len(X))
    return float(loss.value((X @ coef)[loss.order, None])[0] + penalty / 2 * coef @ coef)


def _newton(design: Floats, loss: PartialLikelihood, grid: Floats, tol: float) -> Floats:
    """Newton's method with step halving; all penalties advance together, each from zero."""
    rank, n_grid = design.shape[1], len(grid)
    columns = np.arange(n_grid)
    weights = np.zeros((rank, n_grid))
    eta = np.zeros((len(design), n_grid))
    value, slope_eta, state = loss.evaluate(eta, columns)
    gradient = design.T @ slope_eta
    goal = np.maximum(
        tol * np.linalg.norm(gradient, axis=0),
        np.finfo(np.float64).eps * np.linalg.norm(design) * np.linalg.norm(slope_eta, axis=0),
    )
    whole = value.copy()
    for _ in range(NEWTON_STEPS):
        running = np.flatnonzero(np.linalg.norm(gradient, axis=0) > goal)
        if len(running) == 0:
            return weights
        step = np.zeros_like(weights)
        for column in running.tolist():
            hessian = loss.hessian(state, column, design)
            hessian[np.diag_indices(rank)] += grid[column]
            step[:, column] = _solve_positive(hessian, gradient[:, column])
        along = design @ step
        slope = np.einsum("rc,rc->c", gradient, step)
        t = np.zeros(n_grid)
        t[running] = 1.0
        for _ in range(HALVINGS):
            tried = weights - t * step
            value, slope_eta, state = loss.evaluate(eta - t * along, columns)
            new = value + grid / 2 * np.einsum("rc,rc->c", tried, tried)
            # Sufficient decrease (Armijo), give or take rounding.
            worse = ~(new <= whole - 1e-4 * t * slope + ROUNDING * np.maximum(np.abs(whole), 1.0))
            if not worse.any():
                break
            t[worse] /= 2
        weights, whole = tried, new
        eta = eta - t * along
        gradient = design.T @ slope_eta + grid * weights
    size = np.linalg.norm(gradient, axis=0)
    worst = int(np.argmax(size / goal))
    raise ConvergenceError(
        f"the Cox model at penalty {grid[worst]:g} did not converge in {NEWTON_STEPS} Newton steps: gradient norm "
        f"{size[worst]:.3g} where {goal[worst]:.3g} is asked; raise tol or the smallest penalty"
    )


def _solve_positive(matrix: Floats, right: Floats) -> Floats:
    """Solve by Cholesky; by LU where rounding has spoilt positive definiteness."""
    _, solution, failed = linalg.lapack.dposv(matrix, right, lower=1)
    solution = np.linalg.solve(matrix, right) if failed else solution
    return np.asarray(solution, dtype=np.float64).reshape(len(right))


def _check(X: Floats, time: Floats, event: npt.NDArray[Any], grid: Floats, ties: str) -> None:
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
