"""Is one encoder better than another? Resampled tests, intervals, ranks, multiplicity and rank correlation.

Ten splits of one cohort share its patients, so their differences are not independent and their spread understates how
far a mean over splits may lie from the truth. `docs/statistics.md` says what was measured about that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from bulkprobe.errors import UserError, some

# The variance of a mean over J splits is taken as (1/J + MULTIPLE * n_test / n_train) * variance over splits. Nadeau
# and Bengio's multiple is 1; this one is the least that holds the size under every null of docs/calibration.json.
CALIBRATED_MULTIPLE = 2.0
MULTIPLES = (1.0, CALIBRATED_MULTIPLE)
ROUNDING = 1e-12  # differences whose spread is below this share of the largest are constant
MAX_UNDEFINED = 0.05  # share of bootstrap draws on which a statistic may be undefined
LEAST_PAIRS = 4  # 3 pairs have 6 orders: no p-value below 1/3
EXACT_PAIRS = 8  # up to here all orders are looked at: 40,320

Floats = npt.NDArray[np.float64]
Statistic = Callable[[npt.NDArray[Any]], float | None]


@dataclass(frozen=True)
class PairedTest:
    """The difference a - b of two encoders over splits; positive = a is better.

    n: splits with a difference; n_undefined: without. mean and sd (divisor n - 1) are over splits; mean is None
    without a split, sd with fewer than two. effect: mean / sd. p values are two-sided. low, high: interval of the mean
    by the calibrated variance. reason: why p values or the interval are None.
    """

    n: int
    mean: float | None
    sd: float | None
    effect: float | None
    p_nadeau_bengio: float | None
    p_calibrated: float | None
    low: float | None
    high: float | None
    reason: str | None
    n_undefined: int = 0


@dataclass(frozen=True)
class RankComparison:
    """Average ranks of encoders over blocks (labels); 1 = best.

    average_ranks: one for each of names, empty without a complete block. n_blocks: complete ones; n_dropped: the
    others. critical_difference: average ranks that lie further apart differ at `level`. groups: maximal sets of at
    least two names that are not told apart, best first. reason: why friedman_p and critical_difference are None.
    """

    names: tuple[str, ...]
    average_ranks: tuple[float, ...]
    n_blocks: int
    friedman_p: float | None
    critical_difference: float | None
    level: float
    groups: tuple[tuple[str, ...], ...]
    n_dropped: int
    reason: str | None


@dataclass(frozen=True)
class Interval:
    """A percentile bootstrap interval; estimate: the statistic on all patients, each once.

    n_boot: draws; n_undefined: draws on which the statistic had no value. reason: why low and high are None.
    """

    estimate: float | None
    low: float | None
    high: float | None
    level: float
    n_boot: int
    n_undefined: int
    reason: str | None


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rho of n pairs; p: two-sided; exact: over all orders, not drawn ones. reason: why both are None."""

    rho: float | None
    p: float | None
    n: int
    n_permutations: int
    exact: bool
    reason: str | None


def variance_factor(n_splits: int, test_fraction: float, multiple: float = CALIBRATED_MULTIPLE) -> float:
    """Return what the variance over splits is multiplied by to get the variance of their mean.

    multiple 1 is the correction of Nadeau and Bengio 2003, DOI 10.1023/A:1024068626366; 0 is the plain t-test.
    """
    if n_splits < 1:
        raise ValueError(f"n_splits is {n_splits}; at least 1 is needed")
    _check_fraction(test_fraction)
    return 1.0 / n_splits + multiple * test_fraction / (1.0 - test_fraction)


