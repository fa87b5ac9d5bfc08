"""Expression matrices as sources that are read by blocks, and the two matrices of UCSC Xena.

A source knows its samples, yields blocks, and can lay itself out by samples (`rows`) in a folder on disk.
Whatever the orientation and size of the file, memory holds a few blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from tqdm import tqdm

from bulkprobe.cohort import text_matrix
from bulkprobe.cohort.genes import is_par_y, repeated, strip_version
from bulkprobe.cohort.scales import Block, Linear
from bulkprobe.cohort.spool import Floats, GeneSpool, Index
from bulkprobe.cohort.store import ExpressionSource, Rows
from bulkprobe.errors import UserError, some

__all__ = ["ExpressionSource", "GeneBlock", "Unit", "XenaMatrix", "spool_genes"]

Unit = Literal["log2_tpm_plus_0.001", "log2_counts_plus_1"]
GeneBlock = tuple[list[str], Floats]


class XenaMatrix:
    """A matrix of the UCSC Xena Toil hub: gzipped text, genes × samples, log2 values with four decimals.

    `gene_blocks` yields (Ensembl ids without version, float32 of shape (genes of the block, n_samples)) in
    file order, in linear values. TPM below 1e-6 (the floor -9.9658 among them) is exactly 0. A count becomes
    a whole number where it is one to the fourth decimal of its logarithm; other expected counts stay
    fractional. PAR_Y rows are dropped (see `genes`), so TPM then adds up to slightly less than a million.

    Raises UserError for a file that is broken, ragged, not numeric, repeats samples or genes, or whose
    values cannot be of the declared unit.
    """

    def __init__(self, path: Path, unit: Unit, *, block_bytes: int = text_matrix.BLOCK_BYTES) -> None:
        if unit not in get_args(Unit):
            raise UserError(f"unit {unit!r} is not one of {', '.join(get_args(Unit))}")
        self.path, self.unit = Path(path), unit
        self._header = text_matrix.read_header(self.path, "\t")
        self._block_bytes = block_bytes
        self._gene_ids: list[str] | None = None
        self.notes: dict[str, int | float | str] = {}

    @property
    def sample_ids(self) -> list[str]:
        """The samples, in the order of the header."""
        return self._header.columns

    @property
    def gene_ids(self) -> list[str]:
        """The genes, without version and PAR_Y; reads the file through if no block was asked for before."""
        if self._gene_ids is None:
            for _ in self.gene_blocks():
                pass
        return self._gene_ids or []

    def gene_blocks(self) -> Iterator[GeneBlock]:
        """Yield (gene ids, linear values of shape (genes of the block, n_samples)) in file order."""
        for ids, values in self._by_samples():
            yield ids, values.T

    def _by_samples(self) -> Iterator[GeneBlock]:
        linear = Linear(self.unit, self.path.name, self.sample_ids)
        genes: list[str] = []
        n_par_y = 0

        def work(ids: list[str], values: Floats, _first: int) -> tuple[list[str], Block]:
            return ids, linear.convert(ids, values)

        for raw, block in text_matrix.read_blocks(self.path, "\t", self._header, work, block_bytes=self._block_bytes):
            values = linear.accept(block)
            copies = [is_par_y(gene) for gene in raw]
            if any(copies):
                n_par_y += sum(copies)
                values = values[:, ~np.array(copies)]
            ids = strip_version(gene for gene, copy in zip(raw, copies, strict=True) if not copy)
            genes.extend(ids)
            yield ids, values
        if twice := repeated(genes):
            raise UserError(f"{self.path.name} has repeated genes (version left off): {some(twice)}; keep one row each")
        if not genes:
            raise UserError(f"{self.path.name} is an empty table: it has no genes")
        linear.finish(len(genes))
        self._gene_ids = genes
        self.notes["par_y_rows_dropped"] = n_par_y

    @contextmanager
    def rows(self, keep: Index, folder: Path) -> Iterator[Rows]:
        """Lay out the samples numbered `keep` for reading by rows."""
        with spool_genes(
            self._by_samples(), keep, len(self.sample_ids), Path(folder) / "tiles", self.path.name
        ) as rows:
            yield rows


@contextmanager
def spool_genes(
    blocks: Iterator[GeneBlock], keep: Sequence[int] | Index, n_samples: int, path: Path, name: str
) -> Iterator[GeneSpool]:
    """Store blocks of (gene ids, values of shape (n_samples, genes)) for reading by rows, `keep` only."""
    keep = np.asarray(keep, np.int64)
    everything = len(keep) == n_samples and bool((keep == np.arange(n_samples)).all())
    with GeneSpool(path, len(keep)) as spool:
        for ids, values in tqdm(blocks, desc=f"reading {name}", unit="block", delay=2, leave=False):
            spool.append(ids, values if everything else values[keep])
        yield spool
