"""What every reader of the fuzz tests is made of: small sound files, and how to read them."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bulkprobe.cohort.schema import CohortRules, FilesConfig

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(0)
N, G = 18, 48
GENES = [f"ENSG{i:011d}" for i in range(1, G + 1)]
SYMBOLS = ["TP53", "KRAS", *(f"GENE{i}" for i in range(G - 2))]
SAMPLES = [f"TCGA-AA-{i:04d}-01A" for i in range(N)]
COUNTS = RNG.poisson(50, (N, G)) + 1
RULES = CohortRules(genes=("TP53", "KRAS"))
CONFIG = FilesConfig.from_mapping({"expression": "e.tsv", "expression_scale": "counts", "samples": "s.tsv"})
Rows = list[list[object]]


@dataclass(frozen=True)
class Reader:
    """write: puts the sound files of a reader into a folder; read: reads that folder, written or damaged."""

    name: str
    write: Callable[[Path], Any]
    read: Callable[[Path], Any]
    reserves: bool = False  # takes address space, but no memory, on the word of a file


def text(name: str, rows: Rows, mark: str = "\t") -> Callable[[Path], None]:
    """A table, packed where its name says so."""
    content = "".join(mark.join(map(str, row)) + "\n" for row in rows).encode()

    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(gzip.compress(content, 1, mtime=0) if name.endswith(".gz") else content)

    return write


def several(*writers: Callable[[Path], Any]) -> Callable[[Path], None]:
    """All of them."""

    def write(folder: Path) -> None:
        for writer in writers:
            writer(folder)

    return write