def paired_test(differences: Sequence[float | None], test_fraction: float, *, level: float = 0.95) -> PairedTest:
    """Test whether two encoders differ, from the difference of their scores (a - b) in each split of one cohort.

    t = mean / sqrt(variance_factor * variance) has n - 1 degrees of freedom. None, a split in which a score is
    undefined, is left out and counted. All differences exactly 0: p = 1 and no interval. Raises ValueError on NaN
    and on a fraction or level outside (0, 1).
    """
    _check_level(level)
    _check_fraction(test_fraction)
    values = _defined(differences)
    n, missing = len(values), len(differences) - len(values)
    if n < 2:
        mean = float(values[0]) if n else None
        reason = f"a difference in {n} of {len(differences)} splits; at least 2 are needed"
        return PairedTest(n, mean, None, None, None, None, None, None, reason, missing)
    mean = math.fsum(values) / n  # exact, so that the order of splits does not matter
    sd = math.sqrt(math.fsum((values - mean) ** 2) / (n - 1))
    effect = cohens_dz(differences)
    if effect is None:
        if not values.any():
            return PairedTest(n, 0.0, 0.0, None, 1.0, 1.0, None, None, "all differences are exactly 0", missing)
        reason = f"the difference is {mean:g} in every split: no variance to test against"
        return PairedTest(n, mean, 0.0, None, None, None, None, None, reason, missing)
    error = {multiple: sd * math.sqrt(variance_factor(n, test_fraction, multiple)) for multiple in MULTIPLES}
    nadeau_bengio, calibrated = (float(2.0 * stats.t.sf(abs(mean) / error[multiple], n - 1)) for multiple in MULTIPLES)
    half = float(stats.t.isf((1.0 - level) / 2.0, n - 1)) * error[CALIBRATED_MULTIPLE]
    return PairedTest(n, mean, sd, effect, nadeau_bengio, calibrated, mean - half, mean + half, None, missing)


def cohens_dz(differences: Sequence[float | None]) -> float | None:
    """Return mean / standard deviation of the differences over splits; None without variance or with fewer than 2.

    It describes how steady a difference is over splits of one cohort, not over cohorts. Cohen 1988, d_z for pairs.
    """
    values = _defined(differences)
    if len(values) < 2 or np.ptp(values) <= ROUNDING * np.abs(values).max():
        return None
    mean = math.fsum(values) / len(values)
    return mean / math.sqrt(math.fsum((values - mean) ** 2) / (len(values) - 1))


