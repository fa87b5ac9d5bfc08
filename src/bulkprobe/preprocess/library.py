"""Library sizes: how many counts a sample has in the genes that a model knows."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from bulkprobe.preprocess.vocabulary import Alignment


def library_sizes(blocks: Iterable[np.ndarray], genes: Alignment) -> np.ndarray:
    """Return (n_samples,) float64 from blocks of counts (n, n_genes); genes that the model does not know are left out.

    Summed in the vocabulary's order, so that a size does not depend on the order of the columns or on the blocks.
    """
    return np.array([genes.gather(row, dtype=np.float64).sum() for block in blocks for row in block])
