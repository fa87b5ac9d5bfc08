"""What both probes are solved with: a basis for each training part, and L-BFGS on many problems at once.

A *stack* holds the training parts ("masks", splits × folds) that are solved together, each padded to the same shape.
Products with the features run in float32, but only ever of differences: the linear predictors and the gradient are
carried in float64 and changed by what a step changes, so that their error is 1e-7 of the change and not of the whole.
A float64 product over all features then checks every solution before it is given out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from bulkprobe.errors import UserError
from bulkprobe.probes.arrays import EPSILON, Array, Floats, Ints, namespace, to_device, to_numpy
from bulkprobe.probes.basis import Stack

HISTORY = 10  # pairs of step and gradient change that L-BFGS remembers
SLOPE_LEFT = 0.5  # share of the slope that a line search may leave
SEARCH_STEPS = 40  # points a line search may try; one or two are usual
ROUNDING = 1e-13  # increase of an objective (nats per patient, or relative) that is put down to rounding
SINGLE = 2.4e-7  # of a change, by which a float32 product of many terms may be off
STALLS = 5  # times that a line search may find nothing before a problem is given up
CHECKS = 6  # times that float64 may find a solution of float32 short of its goal and send it back
SLACK = 16.0  # units in the last place that a gradient of many terms is off by chance
GAP = 1e-10  # share of the objective by which it may exceed the minimum


class ConvergenceError(UserError):
    """A solver reached its limit of iterations; the message names the worst problem."""


class Loss(Protocol):
    """Convex losses of linear predictors: m masks of n rows, c problems each."""

    def evaluate(self, eta: Array) -> tuple[Array, Array]:
        """Return values (m, c) and gradients by eta (m, n, c), at eta (m, n, c)."""
        ...

    def weight(self, eta: Array) -> Array:
        """Return about how much of an axis's mean square its second derivative is at eta, (m, 1, c)."""
        ...

    def take(self, masks: Ints) -> Loss:
        """Return the losses of some masks only."""
        ...


@dataclass
class _Point:
    """Where a path stands: coefficients (m, r, c), predictors and slopes (m, n, c), values (m, c) of the loss."""

    weights: Array
    eta: Array
    value: Array
    slope: Array
    gradient: Array  # of the loss alone, (m, r, c)
    doubt: Array  # about how far float32 may have led `gradient` astray since float64 last gave it, (m, c)


@dataclass(frozen=True)
class _Pair:
    """A step and the gradient change it made, (m, r, c): of the loss alone, which outlives a penalty, and in all.

    rho: (m, 1, c) 1 / (step . turn), 0 where there is no curvature and the pair is passed over.
    """

    step: Array
    bare: Array
    turn: Array
    rho: Array

    @classmethod
    def of(cls, xp: Any, step: Array, bare: Array, ridge: Array) -> _Pair:
        turn = bare + ridge * step
        curve = _dot(xp, step, turn)[:, None]
        rho = xp.where(curve > 0, 1.0 / xp.where(curve > 0, curve, xp.ones_like(curve)), xp.zeros_like(curve))
        return cls(step, bare, turn, rho)