def probability_of_superiority(differences: Sequence[float | None]) -> float | None:
    """Return the share of splits in which a is better, equal ones counting one half; None without a split.

    Grissom and Kim 2001, DOI 10.1037/1082-989X.6.2.135. Like d_z it is about splits of one cohort.
    """
    values = _defined(differences)
    return float(((values > 0) + 0.5 * (values == 0)).mean()) if len(values) else None


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Adjust p-values of one family by Holm's step-down rule; None stays None and does not count.

    Rejecting adjusted p <= level keeps the chance of any false rejection at `level`, whatever the dependence.
    Holm 1979, Scandinavian Journal of Statistics 6:65-70. Raises ValueError on p outside [0, 1].
    """
    wrong = [value for value in p if value is not None and not 0.0 <= value <= 1.0]
    if wrong:
        raise ValueError(f"p-values must lie between 0 and 1 or be None; found {some(wrong)}")
    tested = sorted((value, place) for place, value in enumerate(p) if value is not None)
    adjusted: list[float | None] = [None] * len(p)
    largest = 0.0
    for rank, (value, place) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * value))
        adjusted[place] = largest
    return adjusted


def critical_difference(n_names: int, n_blocks: int, level: float = 0.05) -> float:
    """Return Nemenyi's critical difference of average ranks: q / sqrt(2) * sqrt(k (k + 1) / (6 N)).

    q: upper `level` quantile of the studentised range of k = n_names with infinite degrees of freedom; N = n_blocks.
    Demsar 2006, JMLR 7:1-30, equation for CD in section 3.2.2.
    """
    _check_level(level)
    if n_names < 2 or n_blocks < 1:
        raise ValueError(f"{n_names} names and {n_blocks} blocks; at least 2 names and 1 block are needed")
    quantile = float(stats.studentized_range.ppf(1.0 - level, n_names, np.inf))
    return quantile / math.sqrt(2.0) * math.sqrt(n_names * (n_names + 1) / (6.0 * n_blocks))


def average_ranks(scores: pd.DataFrame, level: float = 0.05) -> RankComparison:
    """Rank encoders within each block and compare the average ranks by Friedman's test and Nemenyi's distance.

    scores: rows = blocks (labels), columns = encoders; higher is better. Equal scores share their mean rank. Rows with
    a missing score are dropped and counted. Blocks are taken as independent, which labels of one cohort are not
    quite. Friedman's chi-squared is corrected for ties. Demsar 2006, JMLR 7:1-30. Raises UserError on fewer than two
    encoders or a repeated name, ValueError on infinite scores.
    """
    _check_level(level)
    names = tuple(str(name) for name in scores.columns)
    if len(names) < 2:
        raise UserError(f"Ranks need at least two encoders; there are {len(names)}: {some(names)}; add one")
    if len(set(names)) < len(names):
        repeated = sorted({name for name in names if names.count(name) > 1})
        raise UserError(f"Encoders stand twice among the scores: {some(repeated)}; give each one column")
    values = scores.to_numpy(dtype=np.float64, na_value=np.nan)
    if np.isinf(values).any():
        raise ValueError(f"scores hold {int(np.isinf(values).sum())} infinite values; finite or missing is expected")
    complete = values[~np.isnan(values).any(axis=1)]
    n, k, dropped = len(complete), len(names), len(values) - len(complete)
    if n == 0:
        reason = f"none of {len(values)} blocks has a score of every encoder"
        return RankComparison(names, (), 0, None, None, level, (), dropped, reason)
    ranks = stats.rankdata(-complete, axis=1)
    mean = np.asarray(ranks.mean(axis=0), dtype=np.float64)
    averages = tuple(float(rank) for rank in mean)
    if n < 2:
        reason = "one block has a score of every encoder; at least 2 are needed"
        return RankComparison(names, averages, n, None, None, level, (), dropped, reason)
    difference = critical_difference(k, n, level)
    groups = _not_told_apart(names, mean, difference)
    return RankComparison(names, averages, n, _friedman_p(ranks), difference, level, groups, dropped, None)


def bootstrap_difference(
    statistic: Statistic,
    n_patients_or_ids: int | Sequence[Hashable] | npt.NDArray[Any],
    *,
    n_boot: int = 1000,
    seed: int,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap over patients, who are drawn with replacement.

    n_patients_or_ids: how many patients there are, or their ids (repeats are taken once, sorted). statistic: takes the
    drawn patients, (n_patients,) positions 0 ... n - 1 or ids with repeats, and returns for example the mean over
    splits of the difference of two AUROC, a patient bringing all of its test predictions in all splits as often as it
    is drawn; None where it is undefined (one class only). Such draws are counted, never replaced by a number; above
    MAX_UNDEFINED there is no interval. Models are not fitted again, so the interval is about other test patients, not
    about other training sets: it is the narrower one of the two. Efron 1979, DOI 10.1214/aos/1176344552.
    Raises UserError on fewer than 2 patients, ValueError on NaN from the statistic.
    """
    _check_level(level)
    if n_boot < 1:
        raise ValueError(f"n_boot is {n_boot}; at least 1 is needed")
    if isinstance(n_patients_or_ids, int | np.integer):
        patients = np.arange(n_patients_or_ids)
    else:
        patients = np.unique(np.asarray(n_patients_or_ids))
    if len(patients) < 2:
        raise UserError(f"The bootstrap needs at least 2 patients; there are {len(patients)}: {some(patients)}")
    estimate = _number(statistic(patients))
    if estimate is None:
        return Interval(None, None, None, level, n_boot, n_boot, "the statistic is undefined on all patients")
    rng = np.random.default_rng(seed)
    drawn = [_number(statistic(rng.choice(patients, len(patients)))) for _ in range(n_boot)]
    values = [value for value in drawn if value is not None]
    undefined = n_boot - len(values)
    if undefined > MAX_UNDEFINED * n_boot:
        reason = f"the statistic is undefined in {undefined} of {n_boot} draws, more than {MAX_UNDEFINED:.0%}"
        return Interval(estimate, None, None, level, n_boot, undefined, reason)
    low, high = np.quantile(values, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return Interval(estimate, float(low), float(high), level, n_boot, undefined, None)


def spearman_permutation(
    x: Sequence[float], y: Sequence[float], *, n_permutations: int = 9999, seed: int
) -> RankCorrelation:
    """Correlate the ranks of pairs (x, y) and test it by permuting one side; ties share their mean rank.

    p: share of orders whose absolute rho is no smaller: of all n! orders up to EXACT_PAIRS pairs, else
    (1 + hits) / (1 + n_permutations) of drawn ones (Phipson and Smyth 2010, 10.2202/1544-6115.1585). None below
    LEAST_PAIRS pairs and where a side is constant. Raises ValueError on unequal lengths and on NaN.
    """
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError(f"{len(a)} and {len(b)} values; as many finite ones of each are needed")
    n = len(a)
    if n < LEAST_PAIRS or not np.ptp(a) or not np.ptp(b):
        reason = "one side is the same for all" if n >= LEAST_PAIRS else f"{n} pairs; at least {LEAST_PAIRS} are needed"
        return RankCorrelation(None, None, n, 0, False, reason)
    u, v = (ranks - ranks.mean() for ranks in (stats.rankdata(a), stats.rankdata(b)))
    u, v = u / np.linalg.norm(u), v / np.linalg.norm(v)
    rho, exact = float(u @ v), n <= EXACT_PAIRS
    if exact:
        orders = np.array(list(permutations(range(n))))
    else:
        orders = np.random.default_rng(seed).permuted(np.tile(np.arange(n), (n_permutations, 1)), axis=1)
    hits = int((np.abs(v[orders] @ u) >= abs(rho) - ROUNDING).sum())
    p = hits / len(orders) if exact else (1 + hits) / (1 + len(orders))
    return RankCorrelation(rho, p, n, len(orders), exact, None)


def _check_fraction(test_fraction: float) -> None:
    if not 0.0 < test_fraction < 1.0:
        raise ValueError(f"test_fraction is {test_fraction}; it must lie between 0 and 1")


def _check_level(level: float) -> None:
    if not 0.0 < level < 1.0:
        raise ValueError(f"level is {level}; it must lie between 0 and 1")


def _defined(differences: Sequence[float | None]) -> Floats:
    values = np.array([value for value in differences if value is not None], dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError(
            f"differences hold {int((~np.isfinite(values)).sum())} values that are NaN or infinite; "
            "an undefined split is None"
        )
    return values


def _number(value: float | None) -> float | None:
    if value is None:
        return None
    if not math.isfinite(value):
        raise ValueError(f"the statistic returned {value}; undefined is None")
    return float(value)


def _friedman_p(ranks: Floats) -> float:
    """Chi-squared of Friedman 1937 with the correction for ties; 1 where every block is one tie."""
    n, k = ranks.shape
    # The squared ranks sum to less under ties; n k (k + 1)^2 / 4 is what equal ranks would give.
    spread = float((ranks**2).sum()) - n * k * (k + 1) ** 2 / 4.0
    if spread <= 0.0:
        return 1.0
    between = float(((ranks.sum(axis=0) - n * (k + 1) / 2.0) ** 2).sum()) / n
    return float(stats.chi2.sf((k - 1) * n * between / spread, k - 1))


def _not_told_apart(names: Sequence[str], ranks: Floats, difference: float) -> tuple[tuple[str, ...], ...]:
    """Maximal runs of at least two names, in order of rank, whose ends lie no further apart than `difference`."""
    order = np.lexsort((np.arange(len(ranks)), ranks))
    groups: list[tuple[int, int]] = []
    for start in range(len(order)):
        stop = start
        while stop + 1 < len(order) and ranks[order[stop + 1]] - ranks[order[start]] <= difference:
            stop += 1
        if stop > start and (not groups or stop > groups[-1][1]):
            groups.append((start, stop))
    return tuple(tuple(names[place] for place in order[start : stop + 1]) for start, stop in groups)
