"""What quantifiers write, one file a sample, as expression tables: counts, and TPM where the quantifier computed it.

Transcripts are summed to genes, TPM and counts alike. Summed counts are left as they are: no correction by transcript
length as tximport's `scaledTPM` and `lengthScaledTPM` (this is its `countsFromAbundance = "no"`). Rows of transcripts
that the table does not know are left out and counted. Every file of a folder must list the same rows in one order.

STAR's strand, where it is not given: of the reads on genes, a share of forward strand above 0.8 means forward, below
0.2 reverse, 0.35 to 0.65 unstranded; anything else, and samples that differ, are refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.csv

from bulkprobe.cohort.anndata_file import BLOCK_VALUES
from bulkprobe.cohort.expression_parts import Part, Told, open_part
from bulkprobe.cohort.feature_counts import open_feature_counts
from bulkprobe.cohort.gdc_sheet import barcodes
from bulkprobe.cohort.gene_keys import GeneTable
from bulkprobe.cohort.genes import repeated
from bulkprobe.cohort.legible import content_of
from bulkprobe.cohort.quantifier_formats import (
    FEATURE_COUNTS,
    GDC,
    STAR,
    STRANDS,
    SUMMARY,
    Format,
    comment_lines,
    find_files,
    identify,
    sample_names,
)
from bulkprobe.cohort.spool import Floats
from bulkprobe.cohort.text_matrix import MISSING
from bulkprobe.cohort.transcripts import genes_of, read_transcripts
from bulkprobe.errors import UserError, some
from bulkprobe.files import file_hash

WORKERS = 4
SURE, EVEN = 0.8, (0.35, 0.65)  # shares of forward reads that tell a strand


def open_table(
    path: Path,
    scale: str | None,
    orientation: str = "auto",
    genes: GeneTable | None = None,
    layer: str | None = None,
    *,
    transcripts: Path | None = None,
    strand: str | None = None,
) -> Part:
    """Open any expression a lab may have: a quantifier's folder or file, else a matrix (`open_part`).

    scale: the one that is wanted or declared; a quantifier's own without it. transcripts: transcript → gene.
    strand: of a STAR library. Raises UserError for what the format cannot give, and for options that do not apply.
    """
    genes = genes or GeneTable({}, frozenset())
    found = None if layer is not None else quantified(path, transcripts=transcripts is not None)
    if found is None:
        given = [name for name, value in (("transcripts", transcripts), ("strand", strand)) if value is not None]
        if given:
            raise UserError(f"{path.name} is a matrix, no quantifier's output: leave {' and '.join(given)} out")
        return open_part(path, orientation, genes, layer)
    kind, files = found
    if strand is not None and (kind is not STAR or strand not in STRANDS):
        raise UserError(
            f"strand {strand!r} is not known; expected one of {', '.join(STRANDS)}"
            if kind is STAR
            else f"{path.name} is {kind.name} output: strand is for STAR's ReadsPerGene.out.tab alone, leave it out"
        )
    if transcripts is not None and (not kind.transcripts or kind.gene is not None):
        raise UserError(f"{path.name} is {kind.name} output and names its genes: leave the transcript table out")
    if kind is FEATURE_COUNTS:
        _refuse_scale(path, kind, scale, ["counts"])
        if len(files) > 1:
            raise UserError(
                f"{path.name} holds {len(files)} featureCounts tables ({some(file.name for file in files)}): list them "
                "one by one, or count all BAM files in one run"
            )
        part = open_feature_counts(files[0])
        return replace(part, genes=genes)
    return _open_samples(path, kind, files, scale, genes, transcripts, strand)


def quantified(path: Path, *, transcripts: bool = False) -> tuple[Format, list[Path]] | None:
    """Return the quantifier's files in a folder or at a path; None where it is something else."""
    if path.is_dir():
        return None if path.suffix == ".zarr" else find_files(path, transcripts=transcripts)
    if not path.is_file() or path.suffix in {".h5ad", ".parquet"}:
        return None
    kind = identify(path)
    return None if kind is None else (kind, [path])


def content_hash(path: Path, part: Part) -> str:
    """Return one sha256 of the files that are read and of how they are read."""
    digest = hashlib.sha256()
    assert part.told is not None
    for file in part.told.files:
        name = file.relative_to(path).as_posix() if path.is_dir() else file.name
        digest.update(f"{name}\0{file_hash(file)}\n".encode())
    for key, value in sorted(part.told.settings.items()):
        digest.update(f"{key}\0{value}\n".encode())
    return digest.hexdigest()


def _refuse_scale(path: Path, kind: Format, scale: str | None, has: Sequence[str]) -> None:
    if scale is not None and scale not in has:
        raise UserError(
            f"{path.name} is {kind.name} output, which holds {' and '.join(has)}, not {scale}: leave the scale out, or "
            "give one of them"
        )


