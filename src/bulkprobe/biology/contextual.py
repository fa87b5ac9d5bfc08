"""Gene vectors from inside a model: a gene's states averaged over samples."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.intp]

LEAST_SAMPLES = 2  # in which a gene must have been read


def average_states(
    states: Iterable[tuple[Ints, npt.NDArray[np.floating]]], n_genes: int
) -> tuple[Ints, npt.NDArray[np.float32]]:
    """Return columns and vectors of the genes that at least LEAST_SAMPLES samples have states of.

    states: a sample at a time, different columns (n,) of the cohort's n_genes and their states (n, width). No sample
    at all gives no gene, of width 0.
    """
    seen = np.zeros(n_genes, dtype=np.intp)
    total: npt.NDArray[np.float64] | None = None
    for columns, found in states:
        if total is None:
            total = np.zeros((n_genes, found.shape[1]))
        total[columns] += found
        seen[columns] += 1
    columns = np.flatnonzero(seen >= LEAST_SAMPLES)
    if total is None:
        return columns, np.empty((0, 0), dtype=np.float32)
    return columns, (total[columns] / seen[columns, None]).astype(np.float32)
