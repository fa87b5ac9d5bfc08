"""The negative log partial likelihood of Cox's model for many training parts at once, and its derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from bulkprobe.probes.arrays import Array, Floats, Ints, namespace, to_device

Ties = Literal["efron", "breslow"]
Bools = npt.NDArray[np.bool_]
WIDEST = 600.0  # range of log hazards up to which sums of exp() keep their digits


class Outcome(NamedTuple):
    """Follow-up of the patients of one training part: time (n,) any unit, event (n,) bool, strata (n,) codes."""

    time: Floats
    event: Bools
    strata: Ints | None = None


@dataclass(frozen=True)
class _Lines:
    """Where everything stands once each group's rows are lined up; integers, (groups, places) or (groups, deaths)."""

    rows: Array  # (g, k) the row of each place, in its mask
    valid: Array  # (g, k) 1, or 0 where padded
    reached: Array  # (g, k) deaths up to the place's own time
    tied_from: Array  # (g, k) number of the first death tied with the place, 0 where it is no death
    tied_to: Array  # (g, k) one past the last, 0 where it is no death
    dead: Array  # (g, e) places of the deaths
    weight: Array  # (g, e) 1, or 0 where padded
    first: Array  # (g, e) the place where the death's risk set begins
    after: Array  # (g, e) the place after the deaths tied with it
    fraction: Array  # (g, e) share of the tied deaths that Efron takes off
    place: Array  # (m, n) where a row stands among all places of its mask
    fallen: Array  # (m, n) 1 where the row is a death
    present: Array  # (m, n) 1, or 0 where padded
    over: Array  # (m, 1) what the loss is divided by

    def take(self, masks: Ints, groups: Ints) -> _Lines:
        by_mask = {"place", "fallen", "present", "over"}
        return _Lines(**{k: v[masks if k in by_mask else groups] for k, v in vars(self).items()})


