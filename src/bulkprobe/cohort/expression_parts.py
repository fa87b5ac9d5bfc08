"""One expression table of a lab, opened: its axes at once, its values by blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import scipy.sparse
import zarr

from bulkprobe.cohort import text_matrix
from bulkprobe.cohort.gene_keys import GeneTable, decide_orientation, looks_like_genes, read_gene_table
from bulkprobe.cohort.genes import BROKEN_GZIP, open_maybe_gzip, repeated, truncated
from bulkprobe.cohort.spool import Floats
from bulkprobe.errors import UserError, some

BLOCK_VALUES = 1 << 24  # of a Parquet or AnnData block: 64 MB as float32
ORIENTATIONS = ("auto", "genes_by_samples", "samples_by_genes")
Block = tuple[slice, slice, Floats]  # samples, genes (places in the lists), values (n_samples, n_genes)


@dataclass
class Part:
    """A table: names of its samples, keys of its genes as they stand, and where its values come from."""

    name: str
    sample_ids: list[str]
    keys: list[str]
    by_samples: bool  # blocks are runs of samples (else runs of genes)
    values: Values
    genes: GeneTable = field(default_factory=lambda: GeneTable({}, frozenset()))

    def blocks(self) -> Iterator[Block]:
        """Yield the values; every sample and gene once."""
        start = 0
        everything = slice(0, len(self.keys if self.by_samples else self.sample_ids))
        for block in self.values.runs():
            run = slice(start, start + len(block))
            start = run.stop
            yield (run, everything, block) if self.by_samples else (everything, run, block.T)


class Values(Protocol):
    """Values of a table in the order they are stored."""

    def runs(self) -> Iterator[Floats]:
        """Yield float32 of shape (lines of the run, other axis), missing values as NaN."""


def open_part(path: Path, orientation: str, genes: GeneTable, layer: str | None) -> Part:
    """Open a table: .tsv, .txt, .csv (also .gz), .parquet, .h5ad or .zarr.

    Raises UserError for unknown kinds, broken files, repeated names and undecidable orientation.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"the expression table {path} is missing")
    if path.suffix in {".h5ad", ".zarr"}:
        return _open_anndata(path, genes, layer)
    if layer is not None:
        raise UserError(f"{path.name} has no layers: drop layer={layer!r}, or give an AnnData file")
    if path.suffix == ".parquet":
        return _open_parquet(path, orientation, genes)
    if not {".tsv", ".txt", ".csv", ".tab"} & set(path.suffixes):
        raise UserError(
            f"{path.name}: kind of table not known; expected .tsv, .csv (also .gz), .parquet, .h5ad or .zarr"
        )
    return _open_text(path, orientation, genes)


def _axes(name: str, rows: list[str], columns: list[str], orientation: str, genes: GeneTable, values: Values) -> Part:
    decided = decide_orientation(name, rows, columns, orientation, genes.symbols)
    by_samples = decided == "samples_by_genes"
    samples, keys = (rows, columns) if by_samples else (columns, rows)
    if twice := repeated(samples):
        raise UserError(f"{name} has repeated samples: {some(twice)}; keep one of each")
    return Part(name, samples, keys, by_samples, values, genes)


# ---------------------------------------------------------------- text


@dataclass
class _Text:
    path: Path
    delimiter: str
    header: text_matrix.Header

    def runs(self) -> Iterator[Floats]:
        def work(_ids: list[str], values: Floats, _first: int) -> Floats:
            return values.T

        yield from text_matrix.read_blocks(self.path, self.delimiter, self.header, work, row="row", column="column")


def _open_text(path: Path, orientation: str, genes: GeneTable) -> Part:
    delimiter = text_matrix.delimiter_of(path)
    header = text_matrix.read_header(path, delimiter, what="column")
    rows: list[str] = []
    mark = delimiter.encode()
    with open_maybe_gzip(path) as handle:
        try:
            handle.readline()
            rows = [line.split(mark, 1)[0].decode("utf-8", "replace").strip('"\r\n') for line in handle]
        except BROKEN_GZIP as error:
            raise truncated(path, error) from error
    return _axes(path.name, rows, header.columns, orientation, genes, _Text(path, delimiter, header))


# ---------------------------------------------------------------- Parquet


