"""Which gene a transcript belongs to: a table of two columns, or an annotation in GTF format."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from bulkprobe.cohort.genes import BROKEN_GZIP, lines_of, open_maybe_gzip, truncated
from bulkprobe.errors import UserError, some

MOST_TRANSCRIPTS = 10_000_000  # with and without version: ten times what any annotation has
LEAST_KNOWN = 0.5  # of a table's transcripts; below it the transcript table is of another annotation
_VERSION = re.compile(r"^(ENST\d+)\.\d+")
_TRANSCRIPT, _GENE = re.compile(rb'transcript_id "([^"]+)"'), re.compile(rb'gene_id "([^"]+)"')


def is_gtf(path: Path) -> bool:
    """Tell by the name whether a file is an annotation."""
    return Path(path.name.removesuffix(".gz")).suffix in {".gtf", ".gff2"}


def read_transcripts(path: Path) -> dict[str, str]:
    """Return transcript → gene, keyed by the id as it stands and by the Ensembl id without version.

    A table has the transcript in the first column and the gene in the second (tab or comma; a header does no harm,
    more columns are not read). Raises UserError for a broken file, and for a transcript of two genes.
    """
    if not path.is_file():
        raise UserError(f"the transcript table {path.name} is missing: expected a file at {path}")
    found: dict[str, str] = {}
    gtf = is_gtf(path)
    with open_maybe_gzip(path) as handle:
        try:
            for number, line in enumerate(lines_of(handle, path), start=1):
                pair = _of_gtf(line) if gtf else _of_table(line, path, number)
                if pair is None:
                    continue
                for name in {pair[0], _plain(pair[0])}:
                    if found.setdefault(name, pair[1]) != pair[1]:
                        raise UserError(
                            f"{path.name}, line {number}: transcript {name} belongs to {found[name]} and to {pair[1]}; "
                            "expected one gene each, correct the table"
                        )
                if len(found) > MOST_TRANSCRIPTS:
                    raise UserError(
                        f"{path.name} names more than {MOST_TRANSCRIPTS:,} transcripts, which no annotation has: give "
                        "a table of transcripts and genes, or a GTF"
                    )
        except BROKEN_GZIP as error:
            raise truncated(path, error) from error
    if not found:
        raise UserError(f"{path.name} names no transcripts: expected two columns, transcript and gene, or a GTF")
    return found


def _of_gtf(line: bytes) -> tuple[str, str] | None:
    if b"\ttranscript\t" not in line and b"\texon\t" not in line:
        return None
    transcript, gene = _TRANSCRIPT.search(line), _GENE.search(line)
    if transcript is None or gene is None:
        return None
    return transcript.group(1).decode("utf-8", "replace"), gene.group(1).decode("utf-8", "replace")


def _of_table(line: bytes, path: Path, number: int) -> tuple[str, str] | None:
    text = line.decode("utf-8-sig", "replace").rstrip("\r\n")
    if not text.strip() or text.startswith("#"):
        return None
    fields = [field.strip().strip('"') for field in text.split("\t" if "\t" in text else ",")]
    if len(fields) < 2 or not fields[0] or not fields[1]:
        raise UserError(
            f"{path.name}, line {number}: {text[:60]!r} does not name a transcript and its gene; expected two columns"
        )
    return fields[0], fields[1]


def _plain(name: str) -> str:
    return _VERSION.sub(r"\1", name)


def genes_of(names: Sequence[str], table: dict[str, str] | None, what: str) -> list[str | None]:
    """Return the gene of each transcript, None where the table does not know it.

    Without a table the gene stands in the name, as in GENCODE's FASTA (`ENST…|ENSG…|…`). Raises UserError where
    neither helps; `what` says of which file.
    """
    short = [name.split("|", 1)[0] for name in names]
    if table is None:
        inside = [name.split("|")[1] if name.count("|") >= 2 else None for name in names]
        if any(gene is None or not gene.startswith("ENSG") for gene in inside):
            raise UserError(
                f"{what} has transcripts in its rows (first: {some(names[:2])}), and no transcript table says which "
                "gene each belongs to: name one (`transcripts: tx2gene.tsv` or a .gtf in the configuration, "
                "--transcripts for check and embed)"
            )
        return inside
    found = [
        table.get(name) or table.get(part) or table.get(_plain(part)) for name, part in zip(names, short, strict=True)
    ]
    known = sum(gene is not None for gene in found)
    if known < LEAST_KNOWN * len(names):
        lacking = [name for name, gene in zip(short, found, strict=True) if gene is None]
        raise UserError(
            f"{what}: the transcript table knows {known} of its {len(names)} transcripts (not {some(lacking)}; it has "
            f"{some(list(table)[:2])}); expected the annotation that the quantifier used, transcripts first"
        )
    return found
