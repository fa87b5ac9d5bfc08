"""What both probes are solved with: a change to eigenvector coordinates, and L-BFGS on many problems at once."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy import linalg

from bulkprobe.errors import UserError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SLACK = 16.0  # units in the last place that a gradient of many terms is off by chance
HISTORY = 8  # pairs of step and gradient change that L-BFGS remembers
SLOPE_LEFT = 0.1  # share of the slope that a line search may leave
SEARCH_STEPS = 40  # points a line search may try; two or three are usual
ROUNDING = 1e-13  # increase of an objective (nats per patient, or relative) that is put down to rounding


class ConvergenceError(UserError):
    """A solver reached its limit of iterations; the message names the worst problem."""


class Loss(Protocol):
    """Convex losses of linear predictors, one problem a column; `columns` says which problems are asked for."""

    def evaluate(self, eta: Floats, columns: Ints) -> tuple[Floats, Floats, Any]:
        """Return values (c,), gradients by eta (n, c), and whatever `curvature` needs, at eta (n, c)."""
        ...

    def curvature(self, state: Any, direction: Floats) -> Floats:
        """Return the second derivative along `direction` (n, c) at the evaluated point, (c,)."""
        ...


class Eigenbasis:
    """Training features in the coordinates of their own principal axes; at most min(n, d) of them.

    features: (n, d). A ridge penalty is the same in these coordinates, so a problem may be solved in `scores`
    (n, rank), whose columns are orthogonal, and carried back. Axes without variance are left out.
    """

    def __init__(self, features: Floats, limit: int | None = None) -> None:
        n, d = features.shape
        self._features = features
        self._tall = d <= n
        gram = features.T @ features if self._tall else features @ features.T
        size = len(gram)
        if size == 0:
            values, vectors = np.zeros(0), np.zeros((0, 0))
        elif limit is not None and limit < size // 2:
            wanted = [size - limit, size - 1]
            values, vectors = linalg.eigh(gram, subset_by_index=wanted, overwrite_a=True, check_finite=False)
        else:
            values, vectors = linalg.eigh(gram, driver="evd", overwrite_a=True, check_finite=False)
        values, vectors = values[::-1], vectors[:, ::-1]
        floor = max(n, d) * np.finfo(np.float64).eps * max(values[0], 0.0) if size else 0.0
        rank = int((values > floor).sum())
        rank = rank if limit is None else min(rank, limit)
        self._vectors = np.ascontiguousarray(vectors[:, :rank])
        self.spread = np.sqrt(values[:rank])  # (rank,) root of the sum of squares along each axis, falling
        self.scores: Floats = features @ self._vectors if self._tall else self._vectors * self.spread

    def back(self, coefficients: Floats) -> Floats:
        """Carry coefficients (rank, c) of the scores back to the features, (d, c)."""
        if self._tall:
            return np.asarray(self._vectors @ coefficients)
        return np.asarray(self._features.T @ (self._vectors @ (coefficients / self.spread[:, None])))


def minimise(
    design: Floats, loss: Loss, ridge: Floats, bound: Floats, start: Floats, *, tol: float, max_iter: int
) -> Floats:
    """Minimise loss(design @ w) + sum(ridge / 2 * w^2) for every column of w, all columns together.

    design: (n, r). ridge, start: (r, c). bound: (r, c), about the diagonal of the Hessian, all positive: the
    coordinates are scaled by its root. A column has converged when its gradient norm is at most tol times that
    at `start`. The line search along design @ direction costs no product with the design, so an iteration is two
    matrix products for all columns. Returns (r, c); raises ConvergenceError at max_iter.
    Liu and Nocedal 1989, DOI 10.1007/BF01589116.
    """
    c = start.shape[1]
    solution = start.copy()
    active = np.arange(c)
    scale = 1.0 / np.sqrt(bound)
    pull = ridge * scale * scale
    v = start / scale
    eta = design @ start
    value, slope_eta, _ = loss.evaluate(eta, active)
    gradient = scale * (design.T @ slope_eta) + pull * v
    goal = tol * np.linalg.norm(gradient / scale, axis=0)
    floor = SLACK * np.finfo(np.float64).eps * np.linalg.norm(design) * np.linalg.norm(slope_eta, axis=0)
    goal = np.maximum(goal, floor)  # below this a gradient is rounding
    steps: list[Floats] = []
    turns: list[Floats] = []
    curves: list[Floats] = []
    for _ in range(max_iter + 1):
        size = np.linalg.norm(gradient / scale, axis=0)
        running = size > goal
        if running.sum() <= 0.7 * len(active):
            solution[:, active] = v * scale
            keep = np.flatnonzero(running)
            if len(keep) == 0:
                return solution
            active, scale, pull, v = active[keep], scale[:, keep], pull[:, keep], v[:, keep]
            eta, gradient, goal = eta[:, keep], gradient[:, keep], goal[keep]
            steps, turns = [s[:, keep] for s in steps], [y[:, keep] for y in turns]
            curves = [k[keep] for k in curves]
            running = running[keep]
            value, slope_eta, _ = loss.evaluate(eta, active)
        direction = -_two_loop(gradient, steps, turns, curves)
        slope = np.einsum("rc,rc->c", gradient, direction)
        uphill = slope >= 0
        direction[:, uphill] = -gradient[:, uphill]
        slope = np.where(uphill, -np.einsum("rc,rc->c", gradient, gradient), slope)
        along = design @ (scale * direction)
        base = np.einsum("rc,rc,rc->c", pull, v, v) / 2
        first = np.einsum("rc,rc,rc->c", pull, v, direction)
        second = np.einsum("rc,rc,rc->c", pull, direction, direction)
        t, value, slope_eta, _ = _search(loss, active, eta, along, value, (base, first, second), slope, running)
        step = t * direction
        v = v + step
        eta = eta + t * along
        before = gradient
        gradient = scale * (design.T @ slope_eta) + pull * v
        turn = gradient - before
        curve = np.einsum("rc,rc->c", step, turn)
        steps, turns, curves = [*steps, step][-HISTORY:], [*turns, turn][-HISTORY:], [*curves, curve][-HISTORY:]
    size = np.linalg.norm(gradient / scale, axis=0)
    worst = int(np.argmax(size / goal))
    raise ConvergenceError(
        f"{int((size > goal).sum())} of {c} problems did not converge in {max_iter} iterations; the worst, number "
        f"{active[worst]}, has gradient norm {size[worst]:.3g} where {goal[worst]:.3g} is asked; raise max_iter, "
        "tol or the smallest penalty"
    )


def _two_loop(gradient: Floats, steps: list[Floats], turns: list[Floats], curves: list[Floats]) -> Floats:
    """Multiply by the L-BFGS estimate of the inverse Hessian; pairs without curvature are passed over."""
    q = gradient.copy()
    weights: list[Floats] = []
    inverse = [np.divide(1.0, k, out=np.zeros_like(k), where=k > 0) for k in curves]
    for step, turn, rho in zip(reversed(steps), reversed(turns), reversed(inverse), strict=True):
        weight = rho * np.einsum("rc,rc->c", step, q)
        q -= weight * turn
        weights.append(weight)
    if turns:
        length = np.einsum("rc,rc->c", turns[-1], turns[-1])
        q *= np.divide(curves[-1], length, out=np.ones_like(length), where=(length > 0) & (curves[-1] > 0))
    for step, turn, rho, weight in zip(steps, turns, inverse, reversed(weights), strict=True):
        q += (weight - rho * np.einsum("rc,rc->c", turn, q)) * step
    return q


def _search(
    loss: Loss,
    columns: Ints,
    eta: Floats,
    along: Floats,
    value: Floats,
    quadratic: tuple[Floats, Floats, Floats],
    slope: Floats,
    running: npt.NDArray[np.bool_],
) -> tuple[Floats, Floats, Floats, Any]:
    """Newton's method in one dimension, kept in a bracket; the objective is convex along the line."""
    base, first, second = quadratic
    start = value + base
    t = np.where(running, 1.0, 0.0)
    low, high = np.zeros_like(t), np.full_like(t, np.inf)
    for _ in range(SEARCH_STEPS):
        here, slope_eta, state = loss.evaluate(eta + t * along, columns)
        whole = here + base + t * first + t * t * second / 2
        tilt = np.einsum("nc,nc->c", slope_eta, along) + first + t * second
        bend = loss.curvature(state, along) + second
        broken = ~np.isfinite(whole) | ~np.isfinite(tilt)
        lower = whole <= start + ROUNDING * np.maximum(np.abs(start), 1.0)
        good = ~running | (~broken & lower & (np.abs(tilt) <= SLOPE_LEFT * np.abs(slope)))
        if good.all():
            return t, here, slope_eta, state
        left = ~broken & (tilt < 0)
        low, high = np.where(left & ~good, t, low), np.where(~left & ~good, t, high)
        usable = ~broken & (bend > 0)
        newton = t - np.divide(tilt, bend, out=np.zeros_like(t), where=usable)
        middle = np.where(np.isfinite(high), (low + np.where(np.isfinite(high), high, 0.0)) / 2, 4 * t)
        inside = usable & (newton > low) & (newton < high) & (newton < 100 * t)
        t = np.where(good, t, np.where(inside, newton, middle))
    t = np.where(good, t, 0.0)
    here, slope_eta, state = loss.evaluate(eta + t * along, columns)
    return t, here, slope_eta, state
