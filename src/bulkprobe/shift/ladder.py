"""How far embeddings of the same samples moved: drift, neighbours kept, similarity of the two representations."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

NEIGHBOURS = 10
BLOCK = 512  # rows of distances held at a time
SEEN = 0.55  # AUROC or C-index from which something is seen at all


def cosine_distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return 1 - cosine of each row (n, width) with the same row of the other, (n,), from 0 to 2.

    Equal rows give 0 exactly. NaN where a vector is zero or not finite.
    """
    return np.asarray(((_unit(one) - _unit(other)) ** 2).sum(axis=1) / 2)


def mean_distance(rows: np.ndarray) -> float | None:
    """Mean of 1 - cosine over all pairs of different rows (n, width); None with fewer than two."""
    n, unit = len(rows), _unit(rows)
    if n < 2:
        return None
    total = unit.sum(axis=0)
    return float(1 - (total @ total - np.einsum("nd,nd->", unit, unit)) / (n * (n - 1)))


def nearest(rows: np.ndarray, k: int = NEIGHBOURS) -> np.ndarray:
    """Return (n, k), the k rows of highest cosine to each row (n, width), without itself, nearest first.

    By blocks of rows: O(n² width) time, O(n) memory.
    """
    unit = _unit(rows)
    found = np.empty((len(rows), k), dtype=np.intp)
    for start in range(0, len(rows), BLOCK):
        block = -(unit[start : start + BLOCK] @ unit.T)
        block[np.arange(len(block)), start + np.arange(len(block))] = np.inf
        closest = np.argpartition(block, k - 1, axis=1)[:, :k]
        order = np.argsort(np.take_along_axis(block, closest, axis=1), axis=1, kind="stable")
        found[start : start + BLOCK] = np.take_along_axis(closest, order, axis=1)
    return found


def neighbour_overlap(one: np.ndarray, other: np.ndarray, k: int = NEIGHBOURS) -> float | None:
    """Mean share of each sample's k nearest neighbours in `one` (n, w1) that are so in `other` (n, w2) too.

    By chance it is k / (n - 1). None where there are not more than k other samples: then all are neighbours.
    """
    n = len(one)
    if n <= k + 1:
        return None
    return float((nearest(one, k)[:, :, None] == nearest(other, k)[:, None, :]).any(axis=2).mean())


def linear_cka(one: np.ndarray, other: np.ndarray) -> float | None:
    """Linear centred kernel alignment of two representations (n, w1) and (n, w2) of the same samples; 1 = alike.

    It does not see rotations or one common scale, and compares different widths (Kornblith et al. 2019,
    arXiv:1905.00414). The Hilbert-Schmidt independence criterion in it is the unbiased estimate (Song et al. 2012, JMLR
    13:1393), since the plain one nears 1 for any two representations wider than there are samples; so unrelated ones
    give about 0, on either side. None with fewer than four samples or where one does not vary.
    """
    if len(one) < 4:
        return None
    left, right = _centred_gram(one), _centred_gram(other)
    own = float((left * left).sum() * (right * right).sum())
    return float((left * right).sum() / np.sqrt(own)) if own > 0 else None


def spread(values: np.ndarray) -> dict[str, float | None]:
    """Mean, median and 5 % and 95 % quantiles of the finite values; None without any."""
    found = values[np.isfinite(values)]
    if not len(found):
        return dict.fromkeys(("mean", "median", "low", "high"))
    low, median, high = np.quantile(found, [0.05, 0.5, 0.95])
    return {"mean": float(found.mean()), "median": float(median), "low": float(low), "high": float(high)}


def lost_from(full: float | None, scores: Mapping[int, float | None]) -> tuple[int | None, str | None]:
    """Return the largest depth from which on a score has lost half of what it has above 0.5 at full depth.

    scores: AUROC or C-index by depth; None, nothing could be scored, counts as lost. Else None, and why.
    """
    if full is None or full < SEEN:
        return None, f"there is nothing to lose: the score at full depth is {'undefined' if full is None else full}"
    half, found = (full - 0.5) / 2, None
    for depth in sorted(scores):
        score = scores[depth]
        if score is not None and score - 0.5 >= half:
            break
        found = depth
    return found, None if found is not None else "it keeps more than half at every depth"


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows as float64 of length 1; NaN where a row has no direction."""
    values = np.asarray(rows, dtype=np.float64)
    norm = np.linalg.norm(values, axis=1, keepdims=True)
    unit: np.ndarray = values / np.where(norm > 0, norm, np.nan)
    return unit


def _centred_gram(rows: np.ndarray) -> np.ndarray:
    """The U-centred Gram matrix (n, n): its diagonal is 0, its rows sum to 0 (Székely and Rizzo 2014)."""
    n = len(rows)
    values = np.asarray(rows, dtype=np.float64)
    values = values - values.mean(axis=0)
    gram = values @ values.T
    np.fill_diagonal(gram, 0.0)
    sums = gram.sum(axis=0)
    gram += sums.sum() / ((n - 1) * (n - 2)) - (sums[:, None] + sums) / (n - 2)
    np.fill_diagonal(gram, 0.0)
    return np.asarray(gram)