def _open_samples(
    path: Path,
    kind: Format,
    files: list[Path],
    scale: str | None,
    genes: GeneTable,
    transcripts: Path | None,
    strand: str | None,
) -> Part:
    _refuse_scale(path, kind, scale, list(kind.columns))
    folder = path if path.is_dir() else path.parent
    names = barcodes(folder, files) if kind is GDC else None
    names = sample_names(kind, files, folder) if names is None else names
    reader = _Reader(kind, files, names, None if transcripts is None else read_transcripts(transcripts))
    notes: dict[str, int | float | str] = {"quantifier": kind.name}
    settings: dict[str, str] = {}
    if kind.transcripts:
        notes["transcripts_summed"] = int((reader.place >= 0).sum())
        notes["transcripts_without_gene"] = int((reader.place < 0).sum())
        notes["counts_by_length"] = "not corrected"
        settings["transcripts"] = "own" if transcripts is None else file_hash(transcripts)
    elif summaries := int((reader.place < 0).sum()):
        notes["summary_rows_left_out"] = summaries
    columns = dict(kind.columns)
    if kind is STAR:
        columns["counts"] = notes["strand"] = strand or _strand(path, reader)
        settings["strand"] = columns["counts"]
    wanted = scale or "counts"

    def part(name: str, column: str, told: Told | None) -> Part:
        return Part(name, names, reader.keys, True, _Column(reader, column), genes, reader.known, told)

    tpm = part(f"{path.name} (TPM)", columns["tpm"], None) if wanted == "counts" and "tpm" in columns else None
    told = Told(wanted, kind.estimated, files, tpm, notes, settings)
    return part(path.name, columns[wanted], told)


def _strand(path: Path, reader: _Reader) -> str:
    """Judge the strand of a STAR folder by the reads of every sample."""
    kept = reader.place >= 0

    def share(file: Path) -> float:
        forward, reverse = (float(values[kept].sum()) for values in reader.read(file, ["forward", "reverse"]))
        return forward / (forward + reverse) if forward + reverse > 0 else np.nan

    with ThreadPoolExecutor(WORKERS) as pool:
        shares = dict(zip(reader.names, pool.map(share, reader.files), strict=True))
    by_strand: dict[str, str] = {}
    for name, value in shares.items():
        if not np.isnan(value):
            even = "unstranded" if EVEN[0] <= value <= EVEN[1] else "undecided"
            by_strand.setdefault("forward" if value > SURE else "reverse" if value < 1 - SURE else even, name)
    if len(by_strand) != 1 or "undecided" in by_strand:
        said = ", ".join(f"{name} {strand} ({shares[name]:.0%} forward)" for strand, name in by_strand.items())
        raise UserError(
            f"{path.name}: the strand of the libraries is not plain ({said or 'no reads on genes'}); give strand "
            f"({', '.join(STRANDS)}), and libraries of different kinds a folder each"
        )
    return next(iter(by_strand))


# ---------------------------------------------------------------- reading


