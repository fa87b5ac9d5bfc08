"""What a user hands in to be embedded: a cohort folder, an AnnData file or a table, opened by one function.

A table and an AnnData file are read through once, by blocks: their values are checked against the scale, and what does
not lie by samples (tables, CSC matrices) goes into a temporary file on the way. Afterwards samples are read by number,
and a sample's values do not depend on which others are read with it.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from bulkprobe.cohort.anndata_file import GROUP_FILES, AnnDataFile, Matrix, open_anndata
from bulkprobe.cohort.anndata_held import hold_anndata
from bulkprobe.cohort.expression_files import LOOK_AT, Reading
from bulkprobe.cohort.expression_parts import Part, anndata_part
from bulkprobe.cohort.gene_keys import GeneTable, gene_columns, name_genes, read_gene_table
from bulkprobe.cohort.given import Input, Layer, cohort_input
from bulkprobe.cohort.quantifier_formats import KINDS
from bulkprobe.cohort.quantifiers import content_hash, open_table, quantified
from bulkprobe.cohort.scales import FULL_TRANSCRIPTOME, SCALES, check_upper_quartile, scale_named
from bulkprobe.cohort.schema import EXPRESSION, PROVENANCE, SAMPLES
from bulkprobe.cohort.spool import GeneSpool, SampleSpool, Spool
from bulkprobe.cohort.store import LENGTHS_NEEDED, Floats, Index, gather, per_million, tpm_from_counts
from bulkprobe.cohort.transcripts import is_gtf
from bulkprobe.errors import UserError, some
from bulkprobe.files import file_hash, tree_hash

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Input", "open_input"]

FIRST_BLOCKS = 4  # of a table that does not say its scale, which must be whole numbers
GAP = 2  # samples so near each other are read as one run: at most twice what was asked for
ADVICE = f"pass --scale with one of {', '.join(SCALES)} (from Python: scale=; layer= for another matrix of an AnnData)"


def open_input(
    source: Path | AnnData,
    scale: str | None = None,
    folder: Path | None = None,
    *,
    genes: Path | None = None,
    transcripts: Path | None = None,
    strand: str | None = None,
) -> Input:
    """Open what is to be embedded, with every check of its values done.

    source: a cohort folder, an AnnData file (.h5ad or .zarr), a quantifier's folder or file, a table in either
    orientation (.tsv, .csv, also .gz, or .parquet), or an AnnData itself, which is read and never changed. scale: of X
    or of the table; without it that of the file, or counts where its values are whole numbers. folder: takes temporary
    files (default: the system's folder for such), removed when the input is closed. genes: a table, a GTF or
    HGNC's, for ids, approved symbols and lengths that the file lacks (`gene_keys.read_gene_table`); without it a GTF
    given as transcripts. transcripts, strand: as `quantifiers.open_table` takes them.

    Logarithms are inverted and FPKM rescaled to TPM. Beside X there is the layer tpm where the file has it or where
    it can be computed from counts and lengths. UserError for everything that cannot be read or is not of the scale.
    """
    if scale is not None:
        scale_named(scale)
    if genes is None and transcripts is not None and is_gtf(transcripts):
        table = read_gene_table(transcripts)
    else:
        table = read_gene_table(genes)
    if not isinstance(source, str | Path):
        held = hold_anndata(source)
        return _open_file(held, scale, folder, table, genes, held.sha256)
    path = Path(source)
    if not path.exists():
        raise UserError(
            f"{path.name} is not a cohort folder, nor AnnData (.h5ad, .zarr), nor a table (.tsv, .csv, .parquet), nor "
            f"quantifiers' output: there is nothing at {path}, correct the path"
        )
    in_zarr = path.is_dir() and (path.suffix == ".zarr" or any((path / name).is_file() for name in GROUP_FILES))
    if in_zarr or path.suffix == ".h5ad":
        return _open_file(open_anndata(path), scale, folder, table, genes)
    of_cohort = path.is_dir() and any((path / name).exists() for name in (SAMPLES, EXPRESSION, PROVENANCE))
    if path.is_dir() and not of_cohort and quantified(path) is None:
        raise UserError(
            f"{path.name} is not a cohort folder, nor does it hold the output of {KINDS}, three levels down at most: "
            "name the folder of the samples, or build a cohort with `bulkprobe cohort`"
        )
    if of_cohort:
        if genes is not None:
            raise UserError(f"{path.name} is a cohort folder, built with its own table of genes: leave --genes out")
        return _open_cohort(path, scale)
    part = open_table(path, scale, genes=table, transcripts=transcripts, strand=strand)
    var = gene_columns(pd.DataFrame(index=part.keys) if part.known is None else part.known)
    var = name_genes(var, table) if table.rows else var
    obs, told = pd.DataFrame({"sample_id": part.sample_ids}), part.told
    declared = _scale_of(part, scale, None if told is None else told.scale)
    tpm = None if told is None else told.tpm
    guessed = scale is None and told is None
    return _open(path, var, obs, part, tpm, declared, folder, genes, guessed=guessed)


def _open_cohort(path: Path, scale: str | None) -> Input:
    given = cohort_input(path)
    if scale not in (None, given.scale):
        raise UserError(
            f"{path.name} is a cohort folder on the scale {given.scale!r}, not {scale!r}: leave --scale out, or build "
            "the cohort again with the scale of its table"
        )
    return given


def _open_file(
    file: AnnDataFile,
    scale: str | None,
    folder: Path | None,
    table: GeneTable,
    genes: Path | None,
    sha256: Callable[[], str] | None = None,
) -> Input:
    names = [str(name) for name in file.var.index]
    part = anndata_part(file, file.matrix("X"), names)
    tpm = anndata_part(file, file.matrix("layers/tpm"), names) if "tpm" in file.layers else None
    declared = _scale_of(part, scale, file.scale)
    var, obs = gene_columns(file.var), _sample_table(file.obs, part.sample_ids)
    var = name_genes(var, table) if table.rows else var
    guessed = scale is None and file.scale is None
    return _open(file.path, var, obs, part, tpm, declared, folder, genes, guessed=guessed, sha256=sha256)


def _open(
    path: Path,
    var: pd.DataFrame,
    obs: pd.DataFrame,
    part: Part,
    tpm: Part | None,
    declared: str,
    folder: Path | None,
    genes: Path | None,
    *,
    guessed: bool,
    sha256: Callable[[], str] | None = None,
) -> Input:
    """Check X and the layer tpm, and put together what can be read. sha256: of what is no file or folder."""
    scale = scale_named(declared).linear
    length = var["length"].to_numpy(np.float64)
    computed = scale == "counts" and tpm is None and float(np.isfinite(length).mean()) >= LENGTHS_NEEDED
    with ExitStack() as stack:
        found, spools = _read_through(part, declared, folder, stack, length if computed else None, whole=guessed)
        if declared == "rsem_normalised" and len(var) >= FULL_TRANSCRIPTOME:
            check_upper_quartile(part.name, found.read(np.arange(min(LOOK_AT, len(obs)))))
        if scale == "fpkm":
            scale, found = "tpm", _Million(found, part.sample_ids)
        matrices: dict[str, Layer] = {"X": found}
        if computed:
            matrices["tpm"] = _Tpm(found, length)
        if tpm is not None:
            matrices["tpm"], more = _read_through(tpm, "tpm", folder, stack)
            spools += more
        given = Input(
            path=path,
            sample_ids=part.sample_ids,
            var=var,
            obs=obs,
            scale=scale,
            declared=declared,
            layers=[name for name in matrices if name != "X"],
            sha256=_with(genes, sha256() if sha256 else _hash(path, part)),
            matrices=matrices,
            spools=spools,
        )
        stack.pop_all()
    return given


def _hash(path: Path, part: Part) -> str:
    if part.told is not None:
        return content_hash(path, part)
    return tree_hash(path) if path.is_dir() else file_hash(path)


def _with(genes: Path | None, sha256: str) -> str:
    """Return the hash of an input that is read with a table of genes."""
    return sha256 if genes is None else hashlib.sha256(f"{sha256}\0{file_hash(genes)}".encode()).hexdigest()


def _scale_of(part: Part, given: str | None, noted: object) -> str:
    """Return the scale that the user gives, else the file notes, else counts if the first values may be such."""
    if given is not None:
        return given
    if noted is not None:
        if not isinstance(noted, str) or noted not in SCALES:
            raise UserError(f"{part.name}: uns['scale'] is {str(noted)[:60]!r}, which is no scale known here: {ADVICE}")
        return noted
    for samples, genes, values in islice(part.blocks(), FIRST_BLOCKS):
        wrong = (values < 0) | (values != np.rint(values)) & ~np.isnan(values)  # a missing value is named later
        if wrong.any():
            sample, gene = np.unravel_index(int(wrong.argmax()), wrong.shape)
            raise UserError(
                f"{part.name} does not say its scale, and {values[sample, gene]:.6g} (gene "
                f"{part.keys[genes][int(gene)]}, sample {part.sample_ids[samples][int(sample)]}) is no count: {ADVICE}"
            )
    return "counts"


def _read_through(
    part: Part,
    scale: str,
    folder: Path | None,
    stack: ExitStack,
    length: npt.NDArray[np.float64] | None = None,
    *,
    whole: bool = False,
) -> tuple[Layer, tuple[Spool, ...]]:
    """Read a table through, check it, and make its samples readable by number; the stack closes temporary files.

    length: of the genes, where TPM will be computed, for which a sample needs reads on genes of known length.
    whole: every value must be a whole number, as the scale was taken from the first of them.
    """
    reading = Reading(part, scale)
    n_samples = len(part.sample_ids)
    counted = np.ones(len(part.keys), np.float32) if length is None else np.isfinite(length).astype(np.float32)
    sums = np.zeros(n_samples)
    layer: Layer
    spools: tuple[Spool, ...] = ()
    if isinstance(part.values, Matrix) and part.by_samples:
        layer, blocks = _Direct(part.values, scale), reading.blocks()
    else:
        everything = np.arange(n_samples)
        spool = reading.spool(_temporary(part.name, folder), everything)
        stack.enter_context(spool)
        layer, spools, blocks = _Spooled(spool), (spool,), reading.stored(spool, everything)
    for samples, genes, values in blocks:
        sums[samples] += values @ counted[genes]
    seen = reading.linear
    if whole and seen.n_whole < seen.n_values:
        raise UserError(
            f"{part.name} does not say its scale, and {seen.n_values - seen.n_whole} of its {seen.n_values} values are "
            f"no whole numbers, though the first are: {ADVICE}"
        )
    if scale != "zscore" and (sums <= 0).any():
        empty = [part.sample_ids[number] for number in np.flatnonzero(sums <= 0)]
        of = "" if length is None else " of genes whose length is known"
        raise UserError(f"{part.name} has samples without any expression{of}: {some(empty)}; drop them")
    return layer, spools


def _temporary(name: str, folder: Path | None) -> Path:
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
    number, path = tempfile.mkstemp(prefix=f".{name.replace('/', '.')[:100]}.", suffix=".partial", dir=folder)
    os.close(number)
    return Path(path)


def _sample_table(obs: pd.DataFrame, sample_ids: list[str]) -> pd.DataFrame:
    """Return an AnnData's obs as a cohort's sample table: the names in sample_id, missing text as None."""
    table: dict[str, object] = {"sample_id": pd.Series(sample_ids, dtype=object)}
    for name, column in obs.items():
        values = column.reset_index(drop=True)
        if not pd.api.types.is_numeric_dtype(values):  # text, categories, dates
            values = values.astype(object).infer_objects()
            if values.dtype == object:
                values = values.where(values.notna(), None)
        table.setdefault(str(name), values)
    return pd.DataFrame(table)


# ---------------------------------------------------------------- layers


def _far_apart(rows: Index) -> npt.NDArray[np.bool_]:
    return np.diff(rows) > GAP


@dataclass(frozen=True)
class _Direct:
    """A matrix that lies by samples, made linear as it is read."""

    matrix: Matrix
    scale: str

    def read(self, numbers: Index) -> Floats:
        values = gather(numbers, self.matrix.width, _far_apart, self.matrix.read)
        invert = scale_named(self.scale).invert
        if invert is not None:
            for row in values:
                invert(row)
        return values


@dataclass(frozen=True)
class _Spooled:
    """A temporary file of linear values."""

    spool: GeneSpool | SampleSpool

    def read(self, numbers: Index) -> Floats:
        return gather(numbers, len(self.spool.gene_ids), _far_apart, self.spool.read)


@dataclass(frozen=True)
class _Million:
    """FPKM as TPM."""

    layer: Layer
    sample_ids: list[str]

    def read(self, numbers: Index) -> Floats:
        values = self.layer.read(numbers)
        for i, number in enumerate(numbers):  # one by one, so that bytes do not depend on the others
            values[i] = per_million(values[i : i + 1], [self.sample_ids[number]])
        return values


@dataclass(frozen=True)
class _Tpm:
    """TPM from counts and lengths in bp."""

    counts: Layer
    length: npt.NDArray[np.float64]

    def read(self, numbers: Index) -> Floats:
        values = self.counts.read(numbers)
        for i in range(len(values)):
            values[i] = tpm_from_counts(values[i : i + 1], self.length)
        return values
