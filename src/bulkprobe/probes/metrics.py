"""Metrics of the probes; each refuses what it cannot judge instead of answering 0.5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import log_expit

from bulkprobe.probes.cox import log_partial_likelihood

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
ROUNDING = 1e-12  # scores closer than this, relative to the largest, differ by rounding only


class Undefined(Exception):
    """A metric has no value on these patients: `reason` says why, `counts` of what."""

    def __init__(self, reason: str, counts: Mapping[str, int] | None = None) -> None:
        self.reason = reason
        self.counts = dict(counts or {})
        listed = ", ".join(f"{key} {value}" for key, value in self.counts.items())
        super().__init__(f"{reason} ({listed})" if listed else reason)


@dataclass(frozen=True)
class WithinType:
    """AUROC over pairs of the same cancer type.

    value: over all pairs of all types. pairs: how many. n: patients in types that have pairs. macro_mean: mean of
    the types' own AUROC. per_type: AUROC of each type that has pairs and a score that is not constant in it.
    """

    value: float
    pairs: int
    n: int
    macro_mean: float
    per_type: dict[str, float]


def auroc(truth: npt.ArrayLike, score: npt.ArrayLike) -> float:
    """Area under the ROC curve: the share of (positive, negative) pairs in which the positive scores higher.

    truth: (n,) bool. score: (n,), higher = more likely positive. A tied pair counts one half. Raises Undefined
    when one class only is present or the score is constant, ValueError on NaN.
    """
    truth, score = _binary(truth, score)
    positives, negatives = _both_classes(truth)
    _not_constant(score, len(score))
    return _rank_sum_pairs(truth, score) / (positives * negatives)


def average_precision(truth: npt.ArrayLike, score: npt.ArrayLike) -> float:
    """Average precision: precision at each distinct score threshold, weighted by the gain in recall.

    truth: (n,) bool. score: (n,), higher = more likely positive. Chance level is the prevalence. Raises Undefined
    when one class only is present or the score is constant, ValueError on NaN.
    """
    truth, score = _binary(truth, score)
    positives, _ = _both_classes(truth)
    _not_constant(score, len(score))
    order = np.argsort(-score, kind="stable")
    last_of_tie = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    hits = np.cumsum(truth[order])[last_of_tie]
    precision = hits / (last_of_tie + 1)
    return float(np.sum(np.diff(hits, prepend=0) * precision) / positives)


def within_type_auroc(truth: npt.ArrayLike, score: npt.ArrayLike, types: npt.ArrayLike) -> WithinType:
    """AUROC over all (positive, negative) pairs of the same cancer type, so that type itself earns nothing.

    truth: (n,) bool. score: (n,), higher = more likely positive. types: (n,) cancer type. Every pair counts once,
    a tied pair one half. Raises Undefined when no type has both classes, or the score is constant within every
    type that has.
    """
    truth, score = _binary(truth, score)
    names, code = np.unique(np.asarray(types).astype(str), return_inverse=True)
    if code.shape != truth.shape:
        raise ValueError(f"types has shape {code.shape}, truth {truth.shape}; they must be equal")
    won, pairs, patients = 0.0, 0, 0
    per_type: dict[str, float] = {}
    for number, name in enumerate(names):
        here = code == number
        positives = int(truth[here].sum())
        negatives = int(here.sum()) - positives
        if positives == 0 or negatives == 0:
            continue
        pairs += positives * negatives
        patients += positives + negatives
        if _is_constant(score[here]):
            won += positives * negatives / 2
            continue
        won_here = _rank_sum_pairs(truth[here], score[here])
        won += won_here
        per_type[str(name)] = won_here / (positives * negatives)
    if pairs == 0:
        raise Undefined("no cancer type has both classes", {"n": len(truth), "positives": int(truth.sum())})
    if not per_type:
        raise Undefined("constant score within every cancer type", {"n": patients, "pairs": pairs})
    return WithinType(won / pairs, pairs, patients, float(np.mean(list(per_type.values()))), per_type)


def log_loss(truth: npt.ArrayLike, linear: npt.ArrayLike) -> float:
    """Mean negative log-likelihood of a logistic model, in nats per patient; lower is better.

    truth: (n,) bool. linear: (n,) linear predictor, that is log-odds. One class alone is fine here.
    """
    truth, linear = _binary(truth, linear)
    if len(truth) == 0:
        raise Undefined("no patients", {"n": 0})
    return float(-np.mean(log_expit(np.where(truth, linear, -linear))))


def harrell_c(time: npt.ArrayLike, event: npt.ArrayLike, risk: npt.ArrayLike) -> float:
    """Harrell's C: the share of comparable pairs in which the patient with the higher risk dies first.

    time: (n,) follow-up, any unit. event: (n,) bool, True = died. risk: (n,), higher = shorter survival. A pair is
    comparable when the shorter time is a death; at equal times a death comes before a censoring and two deaths
    are not comparable (the convention of lifelines). Tied risks count one half. O(n log n) time, O(n) memory.
    Raises Undefined when no pair is comparable or all comparable pairs are tied, ValueError on NaN.
    Harrell, Lee and Mark 1996, DOI 10.1002/(SICI)1097-0258(19960229)15:4<361::AID-SIM168>3.0.CO;2-4.
    """
    time, event, risk = _survival(time, event, risk)
    counts = {"n": len(time), "events": int(event.sum())}
    order = np.lexsort((~event, time))  # by time, deaths before censorings
    time, event, risk = time[order], event[order], risk[order]
    died = np.flatnonzero(event)
    # Deaths that precede each patient: strictly earlier for a death, up to and at its time for a censoring.
    earlier = np.searchsorted(time[died], time, side="left")
    up_to = np.searchsorted(time[died], time, side="right")
    pool = np.where(event, earlier, up_to)
    comparable = int(pool.sum())
    if comparable == 0:
        raise Undefined("no comparable pair", counts)
    _not_constant(risk, len(risk))
    rank = np.unique(risk, return_inverse=True)[1].astype(np.int64)
    below = count_below(rank[died], pool, rank)
    up_to_tied = count_below(rank[died], pool, rank + 1)
    higher = comparable - int(up_to_tied.sum())
    tied = int((up_to_tied - below).sum())
    if tied == comparable:
        raise Undefined("constant risk over all comparable pairs", counts)
    return (higher + tied / 2) / comparable


def cox_log_likelihood(time: npt.ArrayLike, event: npt.ArrayLike, linear: npt.ArrayLike) -> float:
    """Efron's log partial likelihood of a Cox model, in nats over all events; higher is better.

    time: (n,). event: (n,) bool. linear: (n,) log relative hazard. Without an event it is 0.
    Efron 1977, DOI 10.1080/01621459.1977.10480613.
    """
    time, event, linear = _survival(time, event, linear)
    return float(log_partial_likelihood(time, event, linear[:, None])[0])


def count_below(values: Ints, prefix: Ints, bound: Ints) -> Ints:
    """For each query, how many of the first `prefix` values are smaller than `bound`; a wavelet matrix.

    values, bound: integers >= 0. One pass over values and queries per bit, nothing is kept between bits.
    """
    bits = int(max(values.max(initial=0), bound.max(initial=0))).bit_length()
    left = np.zeros_like(prefix)
    right = prefix.copy()
    total = np.zeros(len(prefix), dtype=np.int64)
    for bit in range(bits - 1, -1, -1):
        zero = (values >> bit) & 1 == 0
        zeros_before = np.concatenate([[0], np.cumsum(zero)])
        n_zeros = int(zeros_before[-1])
        left_zero, right_zero = zeros_before[left], zeros_before[right]
        goes_up = (bound >> bit) & 1 == 1
        total += np.where(goes_up, right_zero - left_zero, 0)
        left = np.where(goes_up, n_zeros + left - left_zero, left_zero)
        right = np.where(goes_up, n_zeros + right - right_zero, right_zero)
        values = np.concatenate([values[zero], values[~zero]])
    return total


def _rank_sum_pairs(truth: npt.NDArray[np.bool_], score: Floats) -> float:
    """Number of (positive, negative) pairs won by the positive; Mann and Whitney's U."""
    negative, positive = np.sort(score[~truth]), score[truth]
    below, up_to = (np.searchsorted(negative, positive, side).sum() for side in ("left", "right"))
    return float(below + up_to) / 2


