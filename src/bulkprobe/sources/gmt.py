"""Gene sets in GMT files: a line a set, name TAB description TAB gene TAB gene …"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, cast

from bulkprobe.errors import UserError

MOST_GENES = 1_000_000  # different ones in a file: ten times what any annotation has
MOST_BYTES = 1 << 26  # of a line
_ENSEMBL = re.compile(r"(ENS[A-Z]*G\d{11})(?:\.\d+)?(?:_PAR_Y)?")


@dataclass(frozen=True)
class GeneSet:
    """A named set of different genes in the order of the file: symbols, or Ensembl ids without version."""

    name: str
    description: str
    genes: tuple[str, ...]


def read_gmt(path: Path) -> list[GeneSet]:
    """Read a GMT file, plain or gzipped; a gene that stands twice in a set counts once.

    Raises UserError, naming the line, for what is no GMT file, a set without genes, and two sets of one name.
    """
    found: dict[str, GeneSet] = {}
    genes: dict[str, str] = {}  # every name once in memory, and a bound on how many there are
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        name, *rest = (field.strip() for field in line.split("\t"))
        where = f"{path.name}, line {number}"
        if not rest:
            raise UserError(
                f"{where}: {name[:60]!r} has no tabs, expected name TAB description TAB genes: give a GMT file"
            )
        if not name:
            raise UserError(f"{where}: the set has no name, expected name TAB description TAB genes: name it")
        if name in found:
            raise UserError(f"{where}: the set {name!r} stands there twice, expected one line a set: rename one")
        members = dict.fromkeys(_ENSEMBL.sub(r"\1", gene) for gene in rest[1:] if gene)
        if not members:
            raise UserError(f"{where}: the set {name!r} has no genes: fill it or remove the line")
        found[name] = GeneSet(name, rest[0], tuple(genes.setdefault(gene, gene) for gene in members))
        if len(genes) > MOST_GENES:
            raise UserError(
                f"{where}: more than {MOST_GENES:,} different genes, which no genome has: give a GMT file of gene sets"
            )
    if not found:
        raise UserError(f"{path.name} holds no gene set: give a GMT file, name TAB description TAB genes on a line")
    return list(found.values())


def write_gmt(path: Path, sets: Iterable[GeneSet]) -> None:
    """Write sets as a GMT file; equal sets give equal bytes."""
    lines = ("\t".join((one.name, one.description, *one.genes)) + "\n" for one in sets)
    path.write_text("".join(lines), encoding="utf-8", newline="\n")


def id_kind(sets: Iterable[GeneSet]) -> Literal["ensembl", "symbol"]:
    """Say which kind of gene id most members have."""
    known = [_ENSEMBL.fullmatch(gene) is not None for one in sets for gene in one.genes]
    return "ensembl" if 2 * sum(known) > len(known) else "symbol"


def _lines(path: Path) -> Iterator[str]:
    advice = "give a GMT file, name TAB description TAB genes on a line"
    try:
        with path.open("rb") as plain:
            packed = plain.read(2) == b"\x1f\x8b"
        with cast(BinaryIO, gzip.open(path) if packed else path.open("rb")) as handle:
            number = 0
            while line := handle.readline(MOST_BYTES + 1):
                number += 1
                if len(line) > MOST_BYTES or b"\0" in line:
                    raise UserError(f"{path.name}, line {number}: binary or without end, not text: {advice}")
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                if number == 1 and text.lstrip().startswith("<"):
                    raise UserError(f"{path.name} is a web page or XML ({text.strip()[:40]!r}): {advice}")
                yield text
    except UnicodeDecodeError:
        raise UserError(f"{path.name}, line {number}: not UTF-8 text: {advice}") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as problem:
        raise UserError(f"{path.name} is damaged ({problem}): fetch it again") from None
