"""GENCODE annotation: lengths, symbols, ids."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from bulkprobe.cohort.genes import is_ensembl, is_par_y, read_gtf, repeated, strip_version
from bulkprobe.errors import UserError


def record(kind: str, start: int, end: int, gene: str, name: str = "") -> str:
    return (
        f'chr1\tHAVANA\t{kind}\t{start}\t{end}\t.\t+\t.\tgene_id "{gene}"; gene_type "x"; gene_name "{name or gene}";\n'
    )


def gtf(path: Path, lines: list[str]) -> Path:
    text = "".join(["##description: test\n", *lines]).encode()
    path.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)
    return path


@pytest.mark.parametrize("name", ["a.gtf", "a.gtf.gz"])
def test_length_is_the_union_of_exons_over_transcripts(tmp_path: Path, name: str) -> None:
    lines = [
        record("gene", 1, 1000, "ENSG00000000001.12", "ONE"),
        record("transcript", 1, 1000, "ENSG00000000001.12", "ONE"),
        record("exon", 101, 200, "ENSG00000000001.12", "ONE"),  # 100
        record("exon", 151, 250, "ENSG00000000001.12", "ONE"),  # 50 more
        record("exon", 251, 260, "ENSG00000000001.12", "ONE"),  # touches: 10 more
        record("exon", 120, 130, "ENSG00000000001.12", "ONE"),  # within
        record("exon", 5, 5, "ENSG00000000001.12", "ONE"),  # one base, out of order
        record("gene", 150, 160, "ENSG00000000002.1", "TWO"),
        record("exon", 150, 160, "ENSG00000000002.1", "TWO"),  # overlaps the other gene: counts for both
        record("CDS", 1, 900, "ENSG00000000002.1", "TWO"),
    ]
    found = read_gtf(gtf(tmp_path / name, lines))
    assert found.to_dict("list") == {
        "ensembl_id": ["ENSG00000000001", "ENSG00000000002"],
        "symbol": ["ONE", "TWO"],
        "length": [161, 11],
    }


def test_length_agrees_with_sets_of_bases(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines, bases = [], {}
    for gene in range(20):
        name = f"ENSG{gene:011d}.1"
        lines.append(record("gene", 1, 500, name))
        bases[gene] = set()
        for start in rng.integers(1, 300, 12):
            end = int(start + rng.integers(0, 60))
            lines.append(record("exon", int(start), end, name))
            bases[gene] |= set(range(int(start), end + 1))
    assert read_gtf(gtf(tmp_path / "a.gtf", lines))["length"].tolist() == [len(b) for b in bases.values()]


def test_par_y_copies_are_dropped(tmp_path: Path) -> None:
    ids = ["ENSG00000182378.8", "ENSGR0000182378.8", "ENSG00000002586.20", "ENSG00000002586.20_PAR_Y"]
    lines = [record(kind, 1, 10, gene) for gene in ids for kind in ("gene", "exon")]
    found = read_gtf(gtf(tmp_path / "a.gtf", lines))
    assert found["ensembl_id"].tolist() == ["ENSG00000182378", "ENSG00000002586"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "no exon lines"),
        (["chr1\tx\texon\t1\n"], "line 2: not a GTF record"),
        ([record("exon", 1, 5, "A").replace("\t5\t", "\tfive\t")], "not a GTF record"),
        ([record("exon", 1, 5, "ENSG1.1"), record("gene", 1, 5, "ENSG2.1")], r"without an exon: ENSG2\.1"),
        ([record("exon", 1, 5, "ENSG1.1"), record("exon", 1, 5, "ENSG1.2")], "repeated gene ids: ENSG1"),
    ],
)
def test_bad_annotation(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_gtf(gtf(tmp_path / "a.gtf", lines))


def test_broken_annotation_files(tmp_path: Path) -> None:
    whole = gzip.compress("".join(record("exon", 1, 5, f"ENSG{i}.1") for i in range(5000)).encode(), mtime=0)
    (tmp_path / "cut.gtf.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cut\.gtf\.gz is truncated or damaged"):
        read_gtf(tmp_path / "cut.gtf.gz")
    (tmp_path / "not.gtf.gz").write_bytes(b"chr1\texon")
    with pytest.raises(UserError, match="is not gzip"):
        read_gtf(tmp_path / "not.gtf.gz")
    with pytest.raises(UserError, match="is missing"):
        read_gtf(tmp_path / "absent.gtf.gz")


def test_ids() -> None:
    ids = ["ENSG00000000003.15", "ENSG00000000003", "ENSG00000002586.20_PAR_Y", "AC012.3", "TP53"]
    assert strip_version(ids) == ["ENSG00000000003", "ENSG00000000003", "ENSG00000002586_PAR_Y", "AC012.3", "TP53"]
    assert [is_par_y(i) for i in ids] == [False, False, True, False, False]
    assert [is_ensembl(i) for i in ids] == [True, True, True, False, False]
    assert repeated(["a", "b", "a", "c", "b", "a"]) == ["a", "b"]
