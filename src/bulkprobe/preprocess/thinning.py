"""Thinning: the same sample, as if it had been sequenced less deeply."""

from __future__ import annotations

import numpy as np

from bulkprobe.errors import UserError


def thin(counts: np.ndarray, depth: float, rng: np.random.Generator) -> np.ndarray:
    """Return counts (n_genes,) thinned to about `depth` counts; the dtype stays.

    Every single count is kept with probability depth / library, each for itself: exact binomial thinning, so the
    result is distributed as a shallower sequencing of the same library would be. Fractional counts (RSEM) are rounded
    half to even first. A sample whose library is at most `depth` is returned as it is, its fractions too.
    """
    if not depth > 0:
        raise UserError(f"cannot thin to {depth} counts: give a depth above 0")
    if not (np.isfinite(counts).all() and (counts >= 0).all()):
        raise UserError("cannot thin negative, missing or infinite values: counts were expected")
    if counts.sum(dtype=np.float64) <= depth:
        return counts.copy()
    whole = np.rint(counts).astype(np.int64)
    kept: np.ndarray = rng.binomial(whole, min(1.0, depth / max(int(whole.sum()), 1)))
    return kept.astype(counts.dtype)
