"""The sizes at which encoders are timed, and bulk-like samples to embed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Case:
    """A model at one size: what its untrained writer is asked for, how many genes and samples, and the goal."""

    name: str
    model: str
    title: str
    goal: float
    sizes: dict[str, Any]
    genes: int
    samples: int
    options: dict[str, Any] = field(default_factory=dict)


FULL = (
    Case("scgpt", "scgpt", "whole-human sizes", 3.0, {"width": 512, "depth": 12, "heads": 8, "hidden": 512}, 20_000, 6),
    Case(
        "geneformer_v1", "geneformer", "V1-10M sizes", 2.0,
        {"version": "V1", "width": 256, "depth": 6, "heads": 4, "hidden": 512, "positions": 2048}, 20_000, 6,
    ),
    Case(
        "geneformer_v2", "geneformer", "V2-104M sizes", 1.4,
        {"version": "V2", "width": 768, "depth": 12, "heads": 12, "hidden": 3072, "positions": 4096}, 20_000, 2,
    ),
    Case(
        "scfoundation", "scfoundation", "released width, 2 of 12 layers", 2.0,
        {"width": 768, "depth": 2, "heads": 12, "bins": 100, "decoder_width": 512, "decoder_heads": 8,
         "head_width": 64}, 19_000, 2,
    ),
    Case(
        "scbert", "scbert", "released width, 2 of 6 layers", 2.0,
        {"width": 200, "depth": 2, "heads": 10, "head_width": 64}, 16_906, 2,
    ),
    Case("cellfm", "cellfm", "80M sizes", 2.0, {"width": 1536, "depth": 2}, 20_000, 4),
    Case(
        "sclong", "sclong", "released width, 2 of 42 large layers", 2.0,
        {"width": 200, "large_width": 1280, "mini": (2, 8, 64), "large": (2, 32, 64), "decoder": (2, 8, 64),
         "top": 4096, "most_genes": 27_874}, 27_874, 2,
    ),
    Case("bulkformer", "bulkformer", "147M width, 2 of 12 layers", 2.0, {"width": 640, "depth": 2}, 20_010, 2),
)  # fmt: skip
QUICK = (
    Case("scgpt", "scgpt", "narrow", 1.0, {"width": 128, "depth": 3, "heads": 4, "hidden": 128}, 3_000, 4),
    Case(
        "geneformer_v2", "geneformer", "narrow", 1.0,
        {"version": "V2", "width": 128, "depth": 3, "heads": 4}, 3_000, 4,
    ),
    Case(
        "scfoundation", "scfoundation", "narrow", 1.0, {"width": 96, "depth": 2, "heads": 4}, 3_000, 4,
    ),
    Case("scbert", "scbert", "narrow", 1.0, {"width": 40, "depth": 2, "heads": 4, "head_width": 32}, 3_000, 4),
    Case("cellfm", "cellfm", "narrow", 1.0, {"width": 192, "depth": 2}, 3_000, 4),
    Case("sclong", "sclong", "narrow", 1.0, {"width": 40, "large_width": 96, "top": 512}, 3_000, 4),
    Case("bulkformer", "bulkformer", "narrow", 1.0, {"width": 128, "depth": 2}, 3_000, 4),
)  # fmt: skip


def made_genes(n: int) -> pd.DataFrame:
    """Return n genes with the look of real identifiers."""
    rng = np.random.default_rng(n)
    return pd.DataFrame(
        {
            "ensembl_id": [f"ENSG{i:011d}" for i in range(n)],
            "symbol": [f"GENE{i}" for i in range(n)],
            "length": rng.integers(500, 9_000, n).astype(float),
        }
    )


def made_counts(n_samples: int, n_genes: int) -> np.ndarray:
    """Return bulk-like counts (n_samples, n_genes) float32, about 70 % of the genes expressed."""
    rng = np.random.default_rng(n_genes)
    means = np.exp(rng.normal(5.0, 2.0, n_genes)) * np.exp(rng.normal(0.0, 0.5, (n_samples, n_genes)))
    counts = rng.poisson(means)
    return np.where(rng.random(counts.shape) < 0.28, 0, counts).astype(np.float32)
