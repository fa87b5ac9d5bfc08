"""Small made-up cohorts of real genes for the tests of the foundation models."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd

from bulkprobe.encoders.base import CohortView
from bulkprobe.sources.simulate_plan import gene_facts


def made_genes(n: int, seed: int) -> pd.DataFrame:
    """Return n real genes (ensembl_id, symbol, length), drawn and shuffled with `seed`."""
    table = gene_facts()
    rows = np.random.default_rng(seed).permutation(len(table))[:n]
    return table.iloc[rows][["ensembl_id", "symbol", "length"]].reset_index(drop=True)


def made_counts(n_samples: int, n_genes: int, seed: int, zero: float = 0.3) -> np.ndarray:
    """Return bulk-like counts (n_samples, n_genes) float32: log-normal means, a share of zeros, depths that differ."""
    rng = np.random.default_rng(seed)
    means = np.exp(rng.normal(4.0, 2.0, n_genes)) * np.exp(rng.normal(0.0, 0.6, (n_samples, n_genes)))
    counts = rng.poisson(means * np.exp(rng.normal(0.0, 0.4, (n_samples, 1))))
    return np.where(rng.random(counts.shape) < zero, 0, counts).astype(np.float32)


def tpm_of(counts: np.ndarray, genes: pd.DataFrame) -> np.ndarray:
    """Return TPM (n_samples, n_genes) float32."""
    rate = counts / genes["length"].to_numpy(np.float64)
    total = rate.sum(axis=1, keepdims=True)
    return (rate / np.where(total > 0, total, 1.0) * 1e6).astype(np.float32)


def made_view(genes: pd.DataFrame, counts: np.ndarray, scale: str = "counts") -> CohortView:
    """Return what an encoder is told of such a cohort, with a TPM layer; `obs` has sample_id and sample_type."""
    obs = pd.DataFrame({"sample_id": [f"S{i}" for i in range(len(counts))], "sample_type": "primary"})
    layers = {"X": counts, "tpm": tpm_of(counts, genes)}
    return CohortView(genes, obs, scale, ("tpm",), lambda layer: iter([layers[layer]]))


def made_anndata(genes: pd.DataFrame, counts: np.ndarray) -> anndata.AnnData:
    """Return such a cohort as AnnData: X are counts, var is `genes` by Ensembl id, obs has an age."""
    var = genes.set_index(genes.ensembl_id.astype(str), drop=False).rename_axis(None)
    obs = pd.DataFrame({"age": np.arange(50, 50 + len(counts))}, index=[f"S{i}" for i in range(len(counts))])
    return anndata.AnnData(counts.copy(), obs, var)
