"""Bulk-like counts of any number of samples, written block by block: sample i is the same at every size."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from anndata.io import write_elem

BLOCK = 1000  # samples drawn together; every size is a multiple of it
TYPES = ("BRCA", "COAD", "LUAD", "KIRC")


def write_counts(path: Path, genes: pd.DataFrame, n_samples: int) -> None:
    """Write an .h5ad of counts (n_samples, n_genes), uint16 by chunks of 100 samples, with a few columns in obs."""
    if n_samples % BLOCK:
        raise ValueError(f"{n_samples} samples, expected a multiple of {BLOCK}")
    names = pd.Index([f"SIM-{number:07d}" for number in range(n_samples)])
    kinds = pd.Categorical.from_codes(np.arange(n_samples) % len(TYPES), categories=list(TYPES))
    obs = pd.DataFrame({"cancer_type": kinds, "age": 40.0 + np.arange(n_samples) % 50}, index=names)
    with h5py.File(path, "w") as file:
        write_elem(file, "obs", obs)
        write_elem(file, "var", genes.set_index("ensembl_id"))
        write_elem(file, "uns", {"scale": "counts"})
        shape = (n_samples, len(genes))
        values = file.create_dataset("X", shape, "u2", chunks=(100, len(genes)), compression="lzf")
        values.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        level = np.exp(np.random.default_rng(0).normal(4.0, 1.5, len(genes)))
        for start in range(0, n_samples, BLOCK):
            rng = np.random.default_rng([1, start])
            drawn = rng.poisson(level * np.exp(rng.normal(0.0, 0.5, (BLOCK, len(genes)))))
            values[start : start + BLOCK] = np.minimum(drawn, 65_535)


def write_samples(path: Path, n_samples: int) -> None:
    """Write the clinical table of those samples, with a follow-up."""
    numbers = np.arange(n_samples)
    table = pd.DataFrame(
        {
            "sample_id": [f"SIM-{number:07d}" for number in numbers],
            "cancer_type": np.array(TYPES)[numbers % len(TYPES)],
            "age": 40 + numbers % 50,
            "sex": np.array(["female", "male"])[numbers % 2],
            "os_time_days": 100 + numbers % 900,
            "os_event": (numbers % 3 == 0).astype(int),
        }
    )
    table.to_csv(path, index=False)
