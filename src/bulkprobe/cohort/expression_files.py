"""A lab's own expression tables as one source: any orientation, several files, any declared scale."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm import tqdm

from bulkprobe.cohort.expression_parts import ORIENTATIONS, Block, Part
from bulkprobe.cohort.gene_keys import Genes, read_gene_table, resolve
from bulkprobe.cohort.genes import repeated, strip_version
from bulkprobe.cohort.quantifiers import open_table
from bulkprobe.cohort.scales import FULL_TRANSCRIPTOME, SCALES, Linear, check_upper_quartile, scale_named
from bulkprobe.cohort.spool import Floats, GeneSpool, Index, SampleSpool
from bulkprobe.cohort.store import Rows
from bulkprobe.cohort.transcripts import is_gtf
from bulkprobe.errors import UserError, some

LOOK_AT = 32  # samples from which the upper quartile is judged
ADDED = frozenset({"counts", "tpm", "fpkm"})  # rows of one gene are added up; elsewhere one of them is chosen


def read_lab_expression(
    paths: Sequence[Path],
    scale: str | None,
    orientation: str = "auto",
    *,
    genes: Path | pd.DataFrame | None = None,
    layer: str | None = None,
    transcripts: Path | None = None,
    strand: str | None = None,
) -> LabExpression:
    """Open one table or quantifier's folder, or several (one per cohort), as one source; values are read later.

    Several tables are joined on their common genes, in the order of the first. `genes` maps keys to Ensembl
    ids and lengths. scale: may be None where every table tells its own. See `LabExpression` for what comes out.
    Raises UserError for what cannot be read, repeated samples (within or between files) and no common gene.
    """
    if scale is not None:
        scale_named(scale)
    if orientation not in ORIENTATIONS:
        raise UserError(f"orientation {orientation!r} is not known; expected one of {', '.join(ORIENTATIONS)}")
    if not paths:
        raise UserError("no expression table given: expected at least one file")
    if genes is None and transcripts is not None and is_gtf(transcripts):
        genes = transcripts
    table = read_gene_table(genes)
    parts = [
        open_table(Path(path), scale, orientation, table, layer, transcripts=transcripts, strand=strand)
        for path in paths
    ]
    scale = _scale_of(parts) if scale is None else scale
    samples = [name for part in parts for name in part.sample_ids]
    if twice := repeated(samples):
        raise UserError(f"samples stand in more than one table: {some(twice)}; keep each in one file")
    each = [resolve(part.keys, part.genes, part.name, part.known) for part in parts]
    shared = set(each[0].final).intersection(*(found.final for found in each[1:]))
    keys = [key for key in each[0].final if key in shared]
    if not keys:
        raise UserError(
            f"the tables have no gene in common ({some(part.name for part in parts)}): "
            f"keys begin {some(part.keys[0] for part in parts)}; expected the same kind of gene key in each"
        )
    return LabExpression(scale, parts, keys, each)


def _scale_of(parts: Sequence[Part]) -> str:
    """Return the scale that all tables tell of themselves."""
    if unknown := [part.name for part in parts if part.told is None]:
        raise UserError(
            f"cohort.files: expression_scale is missing, and {some(unknown)} does not tell its scale; set it to one of "
            f"{', '.join(SCALES)}"
        )
    told = {part.told.scale: part.name for part in parts if part.told is not None}
    if len(told) > 1:
        said = ", ".join(f"{name} holds {scale}" for scale, name in told.items())
        raise UserError(
            f"the tables are on different scales ({said}): set expression_scale to one that all of them have"
        )
    return next(iter(told))


class LabExpression:
    """Expression of a lab as a source for `store.write_expression`, in linear values.

    scale: of the linear values: counts, tpm, fpkm, rsem_normalised or zscore. Logarithms are inverted.
    var: table of genes for the store: gene (key), ensembl_id ("" where unknown), symbol, length (bp or NaN).
    notes: rows and genes that were left out, complete after reading: genes missing in one of the files,
        rows without symbol, PAR_Y copies, genes with missing values (rsem_normalised only; elsewhere an
        error), repeated genes (added up in counts, TPM and FPKM; elsewhere the row with the largest mean over all
        samples is kept), and what a quantifier's output tells.
    tpm: the same from the TPM that quantifiers computed, where every table has it; None elsewhere.
    """

    def __init__(self, scale: str, parts: Sequence[Part], keys: list[str], each: Sequence[Genes]) -> None:
        self.declared = scale
        self.scale = scale_named(scale).linear
        self._parts, self._keys, self._final = parts, keys, each[0].final
        self.var = each[0].var
        self.notes: dict[str, int | float | str] = {}
        for found in each:
            for name, number in found.notes.items():
                self.notes[name] = max(number, int(self.notes.get(name, 0)))
        union: set[str] = set().union(*(found.final for found in each))
        self.notes["genes_not_in_every_file"] = len(union) - len(keys)
        for part in parts:
            for name, told in (part.told.notes if part.told is not None else {}).items():
                before = self.notes.get(name, told)
                if isinstance(told, str):
                    self.notes[name] = told if before == told else f"{before}, {told}"
                else:
                    self.notes[name] = max(told, float(before)) if isinstance(before, float) else max(told, int(before))
        beside = [part.told.tpm for part in parts if part.told is not None and part.told.tpm is not None]
        self.tpm = LabExpression("tpm", beside, keys, each) if len(beside) == len(parts) else None

    @property
    def sample_ids(self) -> list[str]:
        """All samples, file after file."""
        return [name for part in self._parts for name in part.sample_ids]

    @contextmanager
    def rows(self, keep: Index, folder: Path) -> Iterator[Rows]:
        """Lay out the samples numbered `keep` for reading by rows; the checks of the scale run here."""
        keep = np.asarray(keep, np.int64)
        ends = np.cumsum([len(part.sample_ids) for part in self._parts])
        of_part = np.searchsorted(ends, keep, side="right")
        missing: set[str] = set()
        sums = dict.fromkeys(self._keys, 0.0)
        with ExitStack() as stack:
            readers: list[Rows] = []
            for number, part in enumerate(self._parts):
                local = keep[of_part == number] - (int(ends[number]) - len(part.sample_ids))
                spooled = stack.enter_context(_spool(part, self.declared, local, Path(folder) / f"part{number}"))
                readers.append(spooled.rows)
                missing |= spooled.missing
                for key, total in zip(spooled.rows.gene_ids, spooled.gene_sums.tolist(), strict=True):
                    if key in sums:
                        sums[key] += total
            chosen = self._choose(sums, missing)
            joined = _Joined(readers, of_part, chosen, [self._final[key] for key in chosen])
            if self.declared == "rsem_normalised" and len(chosen) >= FULL_TRANSCRIPTOME and len(keep):
                check_upper_quartile(self._parts[0].name, joined.read(0, min(LOOK_AT, len(keep))))
            yield joined

    def _choose(self, sums: dict[str, float], missing: set[str]) -> list[str]:
        """Return the keys that are read, in the order of the first table: one a gene where rows are not added."""
        usable = [key for key in self._keys if key not in missing]
        self.notes["genes_with_missing_values_dropped"] = len(self._keys) - len(usable)
        if not usable:
            raise UserError("every gene has a missing value in some sample: nothing is left to write")
        # One symbol with two Entrez numbers is two genes under one old name: they are no parts of one.
        added = [key for key in usable if self.scale in ADDED and "|" not in key]
        whole = {self._final[key] for key in added}
        best: dict[str, str] = {}
        for key in usable:
            gene = self._final[key]
            if gene not in whole and (gene not in best or sums[key] > sums[best[gene]]):
                best[gene] = key
        kept = {*added, *best.values()}
        self.notes["rows_of_repeated_genes_added"] = len(added) - len(whole)
        self.notes["rows_of_repeated_genes_dropped"] = len(usable) - len(kept)
        return [key for key in usable if key in kept]


@dataclass
class _Spooled:
    rows: Rows
    gene_sums: npt.NDArray[np.float64]  # linear, over all samples of the table
    missing: set[str]  # keys with a missing value


@contextmanager
def _spool(part: Part, scale: str, keep: Index, path: Path) -> Iterator[_Spooled]:
    """Read a table through, check it, and store the samples numbered `keep`."""
    reading = Reading(part, scale, gaps=scale == "rsem_normalised")
    with reading.spool(path, keep) as spool:
        for _ in reading.stored(spool, keep):
            pass
        yield _Spooled(spool, reading.gene_sums, {reading.keys[i] for i in np.flatnonzero(reading.missing)})


class Reading:
    """One pass through a table in linear values, which are checked against the declared scale.

    keys: of the genes, without version. gene_sums: (n_genes,) over all samples, linear. missing: (n_genes,) with a
    missing value, which is read as 0; an error where `gaps` are not allowed. Complete after the last block, when
    the table is judged as a whole.
    """

    def __init__(self, part: Part, scale: str, *, gaps: bool = False) -> None:
        self.part, self.gaps = part, gaps
        self.keys = strip_version(part.keys)
        certain = part.told is not None and part.told.estimated
        self.linear = Linear(scale, part.name, part.sample_ids, certain=certain)
        self.gene_sums = np.zeros(len(self.keys))
        self.missing = np.zeros(len(self.keys), bool)

    def blocks(self) -> Iterator[Block]:
        """Yield the values; every sample and gene once."""
        linear = self.linear
        for samples, genes, values in tqdm(
            self.part.blocks(), desc=f"reading {self.part.name}", unit="block", delay=2, leave=False
        ):
            if self.gaps and (gaps := np.isnan(values)).any():
                self.missing[genes] |= gaps.any(axis=0)
                values = np.where(gaps, np.float32(0), values)
            found = linear.accept(linear.convert(self.keys[genes], np.ascontiguousarray(values), samples.start))
            self.gene_sums[genes] += found.sum(axis=0, dtype=np.float64)
            yield samples, genes, found
        linear.finish(len(self.keys), self.gene_sums / max(1, len(self.part.sample_ids)))

    def spool(self, path: Path, keep: Index) -> SampleSpool | GeneSpool:
        """Return an empty spool for the samples numbered `keep`."""
        return SampleSpool(path, self.keys, keep) if self.part.by_samples else GeneSpool(path, len(keep))

    def stored(self, spool: SampleSpool | GeneSpool, keep: Index) -> Iterator[Block]:
        """Yield the blocks of all samples while those numbered `keep` go into a spool."""
        for samples, genes, values in self.blocks():
            if isinstance(spool, SampleSpool):
                spool.append(values)
            else:
                spool.append(self.keys[genes], values[keep])
            yield samples, genes, values


class _Joined:
    """Rows of several tables, in the order asked for, on their common genes."""

    def __init__(self, readers: Sequence[Rows], of_part: Index, keys: Sequence[str], gene_ids: list[str]) -> None:
        self._readers, self._of_part = readers, of_part
        self._columns: list[Index] = []
        at_gene: dict[str, int] = {}
        self._place = np.array([at_gene.setdefault(gene, len(at_gene)) for gene in gene_ids], np.int64)
        self.gene_ids = list(at_gene)
        for reader in readers:
            at = {key: i for i, key in enumerate(reader.gene_ids)}
            self._columns.append(np.array([at[key] for key in keys], np.int64))

    def read(self, start: int, stop: int) -> Floats:
        """Return samples start..stop-1 of those asked for: shape (stop - start, n_genes)."""
        out = np.empty((stop - start, len(self.gene_ids)), np.float32)
        for number, (reader, columns) in enumerate(zip(self._readers, self._columns, strict=True)):
            mine = np.flatnonzero(self._of_part[start:stop] == number)
            if mine.size:
                first = int((self._of_part[:start] == number).sum())
                out[mine] = self._by_gene(reader.read(first, first + mine.size)[:, columns])
        return out

    def _by_gene(self, values: Floats) -> Floats:
        """Add up the columns of one gene."""
        if len(self.gene_ids) == values.shape[1]:
            return values
        added = np.zeros((len(values), len(self.gene_ids)), np.float32)
        for column, place in enumerate(self._place):
            added[:, place] += values[:, column]
        return added
