"""Gene identifiers, and symbols and lengths from a GENCODE annotation.

Lengths are exon-union lengths: the bases covered by at least one exon of at least one transcript, the
length that RSEM-free pipelines (GDC among them) divide by for TPM.

Genes of the pseudoautosomal regions stand twice in GENCODE, once on X and once on Y. The Y copy
(`ENSGR…` up to version 24, suffix `_PAR_Y` from 25) is dropped everywhere, annotation and matrices alike:
its counts are dropped, not added to the X copy, because aligners assign those reads to X.
"""

from __future__ import annotations

import re
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
from isal import igzip, isal_zlib

from bulkprobe.errors import UserError, some

GZIP_MAGIC = b"\x1f\x8b"
_FOREIGN = {
    b"\xff\xfe": "text in UTF-16",
    b"\xfe\xff": "text in UTF-16",
    b"BZh": "packed with bzip2",
    b"\xfd7zXZ": "packed with xz",
    b"\x28\xb5\x2f\xfd": "packed with zstd",
}
PAR_Y_PREFIX = "ENSGR"  # GENCODE up to version 24
PAR_Y_SUFFIX = "_PAR_Y"  # GENCODE from version 25
MOST_BASES = 1 << 40  # of a chromosome; the longest known has 1e11
MOST_GENES, MOST_EXONS = 1_000_000, 50_000_000  # of an annotation: ten times those of GENCODE
MOST_LINE_BYTES = 1 << 27  # a million samples have 20 MB of names; a longer line is no text, or made to fill the memory
BROKEN_GZIP: tuple[type[Exception], ...] = (EOFError, OSError, zlib.error, cast("type[Exception]", isal_zlib.error))

_VERSION = re.compile(r"\.\d+(?=_PAR_Y$|$)")
_ENSEMBL = re.compile(r"ENSGR?\d+(\.\d+)?(_PAR_Y)?")


def strip_version(ids: Iterable[str]) -> list[str]:
    """Return Ensembl ids without version: `ENSG00000000003.15` → `ENSG00000000003`; `_PAR_Y` stays."""
    return [_VERSION.sub("", gene) if gene.startswith("ENS") else gene for gene in ids]


def is_par_y(gene: str) -> bool:
    """Tell whether an id is the Y copy of a pseudoautosomal gene (the copy that is dropped)."""
    return gene.startswith(PAR_Y_PREFIX) or gene.endswith(PAR_Y_SUFFIX)


def is_ensembl(key: str) -> bool:
    """Tell whether a key is an Ensembl gene id of the human genome, with or without version."""
    return _ENSEMBL.fullmatch(key) is not None


def repeated(items: Sequence[str]) -> list[str]:
    """Return what stands more than once, each once, in order of the repetition."""
    seen: set[str] = set()
    twice: dict[str, None] = {}
    for item in items:
        if item in seen:
            twice[item] = None
        seen.add(item)
    return list(twice)


