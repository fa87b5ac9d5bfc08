"""What the writers of the simulated files share."""

from __future__ import annotations

import gzip
import zlib
from typing import IO

import pyarrow as pa
import pyarrow.csv

GZIP_LEVEL = 4
PLATES = 45


def write_rows(file: gzip.GzipFile, table: pa.Table) -> None:
    """Append a table as tab-separated text without a header."""
    options = pa.csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    pa.csv.write_csv(table, file, options)


def packed_text(file: IO[bytes]) -> gzip.GzipFile:
    """Compress into an open file, without name and time, so that equal content gives equal bytes."""
    return gzip.GzipFile(fileobj=file, mode="wb", compresslevel=GZIP_LEVEL, mtime=0, filename="")


def aliquot_barcode(sample_id: str, analyte: str) -> str:
    """The 28-character barcode of a sample's aliquot; analyte R (RNA), D or W (DNA, whole genome amplified).

    Plates hold about 50 samples and have no effect on expression: what an embedding says about them is chance.
    """
    return f"{sample_id}A-11{analyte}-A{zlib.crc32(sample_id.encode()) % PLATES + 100}-07"