def solve_path(
    stack: Stack, loss: Loss, ridges: Sequence[Array], start: Array, *, tol: float, max_iter: int
) -> list[Floats]:
    """Minimise loss(design @ w) + sum(ridge / 2 * w^2) for every mask and column, one ridge after the other.

    ridges: each (m, r, c), the heaviest first: each starts from the solution before it, with the same L-BFGS memory
    (only the ridge's own curvature is exchanged). start: (m, r, c). A problem has converged when its gradient norm,
    in float64, is at most tol times that at `start`, and so small that strong convexity puts the objective within GAP
    of its minimum: f - min f <= |gradient|^2 / (2 ridge). Returns solutions (m, r, c), one a ridge; raises
    ConvergenceError at max_iter iterations of one ridge. Liu and Nocedal 1989, DOI 10.1007/BF01589116.
    """
    xp = namespace(stack.device)
    if start.shape[1] == 0:  # no feature varies
        return [to_numpy(start) for _ in ridges]
    point = _exact_point(stack, loss, start)
    size = xp.sqrt(xp.sum(stack.scale, axis=1) * stack.fast.shape[1])[:, None]
    grain = SLACK * EPSILON * size * _norm(xp, point.slope)  # below this a gradient is rounding
    goal = _Goal(tol * _norm(xp, point.gradient + ridges[0] * start), grain)
    memory: list[_Pair] = []
    found = []
    for ridge in ridges:
        point, memory = _descend(stack, loss, ridge, point, memory, goal, max_iter)
        found.append(point.weights)
    # What float32 brought home is checked in float64, all ridges together, and sent back where it falls short.
    weights, ridge = xp.concat(found, axis=2), xp.concat(list(ridges), axis=2)
    columns = start.shape[2]
    together = _Repeated(loss, len(found), columns)
    goals = _Goal(xp.concat([goal.first] * len(found), axis=1), xp.concat([goal.grain] * len(found), axis=1))
    for _ in range(CHECKS):
        point = _exact_point(stack, together, weights)
        short = _norm(xp, point.gradient + ridge * weights) > goals.at(xp, point, ridge)
        if not bool(xp.any(short)):
            break
        patient = xp.where(short, xp.zeros_like(goals.grain), xp.full_like(goals.grain, xp.inf))
        fresh = _Goal(goals.first, xp.maximum(goals.grain, patient))
        point, _ = _descend(stack, together, ridge, point, [], fresh, max_iter)
        weights = point.weights
    else:
        raise ConvergenceError(
            f"{int(xp.sum(xp.astype(short, xp.int64)))} of {short.shape[0] * short.shape[1]} problems did not reach "
            f"the gradient norm asked for ({tol:g} of the first) in {CHECKS} rounds; raise tol or the smallest penalty"
        )
    return [to_numpy(weights[:, :, number * columns : (number + 1) * columns]) for number in range(len(found))]


@dataclass(frozen=True)
class _Goal:
    """Gradient norms to be reached, (m, c): first, as a share of the first; grain, where rounding begins."""

    first: Array
    grain: Array

    def at(self, xp: Any, point: _Point, ridge: Array) -> Array:
        """The norm that is small enough at a point."""
        objective = point.value + _dot(xp, ridge * point.weights, point.weights) / 2
        lightest = xp.min(xp.where(ridge > 0, ridge, xp.full_like(ridge, xp.inf)), axis=1)
        within = xp.sqrt(2.0 * GAP * lightest * objective)
        return xp.maximum(xp.minimum(self.first, within), self.grain)

    def take(self, index: Array) -> _Goal:
        return _Goal(self.first[index], self.grain[index])


class _Repeated:
    """The same losses for several ridges side by side: columns are ridge-major."""

    def __init__(self, loss: Loss, times: int, columns: int) -> None:
        self._loss, self._times, self._columns = loss, times, columns

    def _parts(self, eta: Array) -> list[Array]:
        width = self._columns
        return [eta[:, :, number * width : (number + 1) * width] for number in range(self._times)]

    def evaluate(self, eta: Array) -> tuple[Array, Array]:
        parts = [self._loss.evaluate(part) for part in self._parts(eta)]
        xp = np if isinstance(eta, np.ndarray) else namespace("torch")
        return xp.concat([part[0] for part in parts], axis=1), xp.concat([part[1] for part in parts], axis=2)

    def weight(self, eta: Array) -> Array:
        xp = np if isinstance(eta, np.ndarray) else namespace("torch")
        return xp.concat([self._loss.weight(part) for part in self._parts(eta)], axis=2)

    def take(self, masks: Ints) -> _Repeated:
        return _Repeated(self._loss.take(masks), self._times, self._columns)


def _exact_point(stack: Stack, loss: Loss, weights: Array) -> _Point:
    eta = stack.exact_forward(weights)
    value, slope = loss.evaluate(eta)
    gradient = stack.exact_backward(slope)
    return _Point(weights, eta, value, slope, gradient, namespace(stack.device).zeros_like(value))


