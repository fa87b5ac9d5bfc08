"""Xena matrices: values, blocks, and every way in which a file can be wrong."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matrices import SAMPLES, matrix_text, tpm_values, write

from bulkprobe.cohort.expression import Unit, XenaMatrix
from bulkprobe.errors import UserError

TPM: Unit = "log2_tpm_plus_0.001"
COUNTS: Unit = "log2_counts_plus_1"


def whole(source: XenaMatrix) -> tuple[list[str], np.ndarray]:
    ids, blocks = [], []
    for genes, values in source.gene_blocks():
        assert values.dtype == np.float32
        assert values.shape == (len(genes), len(SAMPLES))
        ids += genes
        blocks.append(values)
    return ids, np.concatenate(blocks)


def test_tpm_equals_a_naive_reading(tmp_path: Path) -> None:
    path = write(tmp_path / "tpm.gz", matrix_text(np.log2(tpm_values() + 0.001)))
    ids, values = whole(source := XenaMatrix(path, TPM))
    naive = pd.read_csv(path, sep="\t", index_col="sample")
    expected = np.exp2(naive.to_numpy()) - 0.001
    expected[expected < 1e-6] = 0
    assert ids == [gene.split(".")[0] for gene in naive.index]
    assert source.sample_ids == list(naive.columns)
    assert source.gene_ids == ids
    np.testing.assert_allclose(values, expected, rtol=3e-6, atol=2e-8)
    assert ((values == 0) == (tpm_values() == 0)).all()  # the floor -9.9658 is exactly zero


def test_counts_come_back_whole_or_fractional(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    counts = np.floor(np.exp2(rng.uniform(0, 13, (60, len(SAMPLES)))))
    counts[:5] = [0, 1, 2, 3, 10, 100, 1000]
    counts[5] = [0.5, 1.25, 7.33, 20.1, 99.5, 150.02, 0.01]  # RSEM's shares
    counts[6] = 2e6 + 0.3
    _, values = whole(XenaMatrix(write(tmp_path / "c.gz", matrix_text(np.log2(counts + 1))), COUNTS))
    integer = np.ones(len(counts), bool)
    integer[[5, 6]] = False
    assert (values[integer] == counts[integer]).all()
    np.testing.assert_allclose(values[5], counts[5], rtol=1e-4, atol=1e-4)
    assert (values[5] != np.rint(values[5])).all()
    np.testing.assert_allclose(values[6], counts[6], rtol=4e-5)
    assert not np.signbit(values).any()


@pytest.mark.parametrize("block_bytes", [1, 100, 700, 5000, 1 << 25])
def test_block_size_does_not_matter(tmp_path: Path, block_bytes: int) -> None:
    path = write(tmp_path / "tpm.gz", matrix_text(np.log2(tpm_values() + 0.001)))
    ids, values = whole(XenaMatrix(path, TPM, block_bytes=block_bytes))
    expected_ids, expected = whole(XenaMatrix(path, TPM))
    assert ids == expected_ids
    np.testing.assert_array_equal(values, expected)


def test_no_newline_at_the_end(tmp_path: Path) -> None:
    text = matrix_text(np.log2(tpm_values() + 0.001))
    ids, _ = whole(XenaMatrix(write(tmp_path / "tpm.gz", text.rstrip("\n")), TPM, block_bytes=300))
    assert len(ids) == 50


def test_gene_ids_are_read_when_asked_first(tmp_path: Path) -> None:
    source = XenaMatrix(write(tmp_path / "tpm.gz", matrix_text(np.log2(tpm_values() + 0.001))), TPM)
    assert len(source.gene_ids) == 50


def test_par_y_rows_are_dropped_and_counted(tmp_path: Path) -> None:
    values = np.log2(tpm_values(4) + 0.001)
    genes = ["ENSG00000182378.8", "ENSGR0000182378.8", "ENSG00000002586.18", "ENSG00000002586.18_PAR_Y"]
    source = XenaMatrix(write(tmp_path / "tpm.gz", matrix_text(values, genes)), TPM)
    ids, found = whole(source)
    assert ids == ["ENSG00000182378", "ENSG00000002586"]
    assert found.shape == (2, 7)
    assert source.notes == {"par_y_rows_dropped": 2}


def test_rows_in_any_order(tmp_path: Path) -> None:
    source = XenaMatrix(write(tmp_path / "tpm.gz", matrix_text(np.log2(tpm_values() + 0.001))), TPM, block_bytes=900)
    _, values = whole(source)
    keep = np.array([4, 0, 6])
    with source.rows(keep, tmp_path) as rows:
        np.testing.assert_array_equal(rows.read(0, 3), values[:, keep].T)
        np.testing.assert_array_equal(rows.read(1, 2), values[:, [0]].T)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tpm.gz"]


def test_unit_must_be_known(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unit 'tpm' is not one of log2_tpm"):
        XenaMatrix(tmp_path / "x.gz", "tpm")  # type: ignore[arg-type]


GOOD = matrix_text(np.log2(tpm_values() + 0.001))
LINES = GOOD.splitlines()


def joined(*lines: str) -> str:
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n", r"x\.gz is an empty table"),
        (joined(LINES[0]), "it has a header and no rows"),
        (joined("sample", LINES[1]), "one column in its header"),
        (joined(*LINES[1:]), "has no header: the first line holds numbers"),
        ("<!DOCTYPE html>\n<body>\n", "is a web page"),
        (joined(LINES[0].replace("0003", "0002"), *LINES[1:]), "repeated sample names in its header: TCGA-AA-0002-01"),
        (joined(LINES[0].replace(SAMPLES[3], ""), *LINES[1:]), "1 columns without a name"),
        (joined(*LINES, LINES[3].replace(".3\t", ".7\t")), r"repeated genes \(version left off\): ENSG00000000002"),
        (joined(*LINES[:9], LINES[9] + "\t1.0000", *LINES[10:]), "line 10: 9 fields where the header has 8"),
        (joined(*LINES[:9], LINES[9][:30], *LINES[10:]), "line 10: . fields where the header has 8"),
        (joined(*LINES[:9], "", *LINES[10:]), "line 10: 1 fields where"),
        (
            joined(*LINES[:4], "ENSG9.1\t1\t2\tabc\t4\t5\t6\t7"),
            r"'abc' where a number .*gene ENSG9.1, sample TCGA-AA-0002-01",
        ),
        (
            joined(*LINES[:4], "ENSG9.1\t1\t2\t\t4\t5\t6\t7"),
            r"missing value: nan \(gene ENSG9.1, sample TCGA-AA-0002-01",
        ),
        (joined(*LINES[:4], "ENSG9.1\t1\t2\tNA\t4\t5\t6\t7"), r"missing value: nan \(gene ENSG9"),
        (
            joined(*LINES[:4], "ENSG9.1\t1\t2\t3\t4\t5\t-inf\t7"),
            r"infinite value: -inf \(gene ENSG9.1, sample TCGA-AA-0005",
        ),
        (joined(*LINES[:4], "ENSG9.1\t1\t2\t3\t4\t5\t-12.5\t7"), r"least possible: -12.5 \(gene ENSG9.1, .*z-scores"),
        (joined(*LINES[:4], "ENSG9.1\t1\t2\t3\t4\t5\t812.5\t7"), "above the largest possible: 812.5 .*linear values"),
        (joined(LINES[0], *["ENSGR0000182378.8\t1\t2\t3\t4\t5\t6\t7"]), "is an empty table: it has no genes"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "x.gz", text)
    with pytest.raises(UserError, match=message):
        whole(XenaMatrix(path, TPM))


def test_line_numbers_hold_in_later_blocks(tmp_path: Path) -> None:
    text = joined(*LINES[:39], LINES[39] + "\t1.0", *LINES[40:])
    with pytest.raises(UserError, match="line 40: 9 fields"):
        whole(XenaMatrix(write(tmp_path / "x.gz", text), TPM, block_bytes=200))


def test_truncated_gzip(tmp_path: Path) -> None:
    raw = gzip.compress(matrix_text(np.log2(tpm_values(4000) + 0.001)).encode(), mtime=0)
    (tmp_path / "x.gz").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(UserError, match=r"x\.gz is truncated or damaged gzip"):
        whole(XenaMatrix(tmp_path / "x.gz", TPM))
    (tmp_path / "head.gz").write_bytes(raw[:15])
    with pytest.raises(UserError, match=r"head\.gz is truncated or damaged gzip"):
        XenaMatrix(tmp_path / "head.gz", TPM)


def test_damaged_gzip(tmp_path: Path) -> None:
    raw = bytearray(gzip.compress(matrix_text(np.log2(tpm_values(4000) + 0.001)).encode(), mtime=0))
    raw[-6] ^= 0xFF  # the checksum
    (tmp_path / "x.gz").write_bytes(raw)
    with pytest.raises(UserError, match=r"x\.gz is truncated or damaged gzip"):
        whole(XenaMatrix(tmp_path / "x.gz", TPM))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"<html><body>404", "is a web page"), (GOOD.encode(), "is not gzip")],
)
def test_not_gzip(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.gz").write_bytes(content)
    with pytest.raises(UserError, match=message):
        XenaMatrix(tmp_path / "x.gz", TPM)
    with pytest.raises(UserError, match=r"absent\.gz is missing"):
        XenaMatrix(tmp_path / "absent.gz", TPM)


def test_tpm_declared_as_counts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"negative value: -\d.*log2_counts_plus_1 starts at 0.*log2\(TPM \+ 0.001\)"):
        whole(XenaMatrix(write(tmp_path / "x.gz", GOOD), COUNTS))


def test_counts_declared_as_tpm(tmp_path: Path) -> None:
    text = matrix_text(np.log2(tpm_values() * 4 + 1))
    with pytest.raises(UserError, match=r"looks like log2\(counts \+ 1\)"):
        whole(XenaMatrix(write(tmp_path / "x.gz", text), TPM))


def test_log2_tpm_plus_1_declared_as_plus_0_001(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"looks like log2\(TPM \+ 1\)"):
        whole(XenaMatrix(write(tmp_path / "x.gz", matrix_text(np.log2(tpm_values() + 1))), TPM))


@pytest.mark.parametrize(("factor", "n_genes", "fails"), [(0.3, 50, False), (0.3, 15_000, True), (1.2, 50, True)])
def test_column_sums(tmp_path: Path, factor: float, n_genes: int, fails: bool) -> None:
    path = write(tmp_path / "x.gz", matrix_text(np.log2(tpm_values(n_genes) * factor + 0.001)))
    if fails:
        with pytest.raises(UserError, match=r"sample TCGA-AA-\d+-01 adds up to .* the scale is wrong"):
            whole(XenaMatrix(path, TPM))
    else:
        whole(XenaMatrix(path, TPM))
