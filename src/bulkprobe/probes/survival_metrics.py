"""Metrics of survival weighted by the inverse probability of censoring (IPCW), and predicted survival curves.

The censoring distribution is that of the training patients. At equal times a death comes before a censoring, and a
patient's weight is taken at, not just before, the own time: both as in scikit-survival, which the tests compare with.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bulkprobe.probes.metrics import ROUNDING, Floats, Ints, Undefined, count_below

Bools = npt.NDArray[np.bool_]
TIED_TOL = 1e-8  # risks at most this far apart are tied in Uno's C, as in scikit-survival
LEAST_AT_RISK = 0.1  # share of the training patients still followed at tau
EARLIEST = 10.0  # percentile of the test follow-up at which the Brier score's grid begins


class _Censoring(NamedTuple):
    """Kaplan-Meier estimate of P(not yet censored): times (k,) ascending, survival (k,) from each of them on."""

    times: Floats
    survival: Floats

    @classmethod
    def of(cls, time: Floats, event: Bools) -> _Censoring:
        times, where = np.unique(time, return_inverse=True)
        leaving = np.bincount(where, minlength=len(times))
        deaths = np.bincount(where[event], minlength=len(times))
        at_risk = len(time) - np.cumsum(leaving) + leaving - deaths  # the deaths of a moment precede its censorings
        censored = leaving - deaths
        return cls(times, np.cumprod(1.0 - censored / np.maximum(at_risk, 1)))

    def at(self, when: Floats, counts: dict[str, int]) -> Floats:
        """P(not censored up to `when`); Undefined where it is zero or follow-up has ended."""
        late = int((when > self.times[-1]).sum())
        if late:
            raise Undefined("time beyond the training follow-up", {**counts, "beyond": late})
        found = np.concatenate([[1.0], self.survival])[np.searchsorted(self.times, when, side="right")]
        zero = int((found <= 0).sum())
        if zero:
            raise Undefined("no training patient remains uncensored", {**counts, "zero_weights": zero})
        return np.asarray(found)


def default_tau(train_time: npt.ArrayLike, time: npt.ArrayLike) -> float:
    """Time up to which to judge: the last at which at least 10 % of the training patients are still followed.

    train_time: (m,), time: (n,) of test patients, > 0, any unit. Never later than the longest test follow-up. No
    event and no risk is looked at, so every model of a split is judged up to the same time, and no training
    censoring survival before tau is zero. Beyond it Kaplan-Meier weights rest on a few patients: Pocock, Clayton
    and Altman 2002, DOI 10.1016/S0140-6736(02)08594-X (10-20 % at risk); Uno et al. 2011 ask for a tau within
    follow-up, DOI 10.1002/sim.4154.
    """
    trained, tested = _times(train_time, "train_time"), _times(time, "time")
    if len(trained) == 0 or len(tested) == 0:
        raise Undefined("no patients", {"train": len(trained), "n": len(tested)})
    needed = max(1, int(np.ceil(LEAST_AT_RISK * len(trained) - ROUNDING)))
    return float(min(np.sort(trained)[len(trained) - needed], tested.max()))


def uno_c(
    train_time: npt.ArrayLike,
    train_event: npt.ArrayLike,
    time: npt.ArrayLike,
    event: npt.ArrayLike,
    risk: npt.ArrayLike,
    tau: float,
    *,
    tied_tol: float = TIED_TOL,
) -> float:
    """Uno's C: Harrell's C with each death weighted by 1 / P(not censored)², deaths before tau only.

    train_time, train_event: (m,) training patients, for the censoring distribution. time: (n,) > 0, unit of
    train_time. event: (n,) bool, True = died. risk: (n,), higher = shorter survival. tau: deaths at tau or later
    are not judged; inf for all. Comparable pairs as in `harrell_c`. Risks at most tied_tol apart are tied and count
    one half: scikit-survival's rule; 0 ties equal risks only, as `harrell_c` does. O(n log n).
    Raises Undefined when no pair is comparable before tau, all comparable pairs are tied, a death's weight is
    unknown (beyond training follow-up, or nobody uncensored) or nobody died in training, ValueError on NaN.
    Uno et al. 2011, DOI 10.1002/sim.4154.
    """
    train_time, train_event = _outcome(train_time, train_event, "train_")
    time, event = _outcome(time, event, "")
    score = np.asarray(risk, dtype=np.float64)
    if score.shape != time.shape:
        raise ValueError(f"risk has shape {score.shape}, time {time.shape}; they must be equal")
    if not np.isfinite(score).all():
        raise ValueError(f"risk holds {int((~np.isfinite(score)).sum())} values that are NaN or infinite")
    if not tau > 0:
        raise ValueError(f"tau is {tau!r}; it must be above zero, in the unit of time")
    if not 0 <= tied_tol < np.inf:
        raise ValueError(f"tied_tol is {tied_tol!r}; it must be zero or above")
    counts = _counts(train_time, train_event, time, event)
    # Longest follow-up first, censorings before deaths: whom a death is compared with precedes the deaths of its time.
    order = np.lexsort((event, -time))
    time, event, score = time[order], event[order], score[order]
    died = np.flatnonzero(event)
    pool = died[np.searchsorted(-time[died], -time[died], side="left")]
    judged = (time[died] < tau) & (pool > 0)
    died, pool = died[judged], pool[judged]
    if len(died) == 0:
        raise Undefined("no comparable pair before tau", counts)
    below, up_to_tied = _pairs(score, score[died], pool, tied_tol)
    if np.ptp(score) <= ROUNDING * np.abs(score).max() or np.array_equal(up_to_tied - below, pool):
        raise Undefined("constant risk over all comparable pairs", counts)
    weight = _Censoring.of(train_time, train_event).at(time[died], counts) ** -2.0
    return float(np.sum(weight * (below + (up_to_tied - below) / 2)) / np.sum(weight * pool))


def breslow_survival(
    train_time: npt.ArrayLike,
    train_event: npt.ArrayLike,
    train_linear: npt.ArrayLike,
    linear: npt.ArrayLike,
    times: npt.ArrayLike,
) -> Floats:
    """Survival probabilities of a Cox model, with Breslow's baseline hazard of the training patients.

    train_time, train_event, train_linear: (m,) training patients; train_linear are log relative hazards. linear:
    (n,) those of the patients to predict. times: (k,), >= 0, unit of train_time. Returns (n, k), non-increasing
    along times if these ascend; 1 before the first training death. Any shift common to train_linear and linear
    cancels. Raises Undefined when nobody died in training or a time lies beyond the training follow-up.
    Breslow 1974, DOI 10.2307/2529620.
    """
    train_time, train_event = _outcome(train_time, train_event, "train_")
    trained, tested = (np.asarray(values, dtype=np.float64) for values in (train_linear, linear))
    when = np.asarray(times, dtype=np.float64)
    if trained.shape != train_time.shape or tested.ndim != 1 or when.ndim != 1:
        raise ValueError(
            f"train_linear has shape {trained.shape}, linear {tested.shape}, times {when.shape}; "
            f"{train_time.shape}, (n,), (k,) expected"
        )
    if not np.isfinite(trained).all() or not np.isfinite(tested).all():
        raise ValueError("train_linear or linear holds values that are NaN or infinite")
    if not np.isfinite(when).all() or (when < 0).any():
        raise ValueError("times holds values that are NaN, infinite or below zero")
    counts = {"train": len(train_time), "train_events": int(train_event.sum())}
    if not train_event.any():
        raise Undefined("no event in training", counts)
    late = int((when > train_time.max()).sum())
    if late:
        raise Undefined("time beyond the training follow-up", {**counts, "beyond": late})
    order = np.argsort(train_time, kind="stable")
    moments, deaths = np.unique(train_time[train_event], return_counts=True)
    first = np.searchsorted(train_time[order], moments)
    # In logarithms, so that no range of predictors overflows.
    at_risk = np.logaddexp.accumulate(trained[order][::-1])[::-1][first]
    log_hazard = np.concatenate([[-np.inf], np.logaddexp.accumulate(np.log(deaths) - at_risk)])
    reached = log_hazard[np.searchsorted(moments, when, side="right")]
    with np.errstate(over="ignore"):  # an infinite cumulative hazard is a survival of 0
        return np.asarray(np.exp(-np.exp(tested[:, None] + reached[None, :])))


def brier_times(time: npt.ArrayLike, tau: float, n_times: int = 100) -> Floats:
    """Grid for the integrated Brier score: n_times equal steps from the 10th percentile of `time` up to before tau.

    time: (n,) follow-up of test patients, > 0. tau: as of `default_tau`; the grid stops short of it and of the
    longest follow-up, where nobody would be left to compare. Returns (n_times,), ascending. Raises Undefined when
    the percentile is not before tau.
    """
    tested = _times(time, "time")
    if n_times < 2:
        raise ValueError(f"n_times is {n_times}; an integral needs at least 2")
    if len(tested) == 0:
        raise Undefined("no patients", {"n": 0})
    start, end = float(np.percentile(tested, EARLIEST)), min(float(tau), float(tested.max()))
    if not start < end:
        raise Undefined("no range of follow-up before tau", {"n": len(tested)})
    return np.linspace(start, end, n_times, endpoint=False)


def brier_score(
    train_time: npt.ArrayLike,
    train_event: npt.ArrayLike,
    time: npt.ArrayLike,
    event: npt.ArrayLike,
    survival: npt.ArrayLike,
    times: npt.ArrayLike,
) -> Floats:
    """Brier score at each time: mean IPCW-weighted squared error of the predicted survival; lower is better.

    train_time, train_event: (m,) training patients, for the censoring distribution. time: (n,) > 0. event: (n,)
    bool, True = died. survival: (n, k), probability to live beyond each of times (k,), ascending. Returns (k,).
    Who is censored before a time weighs nothing there. Predicting one half for all gives about 0.25; the
    Kaplan-Meier curve is the reference to beat. Raises Undefined when nobody died in training or in the test, a time
    is not before the longest test follow-up, or a weight that is needed is unknown (beyond training follow-up, or
    nobody uncensored); scikit-survival drops the latter patients in silence. ValueError on NaN.
    Graf et al. 1999, DOI 10.1002/(SICI)1097-0258(19990915/30)18:17/18<2529::AID-SIM274>3.0.CO;2-5.
    """
    train_time, train_event = _outcome(train_time, train_event, "train_")
    time, event = _outcome(time, event, "")
    predicted, when = np.asarray(survival, dtype=np.float64), _times(times, "times")
    if len(when) == 0 or (np.diff(when) <= 0).any():
        raise ValueError(f"times must be ascending and at least one; {len(when)} given")
    if predicted.shape != (len(time), len(when)):
        raise ValueError(f"survival has shape {predicted.shape}; {(len(time), len(when))} expected")
    if not ((predicted >= 0) & (predicted <= 1)).all():
        raise ValueError("survival holds values that are NaN or outside 0 to 1; probabilities are expected")
    counts = _counts(train_time, train_event, time, event)
    if not event.any():
        raise Undefined("no event among the test patients", counts)
    late = int((when >= time.max()).sum())
    if late:
        raise Undefined("time not before the longest test follow-up", {**counts, "beyond": late})
    censoring = _Censoring.of(train_time, train_event)
    died = event & (time <= when[-1])
    case_weight = np.zeros(len(time))
    case_weight[died] = 1.0 / censoring.at(time[died], counts)
    control_weight = 1.0 / censoring.at(when, counts)
    alive = time[:, None] > when
    error = np.where(alive, (1.0 - predicted) ** 2 * control_weight, predicted**2 * case_weight[:, None])
    return np.asarray(error.mean(axis=0))


def integrated_brier_score(
    train_time: npt.ArrayLike,
    train_event: npt.ArrayLike,
    time: npt.ArrayLike,
    event: npt.ArrayLike,
    survival: npt.ArrayLike,
    times: npt.ArrayLike,
) -> float:
    """Mean of the Brier score over the range of times, by the trapezoidal rule; lower is better.

    Arguments, errors and source as in `brier_score`; at least two times.
    """
    score = brier_score(train_time, train_event, time, event, survival, times)
    when = np.asarray(times, dtype=np.float64)
    if len(when) < 2:
        raise ValueError("times has 1 value; an integral needs at least 2")
    return float(np.trapezoid(score, when) / (when[-1] - when[0]))


def _pairs(score: Floats, of: Floats, pool: Ints, tied_tol: float) -> tuple[Ints, Ints]:
    """How many of the first `pool` scores lie below each of `of`, and how many below or tied with it."""
    values, rank = np.unique(score, return_inverse=True)
    low = np.searchsorted(values, of - tied_tol, side="left").astype(np.int64)
    high = np.searchsorted(values, of + tied_tol, side="right").astype(np.int64)
    # The bounds are rounded: decide by the difference itself, as the definition has it.
    low += of - values[low] > tied_tol
    high -= values[high - 1] - of > tied_tol
    ranks = rank.astype(np.int64)
    return count_below(ranks, pool, low), count_below(ranks, pool, high)


def _counts(train_time: Floats, train_event: Bools, time: Floats, event: Bools) -> dict[str, int]:
    """Count patients and events; Undefined when nobody died in training."""
    counts = {"train": len(train_time), "train_events": int(train_event.sum())}
    counts |= {"n": len(time), "events": int(event.sum())}
    if not train_event.any():
        raise Undefined("no event in training", counts)
    return counts


def _outcome(time: npt.ArrayLike, event: npt.ArrayLike, prefix: str) -> tuple[Floats, Bools]:
    times, died = _times(time, f"{prefix}time"), np.asarray(event)
    if died.dtype != np.bool_:
        raise ValueError(f"{prefix}event has type {died.dtype}; it must be bool without missing values")
    if died.shape != times.shape:
        raise ValueError(f"{prefix}time has shape {times.shape} and {prefix}event {died.shape}; both must be (n,)")
    return times, died


def _times(values: npt.ArrayLike, name: str) -> Floats:
    times = np.asarray(values, dtype=np.float64)
    if times.ndim != 1:
        raise ValueError(f"{name} has shape {times.shape}; one row is expected")
    if not (np.isfinite(times) & (times > 0)).all():
        wrong = int((~(np.isfinite(times) & (times > 0))).sum())
        raise ValueError(f"{name} holds {wrong} values that are not finite and above zero; drop or correct them")
    return times
