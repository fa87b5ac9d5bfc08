"""Scales of expression values."""

from __future__ import annotations

import numpy as np

MILLION = 1_000_000.0
COUNTS_ALONE = "counts_without_lengths"  # scale of counts whose gene lengths are not known well enough for TPM


def log_expression(values: np.ndarray, scale: str) -> np.ndarray:
    """Return log2(x + 1) of linear values; z-scores are already on a scale of their own and stay as they are.

    `values` (n_samples, n_genes) in TPM or RSEM normalised counts; counts without gene lengths become counts per
    million first. Returns float32 of the same shape.
    """
    if scale == "zscore":
        return np.asarray(values, dtype=np.float32)
    if scale == COUNTS_ALONE:
        # One sample at a time, so that its bytes do not depend on the others.
        values = np.stack([row * np.float32(MILLION / max(float(row.sum(dtype=np.float64)), 1.0)) for row in values])
    logged: np.ndarray = np.log2(np.asarray(values, dtype=np.float32) + np.float32(1.0))
    return logged
