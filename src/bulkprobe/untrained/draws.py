"""Seeded tensors for checkpoints that have learned nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from bulkprobe.errors import UserError

MOST_GENES = 20_000  # of a stand-in's vocabulary; the released ones have 15,000 to 60,000


class Draw:
    """Random tensors by name: a tensor depends on the seed and its own name, not on what was drawn before it.

    Drawn with numpy, whose streams are the same on every machine.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def rng(self, name: str) -> np.random.Generator:
        """The generator of one tensor."""
        words = np.frombuffer(hashlib.sha256(name.encode()).digest()[:16], dtype=np.uint32)
        return np.random.default_rng([self.seed, *words.tolist()])

    def normal(self, name: str, shape: Sequence[int], std: float, mean: float = 0.0) -> torch.Tensor:
        """Normal values, float32."""
        values = self.rng(name).standard_normal(tuple(shape), dtype=np.float32) * np.float32(std) + np.float32(mean)
        return torch.from_numpy(np.ascontiguousarray(values))

    def linear(self, name: str, shape: Sequence[int]) -> torch.Tensor:
        """A weight (out, in) that keeps the scale of its input."""
        return self.normal(name, shape, shape[-1] ** -0.5)

    def orthogonal_features(self, name: str, features: int, width: int) -> torch.Tensor:
        """Performer's projection (features, width): blocks of orthogonal directions with the norms of normal rows."""
        rng = self.rng(name)
        blocks = [np.linalg.qr(rng.standard_normal((width, width)))[0].T for _ in range(-(-features // width))]
        norms = np.linalg.norm(rng.standard_normal((features, width)), axis=1, keepdims=True)
        return torch.from_numpy((np.concatenate(blocks)[:features] * norms).astype(np.float32))


def vocabulary_of(genes: pd.DataFrame, kind: str, most: int = MOST_GENES) -> pd.DataFrame:
    """Return the genes that a stand-in's vocabulary is made of: those with an id of this kind, each once, in order."""
    column = genes["ensembl_id" if kind == "ensembl" else "symbol"]
    named = genes[[isinstance(name, str) and bool(name) for name in column]]
    kept = named.drop_duplicates(column.name).head(most)
    if kept.empty:
        what = "an Ensembl id" if kind == "ensembl" else "a symbol"
        raise UserError(f"no gene of the input has {what}, so no stand-in can be made: give genes with such names")
    return kept
