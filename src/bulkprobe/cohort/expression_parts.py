"""One expression table of a lab, opened: its axes at once, its values by blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from bulkprobe.cohort import text_matrix
from bulkprobe.cohort.anndata_file import BLOCK_VALUES, AnnDataFile, Matrix, open_anndata
from bulkprobe.cohort.gene_keys import GeneTable, decide_orientation, gene_columns, looks_like_genes, read_gene_table
from bulkprobe.cohort.genes import BROKEN_GZIP, line_of, lines_of, open_maybe_gzip, repeated, strip_version, truncated
from bulkprobe.cohort.legible import legible
from bulkprobe.cohort.scales import SCALES
from bulkprobe.cohort.spool import Floats
from bulkprobe.errors import UserError, some
from bulkprobe.foreign import refuse_much_text

MOST_ROWS = 10_000_000  # of a table: ten times the samples of the largest collection
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
    known: pd.DataFrame | None = None  # what the table says of its genes: symbol, length; one row each, in order
    told: Told | None = None

    def blocks(self) -> Iterator[Block]:
        """Yield the values; every sample and gene once."""
        start = 0
        everything = slice(0, len(self.keys if self.by_samples else self.sample_ids))
        for block in self.values.runs():
            run = slice(start, start + len(block))
            start = run.stop
            yield (run, everything, block) if self.by_samples else (everything, run, block.T)


@dataclass(frozen=True)
class Told:
    """What a table says of itself: its scale, and what else a quantifier's output tells.

    estimated: counts with TPM beside them, so that values need not be looked at to tell the two apart. files: that
    are read. notes: how, in plain words and numbers. settings: how, for the hash of the input.
    """

    scale: str
    estimated: bool = False
    files: list[Path] = field(default_factory=list)
    tpm: Part | None = None
    notes: dict[str, int | float | str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)


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


def _axes(
    name: str,
    rows: list[str],
    columns: list[str],
    by_samples: bool,
    genes: GeneTable,
    values: Values,
    about: Mapping[str, list[str]],
) -> Part:
    """Put a table together; about: columns that tell of its genes, where these are its rows."""
    samples, keys = (rows, columns) if by_samples else (columns, rows)
    _refuse_samples(name, samples)
    if not about:
        return Part(name, samples, keys, by_samples, values, genes)
    keys, known, genes = _described(name, pd.DataFrame(about, index=pd.Index(rows, dtype=object)), genes)
    return Part(name, samples, keys, by_samples, values, genes, known)


def _described(name: str, about: pd.DataFrame, genes: GeneTable) -> tuple[list[str], pd.DataFrame, GeneTable]:
    """Return the genes' keys, what is known of them, and the table of genes (without one that of the file itself).

    about: one row a gene, indexed by its name. A key is the Ensembl id where there is one, unless two genes had it.
    """
    known, rows = gene_columns(about), [str(key) for key in about.index]
    keys = [found or row for found, row in zip(known["ensembl_id"], rows, strict=True)]
    if repeated(strip_version(keys)):
        keys = rows
    unnamed = (known["ensembl_id"] == "") & (known["symbol"] == "")
    if unnamed.sum() > len(rows) / 2 and not any(key in genes.rows for key in keys):
        raise UserError(
            f"{name} names its genes {some(rows[:3])}, which are neither Ensembl ids nor symbols, and has no column "
            "gene_id or symbol that says which they are: add one"
        )
    return keys, known, genes if genes.rows else read_gene_table(known.assign(key=rows))


def _refuse_samples(name: str, samples: Sequence[str]) -> None:
    if unnamed := [number for number, sample in enumerate(samples, start=1) if not sample.strip()]:
        raise UserError(f"{name} has samples without a name (number {some(unnamed)}): name each of them")
    if twice := repeated(samples):
        raise UserError(f"{name} has repeated samples: {some(twice)}; keep one of each")


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
    header = text_matrix.read_header(path, delimiter, what="column", unique=False)
    rows: list[str] = []
    described = header.without(text_matrix.ANNOTATIONS)
    about: dict[str, list[str]] = {name: [] for name in described.beside.values()}
    mark, last = delimiter.encode(), max(described.beside, default=-1)
    with open_maybe_gzip(path) as handle:
        try:
            line_of(handle, path)
            for line in lines_of(handle, path):
                fields = text_matrix.first_fields(line, mark, last + 2, quoted=header.quoted)
                rows.append(fields[0])
                for place, name in described.beside.items():
                    about[name].append(fields[1 + place] if len(fields) > 1 + place else "")
                if len(rows) > MOST_ROWS:
                    raise UserError(f"{path.name} has more than {MOST_ROWS:,} rows: that is no table of expression")
        except BROKEN_GZIP as error:
            raise truncated(path, error) from error
    orientation = decide_orientation(path.name, rows, header.columns, orientation, genes)
    if by_samples := orientation == "samples_by_genes":
        described, about = header, {}
    values = _Text(path, delimiter, described)
    return _axes(path.name, rows, described.columns, by_samples, genes, values, about)


# ---------------------------------------------------------------- Parquet


@dataclass
class _Parquet:
    path: Path
    places: list[int]  # of the columns that are numbers: their names may stand twice

    def runs(self) -> Iterator[Floats]:
        size = max(1, BLOCK_VALUES // len(self.places))
        with legible(self.path), pa.parquet.ParquetFile(self.path) as file:
            for batch in file.iter_batches(batch_size=size):
                values = np.empty((len(self.places), batch.num_rows), np.float32)
                for i, place in enumerate(self.places):
                    values[i] = batch.column(place).to_numpy(zero_copy_only=False)
                yield values.T


def _open_parquet(path: Path, orientation: str, genes: GeneTable) -> Part:
    with legible(path), pa.parquet.ParquetFile(path) as file:
        schema = file.schema_arrow
        beside = [name for name in schema.names if name.casefold() in text_matrix.ANNOTATIONS]
        text = [f.name for f in schema if not (pa.types.is_floating(f.type) or pa.types.is_integer(f.type))]
        names = [name for name in text if name not in beside] or text[:1]
        if len(names) != 1:
            raise UserError(
                f"{path.name} has {len(text)} columns that are not numbers ({some(text)}): expected one, the names of "
                "the rows"
            )
        if file.metadata.num_rows > MOST_ROWS:
            raise UserError(f"{path.name} has {file.metadata.num_rows:,} rows, more than {MOST_ROWS:,}: is it another?")
        beside = [name for name in beside if name not in names]
        refuse_much_text(path, [*names, *beside])
        told = {name: file.read(columns=[name]).column(0).to_pylist() for name in beside}
        rows = ["" if key is None else str(key) for key in file.read(columns=names).column(0).to_pylist()]
    places = [place for place, name in enumerate(schema.names) if name not in (*names, *text)]
    columns = [schema.names[place] for place in places]
    if rows and columns:
        orientation = decide_orientation(path.name, rows, columns, orientation, genes)
        if orientation == "genes_by_samples":
            places = [place for place in places if schema.names[place] not in beside]
            columns = [schema.names[place] for place in places]
    if not rows or not columns:
        raise UserError(f"{path.name} is an empty table: {len(rows)} rows and {len(columns)} columns of numbers")
    by_samples = orientation == "samples_by_genes"
    return _axes(path.name, rows, columns, by_samples, genes, _Parquet(path, places), {} if by_samples else told)


# ---------------------------------------------------------------- AnnData


def _open_anndata(path: Path, genes: GeneTable, layer: str | None) -> Part:
    file = open_anndata(path)
    matrix = file.matrix("X" if layer is None else f"layers/{layer}")
    part = anndata_part(file, matrix, [str(key) for key in file.var.index])
    keys, known, genes = _described(path.name, file.var, genes)
    part = replace(part, keys=keys, known=known, genes=genes)
    return replace(part, told=Told(file.scale)) if layer is None and file.scale in SCALES else part


def anndata_part(file: AnnDataFile, matrix: Matrix, keys: list[str]) -> Part:
    """Return a matrix of an AnnData file as a table; `keys` are the names of its genes."""
    name = file.path.name if matrix.place == "X" else f"{file.path.name} ({matrix.place})"
    samples = [str(sample) for sample in file.obs.index]
    _refuse_samples(name, samples)
    if not samples or not keys:
        raise UserError(f"{name} is an empty table: {len(samples)} samples and {len(keys)} genes")
    if looks_like_genes(samples) and not looks_like_genes(keys):
        raise UserError(
            f"{name} has genes in obs ({some(samples[:3])}) and samples in var ({some(keys[:3])}): expected samples in "
            "obs, transpose it (adata.T)"
        )
    return Part(name, samples, keys, matrix.by_samples, matrix)