def _descend(
    stack: Stack, loss: Loss, ridge: Array, point: _Point, memory: list[_Pair], goals: _Goal, max_iter: int
) -> tuple[_Point, list[_Pair]]:
    """Run L-BFGS from a point until the gradient norm of every column is at most its goal."""
    xp = namespace(stack.device)
    kept = np.arange(point.weights.shape[0])
    bound = stack.scale[:, :, None] * loss.weight(point.eta) + ridge
    bound = xp.where(bound > 0, bound, xp.ones_like(bound))  # padded coordinates stay where they are
    memory = [_Pair.of(xp, pair.step, pair.bare, ridge) for pair in memory]
    finished: list[tuple[Ints, _Point]] = []
    stalls, why = 0, f"the limit of {max_iter} iterations is reached"
    for _ in range(max_iter + 1):
        gradient = point.gradient + ridge * point.weights
        size, goal = _norm(xp, gradient), goals.at(xp, point, ridge)
        running = size > xp.maximum(goal, point.doubt)  # (m, c)
        busy = np.asarray(to_numpy(xp.any(running, axis=1)), dtype=np.bool_)
        if not busy.any():
            if bool(xp.any(size > goal)):  # float32 can say no more: take stock in float64
                point = _exact_point(stack, loss, point.weights)
                continue
            finished.append((kept, point))
            if len(finished) == 1:
                return point, memory
            return _reassemble(xp, finished, stack.device), []
        if busy.mean() <= 0.6 and not bool(xp.any((size > goal) & ~running)):
            finished.append((kept[~busy], _part(point, to_device(np.flatnonzero(~busy), stack.device))))
            left = np.flatnonzero(busy)
            index = to_device(left, stack.device)
            kept, point, stack, loss = kept[left], _part(point, index), stack.take(left), loss.take(left)
            ridge, goals, bound = ridge[index], goals.take(index), bound[index]
            memory = [_Pair(*(part[index] for part in vars(pair).values())) for pair in memory]
            gradient, running = gradient[index], running[index]
        direction = -_two_loop(xp, stack, gradient, bound, memory)
        slope = _dot(xp, gradient, direction)
        uphill = slope >= 0
        if bool(xp.any(uphill & running)):
            steepest = -stack.precondition(gradient, bound)
            direction = xp.where(uphill[:, None, :], steepest, direction)
            slope = _dot(xp, gradient, direction)
        along = stack.forward(direction)
        bend = _dot(xp, ridge * direction, direction)
        t, eta, value, slope_eta = _search(xp, loss, point, along, slope, bend, running)
        if bool(xp.any(running & (t == 0))):
            stalls += 1
            if stalls > STALLS:
                why = f"no step lowers the objective any more, {STALLS} times in a row"
                break
            # The remembered gradient and the true one disagree about the direction: begin again from the true one.
            point, memory = _exact_point(stack, loss, point.weights), []
            continue
        stalls = 0
        step = t[:, None, :] * direction
        turn = stack.backward(slope_eta - point.slope)
        memory = [*memory, _Pair.of(xp, step, turn, ridge)][-HISTORY:]
        doubt = xp.sqrt(point.doubt**2 + (SINGLE * _norm(xp, turn)) ** 2)
        point = _Point(point.weights + step, eta, value, slope_eta, point.gradient + turn, doubt)
    excess = to_numpy(_norm(xp, point.gradient + ridge * point.weights) / goals.at(xp, point, ridge))
    worst = int(excess.max(axis=0).argmax())
    raise ConvergenceError(
        f"{int((excess > 1).sum())} of {excess.size} problems did not converge: {why}; the worst, in column "
        f"{worst}, has a gradient norm {excess.max():.3g} times what is asked; raise max_iter, tol or the smallest "
        "penalty"
    )


def _part(point: _Point, index: Array) -> _Point:
    return _Point(*(part[index] for part in vars(point).values()))


def _reassemble(xp: Any, finished: Sequence[tuple[Ints, _Point]], device: str) -> _Point:
    """Put masks that finished at different times back into their order."""
    order = to_device(np.argsort(np.concatenate([masks for masks, _ in finished])), device)
    names = list(vars(finished[0][1]))
    return _Point(*(xp.concat([getattr(point, name) for _, point in finished], axis=0)[order] for name in names))


