"""What an embedding is made of: expression, genes and samples, of a cohort folder or of a user's own file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from bulkprobe.cohort.read import hand_back, input_hash, read_samples
from bulkprobe.cohort.schema import SAMPLES
from bulkprobe.cohort.spool import Closing, Spool
from bulkprobe.cohort.store import Expression, ExpressionStore, Floats, Index, open_expression, positions


class Layer(Protocol):
    """A matrix in linear values, samples × genes."""

    def read(self, numbers: Index) -> Floats:
        """Return the samples with these numbers, in this order: float32, shape (n_rows, n_genes)."""


@dataclass(frozen=True)
class Input(Expression, Closing):
    """Expression to embed, opened for reading; only its tables are in memory. To be closed after use.

    path: what was given. var: one row a column of the file, in its order, repeated genes included (ensembl_id without
    version and symbol, "" where unknown; length in bp or NaN), indexed by id or else symbol. obs: one row a sample;
    sample_id and what else is known. scale: of X as it is read, linear or zscore. declared: the scale of X in the
    file. layers: beside X. sha256: of the content. A pickled copy reads the same files.
    """

    path: Path
    sample_ids: list[str]
    var: pd.DataFrame
    obs: pd.DataFrame
    scale: str
    declared: str
    layers: list[str]
    sha256: str
    matrices: Mapping[str, Layer]  # X and the layers
    spools: tuple[Spool, ...] = ()  # temporary files behind them

    def _take(self, layer: str, numbers: Index) -> Floats:
        return self.matrices[layer].read(numbers)

    def close(self) -> None:
        """Remove temporary files."""
        for spool in self.spools:
            spool.close()


@dataclass(frozen=True)
class _Stored:
    store: ExpressionStore
    layer: str

    def read(self, numbers: Index) -> Floats:
        return self.store.read(self.layer, numbers)


def cohort_input(folder: Path) -> Input:
    """Open a cohort folder for embedding; UserError where it is none or its tables do not match."""
    folder = Path(folder)
    samples, store = read_samples(folder), open_expression(folder)
    places = positions(store.sample_ids, list(samples["sample_id"]), "samples", SAMPLES)
    if not np.array_equal(places, np.arange(len(samples))):  # a table of many samples is not copied for nothing
        samples = samples.iloc[places].reset_index(drop=True)
    samples["sample_id"] = store.sample_ids  # the same texts once
    hand_back()
    return Input(
        path=folder,
        sample_ids=store.sample_ids,
        var=store.var,
        obs=samples,
        scale=store.scale,
        declared=store.scale,
        layers=store.layers,
        sha256=input_hash(folder),
        matrices={name: _Stored(store, name) for name in ("X", *store.layers)},
    )