def open_maybe_gzip(path: Path) -> IO[bytes]:
    """Open a file for reading bytes, decompressing where it is gzip.

    Raises UserError if it is missing, empty, a web page, or named .gz without being gzip.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path.name} is a folder: expected a file at {path}")
    if not path.is_file():
        raise UserError(f"{path.name} is missing: expected a file at {path}")
    with path.open("rb") as handle:
        start = handle.read(512)
    if not start:
        raise UserError(f"{path.name} is empty (0 bytes): fetch or export it again")
    packed = start.startswith(GZIP_MAGIC)
    if packed:
        start = _unpacked_start(path)
    if start.lstrip().startswith((b"<!", b"<html", b"<HTML", b"<?xml", b"<Error")):
        said = " ".join(start[:80].decode("latin-1").split())[:40]
        raise UserError(
            f"{path.name} is a web page ({said}), not data: the server answered with an error page, fetch it again"
        )
    if start.startswith(b"PK\x03\x04"):
        raise UserError(f"{path.name} is a workbook or a zip archive: export it as .tsv or .csv")
    if other := next((name for magic, name in _FOREIGN.items() if start.startswith(magic)), None):
        raise UserError(f"{path.name} is {other}: expected plain text in UTF-8, or packed with gzip; export it again")
    if packed:
        return _gunzip(path)
    if path.suffix == ".gz":
        raise UserError(
            f"{path.name} is not gzip (it starts with {start[:8]!r}): fetch it again, or drop .gz from the name"
        )
    return path.open("rb")


def _gunzip(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", cast(Any, igzip).open(path, "rb"))


def line_of(handle: IO[bytes], path: Path) -> bytes:
    """Read a line, b"" at the end; UserError for one that does not end."""
    line = handle.readline(MOST_LINE_BYTES + 1)
    if len(line) > MOST_LINE_BYTES:
        raise UserError(
            f"{path.name} has a line of more than {MOST_LINE_BYTES:,} bytes: it is no table, export it again"
        )
    return line


def lines_of(handle: IO[bytes], path: Path) -> Iterator[bytes]:
    """Yield the lines of a file; UserError for one that does not end."""
    return iter(lambda: line_of(handle, path), b"")


def _unpacked_start(path: Path) -> bytes:
    try:
        with _gunzip(path) as handle:
            start = handle.read(512)
    except BROKEN_GZIP as error:
        raise truncated(path, error) from error
    if not start:
        raise UserError(f"{path.name} is an empty table: nothing is packed in it, fetch or export it again")
    return start


def truncated(path: Path, error: Exception) -> UserError:
    """Return the error for a compressed file that breaks off or is damaged."""
    return UserError(f"{path.name} is truncated or damaged gzip ({error}): fetch or export it again")


def read_gtf(path: Path) -> pd.DataFrame:
    """Return symbol and exon-union length of every gene of a GENCODE GTF (plain or gzip), in file order.

    Columns: ensembl_id (without version), symbol (`gene_name`), length (bp, int64). PAR_Y copies are left
    out. The file is streamed; memory holds three integers an exon.
    Raises UserError for a broken file, malformed lines, genes without an exon, or repeated ids.
    """
    path = Path(path)
    names: dict[bytes, int] = {}
    symbols: list[str] = []
    of_gene, starts, ends = array("q"), array("q"), array("q")
    with open_maybe_gzip(path) as handle:
        try:
            for number, line in enumerate(lines_of(handle, path), start=1):
                exon = b"\texon\t" in line
                if not exon and b"\tgene\t" not in line:
                    continue
                fields = line.split(b"\t", 8)
                try:
                    attributes = fields[8]
                    at = attributes.index(b'gene_id "') + 9
                    gene = attributes[at : attributes.index(b'"', at)]
                    span = int(fields[3]), int(fields[4])
                    if max(map(abs, span)) > MOST_BASES:
                        raise ValueError(f"an end at base {max(span)}")
                except (IndexError, ValueError) as error:
                    raise UserError(
                        f"{path.name}, line {number}: not a GTF record ({error}); expected nine tab-separated "
                        "fields with integer start and end and a gene_id"
                    ) from error
                index = names.get(gene)
                if index is None:
                    index = names[gene] = len(names)
                    symbols.append(_gene_name(attributes))
                if len(names) > MOST_GENES or len(of_gene) > MOST_EXONS:
                    raise UserError(
                        f"{path.name} has more than {MOST_GENES:,} genes or {MOST_EXONS:,} exons, which no annotation "
                        "has: fetch it again"
                    )
                if exon:
                    of_gene.append(index)
                    starts.append(span[0])
                    ends.append(span[1])
        except BROKEN_GZIP as error:
            raise truncated(path, error) from error
    if not of_gene:
        raise UserError(f"{path.name} holds no exon lines: expected a GENCODE annotation in GTF format")
    length = _union_length(np.array(of_gene), np.array(starts), np.array(ends), len(names))
    raw = [name.decode("ascii", "replace") for name in names]
    if (length == 0).any():
        lacking = [raw[i] for i in np.flatnonzero(length == 0)]
        raise UserError(f"{path.name} has genes without an exon: {some(lacking)}; take the full annotation")
    keep = [i for i, gene in enumerate(raw) if not is_par_y(gene)]
    ids = strip_version(raw[i] for i in keep)
    if twice := repeated(ids):
        raise UserError(f"{path.name} has repeated gene ids: {some(twice)}; expected one version of each gene")
    return pd.DataFrame({"ensembl_id": ids, "symbol": [symbols[i] for i in keep], "length": length[keep]})


def _gene_name(attributes: bytes) -> str:
    at = attributes.find(b'gene_name "')
    if at < 0:
        return ""
    return attributes[at + 11 : attributes.index(b'"', at + 11)].decode("utf-8", "replace")


def _union_length(
    gene: npt.NDArray[np.int64], start: npt.NDArray[np.int64], end: npt.NDArray[np.int64], n_genes: int
) -> npt.NDArray[np.int64]:
    """Count the bases covered by the closed intervals of each gene: shape (n_genes,)."""
    order = np.lexsort((start, gene))
    gene, start, end = gene[order], start[order], end[order]
    # Genes are moved apart on one line, so that the furthest end so far never reaches into the next gene.
    apart = gene * (int(end.max()) + 1)
    furthest = np.maximum.accumulate(end + apart)
    before = np.concatenate(([-1], furthest[:-1]))
    new = end + apart - np.maximum(before, start + apart - 1)
    return np.bincount(gene, weights=np.maximum(new, 0), minlength=n_genes).astype(np.int64)
