"""Similarities of genes in whole millionths, and fast shares of them below a value.

Random sets are scored by hundreds of thousands. What is slow about an AUROC is to sort its pairs; here every gene has,
counted once, how many of its pairs with outside genes lie below each of at most 512 levels, and a set adds up its
genes' counts. The levels are quantiles, so that a pair is misplaced by at most half a level: an AUROC by less than
0.001 (0.0001 is usual), and not at all where similarities take few values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]
Flags = npt.NDArray[np.bool_]
Millionths = npt.NDArray[np.int32]

STEPS = 1_000_000  # of a cosine; closer ones are ties
LEVELS = 512
SAMPLE = 200_000  # similarities whose quantiles are the levels
BLOCK = 2048  # genes at a time


def unit_vectors(vectors: npt.NDArray[np.floating]) -> Floats:
    """Return vectors of length 1, (n, width); a vector of zeros stays so, and is at cosine 0 to every other.

    Float64, so that rounding does not tear equal cosines apart.
    """
    wide = np.asarray(vectors, dtype=np.float64)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    unit: Floats = wide / np.where(length > 0, length, 1.0)
    return unit


def cosines(first: Floats, second: Floats) -> Millionths:
    """Return the cosines of unit vectors, (n_first, n_second), in millionths above -1."""
    return in_millionths(first @ second.T)


def in_millionths(cosine: Floats) -> Millionths:
    """Return cosines in millionths above -1."""
    found: Millionths = np.rint(cosine * STEPS).astype(np.int32)
    np.clip(found, -STEPS, STEPS, out=found)
    found += np.int32(STEPS)
    return found


def level_table(similarity: Millionths) -> npt.NDArray[np.uint16]:
    """Return the level of every possible similarity, (2 STEPS + 1,): quantiles of those given, one more for ties."""
    flat = similarity.ravel()
    sample = np.sort(flat[:: max(1, len(flat) // SAMPLE)])
    edges = sample[np.linspace(0, len(sample) - 1, LEVELS // 2 - 1).astype(np.intp)]
    repeated = edges[1:][np.diff(edges) == 0]
    edges = np.unique(np.concatenate([edges, repeated + 1]))  # a similarity that many pairs have gets its own level
    return np.searchsorted(edges, np.arange(2 * STEPS + 1), side="right").astype(np.uint16)


@dataclass(frozen=True)
class Counts:
    """For each gene its outside pairs by level.

    levels: (n, n_outside), LEVELS where a pair is left out. below: (n, LEVELS), twice the pairs below a level plus
    those in it. pairs: (n,) pairs that are not left out.
    """

    levels: npt.NDArray[np.uint16]
    below: npt.NDArray[np.uint16]
    pairs: Ints

    def shares(self, members: Ints, inside: Ints) -> Floats | None:
        """Return (LEVELS,) the share of the set's outside pairs that lie below a level, ties one half.

        members: genes of the set. inside: which outside genes belong to it and are none to it.
        """
        below = self.below[members].sum(axis=0, dtype=np.uint32)
        own = np.bincount(self.levels[members][:, inside].ravel(), minlength=LEVELS + 1)[:LEVELS]
        below = below - (2 * np.cumsum(own) - own)
        pairs = int(self.pairs[members].sum() - own.sum())
        return below / (2 * pairs) if pairs else None


def count_levels(similarity: Millionths, left_out: Flags, table: npt.NDArray[np.uint16]) -> Counts:
    """Count every gene's outside pairs by level; similarity, left_out: (n, n_outside), of at most 32,000 outside."""
    levels = table[similarity]
    levels[left_out] = LEVELS
    below = np.empty((len(levels), LEVELS), dtype=np.uint16)
    for start in range(0, len(levels), BLOCK):
        part = levels[start : start + BLOCK]
        flat = part + (np.arange(len(part)) * (LEVELS + 1))[:, None]
        of_gene = np.bincount(flat.ravel(), minlength=len(part) * (LEVELS + 1)).reshape(len(part), -1)[:, :LEVELS]
        below[start : start + BLOCK] = 2 * np.cumsum(of_gene, axis=1) - of_gene
    return Counts(levels, below, (~left_out).sum(axis=1))
