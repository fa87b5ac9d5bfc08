"""Small AnnData files and tables, as a user may hand them in."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse
import zarr
from anndata.io import write_elem

N, G = 12, 30
SAMPLES = [f"patient_{i}" for i in range(N)]
# The third and the fourth go by one id, and so do two symbols.
ENSEMBL = [f"ENSG{max(i, 3):011d}.{i % 5 + 1}" for i in range(1, G + 1)]
PLAIN = [gene.split(".")[0] for gene in ENSEMBL]
SYMBOLS = ["TP53", "EGFR", "KRAS", "ACTB", "GAPDH", "TP53", *[f"GENE{i}" for i in range(G - 6)]]
LENGTHS = 500.0 + 10 * np.arange(G)
RNG = np.random.default_rng(0)
COUNTS = RNG.poisson(np.exp2(RNG.normal(6, 2, G)), (N, G)) * (RNG.random((N, G)) > 0.3)
TPM = COUNTS / COUNTS.sum(axis=1, keepdims=True) * 1e6
LOGGED = np.log2(COUNTS + 1)
ZSCORES = (LOGGED - LOGGED.mean(axis=0)) / (LOGGED.std(axis=0) + 1e-9)
GENES = pd.DataFrame({"ensembl_id": ENSEMBL, "symbol": SYMBOLS, "length": LENGTHS}, index=[f"g{i}" for i in range(G)])
FORMATS = ["a.h5ad", "a.2.zarr", "a.3.zarr"]
KINDS = ["dense", "csr", "csc"]


def laid(values: np.ndarray, kind: str) -> Any:
    return {"dense": np.asarray, "csr": scipy.sparse.csr_matrix, "csc": scipy.sparse.csc_array}[kind](values)


def put(path: Path, data: anndata.AnnData) -> Path:
    """Write .h5ad, or .zarr of the version before the ending."""
    if path.suffix == ".h5ad":
        data.write_h5ad(path)
    else:
        version = 2 if ".2" in path.suffixes else 3
        with anndata.settings.override(auto_shard_zarr_v3=False):
            write_elem(zarr.open_group(str(path), mode="w", zarr_format=version), "/", data)
    return path


def save(
    path: Path,
    values: Any = COUNTS,
    *,
    var: pd.DataFrame = GENES,
    obs: pd.DataFrame | None = None,
    scale: Any = None,
    **layers: Any,
) -> Path:
    data = anndata.AnnData(values, var=var, layers=layers)
    with warnings.catch_warnings(action="ignore"):  # names that stand twice
        data.obs = pd.DataFrame(index=SAMPLES) if obs is None else obs
    if scale is not None:
        data.uns["scale"] = scale
    return put(path, data)


def table(path: Path, values: np.ndarray, genes: list[str] = SYMBOLS, *, turned: bool = False) -> Path:
    """Write genes × samples, or the other way around; names of genes may stand twice."""
    frame = pd.DataFrame(values.T, index=pd.Index(genes, name="gene"), columns=SAMPLES)
    frame = frame.T.rename_axis("sample") if turned else frame
    if path.suffix == ".parquet":
        columns = [pa.array(frame.index), *(pa.array(frame.iloc[:, i]) for i in range(frame.shape[1]))]
        pq.write_table(pa.Table.from_arrays(columns, names=[str(frame.index.name), *frame.columns]), path)
    else:
        frame.to_csv(path, sep="," if ".csv" in path.suffixes else "\t")
    return path
