"""The output of quantifiers as expression: what is refused."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import quantified as made
from quantified import fails, values_of

from bulkprobe.cohort.expression_files import read_lab_expression
from bulkprobe.cohort.quantifier_formats import identify
from bulkprobe.errors import UserError

Writer = Callable[..., Path]
WITH_TRANSCRIPTS: list[Writer] = [made.salmon, made.kallisto]


@pytest.mark.parametrize("write", WITH_TRANSCRIPTS)
def test_transcripts_without_a_table(tmp_path: Path, write: Writer) -> None:
    fails(write(tmp_path / "in"), r"P0/.* has transcripts in its rows .* no transcript table .*tx2gene\.tsv")


def test_wrong_transcript_tables(tmp_path: Path) -> None:
    folder = made.salmon(tmp_path / "in")

    def with_table(match: str, *lines: str, name: str = "t.tsv") -> None:
        fails(folder, match, transcripts=made.put(tmp_path / name, list(lines)))

    fails(folder, "transcript table none.tsv is missing", transcripts=tmp_path / "none.tsv")
    with_table("knows 1 of its 90 transcripts", f"{made.TRANSCRIPTS[0]}\tG1", "ENST9\tG2")
    swapped = [f"{made.GENES[g]}\t{t}" for t, g in zip(made.TRANSCRIPTS, made.OF_GENE, strict=True)][: made.G]
    with_table("knows 0 of its 90 transcripts .*transcripts first", *swapped)
    with_table("line 2: transcript a belongs to b and to c", "a\tb", "a\tc")
    with_table("line 1: 'alone' does not name a transcript and its gene", "alone")
    with_table("names no transcripts", "# nothing")
    rsem = made.rsem(tmp_path / "r")
    fails(rsem, "names its genes: leave the transcript table out", transcripts=made.gtf(tmp_path / "g.gtf"))
    table = made.feature_counts(tmp_path / "c.txt")
    fails(table, "names its genes", transcripts=tmp_path / "g.gtf")
    fails(table, "featureCounts output: strand is for STAR", strand="reverse")
    fails(made.star(tmp_path / "s"), "strand 'left' is not known", strand="left")


@pytest.mark.parametrize("write", [made.salmon, made.kallisto, made.rsem, made.star, made.gdc])
def test_broken_files(tmp_path: Path, write: Writer) -> None:
    def broken(change: Callable[[bytes], bytes], match: str, which: int) -> None:
        folder = write(tmp_path / f"{match[:6]}{which}")
        kept = [path for path in sorted(folder.rglob("*")) if path.is_file() and identify(path) is not None]
        kept[which].write_bytes(change(kept[which].read_bytes()))
        options = {"transcripts": table} if write in WITH_TRANSCRIPTS else {}
        with pytest.raises(UserError, match=match):
            values_of(folder, tmp_path, **options)

    def words(text: bytes) -> bytes:
        *before, last, _ = text.split(b"\n")
        return b"\n".join(
            [*before, b"\t".join(cell if i < 3 else b"x" for i, cell in enumerate(last.split(b"\t"))), b""]
        )

    table = made.transcript_table(tmp_path / "t.tsv")
    for which in (0, 2):
        broken(lambda text: text[:-3], "cut off: its last line has no end", which)
        broken(lambda text: b"\n".join(text.split(b"\n")[:-4]) + b"\n", "lists other rows than", which)
        broken(lambda text: text[: text.rindex(b"\t")] + b"\n", "not a whole table", which)
        broken(words, "not a whole table", which)
        broken(lambda text: b"", "empty \\(0 bytes\\)", which)
        broken(lambda text: b"<html><body>404</body></html>", "is a web page", which)
        broken(lambda text: b"PK\x03\x04 zip", "workbook or a zip", which)
        broken(
            lambda text: b"gene\tvalue\nA\t1\n", "is named as .* names its files, but begins with 'gene value'", which
        )


def test_truncated_gzip(tmp_path: Path) -> None:
    folder = made.rsem(tmp_path / "in", packed=True)
    path = folder / "P3.genes.results.gz"
    path.write_bytes(path.read_bytes()[:-40])
    fails_late = pytest.raises(UserError, match="truncated or damaged gzip")
    with fails_late:
        values_of(folder, tmp_path)
    table = made.feature_counts(tmp_path / "c.txt", packed=True)
    table.write_bytes(table.read_bytes()[:-40])
    with pytest.raises(UserError, match="truncated or damaged gzip"):
        values_of(table, tmp_path)
    whole = gzip.decompress(made.feature_counts(tmp_path / "d.txt", packed=True).read_bytes())
    (tmp_path / "e.txt").write_bytes(whole[:-2])
    fails(tmp_path / "e.txt", "cut off: its last line has no end")
    (tmp_path / "f.txt").write_bytes(whole[: whole.rindex(b"\t")] + b"\n")
    fails(tmp_path / "f.txt", "not a whole featureCounts table")
    (tmp_path / "g.txt").write_bytes(b"\n".join(whole.split(b"\n")[:2]) + b"\n")
    fails(tmp_path / "g.txt", "empty table")


def test_mixed_and_repeated(tmp_path: Path) -> None:
    folder = made.salmon(tmp_path / "in")
    made.kallisto(folder / "more")
    fails(folder, r"holds files of 2 kinds, Salmon \(P0/quant.sf\) and kallisto \(P0/abundance.tsv\): expected one")
    two = made.rsem(tmp_path / "two")
    made.rsem(two / "batch2")
    fails(two, "two has repeated samples: two, batch2")
    made.feature_counts(tmp_path / "fc" / "a.txt")
    made.feature_counts(tmp_path / "fc" / "b.txt")
    fails(tmp_path / "fc", "holds 2 featureCounts tables")
    fails(made.feature_counts(tmp_path / "x.txt", bams=["a.bam"] * 5), "repeated samples: a")
    same = made.rsem(tmp_path / "same")
    text = (same / "P1.genes.results").read_text().splitlines()
    (same / "P0.genes.results").write_text("\n".join([*text, text[1]]) + "\n")
    fails(same, r"repeated rows: ENSG00000000001\.2")
    exons = made.feature_counts(tmp_path / "exons.txt")
    lines = exons.read_text().splitlines()
    exons.write_text("\n".join([*lines, lines[2]]) + "\n")
    fails(exons, "several rows of a gene .*without -f")


def test_gdc_sheets(tmp_path: Path) -> None:
    folder = made.gdc(tmp_path / "in")
    assert read_lab_expression([folder], None).sample_ids == [f"0000-{i}" for i in range(made.N)]
    sheet = made.sheet(folder)
    assert read_lab_expression([folder], None).sample_ids == made.NAMES
    whole = sheet.read_text()
    sheet.write_text(whole.replace("\tP1\t", "\tP0\t"))
    fails(folder, "several files of a sample: P0")
    sheet.write_text("\n".join(whole.splitlines()[:-1]) + "\n")
    fails(folder, "does not name the sample of 1 files: 0000-4")
    sheet.write_text(whole)
    made.put(folder / "manifest.tsv", ["file_name\taliquot_barcode", "a\tb"])
    fails(folder, "several sample sheets")


def test_values_against_the_format(tmp_path: Path) -> None:
    folder = made.rsem(tmp_path / "in")
    path = folder / "P2.genes.results"
    lines = path.read_text().splitlines()
    cells = lines[5].split("\t")
    path.write_text("\n".join([*lines[:5], "\t".join([*cells[:4], "-3.0", *cells[5:]]), *lines[6:]]) + "\n")
    with pytest.raises(UserError, match=r"negative value: -3 \(gene ENSG00000000005, sample P2\)"):
        values_of(folder, tmp_path)
    path.write_text("\n".join([*lines[:5], "\t".join([*cells[:4], "NA", *cells[5:]]), *lines[6:]]) + "\n")
    with pytest.raises(UserError, match=r"missing value: nan \(gene ENSG00000000005, sample P2\)"):
        values_of(folder, tmp_path)
    tpm = made.feature_counts(tmp_path / "tpm.txt")
    head = tpm.read_text().splitlines()[:2]
    rows = made.rows(made.GENES, *[["1"] * 40] * 4, made.LENGTHS, *made.GENE_TPM)
    tpm.write_text("\n".join([*head, *rows]) + "\n")
    with pytest.raises(UserError, match="adds up to a million: it looks like TPM"):
        values_of(tpm, tmp_path)


def test_a_matrix_takes_no_such_options(tmp_path: Path) -> None:
    path = made.put(tmp_path / "m.tsv", ["gene\ta\tb", "TP53\t90\t1", "EGFR\t90\t2", "KRAS\t9\t3"])
    fails(path, "is a matrix, no quantifier's output: leave transcripts and strand out", transcripts=path, strand="x")
    fails(path, "expression_scale is missing, and m.tsv does not tell its scale")


def test_a_negative_transcript_is_not_hidden_by_its_gene(tmp_path: Path) -> None:
    folder, table = made.kallisto(tmp_path / "in"), made.transcript_table(tmp_path / "t.tsv")
    path = folder / "P3" / "abundance.tsv"
    lines = path.read_text().splitlines()
    number = int(np.bincount(made.OF_GENE).argmax())  # of a gene with several transcripts
    name, length, effective, _, tpm = lines[number + 1].split("\t")
    made.put(path, [*lines[: number + 1], f"{name}\t{length}\t{effective}\t-1\t{tpm}", *lines[number + 2 :]])
    with pytest.raises(UserError, match=rf"P3/abundance.tsv has a negative value: -1 \(est_counts of {name}\): write"):
        values_of(folder, tmp_path / "aside", transcripts=table)
    lines[3], lines[4] = lines[4], lines[3]
    made.put(path, lines)
    with pytest.raises(UserError, match=r"0 in one only: the order differs"):
        values_of(folder, tmp_path / "aside", transcripts=table)
