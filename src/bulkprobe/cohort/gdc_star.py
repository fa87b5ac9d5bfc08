"""STAR counts of the GDC: one small file per aliquot, listed in a manifest.

Format (GENCODE v36): a comment line, a header, four summary rows `N_…`, then one row per gene. Counts are the
column `unstranded`, TPM `tpm_unstranded`. Summary rows and the Y copies of pseudoautosomal genes are dropped;
every file must list the same genes in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv

from bulkprobe.cohort.genes import is_par_y, repeated, strip_version
from bulkprobe.cohort.legible import content_of, read_text_table
from bulkprobe.cohort.scales import Linear
from bulkprobe.cohort.spool import Floats, Index
from bulkprobe.cohort.store import Rows
from bulkprobe.errors import UserError, some
from bulkprobe.foreign import plain_name

MANIFEST = "manifest.tsv"
MANIFEST_COLUMNS = ("file_id", "file_name", "sample_barcode", "aliquot_barcode")
COUNTS, TPM = "unstranded", "tpm_unstranded"
_SUMMARY = "N_"
_WORKERS = 4


@dataclass(frozen=True)
class _File:
    path: Path
    name: str


class GdcStar:
    """The folder `gdc_star`: two sources (`counts`, `tpm`) over the same files.

    Ids of the samples are aliquot barcodes, which are unique; `aliquots` says which sample each is of
    (columns sample_id with 16 characters, aliquot), so that one aliquot a sample can be chosen.
    Raises UserError for a manifest or files that are missing, broken or disagree on genes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        path = self.folder / MANIFEST
        if not path.is_file():
            raise UserError(
                f"{MANIFEST} is missing in {self.folder.name}: expected the list of STAR files, fetch again"
            )
        manifest = read_text_table(path, "\t")
        if lacking := [name for name in MANIFEST_COLUMNS if name not in manifest]:
            raise UserError(f"{MANIFEST} lacks the columns {some(lacking)}: it has {some(manifest.columns)}")
        if crooked := [name for key in ("file_id", "file_name") for name in manifest[key] if not plain_name(name)]:
            raise UserError(f"{MANIFEST} lists {some(map(repr, crooked))}, which are no names of files: fetch again")
        if twice := repeated(list(manifest["aliquot_barcode"])):
            raise UserError(f"{MANIFEST} lists aliquots twice: {some(twice)}; keep one file of each")
        self._files = [
            _File(self.folder / file_id / name, name)
            for file_id, name in zip(list(manifest["file_id"]), list(manifest["file_name"]), strict=True)
        ]
        if missing := [file.name for file in self._files if not file.path.is_file()]:
            raise UserError(f"{len(missing)} STAR files of the manifest are missing: {some(missing)}; fetch again")
        self.aliquots = pd.DataFrame({"sample_id": manifest["sample_barcode"], "aliquot": manifest["aliquot_barcode"]})
        self.sample_ids = list(manifest["aliquot_barcode"])
        raw = self._read(self._files[0])[0]
        self._raw_ids = raw
        keep = np.array([not gene.startswith(_SUMMARY) and not is_par_y(gene) for gene in raw])
        self._keep = np.flatnonzero(keep)
        self._summary = np.array([gene.startswith(_SUMMARY) for gene in raw])
        self.gene_ids = strip_version(raw[i] for i in self._keep)
        if twice := repeated(self.gene_ids):
            raise UserError(f"{self._files[0].name} has repeated genes (version left off): {some(twice)}")
        if not self.gene_ids:
            raise UserError(f"{self._files[0].name} has no genes: fetch it again")
        self.notes: dict[str, int | float | str] = {"par_y_rows_dropped": sum(map(is_par_y, raw))}
        self.counts = GdcLayer(self, COUNTS)
        self.tpm = GdcLayer(self, TPM)
        self._last: tuple[tuple[int, ...], tuple[Floats, Floats]] = ((), (np.empty((0, 0), np.float32),) * 2)

    def read(self, numbers: Index) -> tuple[Floats, Floats]:
        """Return counts and TPM of files by number: each float32 of shape (n_files, n_genes)."""
        wanted = tuple(int(number) for number in numbers)
        if wanted != self._last[0]:
            counts, tpm = (np.empty((len(wanted), len(self.gene_ids)), np.float32) for _ in range(2))

            def take(place: int) -> None:
                counts[place], tpm[place] = self._values(wanted[place])

            with ThreadPoolExecutor(_WORKERS) as pool:
                list(pool.map(take, range(len(wanted))))
            self._last = (wanted, (counts, tpm))
        return self._last[1]

    def _values(self, number: int) -> tuple[Floats, Floats]:
        """Return counts and TPM of one file, checked."""
        file = self._files[number]
        ids, counts, tpm = self._read(file)
        if ids != self._raw_ids:
            differ = set(ids) ^ set(self._raw_ids)
            raise UserError(
                f"{file.name} lists other genes than {self._files[0].name} ({len(ids)} and {len(self._raw_ids)} rows, "
                f"{len(differ)} in one only: {some(sorted(differ))}); take files of one GENCODE version"
            )
        genes = ~self._summary
        names = [gene for gene, kept in zip(ids, genes, strict=True) if kept]
        sample = [self.sample_ids[number]]
        for scale, values in (("counts", counts), ("tpm", tpm)):
            linear = Linear(scale, file.name, sample)
            linear.accept(linear.convert(names, values[genes][None, :]))
            linear.finish(len(names))
        return counts[self._keep], tpm[self._keep]

    @staticmethod
    def _read(file: _File) -> tuple[list[str], Floats, Floats]:
        text = content_of(file.path)
        start = 0
        while text.startswith(b"#", start):
            start = text.find(b"\n", start) + 1 or len(text)
        try:
            table = pa.csv.read_csv(
                pa.py_buffer(text).slice(start),
                pa.csv.ReadOptions(use_threads=False, block_size=max(len(text), 1) + 1),
                pa.csv.ParseOptions(delimiter="\t", quote_char=False),
                pa.csv.ConvertOptions(
                    include_columns=["gene_id", COUNTS, TPM],
                    column_types={"gene_id": pa.string(), COUNTS: pa.float32(), TPM: pa.float32()},
                ),
            )
        except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
            raise UserError(
                f"{file.name} is not a table of STAR counts ({str(error)[:150]}); expected the columns gene_id, "
                f"{COUNTS} and {TPM}, fetch it again"
            ) from error
        counts, tpm = (table.column(i).to_numpy().astype(np.float32) for i in (1, 2))
        return table.column(0).to_pylist(), counts, tpm


@dataclass
class GdcLayer:
    """Counts or TPM of a `GdcStar` folder as an `ExpressionSource`."""

    star: GdcStar
    column: str

    @property
    def sample_ids(self) -> list[str]:
        """Aliquot barcodes, in the order of the manifest."""
        return self.star.sample_ids

    @property
    def notes(self) -> dict[str, int | float | str]:
        """What was dropped."""
        return self.star.notes

    @contextmanager
    def rows(self, keep: Index, folder: Path) -> Iterator[Rows]:
        """Read files as they are asked for; `folder` stays empty."""
        yield _StarRows(self.star, np.asarray(keep, np.int64), 0 if self.column == COUNTS else 1)


@dataclass
class _StarRows:
    star: GdcStar
    keep: Index
    layer: int

    @property
    def gene_ids(self) -> list[str]:
        return self.star.gene_ids

    def read(self, start: int, stop: int) -> Floats:
        # A copy: the pair is kept for the other layer, which asks for the same files next.
        return self.star.read(self.keep[start:stop])[self.layer].copy()