def _dot(xp: Any, one: Array, other: Array) -> Array:
    """Inner products along the middle axis: (m, n, c) and (m, n, c) to (m, c)."""
    return np.einsum("mnc,mnc->mc", one, other) if xp is np else xp.sum(one * other, axis=1)


def _norm(xp: Any, values: Array) -> Array:
    return xp.sqrt(_dot(xp, values, values))


def _two_loop(xp: Any, stack: Stack, gradient: Array, bound: Array, memory: Sequence[_Pair]) -> Array:
    """Multiply by the L-BFGS estimate of the inverse Hessian."""
    q = gradient
    weights = []
    for pair in reversed(memory):
        weight = pair.rho * _dot(xp, pair.step, q)[:, None]
        q = q - weight * pair.turn
        weights.append(weight)
    q = stack.precondition(q, bound)
    if memory:
        last = memory[-1]
        length = last.rho * _dot(xp, last.turn, stack.precondition(last.turn, bound))[:, None]
        q = q / xp.where(length > 0, length, xp.ones_like(length))
    for pair, weight in zip(memory, reversed(weights), strict=True):
        q = q + (weight - pair.rho * _dot(xp, pair.turn, q)[:, None]) * pair.step
    return q


def _search(
    xp: Any, loss: Loss, point: _Point, along: Array, slope: Array, bend: Array, running: Array
) -> tuple[Array, Array, Array, Array]:
    """Find a step at which the slope is at most half and the objective lower: secants of the slope in a bracket.

    Along a line the objective is convex, so its slope rises and a sign change brackets the minimum. slope: at step
    zero; bend: the ridge's part of the second derivative; both (m, c). `along` is good to float32 only, so the loss
    along it is asked for what goes beyond its own tangent, and the tangent is taken from `slope`.
    """
    tangent = _dot(xp, point.slope, along)
    zero = xp.zeros_like(slope)
    t = xp.where(running, xp.ones_like(slope), zero)
    low, low_slope = zero, slope
    high, high_slope = xp.full_like(slope, xp.inf), xp.full_like(slope, xp.nan)
    slack = ROUNDING * xp.maximum(xp.abs(point.value), xp.ones_like(slope))
    for attempt in range(SEARCH_STEPS):
        eta = point.eta + t[:, None, :] * along
        value, slope_eta = loss.evaluate(eta)
        change = value - point.value + t * (slope - tangent) + t * t * bend / 2
        tilt = _dot(xp, slope_eta, along) + (slope - tangent) + t * bend
        broken = ~(xp.isfinite(change) & xp.isfinite(tilt))
        good = ~running | (~broken & (change <= slack) & (xp.abs(tilt) <= SLOPE_LEFT * xp.abs(slope)))
        if bool(xp.all(good)):
            return t, eta, value, slope_eta
        left = ~broken & (tilt < 0)
        before, before_slope = low, low_slope
        low, low_slope = xp.where(left, t, low), xp.where(left, tilt, low_slope)
        high = xp.where(left, high, t)
        high_slope = xp.where(left, high_slope, xp.where(broken, xp.full_like(tilt, xp.nan), tilt))
        closed = xp.isfinite(high)
        far, far_slope = xp.where(closed, high, before), xp.where(closed, high_slope, before_slope)
        rise = far_slope - low_slope
        secant = low - low_slope * (far - low) / xp.where(rise == 0, xp.full_like(rise, xp.nan), rise)
        middle = xp.where(closed, (low + xp.where(closed, high, low)) / 2, 4.0 * t)
        inside = (secant > low) & (secant < xp.where(closed, high, 8.0 * t))  # False where it is NaN
        if attempt % 3 == 2:
            inside = inside & ~closed  # now and then halve the bracket: secants may creep along one end of it
        t = xp.where(good, t, xp.where(inside, secant, middle))
    t = xp.where(good, t, zero)  # no step where rounding hides the minimum; the gradient decides what that means
    eta = point.eta + t[:, None, :] * along
    value, slope_eta = loss.evaluate(eta)
    return t, eta, value, slope_eta
