"""The output of quantifiers as expression: every format as it is really laid out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import quantified as made
from quantified import fails, values_of

from bulkprobe.cohort.build import build_lab_cohort
from bulkprobe.cohort.expression_files import read_lab_expression
from bulkprobe.cohort.inputs import open_input
from bulkprobe.cohort.read import read_cohort
from bulkprobe.cohort.store import open_expression
from bulkprobe.errors import UserError
from bulkprobe.sources.files import fetch_files

Writer = Callable[..., Path]
WITH_TRANSCRIPTS: list[Writer] = [made.salmon, made.kallisto]
ALONE: list[Writer] = [made.rsem, made.star, made.gdc]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("write", WITH_TRANSCRIPTS)
def test_transcripts_are_summed(tmp_path: Path, write: Writer, packed: bool, end: str) -> None:
    folder = write(tmp_path / "in", packed=packed, end=end)
    table = made.transcript_table(tmp_path / "tx2gene.tsv")
    with open_input(folder, None, tmp_path / "aside", transcripts=table) as given:
        assert given.sample_ids == made.NAMES
        assert list(given.var["ensembl_id"]) == made.PLAIN
        assert (given.scale, given.layers) == ("counts", ["tpm"])
        np.testing.assert_allclose(given.read(), made.GENE_COUNTS, rtol=1e-6)
        np.testing.assert_allclose(given.read("tpm"), made.GENE_TPM, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("write", ALONE)
def test_genes(tmp_path: Path, write: Writer, packed: bool, end: str) -> None:
    folder = write(tmp_path / "in", packed=packed, end=end)
    if write is made.gdc:
        made.sheet(folder)
    with open_input(folder, None, tmp_path / "aside") as given:
        assert given.sample_ids == made.NAMES
        assert list(given.var["ensembl_id"]) == made.PLAIN  # no N_ rows
        assert given.scale == "counts"
        # STAR's files are of a reverse library with 2 % of the reads, rounded down, on the other strand
        lost = np.floor(made.GENE_COUNTS * 0.02) if write is made.star else 0
        np.testing.assert_allclose(given.read(), made.GENE_COUNTS - lost, rtol=1e-6)
        assert given.layers == ([] if write is made.star else ["tpm"])
        if write is made.gdc:
            assert list(given.var["symbol"]) == made.SYMBOLS


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("named", [False, True])
def test_feature_counts(tmp_path: Path, packed: bool, end: str, named: bool) -> None:
    path = made.feature_counts(tmp_path / "counts.txt", packed=packed, end=end, named=named)
    with open_input(path, None, tmp_path / "aside") as given:
        assert given.sample_ids == made.NAMES
        assert list(given.var["length"]) == list(made.LENGTHS)
        assert list(given.var["symbol"]) == (made.SYMBOLS if named else [""] * made.G)
        np.testing.assert_array_equal(given.read(), made.GENE_COUNTS)
        rate = made.GENE_COUNTS / made.LENGTHS
        np.testing.assert_allclose(given.read("tpm"), rate / rate.sum(axis=1, keepdims=True) * 1e6, rtol=1e-5)


@pytest.mark.parametrize(
    ("bams", "names"),
    [
        (["a.bam", "b.sorted.bam", "c.d.bam", "e.SAM", "f.cram"], ["a", "b", "c.d", "e", "f"]),
        ([f"/x/{name}/Aligned.sortedByCoord.out.bam" for name in made.NAMES], made.NAMES),
        ([f"{name}/accepted_hits.bam" for name in made.NAMES], made.NAMES),
        (["C:\\run\\a_.bam", "b", "c", "d", "e"], ["a", "b", "c", "d", "e"]),
    ],
)
def test_names_of_alignments(tmp_path: Path, bams: list[str], names: list[str]) -> None:
    source = read_lab_expression([made.feature_counts(tmp_path / "c.tsv", bams=bams)], None)
    assert source.sample_ids == names
    assert source.scale == "counts"


def test_salmons_genes(tmp_path: Path) -> None:
    folder = made.salmon_genes(tmp_path / "in")
    counts, tpm = values_of(folder, tmp_path)
    np.testing.assert_allclose(counts, made.GENE_COUNTS, rtol=1e-6)
    made.salmon(folder)  # both levels: genes as they stand, transcripts where a table is given
    again, _ = values_of(folder, tmp_path)
    np.testing.assert_array_equal(again, counts)
    summed, summed_tpm = values_of(folder, tmp_path, transcripts=made.transcript_table(tmp_path / "t.csv", sep=","))
    np.testing.assert_allclose(summed, counts, rtol=1e-6)
    assert tpm is not None
    assert summed_tpm is not None
    np.testing.assert_allclose(summed_tpm, tpm, rtol=1e-4, atol=1e-4)


def test_isoforms_name_their_genes(tmp_path: Path) -> None:
    folder = made.rsem(tmp_path / "in", isoforms=True, named=True)
    with open_input(folder, None, tmp_path / "aside") as given:
        assert list(given.var["symbol"]) == made.SYMBOLS
        np.testing.assert_allclose(given.read(), made.GENE_COUNTS, rtol=1e-6)
    made.rsem(folder)  # beside them the genes: one quantification, taken once
    np.testing.assert_allclose(values_of(folder, tmp_path)[0], made.GENE_COUNTS, rtol=1e-6)


def test_gencode_names_hold_the_gene(tmp_path: Path) -> None:
    names = [f"{t}|{made.GENES[g]}|-|-|X-201|X|900|" for t, g in zip(made.TRANSCRIPTS, made.OF_GENE, strict=True)]
    folder = made.kallisto(tmp_path / "in", names=names)
    np.testing.assert_allclose(values_of(folder, tmp_path)[0], made.GENE_COUNTS, rtol=1e-6)
    table = made.transcript_table(tmp_path / "t.tsv", version=False, header=False)
    np.testing.assert_allclose(values_of(folder, tmp_path, transcripts=table)[0], made.GENE_COUNTS, rtol=1e-6)


def test_a_gtf_maps_names_and_measures(tmp_path: Path) -> None:
    folder, annotation = made.salmon(tmp_path / "in"), made.gtf(tmp_path / "g.gtf")
    source = read_lab_expression([folder], None, transcripts=annotation)
    assert list(source.var["gene"]) == made.PLAIN
    assert list(source.var["symbol"]) == made.SYMBOLS
    assert list(source.var["length"]) == list(made.LENGTHS)
    assert source.notes["transcripts_summed"] == made.T
    assert source.notes["transcripts_without_gene"] == 0
    assert source.notes["counts_by_length"] == "not corrected"


@pytest.mark.parametrize(("share", "strand"), [(0.02, "reverse"), (0.97, "forward"), (0.5, "unstranded")])
def test_strand_by_rule(tmp_path: Path, share: float, strand: str) -> None:
    folder = made.star(tmp_path / "in", [share] * made.N)
    source = read_lab_expression([folder], None)
    assert source.notes["strand"] == strand
    assert source.notes["summary_rows_left_out"] == 4
    forward = np.floor(made.GENE_COUNTS * share)
    expected = {"reverse": made.GENE_COUNTS - forward, "forward": forward, "unstranded": made.GENE_COUNTS}
    for chosen, values in expected.items():
        np.testing.assert_array_equal(values_of(folder, tmp_path, strand=chosen)[0], values)
    np.testing.assert_array_equal(values_of(folder, tmp_path)[0], expected[strand])


def test_strand_undecided(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"strand of the libraries is not plain \(P0 undecided \(\d+% forward\)\)"):
        read_lab_expression([made.star(tmp_path / "a", [0.3] * made.N)], None)
    mixed = made.star(tmp_path / "b", [0.0, 0.0, 1.0, 0.5, 0.0])
    with pytest.raises(UserError, match=r"P0 reverse \(0% forward\), P2 forward \(100% forward\), P3 unstranded"):
        read_lab_expression([mixed], None)


def test_which_scale(tmp_path: Path) -> None:
    folder = made.rsem(tmp_path / "in")
    assert read_lab_expression([folder], "tpm").scale == "tpm"
    x, tpm = values_of(folder, tmp_path, "tpm")
    np.testing.assert_allclose(x, made.GENE_TPM, rtol=1e-3, atol=1e-4)
    assert tpm is None
    x, _ = values_of(folder, tmp_path, "fpkm")  # half of TPM in the files; rescaled
    np.testing.assert_allclose(x, made.GENE_TPM, rtol=1e-3, atol=1e-3)
    with pytest.raises(UserError, match="RSEM \\(genes\\) output, which holds counts and tpm and fpkm, not zscore"):
        values_of(folder, tmp_path, "zscore")
    with pytest.raises(UserError, match="featureCounts output, which holds counts, not tpm"):
        values_of(made.feature_counts(tmp_path / "c.txt"), tmp_path, "tpm")
    shallow = tmp_path / "shallow"  # fractional counts that add up to nearly a million are counts all the same
    for sample, row in zip(made.NAMES, made.GENE_TPM * 0.9, strict=True):
        lines = ["Name\tLength\tEffectiveLength\tTPM\tNumReads"]
        made.put(shallow / sample / "quant.genes.sf", lines + made.rows(made.GENES, [9] * 40, [9] * 40, row / 0.9, row))
    np.testing.assert_allclose(values_of(shallow, tmp_path)[0], made.GENE_TPM * 0.9, rtol=1e-5)


def test_hash_of_what_is_read(tmp_path: Path) -> None:
    folder, table = made.salmon(tmp_path / "in"), made.transcript_table(tmp_path / "t.tsv")

    def digest(**how: Any) -> str:
        with open_input(folder, None, tmp_path / "aside", **how) as given:
            return given.sha256

    first = digest(transcripts=table)
    (folder / "P0" / "cmd_info.json").write_text("{}")  # not read
    assert digest(transcripts=table) == first
    assert digest(transcripts=made.gtf(tmp_path / "g.gtf")) != first
    path = folder / "P4" / "quant.sf"
    path.write_text(path.read_text().replace("\t700.5\t", "\t701.5\t", 1))
    assert digest(transcripts=table) != first


# ---------------------------------------------------------------- genes


def test_keys_mapped_to_one_gene_are_added(tmp_path: Path) -> None:
    genes = ["ENSG00000141510.12", "TP53", "P53", "EGFR", "ERBB", "KRAS", "HER1"]
    counts = np.arange(1, 15).reshape(7, 2) * 100
    path = made.put(tmp_path / "m.tsv", ["gene\ta\tb", *made.rows(genes, counts[:, 0], counts[:, 1])])
    hgnc = made.put(
        tmp_path / "hgnc.txt",
        [
            "hgnc_id\tsymbol\tstatus\talias_symbol\tprev_symbol\tensembl_gene_id",
            "HGNC:11998\tTP53\tApproved\tP53|LFS1\t\tENSG00000141510",
            "HGNC:3236\tEGFR\tApproved\tERBB1\tERBB\tENSG00000146648",
            "HGNC:6407\tKRAS\tApproved\tHER1\tKRAS2\tENSG00000133703",
            "HGNC:3430\tERBB2\tApproved\tHER1\t\tENSG00000141736",
        ],
    )
    samples = made.put(tmp_path / "s.tsv", ["sample_id\tcancer_type", "a\tKIRC", "b\tKIRC"])
    config = {"expression": path.name, "expression_scale": "counts", "samples": samples.name, "genes": hgnc.name}
    times = {"survival": made.put(tmp_path / "t.tsv", ["sample_id\tos_time_days\tos_event", "a\t5\t1", "b\t9\t0"]).name}
    flow = build_lab_cohort({**config, **times}, tmp_path, tmp_path / "cohort")
    store = open_expression(tmp_path / "cohort")
    assert list(store.var.index) == [
        "ENSG00000141510",
        "ENSG00000146648",
        "ENSG00000133703",
        "HER1",
    ]  # HER1: two claims
    assert list(store.var["symbol"]) == ["TP53", "EGFR", "KRAS", "HER1"]  # two genes claim the alias HER1
    expected = [counts[:3].sum(axis=0), counts[3:5].sum(axis=0), counts[5], counts[6]]
    np.testing.assert_array_equal(store.read().T, expected)
    assert "expression: 3 rows added to another row of the same gene" in flow["notes"]
    notes = read_cohort(tmp_path / "cohort").provenance["scale"]["notes"]["X"]
    assert notes["rows_of_repeated_genes_added"] == 3


def clinical(folder: Path) -> str:
    table = pd.DataFrame({"sample_id": made.NAMES, "cancer_type": "KIRC"})
    table["os_time_days"], table["os_event"] = np.arange(1, made.N + 1) * 300, [1, 0, 1, 1, 0]
    table.to_csv(folder / "clinical.csv", index=False)
    return "clinical.csv"


def test_cohort_of_each(tmp_path: Path) -> None:
    made.salmon(tmp_path / "salmon")
    made.gtf(tmp_path / "g.gtf")
    made.feature_counts(tmp_path / "fc.txt")
    made.star(tmp_path / "star")
    samples = clinical(tmp_path)
    told: dict[str, dict[str, Any]] = {
        "salmon": {"expression": "salmon", "transcripts": "g.gtf"},
        "fc": {"expression": "fc.txt"},
        "star": {"expression": "star", "strand": "unstranded", "genes": "g.gtf"},
    }
    for name, config in told.items():
        flow = build_lab_cohort({**config, "samples": samples}, tmp_path, tmp_path / f"{name}-cohort")
        store = open_expression(tmp_path / f"{name}-cohort")
        assert (store.scale, store.layers) == ("counts", ["tpm"])
        np.testing.assert_allclose(store.read(), made.GENE_COUNTS, rtol=1e-6)
        assert (name == "salmon") == any("transcripts summed" in note for note in flow["notes"])
        if name == "salmon":
            np.testing.assert_allclose(store.read("tpm"), made.GENE_TPM, rtol=1e-4, atol=1e-4)
        with open_input(tmp_path / f"{name}-cohort") as given:  # a cohort folder is read as one
            np.testing.assert_array_equal(given.read(), store.read())


def test_two_cohorts_of_two_quantifiers(tmp_path: Path) -> None:
    made.salmon(tmp_path / "salmon")
    bams = [f"Q{i}.bam" for i in range(made.N)]
    made.feature_counts(tmp_path / "fc.txt", bams=bams)
    made.transcript_table(tmp_path / "t.tsv")
    fails(tmp_path / "fc.txt", "leave the transcript table out", transcripts=tmp_path / "t.tsv")
    made.salmon_genes(tmp_path / "genes")
    source = read_lab_expression([tmp_path / "fc.txt", tmp_path / "genes"], None)
    assert source.sample_ids == [*[bam[:-4] for bam in bams], *made.NAMES]
    assert source.notes["quantifier"] == "featureCounts, Salmon (genes)"
    assert source.tpm is None


def test_folders_are_fetched(tmp_path: Path) -> None:
    made.salmon(tmp_path / "salmon")
    made.transcript_table(tmp_path / "t.tsv")
    (tmp_path / "salmon" / ".hidden").mkdir()
    made.put(tmp_path / "salmon" / ".hidden" / "x.sf", ["x"])
    config = {"expression": "salmon", "transcripts": "t.tsv", "samples": clinical(tmp_path)}
    content = fetch_files(config, tmp_path / "raw", tmp_path)
    assert {"files/salmon/P0/quant.sf", "files/t.tsv"} <= set(content["files"])
    assert not any("hidden" in name or "json" in name for name in content["files"])
    from bulkprobe.cohort.build import build_cohort
    from bulkprobe.cohort.schema import CohortRules

    build_cohort(tmp_path / "raw", tmp_path / "cohort", CohortRules())
    np.testing.assert_allclose(open_expression(tmp_path / "cohort").read(), made.GENE_COUNTS, rtol=1e-6)
    with pytest.raises(UserError, match="no such file: nothing"):
        fetch_files({**config, "expression": "nothing"}, tmp_path / "raw", tmp_path)
