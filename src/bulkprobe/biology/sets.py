"""Set recovery: are the vectors of genes of one set closer to each other than to those of other genes?

A set's AUROC is the chance that a pair of its genes has a higher cosine than a pair of one of its genes and one
outside. The null keeps the sets, their sizes and what they share, and shuffles which vector belongs to which gene: a
set of as many random genes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bulkprobe.biology.levels import (
    Counts,
    Flags,
    Floats,
    Ints,
    Millionths,
    cosines,
    count_levels,
    in_millionths,
    level_table,
    unit_vectors,
)
from bulkprobe.biology.paralogs import Paralogs
from bulkprobe.errors import UserError
from bulkprobe.probes.metrics import Undefined

OUTSIDE = 1000  # genes that stand for all that are outside; with fewer genes than that, all do
ROUNDING = 1e-9  # a null value this close below an observed one counts as equal


@dataclass(frozen=True)
class Recovery:
    """AUROC of every set, NaN where it has no pair, and of its random sets.

    auroc: (n_sets,). null: (random_sets, n_sets), one row a shuffling of the genes. pairs_left_out: pairs of paralogs
    within sets. n_outside: genes that stand for all outside.
    """

    auroc: Floats
    null: Floats
    pairs_left_out: int
    n_outside: int

    @property
    def defined(self) -> Flags:
        """(n_sets,) which sets have a score."""
        return np.isfinite(self.auroc)

    @property
    def mean(self) -> float:
        """Mean over sets; Undefined where there is none."""
        if not self.defined.any():
            raise Undefined("no set has two genes that can be compared", {"sets": len(self.auroc)})
        return float(self.auroc[self.defined].mean())

    @property
    def null_means(self) -> Floats:
        """(random_sets,) the mean over sets in each shuffling."""
        means: Floats = np.nanmean(self.null[:, self.defined], axis=1)
        return means

    @property
    def p(self) -> float:
        """One-sided p of the mean."""
        return permutation_p(self.mean, self.null_means)

    def p_of(self, number: int) -> float:
        """One-sided p of one set."""
        return permutation_p(float(self.auroc[number]), self.null[:, number])


def permutation_p(observed: float, null: Floats) -> float:
    """Return (1 + null values that are as high) / (1 + null values)."""
    null = null[np.isfinite(null)]
    return (1 + int((null >= observed - ROUNDING).sum())) / (1 + len(null))


def pair_auroc(within: npt.ArrayLike, between: npt.ArrayLike) -> float:
    """Return the chance that a value of the first is above one of the second, ties one half; NaN where one is empty."""
    within, between = np.asarray(within), np.sort(np.asarray(between))
    if not within.size or not between.size:
        return float("nan")
    twice = np.searchsorted(between, within, "left") + np.searchsorted(between, within, "right")
    return float(twice.mean() / (2 * len(between)))


def set_recovery(
    vectors: npt.NDArray[np.floating],
    sets: Sequence[Ints],
    paralogs: Paralogs,
    *,
    random_sets: int,
    seed: int,
) -> tuple[Recovery, Recovery]:
    """Score gene sets on gene vectors, and once more without any pair of paralogs, within or between.

    vectors: (n_genes, width). sets: numbers of at least two different genes each. Raises Undefined where no two
    similarities differ, UserError on NaN.
    """
    space = _Space(vectors, np.random.default_rng([seed, 0]))
    variants = (None, paralogs)
    observed = np.array([[space.exact(members, variant) for members in sets] for variant in variants])
    pairs = [0 if variant is None else _pairs_within(sets, variant) for variant in variants]
    counts = [space.counts(variant) for variant in variants]
    rng = np.random.default_rng([seed, 1])
    null = np.empty((len(variants), random_sets, len(sets)))
    for draw in range(random_sets):
        shuffled = rng.permutation(len(vectors))
        for number, members in enumerate(sets):
            null[:, draw, number] = space.fast(shuffled[members], variants, counts)
    found = [Recovery(a, b, left, len(space.outside)) for a, b, left in zip(observed, null, pairs, strict=True)]
    return found[0], found[1]


def _pairs_within(sets: Sequence[Ints], paralogs: Paralogs) -> int:
    return sum(int(paralogs.between(members[:, None], members).sum()) // 2 for members in sets)


class _Space:
    """Gene vectors made ready: their cosines to the genes that stand for all outside."""

    def __init__(self, vectors: npt.NDArray[np.floating], rng: np.random.Generator) -> None:
        broken = int((~np.isfinite(vectors).all(axis=1)).sum())
        if broken:
            raise UserError(
                f"{broken} of {len(vectors)} gene vectors hold NaN or infinite values: fetch the weights anew"
            )
        n = len(vectors)
        self.unit = unit_vectors(vectors)
        self.outside: Ints = np.sort(rng.permutation(n)[:OUTSIDE])
        self.place = np.full(n, -1, dtype=np.intp)
        self.place[self.outside] = np.arange(len(self.outside))
        self.similarity: Millionths = cosines(self.unit, self.unit[self.outside])
        self.itself = np.arange(n)[:, None] == self.outside
        others = self.similarity[~self.itself]
        if not others.size or others.min() == others.max():
            raise Undefined("every pair of genes is equally similar", {"genes": n})
        self.table = level_table(self.similarity)
        self._above: dict[int, tuple[Ints, Ints]] = {}

    def exact(self, members: Ints, paralogs: Paralogs | None) -> float:
        """The AUROC of one set."""
        inside = self.place[members]
        outside = np.delete(np.arange(len(self.outside)), inside[inside >= 0])
        between, within = self.similarity[members][:, outside], self._within(members)
        if paralogs is None:
            return pair_auroc(within, between.ravel())
        apart = ~paralogs.between(members[:, None], self.outside[outside])
        return pair_auroc(within[~self._paralogs_within(members, paralogs)], between[apart])

    def counts(self, paralogs: Paralogs | None) -> Counts:
        """Every gene's pairs with the outside genes, by level."""
        left_out = self.itself
        if paralogs is not None:
            left_out = left_out | paralogs.between(np.arange(len(self.unit))[:, None], self.outside)
        return count_levels(self.similarity, left_out, self.table)

    def fast(self, members: Ints, variants: Sequence[Paralogs | None], counts: Sequence[Counts]) -> list[float]:
        """The AUROC of one set by levels, for each variant."""
        levels = self.table.take(self._within(members))
        inside = self.place[members]
        inside = inside[inside >= 0]
        found = []
        for paralogs, counted in zip(variants, counts, strict=True):
            shares = counted.shares(members, inside)
            used = levels if paralogs is None else levels[~self._paralogs_within(members, paralogs)]
            found.append(float(shares.take(used).mean()) if shares is not None and len(used) else float("nan"))
        return found

    def _within(self, members: Ints) -> Millionths:
        """Cosines of the set's pairs."""
        first, second = self._pairs(len(members))
        unit = self.unit[members]
        return in_millionths((unit @ unit.T).take(first * len(members) + second))

    def _paralogs_within(self, members: Ints, paralogs: Paralogs) -> Flags:
        """Which of the set's pairs are paralogs."""
        first, second = self._pairs(len(members))
        return paralogs.between(members[first], members[second])

    def _pairs(self, size: int) -> tuple[Ints, Ints]:
        if size not in self._above:
            self._above[size] = np.triu_indices(size, 1)
        return self._above[size]