class PartialLikelihood:
    """Negative log partial likelihood of Efron (1977) or Breslow (1974): m masks of n rows, in any order of rows.

    Each stratum of each mask is a group; its rows are lined up by time, deaths first, so that risk sets are suffixes
    and all sums over them come from one cumulative sum. Groups are padded to one length, with hazard 0, and deaths
    to one number, with weight 0. Efron takes 0, 1/d, 2/d, ... of d tied deaths off their risk set, Breslow nothing.
    DOI 10.1080/01621459.1977.10480613 and 10.2307/2529620.
    """

    def __init__(self, lines: _Lines, groups: int, device: str) -> None:
        """`groups`: how many each mask has."""
        self._lines, self._groups, self._device = lines, groups, device
        g, k = lines.rows.shape
        m, n = lines.place.shape
        e = lines.dead.shape[1]
        group, mask = np.arange(g)[:, None], np.arange(m)[:, None]

        def flat(index: Ints, length: int, owner: Ints = group) -> Array:
            return to_device((owner * length + index).ravel(), device)

        self._shape = g, k, e, m, n
        self._rows = flat(lines.rows, n, group // groups)
        self._place = flat(lines.place, groups * k, mask)
        self._first, self._after = flat(lines.first, k + 1), flat(lines.after, k + 1)
        self._reached = flat(lines.reached, e + 1)
        self._tied = bool((lines.fraction > 0).any())
        self._tied_from, self._tied_to = flat(lines.tied_from, e + 1), flat(lines.tied_to, e + 1)
        self._valid, self._weight, self._fraction, self._fallen, self._present, self._over = (
            to_device(array[:, :, None], device)
            for array in (lines.valid, lines.weight, lines.fraction, lines.fallen, lines.present, lines.over)
        )

    @classmethod
    def build(
        cls, outcomes: Sequence[Outcome], ties: Ties, over: Sequence[float], device: str = "cpu"
    ) -> PartialLikelihood:
        """Line up the patients of every mask; `over` divides each mask's loss."""
        members = [_members(outcome) for outcome in outcomes]
        groups = max(len(of_mask) for of_mask in members)
        m, n = len(outcomes), max(len(outcome.time) for outcome in outcomes)
        k = max(len(rows) for of_mask in members for rows in of_mask)
        e = max(int(o.event[rows].sum()) for o, of_mask in zip(outcomes, members, strict=True) for rows in of_mask)
        by_place = {name: np.zeros((m * groups, k), dtype=np.int64) for name in ("rows", "reached", "tied_from")}
        by_place["tied_to"] = np.zeros((m * groups, k), dtype=np.int64)
        by_death = {name: np.zeros((m * groups, e), dtype=np.int64) for name in ("dead", "first", "after")}
        valid, weight, fraction = np.zeros((m * groups, k)), np.zeros((m * groups, e)), np.zeros((m * groups, e))
        place, fallen, present = np.zeros((m, n), dtype=np.int64), np.zeros((m, n)), np.zeros((m, n))
        for mask, (outcome, of_mask) in enumerate(zip(outcomes, members, strict=True)):
            fallen[mask, : len(outcome.time)] = outcome.event
            present[mask, : len(outcome.time)] = 1.0
            for number, rows in enumerate(of_mask):
                group, size = mask * groups + number, len(rows)
                time, event = outcome.time[rows], outcome.event[rows]
                died = np.flatnonzero(event)
                moments, moment, tied = np.unique(time[died], return_inverse=True, return_counts=True)
                begins = np.concatenate([[0], np.cumsum(tied)])
                opens = np.searchsorted(time, moments)
                by_place["rows"][group, :size] = rows
                by_place["reached"][group, :size] = begins[np.searchsorted(moments, time, side="right")]
                by_place["tied_from"][group, died] = begins[moment]
                by_place["tied_to"][group, died] = begins[moment + 1]
                by_death["dead"][group, : len(died)] = died
                by_death["first"][group, : len(died)] = opens[moment]
                by_death["after"][group, : len(died)] = (opens + tied)[moment]
                valid[group, :size], weight[group, : len(died)] = 1.0, 1.0
                place[mask, rows] = number * k + np.arange(size)
                if ties == "efron":
                    fraction[group, : len(died)] = (np.arange(len(died)) - begins[moment]) / tied[moment]
        lines = _Lines(
            **by_place,
            **by_death,
            valid=valid,
            weight=weight,
            fraction=fraction,
            place=place,
            fallen=fallen,
            present=present,
            over=np.asarray(over, dtype=np.float64)[:, None],
        )
        return cls(lines, groups, device)

    def take(self, masks: Ints) -> PartialLikelihood:
        """Return the losses of some masks."""
        groups = (masks[:, None] * self._groups + np.arange(self._groups)).ravel()
        return PartialLikelihood(self._lines.take(masks, groups), self._groups, self._device)

    def weight(self, eta: Array) -> Array:
        """Deaths a patient, (m, 1, 1): about how much of an axis's mean square its second derivative is."""
        return namespace(self._device).sum(self._fallen, axis=1, keepdims=True) / self._over

    def evaluate(self, eta: Array) -> tuple[Array, Array]:
        """Return values (m, c) and gradients by eta (m, n, c), at eta (m, n, c)."""
        value, exposure, _ = self._evaluate(eta)
        return value, (exposure - self._fallen) / self._over

    def hessian(self, eta: Floats, design: Floats) -> Floats:
        """Return the Hessian by the coefficients of design (n, r), (r, r), at eta (n,), for the only mask there is."""
        _, exposure, (hazard, denominator) = self._evaluate(eta[None, :, None])
        if hazard is None:
            raise ValueError(f"linear predictors spread over more than {WIDEST:g}; use a larger penalty")
        lined = design[self._rows].reshape(*self._shape[:2], -1)
        mean = self._weight * self._denominators(np, hazard * lined) / denominator
        mean = mean.reshape(-1, design.shape[1])
        whole: Floats = design.T @ (exposure[0] * design) - mean.T @ mean
        return whole / float(self._over[0, 0, 0])

    def _evaluate(self, eta: Array) -> tuple[Array, Array, tuple[Array | None, Array]]:
        """Return values, exposures (m, n, c), hazards (g, k, c) and denominators (g, e, c)."""
        xp, (g, k, _, m, n), c = namespace(self._device), self._shape, eta.shape[2]
        lined = _rows(xp, eta, self._rows, (g, k, c))
        top = xp.max(xp.where(self._valid > 0, lined, xp.full_like(lined, -xp.inf)), axis=1, keepdims=True)
        top = xp.where(xp.isfinite(top), top, xp.zeros_like(top))  # groups without a patient
        lined = xp.where(self._valid > 0, lined - top, xp.zeros_like(lined))
        if bool(xp.all(lined > -WIDEST)):
            logs, exposure, inner = self._by_sums(xp, lined)
        else:
            logs, exposure, inner = self._by_logarithms(xp, lined)
        of_group = xp.sum(self._weight * (logs + top), axis=1)
        value = xp.sum(xp.reshape(of_group, (m, self._groups, c)), axis=1) - xp.sum(self._fallen * eta, axis=1)
        exposure = self._present * _rows(xp, exposure, self._place, (m, n, c))
        return value / self._over[:, 0], exposure, inner

    def _denominators(self, xp: Any, hazard: Array) -> Array:
        """Sums over the risk set less the fraction of the tied deaths, for each death: (g, e, c)."""
        g, _, e, _, _ = self._shape
        c = hazard.shape[2]
        sums = xp.flip(xp.cumulative_sum(xp.flip(hazard, axis=1), axis=1, include_initial=True), axis=1)
        at_risk = _rows(xp, sums, self._first, (g, e, c))
        if not self._tied:
            return at_risk
        return at_risk - self._fraction * (at_risk - _rows(xp, sums, self._after, (g, e, c)))

    def _by_sums(self, xp: Any, lined: Array) -> tuple[Array, Array, tuple[Array | None, Array]]:
        (g, k, _, _, _), c = self._shape, lined.shape[2]
        hazard = xp.exp(lined) * self._valid  # the factor exp(top) cancels; nothing overflows
        denominator = self._denominators(xp, hazard)
        denominator = xp.where(self._weight > 0, denominator, xp.ones_like(denominator))
        inverse = self._weight / denominator
        reach = _rows(xp, xp.cumulative_sum(inverse, axis=1, include_initial=True), self._reached, (g, k, c))
        if self._tied:
            spared = xp.cumulative_sum(self._fraction * inverse, axis=1, include_initial=True)
            reach = reach - (
                _rows(xp, spared, self._tied_to, (g, k, c)) - _rows(xp, spared, self._tied_from, (g, k, c))
            )
        return xp.log(denominator), hazard * reach, (hazard, denominator)

    def _by_logarithms(self, xp: Any, lined: Array) -> tuple[Array, Array, tuple[Array | None, Array]]:
        """The same where exp(eta) would underflow: unhurried, and seldom needed (tiny penalties)."""
        (g, k, e, _, _), c = self._shape, lined.shape[2]
        nothing = xp.full_like(lined[:, :1], -xp.inf)
        lined = xp.where(self._valid > 0, lined, xp.full_like(lined, -xp.inf))
        sums = xp.concat([xp.flip(_log_cumulative(xp, xp.flip(lined, axis=1)), axis=1), nothing], axis=1)
        logs = _rows(xp, sums, self._first, (g, e, c))
        if self._tied:
            others = xp.exp(_rows(xp, sums, self._after, (g, e, c)) - logs)
            logs = logs + xp.log1p(-self._fraction * (1.0 - others))
        logs = xp.where(self._weight > 0, logs, xp.zeros_like(logs))
        inverse = xp.where(self._weight > 0, -logs, xp.full_like(logs, -xp.inf))
        reached = xp.concat([nothing, _log_cumulative(xp, inverse)], axis=1)
        reach = _rows(xp, reached, self._reached, (g, k, c))
        exposure = xp.exp(lined + reach)
        if self._tied:
            share = xp.where(self._fraction > 0, self._fraction, xp.ones_like(self._fraction))
            taken = xp.where(self._fraction > 0, xp.log(share) + inverse, xp.full_like(inverse, -xp.inf))
            spared = xp.concat([nothing, _log_cumulative(xp, taken)], axis=1)
            exposure = exposure - (
                xp.exp(lined + _rows(xp, spared, self._tied_to, (g, k, c)))
                - xp.exp(lined + _rows(xp, spared, self._tied_from, (g, k, c)))
            )
        return logs, exposure, (None, logs)


def _rows(xp: Any, values: Array, index: Array, shape: tuple[int, int, int]) -> Array:
    """Take rows of values (a, b, c) by their number among all a x b."""
    return xp.reshape(xp.take(xp.reshape(values, (-1, values.shape[2])), index, axis=0), shape)


def _log_cumulative(xp: Any, values: Array) -> Array:
    return np.logaddexp.accumulate(values, axis=1) if xp is np else xp.logcumsumexp(values, dim=1)


def _members(outcome: Outcome) -> list[Ints]:
    """Rows of each stratum by time, deaths before censorings at the same time."""
    order = np.lexsort((~outcome.event, outcome.time)).astype(np.int64)
    if outcome.strata is None:
        return [order]
    return [order[outcome.strata[order] == code] for code in np.unique(outcome.strata)]
