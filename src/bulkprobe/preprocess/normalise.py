"""Scales of expression values."""

from __future__ import annotations

import numpy as np

TPM_TOTAL = 1_000_000.0  # TPM of one sample sum to this, by definition


def log_expression(values: np.ndarray, scale: str) -> np.ndarray:
    """Return log2(x + 1) of linear values; z-scores are already on a scale of their own and stay as they are.

    `values` (n_samples, n_genes) in TPM, counts or RSEM normalised counts; returns float32 of the same shape.
    """
    if scale == "zscore":
        return np.asarray(values, dtype=np.float32)
    logged: np.ndarray = np.log2(np.asarray(values, dtype=np.float32) + np.float32(1.0))
    return logged
