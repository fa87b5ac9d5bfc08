"""The table that featureCounts writes: a comment with its command, a row a gene, a column a BAM file.

Gene lengths are its column Length, the bases of the gene's exons, each counted once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv

from bulkprobe.cohort.expression_parts import Part, Told
from bulkprobe.cohort.genes import BROKEN_GZIP, open_maybe_gzip, repeated, truncated
from bulkprobe.cohort.quantifier_formats import FEATURE_COUNTS, comment_lines, header_of
from bulkprobe.cohort.spool import Floats
from bulkprobe.cohort.text_matrix import MISSING
from bulkprobe.errors import UserError, some
from bulkprobe.foreign import MOST_TEXT_BYTES

BLOCK_BYTES = 1 << 24
ALIGNMENTS = (".bam", ".sam", ".cram")
# What aligners and tools add to a sample's name, in any order and number.
ENDINGS = tuple(
    "Aligned.sortedByCoord.out Aligned.toTranscriptome.out Aligned.out .sortedByCoord .sorted .sort .markdup .dedup "
    ".rmdup .md .subread .fastq .fq .gz".split()
)
_BAM_ENDS = re.compile(f"(?:{'|'.join(map(re.escape, (*ALIGNMENTS, *ENDINGS)))})*$", re.IGNORECASE)
SYMBOLS = ("gene_name", "gene_symbol", "symbol")
_ID, _LENGTH = "Geneid", "Length"


@dataclass
class _Counts:
    """The columns of samples, by runs of genes."""

    path: Path
    columns: list[str]  # all of the table, by number

    def table(self, wanted: list[int]) -> Iterator[pa.RecordBatch]:
        """Yield columns by blocks of rows; the first is text, as are those left of the counts."""
        names = [str(i) for i in range(len(self.columns))]
        types = {name: pa.string() for name in names[:5]}
        types |= {names[i]: pa.float64() for i in wanted if i >= 5 and not self._is_text(i)}
        chosen = [names[i] for i in wanted]
        try:
            with (
                open_maybe_gzip(self.path) as handle,
                pa.csv.open_csv(
                    handle,
                    pa.csv.ReadOptions(
                        use_threads=False,
                        block_size=BLOCK_BYTES,
                        column_names=names,
                        skip_rows=comment_lines(self.path) + 1,
                    ),
                    pa.csv.ParseOptions(delimiter="\t", quote_char=False),
                    pa.csv.ConvertOptions(include_columns=chosen, column_types=types, null_values=MISSING),
                ) as reader,
            ):
                yield from reader
        except pa.ArrowInvalid as error:
            raise UserError(
                f"{self.path.name} is not a whole featureCounts table ({' '.join(str(error).split())[:150]}); write it "
                "again"
            ) from error
        except BROKEN_GZIP as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise truncated(self.path, error) from error

    def _is_text(self, number: int) -> bool:
        return self.columns[number].lower() in SYMBOLS

    def runs(self) -> Iterator[Floats]:
        """Yield genes by blocks: shape (genes of the block, n_samples)."""
        samples = _samples(self.columns)
        for batch in self.table(samples):
            yield np.stack([column.to_numpy(zero_copy_only=False) for column in batch.columns], axis=1).astype(
                np.float32
            )


def open_feature_counts(path: Path) -> Part:
    """Open a featureCounts table (plain or gzip).

    Samples are named by their BAM files without folder and usual endings, or by the folders where those names repeat
    or are empty. Raises UserError for tables of exons (one row each, option -f), and for a file that is cut off.
    """
    columns = header_of(path)
    _refuse_cut(path)
    values = _Counts(path, columns)
    samples = _samples(columns)
    if not samples:
        raise UserError(f"{path.name} has no columns of counts: expected one for each BAM file")
    symbol = next((i for i in range(6, samples[0]) if columns[i].lower() in SYMBOLS), None)
    wanted = [0, 5] if symbol is None else [0, 5, symbol]
    batches: list[pa.RecordBatch] = []
    for batch in values.table(wanted):
        batches.append(batch)
        if sum(kept.nbytes for kept in batches) > MOST_TEXT_BYTES:
            raise UserError(f"{path.name} names more genes than any annotation has: write it again")
    table = pa.Table.from_batches(batches) if batches else None
    if table is None or not table.num_rows:
        raise UserError(f"{path.name} is an empty table: it has a header and no genes, write it again")
    keys = ["" if key is None else str(key) for key in table.column(0).to_pylist()]
    if twice := repeated(keys):
        raise UserError(
            f"{path.name} has several rows of a gene ({some(twice)}): expected one each, run featureCounts without -f"
        )
    length = table.column(1).to_numpy()
    if not (np.isfinite(length) & (length > 0)).all():
        bad = keys[int(np.argmin(np.isfinite(length) & (length > 0)))]
        raise UserError(f"{path.name}: Length of {bad} is no positive number; it is damaged, write it again")
    known = pd.DataFrame({"length": length}, index=pd.Index(keys, dtype=object))
    if symbol is not None:
        known["symbol"] = ["" if name is None else str(name) for name in table.column(2).to_pylist()]
    told = Told("counts", False, [path], None, {"quantifier": FEATURE_COUNTS.name}, {})
    return Part(path.name, _names(path, [columns[i] for i in samples]), keys, False, values, known=known, told=told)


def _refuse_cut(path: Path) -> None:
    last = b""
    with open_maybe_gzip(path) as handle:
        try:
            while block := handle.read(BLOCK_BYTES):
                last = block[-1:]
        except BROKEN_GZIP as error:
            raise truncated(path, error) from error
    if last != b"\n":
        raise UserError(f"{path.name} is cut off: its last line has no end, write or fetch it again")


def _samples(columns: list[str]) -> list[int]:
    """Return which columns hold counts: behind Length, except attributes of genes, which are no alignment files."""
    rest = range(6, len(columns))
    alignments = [i for i in rest if columns[i].lower().endswith(ALIGNMENTS)]
    if alignments:
        return [i for i in rest if i >= alignments[0]]
    return [i for i in rest if columns[i].lower() not in {*SYMBOLS, "gene_biotype", "gene_type", "gene_id"}]


def _names(path: Path, columns: list[str]) -> list[str]:
    """Name the samples of alignment files."""
    own, folders = [], []
    for column in columns:
        name = column.replace("\\", "/").rsplit("/", 1)[-1]
        name = _BAM_ENDS.sub("", name)
        own.append(name.rstrip("._-"))
        folders.append(column.replace("\\", "/").rstrip("/").rpartition("/")[0].rsplit("/", 1)[-1])
    names = folders if (repeated(own) or "" in own) and all(folders) else own
    if twice := repeated(names):
        raise UserError(f"{path.name} has repeated samples: {some(repeated(own) or twice)}; keep one column of each")
    return names
