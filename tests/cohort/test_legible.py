"""Broken small tables: one sentence that names the file, whatever the reader underneath raised."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from bulkprobe.cohort.gene_keys import read_gene_table
from bulkprobe.cohort.lab_mutations import table_header
from bulkprobe.cohort.lab_tables import read_table
from bulkprobe.errors import UserError

PLAIN = b"sample_id\tage\n" + b"".join(b"s%d\t%d\n" % (i, i) for i in range(500))
PACKED = gzip.compress(PLAIN, mtime=0)
PAGE = b"<!DOCTYPE html>\n<html>\n<body>\tnot\there</body>\n</html>\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.tsv.gz", PACKED[: len(PACKED) // 2], "t.tsv.gz is truncated or damaged gzip"),
        ("t.tsv.gz", PACKED[:5], "t.tsv.gz is truncated or damaged gzip"),
        ("t.tsv.gz", PACKED[:-8] + b"12345678", "t.tsv.gz is truncated or damaged gzip"),
        ("t.tsv.gz", gzip.compress(PAGE, mtime=0), r"t.tsv.gz is a web page \(<!DOCTYPE html> <html>"),
        ("t.tsv", PAGE, "t.tsv is a web page"),
        ("t.tsv.gz", gzip.compress(b"", mtime=0), "t.tsv.gz is an empty table"),
        ("t.tsv", b"\n\n", "t.tsv is an empty table"),
        ("t.parquet", PAGE, "t.parquet is not a Parquet file"),
        ("t.parquet", b"", "t.parquet is not a Parquet file"),
        ("t.tsv", PLAIN + b"K\xf6ln\t3\n", r"t.tsv is not text in UTF-8 \(byte 0xf6\)"),
        ("t.tsv", PLAIN + b"a\t1\t2\t3\n", "t.tsv is ragged or cut off"),
        ("t.tsv", b"sample_id\tage\ns1\t1\t\ns2\t2\t\n", "t.tsv has rows with more fields than its header"),
        ("t.tsv", PLAIN + b"s5", "t.tsv has rows with fewer fields than its header"),
        ("t.tsv", PLAIN.replace(b"\t", b","), "t.tsv has one column .*name it .csv if it has commas"),
        ("t.xlsx", b"PK\x03\x04" + PLAIN, "t.xlsx is a workbook or a zip archive"),
    ],
)
def test_broken_tables(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as refused:
        read_table(tmp_path / name)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [PACKED[:-9], gzip.compress(PAGE, mtime=0), gzip.compress(b"\xf6\t1\n", mtime=0)])
def test_broken_headers_and_gene_tables(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.tsv.gz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"t\.tsv\.gz is"):
        read_gene_table(path)
    if content != PACKED[:-9]:  # the header of which is whole
        with pytest.raises(UserError, match=r"t\.tsv\.gz is"):
            table_header(path)


def test_headers_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("gene\ts1\ts1\n")
    with pytest.raises(UserError, match=r"t.tsv has repeated column names: s1"):
        table_header(tmp_path / "t.tsv")
    (tmp_path / "t.tsv").write_text("\n")
    with pytest.raises(UserError, match=r"t.tsv is an empty table"):
        table_header(tmp_path / "t.tsv")
    (tmp_path / "d.tsv").mkdir()
    with pytest.raises(UserError, match=r"d.tsv is a folder"):
        table_header(tmp_path / "d.tsv")


def test_what_the_disk_refuses_stays_an_error_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"t\.parquet"):
        read_table(tmp_path / "t.parquet")