def _binary(truth: npt.ArrayLike, score: npt.ArrayLike) -> tuple[npt.NDArray[np.bool_], Floats]:
    truth = np.asarray(truth)
    if truth.dtype != np.bool_:
        raise ValueError(f"truth has type {truth.dtype}; it must be bool without missing values")
    score = _finite(score, "score")
    if truth.shape != score.shape or truth.ndim != 1:
        raise ValueError(f"truth has shape {truth.shape} and score {score.shape}; both must be (n,)")
    return truth, score


def _survival(
    time: npt.ArrayLike, event: npt.ArrayLike, risk: npt.ArrayLike
) -> tuple[Floats, npt.NDArray[np.bool_], Floats]:
    event, risk = _binary(event, risk)
    time = _finite(time, "time")
    if time.shape != event.shape:
        raise ValueError(f"time has shape {time.shape} and event {event.shape}; both must be (n,)")
    return time, event, risk


def _finite(values: npt.ArrayLike, name: str) -> Floats:
    values = np.asarray(values, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds {int((~np.isfinite(values)).sum())} values that are NaN or infinite")
    return values


def _both_classes(truth: npt.NDArray[np.bool_]) -> tuple[int, int]:
    positives = int(truth.sum())
    negatives = len(truth) - positives
    if positives == 0 or negatives == 0:
        raise Undefined("one class only", {"positives": positives, "negatives": negatives})
    return positives, negatives


def _is_constant(score: Floats) -> bool:
    return bool(np.ptp(score) <= ROUNDING * np.abs(score).max())


def _not_constant(score: Floats, n: int) -> None:
    if _is_constant(score):
        raise Undefined("constant score", {"n": n})
