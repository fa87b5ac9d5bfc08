"""The bootstrap over patients for every encoder at once: what `statistics.bootstrap_difference` says, in seconds.

AUROC, AUROC within types and Harrell's C are all shares of pairs of patients in the right order. A drawn cohort is how
often each patient stands in it, so a share becomes a product of counts and a table of pairs. Counts and half-counts are
exact in floating point: the order of summation, and with it the BLAS, changes no bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bulkprobe.probes.metrics import ROUNDING
from bulkprobe.statistics import MAX_UNDEFINED

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.floating[Any]]
SINGLE_PRECISION = 2000  # test patients up to which pair counts and their halves are exact in float32


@dataclass(frozen=True)
class Draws:
    """Drawn cohorts: patients (sorted ids) and how often each stands in each draw.

    counts: (1 + n_boot, n_patients) float32, every row summing to n_patients; row 0 is the cohort itself.
    """

    patients: pd.Index[str]
    counts: Counts


@dataclass(frozen=True)
class Pairs:
    """Pairs of test patients that a score should order: the first should score higher than the second.

    first, second: positions among the test patients. comparable: (len(first), len(second)) bool, None = all.
    """

    first: Ints
    second: Ints
    comparable: Bools | None = None


@dataclass(frozen=True)
class TestPart:
    """The test patients of one label and split: their ids and the pairs that are scored."""

    __test__ = False  # no test of pytest's

    patients: pd.Index[str]
    pairs: Sequence[Pairs]


@dataclass(frozen=True)
class Resampled:
    """One label of one encoder. observed: the score in each split. means: (1 + n_boot,), mean over splits a draw.

    NaN where a draw has no pair in any split; splits without a pair in a draw do not count in that draw.
    """

    observed: dict[int, float]
    means: Floats


def draw_patients(patients: Sequence[str], n_boot: int, seed: int | Sequence[int]) -> Draws:
    """Draw as many patients as there are, with replacement, `n_boot` times."""
    index: pd.Index[str] = pd.Index(sorted(set(patients)), dtype=object)
    rng = np.random.default_rng(seed)
    counts = np.ones((1 + n_boot, len(index)), dtype=np.float32)
    for row in range(1, 1 + n_boot):
        counts[row] = np.bincount(rng.choice(len(index), len(index)), minlength=len(index))
    return Draws(index, counts)


def mutation_pairs(truth: Bools, types: npt.NDArray[Any] | None = None) -> list[Pairs]:
    """Pair every mutated with every wild-type patient; with `types`, of the same cancer type only."""
    groups = [np.ones(len(truth), dtype=bool)] if types is None else [types == name for name in sorted(set(types))]
    pairs = [Pairs(np.flatnonzero(here & truth), np.flatnonzero(here & ~truth)) for here in groups]
    return [pair for pair in pairs if len(pair.first) and len(pair.second)]


def survival_pairs(time: Floats, event: Bools) -> list[Pairs]:
    """Pair every death with every patient who outlived it; at equal times a death comes before a censoring."""
    died = np.flatnonzero(event)
    later = time[died, None] < time[None, :]
    comparable = later | ((time[died, None] == time[None, :]) & ~event[None, :])
    return [Pairs(died, np.arange(len(time)), comparable)] if comparable.any() else []


def resample_label(
    draws: Draws, parts: Mapping[int, TestPart], scores: Mapping[str, Mapping[int, Floats]]
) -> dict[str, Resampled]:
    """Score every encoder on every draw of one label.

    parts: split -> test patients, who are all among those of `draws`. scores: encoder -> split -> (n_test,), higher =
    mutated, or shorter survival. A tied pair counts one half.
    """
    observed: dict[str, dict[int, float]] = {encoder: {} for encoder in scores}
    total = {encoder: np.zeros(len(draws.counts)) for encoder in scores}
    defined = np.zeros(len(draws.counts), dtype=np.int64)
    for split, part in parts.items():
        place = draws.patients.get_indexer(part.patients)
        exact = np.float32 if len(place) <= SINGLE_PRECISION else np.float64
        counts: Counts = draws.counts[:, place].astype(exact)
        all_pairs = np.zeros(len(counts))
        won = {encoder: np.zeros(len(counts)) for encoder in scores}
        for pair in part.pairs:
            first, second = counts[:, pair.first], counts[:, pair.second]
            comparable = 1.0 if pair.comparable is None else pair.comparable
            all_pairs += _count(first, second, np.ones((len(pair.first), len(pair.second))) * comparable)
            for encoder, of_encoder in scores.items():
                score = of_encoder[split]
                won[encoder] += _count(first, second, _won(score[pair.first], score[pair.second]) * comparable)
        usable = all_pairs > 0
        defined += usable
        for encoder in scores:
            share = np.divide(won[encoder], all_pairs, out=np.zeros(len(counts)), where=usable)
            total[encoder] += share
            observed[encoder][split] = float(share[0]) if usable[0] else float("nan")
    nowhere = np.full(len(defined), np.nan)
    return {
        encoder: Resampled(observed[encoder], np.divide(total[encoder], defined, out=nowhere.copy(), where=defined > 0))
        for encoder in scores
    }


def percentile_interval(differences: Floats, level: float) -> tuple[float | None, float | None, int, str | None]:
    """Return low, high, the number of undefined draws, and the reason where there is no interval.

    differences: (n_boot,), NaN = undefined, dropped and counted; above statistics.MAX_UNDEFINED there is no interval.
    Efron 1979, DOI 10.1214/aos/1176344552.
    """
    values = differences[~np.isnan(differences)]
    undefined = len(differences) - len(values)
    if undefined > MAX_UNDEFINED * len(differences):
        share = f"{undefined} of {len(differences)} draws, more than {MAX_UNDEFINED:.0%}"
        return None, None, undefined, f"the difference is undefined in {share}"
    low, high = np.quantile(values, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return float(low), float(high), undefined, None


def _count(first: Counts, second: Counts, table: Floats) -> Floats:
    """Sum a table over all pairs, each as often as both its patients are drawn: (1 + n_boot,) float64."""
    exact = table.astype(first.dtype)
    if len(table) < table.shape[1]:  # the product with fewer columns is the cheaper one to sum
        return np.asarray(np.einsum("ij,ij->i", second @ exact.T, first), dtype=np.float64)
    return np.asarray(np.einsum("ij,ij->i", first @ exact, second), dtype=np.float64)


def _won(first: Floats, second: Floats) -> Floats:
    both = np.concatenate([first, second])
    if np.ptp(both) <= ROUNDING * np.abs(both).max():  # differs by rounding only, as in probes.metrics
        return np.full((len(first), len(second)), 0.5)
    return np.where(first[:, None] > second[None, :], 1.0, np.where(first[:, None] == second[None, :], 0.5, 0.0))