@dataclass
class _Reader:
    """Files of one kind with the same rows, and what gene each row belongs to."""

    kind: Format
    files: list[Path]
    names: list[str]
    transcripts: dict[str, str] | None

    @cached_property
    def ids(self) -> list[str]:
        """The rows of the first file."""
        return self._parse(self.files[0], [])[0]

    @cached_property
    def _rows(self) -> tuple[npt.NDArray[np.int64], list[str], pd.DataFrame]:
        """Return the gene of each row (-1: none), the genes' keys in order, and what the files say of them."""
        first, kind = self.files[0], self.kind
        if twice := repeated(self.ids):
            raise UserError(f"{_place(first)} has repeated rows: {some(twice)}; expected each once, write it again")
        symbols: list[str] | None = None
        found: list[str | None]
        if kind.gene is not None:
            found = list(self._parse(first, [], kind.gene)[1])
        elif kind.transcripts and not _are_genes(self.ids):
            found = genes_of(self.ids, self.transcripts, _place(first))
        else:
            found = [None if gene.startswith(SUMMARY) else gene for gene in self.ids]
            symbols = self._parse(first, [], kind.symbol)[1] if kind.symbol else None
        split = [_split(gene) if gene is not None else ("", "") for gene in found]
        at: dict[str, int] = {}
        place = np.array(
            [-1 if gene is None else at.setdefault(key, len(at)) for gene, (key, _) in zip(found, split, strict=True)],
            np.int64,
        )
        keys = list(at)
        known = pd.DataFrame(index=pd.Index(keys, dtype=object))
        rows = symbols if symbols is not None else [symbol for _, symbol in split]
        if any(rows):
            name_of = {key: symbol for (key, _), symbol in zip(split, rows, strict=True) if key}
            known["symbol"] = [name_of[key] for key in keys]
        if not keys:
            raise UserError(f"{_place(first)} names no genes: expected one row each, write or fetch it again")
        return place, keys, known

    @property
    def place(self) -> npt.NDArray[np.int64]:
        """The gene of each row, -1 where it has none."""
        return self._rows[0]

    @property
    def keys(self) -> list[str]:
        """The genes."""
        return self._rows[1]

    @property
    def known(self) -> pd.DataFrame:
        """What the files say of the genes, one row each."""
        return self._rows[2]

    def genes(self, file: Path, column: str) -> Floats:
        """Return one column of a file by genes: shape (n_genes,)."""
        values = self.read(file, [column])[0]
        if self.kind.transcripts and (values < 0).any():  # before a sum hides it
            at = int((values < 0).argmax())
            raise UserError(
                f"{_place(file)} has a negative value: {values[at]:g} ({column} of {self.ids[at]}): write it again"
            )
        kept = self.place >= 0
        return np.bincount(self.place[kept], values[kept], len(self.keys)).astype(np.float32)

    def read(self, file: Path, columns: Sequence[str]) -> list[npt.NDArray[np.float64]]:
        """Return columns of a file, by rows; UserError where its rows are not those of the first file."""
        ids, _, values = self._parse(file, columns)
        if ids != self.ids:
            differ = set(ids) ^ set(self.ids)
            raise UserError(
                f"{_place(file)} lists other rows than {_place(self.files[0])} ({len(ids)} and {len(self.ids)}, "
                f"{len(differ)} in one only: {some(sorted(differ)) or 'the order differs'}); expected one annotation"
            )
        return values

    def _parse(
        self, file: Path, columns: Sequence[str], text: str | None = None
    ) -> tuple[list[str], list[str], list[npt.NDArray[np.float64]]]:
        """Return the names of the rows, a column of text, and columns of numbers."""
        content = content_of(file)
        if not content.endswith(b"\n"):
            raise UserError(f"{_place(file)} is cut off: its last line has no end, write or fetch it again")
        names = self.kind.names
        whole = [names, *STRANDS] if self.kind is STAR else None
        words = [names] if text is None else [names, text]
        types = {**dict.fromkeys(words, pa.string()), **dict.fromkeys(columns, pa.float64())}
        try:
            table = pa.csv.read_csv(
                pa.py_buffer(content),
                pa.csv.ReadOptions(
                    use_threads=False,
                    block_size=len(content) + 1,
                    column_names=whole,
                    skip_rows=comment_lines(file),
                ),
                pa.csv.ParseOptions(delimiter="\t", quote_char=False),
                pa.csv.ConvertOptions(
                    include_columns=[*words, *columns], column_types=types, null_values=[*MISSING, "-nan"]
                ),
            )
        except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
            raise UserError(
                f"{_place(file)} is not a whole table of {self.kind.name} ({' '.join(str(error).split())[:150]}); "
                "write or fetch it again"
            ) from error
        if not table.num_rows:
            raise UserError(f"{_place(file)} is an empty table: it has a header and no rows, write or fetch it again")
        numbers = [table.column(name).to_numpy().astype(np.float64) for name in columns]
        texts = [["" if value is None else value for value in table.column(name).to_pylist()] for name in words]
        return texts[0], texts[-1], numbers


@dataclass
class _Column:
    """One column of all files, by genes."""

    reader: _Reader
    column: str

    def runs(self) -> Iterator[Floats]:
        """Yield samples by blocks: shape (samples of the block, n_genes)."""
        files = self.reader.files
        size = max(1, min(64, BLOCK_VALUES // len(self.reader.keys)))
        with ThreadPoolExecutor(WORKERS) as pool:
            for start in range(0, len(files), size):
                yield np.stack(
                    list(pool.map(lambda file: self.reader.genes(file, self.column), files[start : start + size]))
                )


def _are_genes(ids: Sequence[str]) -> bool:
    """Tell whether what should be transcripts are genes by their Ensembl ids."""
    return sum(name.startswith("ENSG") for name in ids) > len(ids) / 2


def _split(gene: str) -> tuple[str, str]:
    """Return id and symbol of a gene: RSEM writes both where the annotation was given so (`ENSG…_TP53`)."""
    key, found, symbol = gene.partition("_")
    if not found or not key.startswith("ENSG"):
        return gene, ""
    if symbol == "PAR_Y" or symbol.startswith("PAR_Y_"):
        return f"{key}_PAR_Y", symbol[6:]
    return key, symbol


def _place(file: Path) -> str:
    return f"{file.parent.name}/{file.name}"
