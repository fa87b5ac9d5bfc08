"""Where an encoder puts bulk tumours and the reference: shape of each cloud, and how far they lie apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg

from bulkprobe.shift.inputs import summary
from bulkprobe.shift.sampling import twins_of

Floats = npt.NDArray[np.float64]
PERMUTATIONS = 999
ROUNDING = 1e-12  # squared distances below this share of the largest are 0; discrepancies closer than this are equal


def geometry(vectors: np.ndarray) -> dict[str, float | None]:
    """Describe one cloud of vectors (n, width): anisotropy as it is and centred, effective rank, participation ratio.

    The two dimensions are those of the centred cloud. None where a number is undefined (one vector, all equal).
    """
    found = np.asarray(vectors, np.float64)
    centred = found - found.mean(axis=0, keepdims=True)
    centred[np.abs(centred) <= ROUNDING * np.abs(found).max(initial=0.0)] = 0.0  # equal vectors have no direction left
    return {
        "anisotropy": anisotropy(found),
        "anisotropy_centred": anisotropy(centred),
        **dimensions(centred),
    }


def anisotropy(vectors: np.ndarray) -> float | None:
    """Return the mean cosine over all pairs of vectors (n, width), 0 for directions spread evenly, 1 for one direction.

    With unit vectors u the cosines of all ordered pairs sum to |sum of u|^2 - n. Vectors of length 0 have no direction
    and are left out; None with fewer than two others. Ethayarajh 2019, DOI 10.18653/v1/D19-1006.
    """
    length = np.linalg.norm(vectors, axis=1)
    kept = length > ROUNDING * length.max(initial=0.0)
    n = int(kept.sum())
    if n < 2:
        return None
    total = (vectors[kept] / length[kept, None]).sum(axis=0)
    return float((total @ total - n) / (n * (n - 1)))


def dimensions(centred: np.ndarray) -> dict[str, float | None]:
    """Return how many dimensions a centred cloud (n, width) fills, from 1 to the smaller of width and n - 1.

    effective_rank: exp of the entropy of the singular values' shares (Roy and Vetterli 2007, EUSIPCO).
    participation_ratio: (sum of variances)^2 / sum of squared variances along the principal axes.
    """
    singular: Floats = scipy.linalg.svdvals(centred)
    if not singular.max(initial=0.0) > 0:
        return {"effective_rank": None, "participation_ratio": None}
    share = singular / singular.sum()
    share = share[share > 0]
    variance = singular**2
    return {
        "effective_rank": float(np.exp(-(share * np.log(share)).sum())),
        "participation_ratio": float(variance.sum() ** 2 / (variance**2).sum()),
    }


def squared_distances(vectors: np.ndarray) -> Floats:
    """Return squared Euclidean distances (n, n) of vectors (n, width)."""
    centred = np.asarray(vectors, np.float64)
    centred = centred - centred.mean(axis=0)  # less is lost when the products cancel
    square = np.einsum("nd,nd->n", centred, centred)
    found: Floats = square[:, None] + square - 2 * (centred @ centred.T)
    found[found < ROUNDING * max(float(square.max(initial=0.0)), 0.0)] = 0.0
    np.fill_diagonal(found, 0.0)
    return found


def discrepancy(squared: Floats, n_bulk: int, twins: tuple[np.ndarray, np.ndarray], seed: int) -> dict[str, Any]:
    """Return the maximum mean discrepancy of the first n_bulk points and the others, and its permutation p.

    squared: (n, n) squared distances of all. value: unbiased estimate of MMD^2 with the kernel exp(-d^2 / (2 h^2)), h
    the median distance of all pairs (Gretton et al. 2012, JMLR 13:723-773); 0 for one distribution, negative by chance.
    twins: places of sample ids on both sides. A tumour is not compared with its own twin, so a reference that equals
    the cohort has the value 0, and a permutation swaps twins within their pair; the others are dealt anew. p: share of
    permutations, the observed sides among them, with at least the value.
    """
    n = len(squared)
    n_reference = n - n_bulk
    nothing = {"value": None, "p": None, "permutations": PERMUTATIONS, "bandwidth": None}
    if min(n_bulk, n_reference) < 2 or n_bulk * n_reference == len(twins[0]):
        return {**nothing, "reason": f"{n_bulk} tumours and {n_reference} cells: at least 2 of each are needed"}
    bandwidth = float(np.median(np.sqrt(squared[np.triu_indices(n, 1)])))
    if bandwidth == 0:
        return {**nothing, "reason": "half of all pairs have the same vector, so there is no bandwidth"}
    kernel = np.exp(squared / (-2 * bandwidth**2))
    np.fill_diagonal(kernel, 0.0)
    first, second = twins[0], twins[1] + n_bulk
    kernel[first, second] = kernel[second, first] = 0.0
    sides = _sides(n, n_bulk, (first, second), np.random.default_rng(seed))
    inside = sides @ kernel
    both = np.einsum("pn,pn->p", inside, sides)  # twice each pair of the first side
    across = inside.sum(axis=1) - both
    others = kernel.sum() - both - 2 * across
    pairs = n_bulk * n_reference - len(first)
    values = both / (n_bulk * (n_bulk - 1)) + others / (n_reference * (n_reference - 1)) - 2 * across / pairs
    at_least = int((values[1:] >= values[0] - ROUNDING).sum())
    return {
        "value": float(values[0]),
        "p": (1 + at_least) / (1 + PERMUTATIONS),
        "permutations": PERMUTATIONS,
        "bandwidth": bandwidth,
        "reason": None,
    }


def _sides(n: int, n_bulk: int, twins: tuple[np.ndarray, np.ndarray], rng: np.random.Generator) -> Floats:
    """Return who stands on the first side, (1 + PERMUTATIONS, n) of 0 and 1; the first row is as observed."""
    sides = np.zeros((1 + PERMUTATIONS, n))
    sides[:, :n_bulk] = 1.0
    swapped = rng.random((PERMUTATIONS, len(twins[0]))) < 0.5
    sides[1:, twins[0]] = ~swapped
    sides[1:, twins[1]] = swapped
    alone = np.setdiff1d(np.arange(n), np.concatenate(twins))
    sides[1:, alone] = rng.permuted(sides[1:, alone], axis=1)
    return sides


def nearest(squared: Floats, n_bulk: int, twins: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    """Return the distance to the nearest reference over that to the nearest other tumour: median, 5 % and 95 %.

    1: a cell lies as near as the next tumour. A tumour's own twin does not count. Both distances shrink with the number
    of points, so the two sides should be about equally many.
    """
    across = squared[:n_bulk, n_bulk:].copy()
    across[twins] = np.inf
    among = squared[:n_bulk, :n_bulk].copy()
    np.fill_diagonal(among, np.inf)
    cell, tumour = across.min(axis=1, initial=np.inf), among.min(axis=1, initial=np.inf)
    defined = np.isfinite(cell) & np.isfinite(tumour) & (tumour > 0)
    found = summary(np.sqrt(cell[defined] / tumour[defined]))
    found.pop("mean")
    reason = None if defined.any() else "no tumour has both a reference cell and another tumour apart from it"
    return {**found, "reason": reason}


def distances(
    bulk: np.ndarray, reference: np.ndarray, bulk_ids: Sequence[str], reference_ids: Sequence[str], seed: int
) -> dict[str, Any]:
    """Return `mmd` and `nearest` of two clouds (n, width); twins are the sample ids that both have."""
    twins = twins_of(bulk_ids, reference_ids)
    squared = squared_distances(np.concatenate([bulk, reference]))
    return {
        "mmd": discrepancy(squared, len(bulk), twins, seed),
        "nearest": nearest(squared, len(bulk), twins),
    }