@dataclass
class _Parquet:
    path: Path
    columns: list[str]

    def runs(self) -> Iterator[Floats]:
        size = max(1, BLOCK_VALUES // len(self.columns))
        with pa.parquet.ParquetFile(self.path) as file:
            for batch in file.iter_batches(batch_size=size, columns=self.columns):
                values = np.empty((len(self.columns), batch.num_rows), np.float32)
                for i, column in enumerate(batch.columns):
                    values[i] = column.to_numpy(zero_copy_only=False)
                yield values.T


def _open_parquet(path: Path, orientation: str, genes: GeneTable) -> Part:
    try:
        with pa.parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            text = [f.name for f in schema if not (pa.types.is_floating(f.type) or pa.types.is_integer(f.type))]
            if len(text) != 1:
                raise UserError(
                    f"{path.name} has {len(text)} columns that are not numbers ({some(text)}): expected one, the names "
                    "of the rows"
                )
            rows = [str(key) for key in file.read(columns=text).column(0).to_pylist()]
    except pa.ArrowInvalid as error:
        raise UserError(f"{path.name} is not a Parquet file ({str(error)[:100]}): export it again") from error
    columns = [name for name in schema.names if name != text[0]]
    if not rows or not columns:
        raise UserError(f"{path.name} is an empty table: {len(rows)} rows and {len(columns)} columns of numbers")
    return _axes(path.name, rows, columns, orientation, genes, _Parquet(path, columns))


# ---------------------------------------------------------------- AnnData


@dataclass
class _AnnData:
    path: Path
    place: str  # X or layers/NAME
    n_other: int

    def runs(self) -> Iterator[Floats]:
        size = max(1, BLOCK_VALUES // max(1, self.n_other))
        root = _open_root(self.path)
        try:
            matrix: Any = root[self.place]
            if not hasattr(matrix, "keys"):  # dense
                for start in range(0, matrix.shape[0], size):
                    yield np.asarray(matrix[start : start + size], np.float32)
                return
            pointer = np.asarray(matrix["indptr"][:], np.int64)
            for start in range(0, len(pointer) - 1, size):
                ends = pointer[start : start + size + 1]
                span = slice(int(ends[0]), int(ends[-1]))
                parts = (matrix["data"][span], matrix["indices"][span], ends - ends[0])
                yield scipy.sparse.csr_matrix(parts, shape=(len(ends) - 1, self.n_other)).toarray().astype(np.float32)
        finally:
            if isinstance(root, h5py.File):
                root.close()


def _open_root(path: Path) -> Any:
    if path.suffix == ".zarr":
        return zarr.open_group(str(path), mode="r")
    return h5py.File(path, "r")


def _open_anndata(path: Path, genes: GeneTable, layer: str | None) -> Part:
    from anndata.io import read_elem  # here: it takes a second to import, which tables need not spend

    try:
        root = _open_root(path)
    except (OSError, FileNotFoundError, ValueError) as error:
        raise UserError(
            f"{path.name} cannot be opened as AnnData ({' '.join(str(error).split())[:100]}): write it again"
        ) from error
    try:
        place = "X" if layer is None else f"layers/{layer}"
        if "obs" not in root or "var" not in root or place not in root:
            layers = sorted(root["layers"]) if "layers" in root else []
            raise UserError(
                f"{path.name} has no {place}: expected AnnData with obs, var and X; its layers: {some(layers)}"
            )
        obs, var = read_elem(root["obs"]), read_elem(root["var"])
        kind = str(root[place].attrs.get("encoding-type", "array"))
    finally:
        if isinstance(root, h5py.File):
            root.close()
    samples, keys = [str(name) for name in obs.index], _var_keys(var)
    if twice := repeated(samples):
        raise UserError(f"{path.name} has repeated samples: {some(twice)}; keep one of each")
    if not samples or not keys:
        raise UserError(f"{path.name} is an empty table: {len(samples)} samples and {len(keys)} genes")
    by_samples = kind != "csc_matrix"
    values = _AnnData(path, place, len(keys) if by_samples else len(samples))
    if not genes.rows and {"symbol", "length", "ensembl_id"} & set(var.columns):
        genes = read_gene_table(_own_genes(var, keys))
    return Part(path.name, samples, keys, by_samples, values, genes)


def _var_keys(var: pd.DataFrame) -> list[str]:
    """Take Ensembl ids from a column where the names of the genes are something else."""
    for column in ("ensembl_id", "gene_ids"):
        if column in var and looks_like_genes([str(key) for key in var[column]]) and not var[column].duplicated().any():
            return [str(key) for key in var[column]]
    return [str(key) for key in var.index]


def _own_genes(var: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    table = pd.DataFrame({"key": list(keys)})
    for column in ("ensembl_id", "symbol", "length"):
        if column in var:
            table[column] = var[column].to_numpy()
    if "symbol" not in table:
        table["symbol"] = [str(name) for name in var.index]
    return table
