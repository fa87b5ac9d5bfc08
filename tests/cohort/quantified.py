"""Small output of quantifiers, laid out as each of them writes it."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bulkprobe.cohort.expression_files import read_lab_expression
from bulkprobe.cohort.inputs import open_input
from bulkprobe.errors import UserError

N, G, T = 5, 40, 90
NAMES = [f"P{i}" for i in range(N)]
GENES = [f"ENSG{i:011d}.{i % 7 + 1}" for i in range(1, G + 1)]
PLAIN = [gene.split(".")[0] for gene in GENES]
SYMBOLS = ["TP53", "EGFR", "KRAS", "ACTB", *[f"GENE{i}" for i in range(G - 4)]]
TRANSCRIPTS = [f"ENST{i:011d}.{i % 4 + 1}" for i in range(1, T + 1)]
OF_GENE = np.concatenate([np.arange(G), np.random.default_rng(1).integers(0, G, T - G)])  # of each transcript
RNG = np.random.default_rng(0)
LENGTHS = RNG.integers(400, 4000, G)
COUNTS = RNG.poisson(np.exp2(RNG.normal(8, 2, T)), (N, T)).astype(float)  # of transcripts
RATE = COUNTS / RNG.integers(400, 4000, T)
TPM = RATE / RATE.sum(axis=1, keepdims=True) * 1e6


def by_gene(values: np.ndarray) -> np.ndarray:
    out = np.zeros((len(values), G))
    for column, gene in enumerate(OF_GENE):
        out[:, gene] += values[:, column]
    return out


GENE_COUNTS, GENE_TPM = by_gene(COUNTS), by_gene(TPM)


def put(path: Path, lines: list[str], *, packed: bool = False, end: str = "\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = (end.join(lines) + end).encode()
    if packed:
        path = path.with_name(path.name + ".gz")
        text = gzip.compress(text, mtime=0)
    path.write_bytes(text)
    return path


def rows(*columns: object) -> list[str]:
    return ["\t".join(str(cell) for cell in row) for row in zip(*columns, strict=True)]


def salmon(folder: Path, *, packed: bool = False, end: str = "\n", names: list[str] = TRANSCRIPTS) -> Path:
    for i, sample in enumerate(NAMES):
        lines = ["Name\tLength\tEffectiveLength\tTPM\tNumReads"]
        lines += rows(names, [900] * T, ["700.5"] * T, TPM[i].round(6), COUNTS[i].round(3))
        put(folder / sample / "quant.sf", lines, packed=packed, end=end)
        put(folder / sample / "cmd_info.json", ['{"salmon_version": "1.10.1"}'])
        put(folder / sample / "aux_info" / "ambig_info.tsv", ["UniqueCount\tAmbigCount", "1\t2"])
    return folder


def salmon_genes(folder: Path) -> Path:
    for i, sample in enumerate(NAMES):
        lines = ["Name\tLength\tEffectiveLength\tTPM\tNumReads"]
        lines += rows(GENES, LENGTHS, ["700.5"] * G, GENE_TPM[i].round(6), GENE_COUNTS[i].round(3))
        put(folder / sample / "quant.genes.sf", lines)
    return folder


def kallisto(folder: Path, *, packed: bool = False, end: str = "\n", names: list[str] = TRANSCRIPTS) -> Path:
    for i, sample in enumerate(NAMES):
        lines = ["target_id\tlength\teff_length\test_counts\ttpm"]
        lines += rows(names, [900] * T, ["701.2"] * T, COUNTS[i], TPM[i].round(5))
        put(folder / sample / "abundance.tsv", lines, packed=packed, end=end)
        put(folder / sample / "run_info.json", ["{}"])
    return folder


def rsem(folder: Path, *, isoforms: bool = False, named: bool = False, packed: bool = False, end: str = "\n") -> Path:
    fpkm = "FPKM\tIsoPct" if isoforms else "FPKM"
    genes = [f"{g}_{s}" for g, s in zip(GENES, SYMBOLS, strict=True)] if named else GENES
    for i, sample in enumerate(NAMES):
        if isoforms:
            head, n = f"transcript_id\tgene_id\tlength\teffective_length\texpected_count\tTPM\t{fpkm}", T
            first, second, count, tpm = TRANSCRIPTS, [genes[g] for g in OF_GENE], COUNTS[i], TPM[i]
        else:
            head, n = f"gene_id\ttranscript_id(s)\tlength\teffective_length\texpected_count\tTPM\t{fpkm}", G
            first, second, count, tpm = genes, ["a,b"] * G, GENE_COUNTS[i], GENE_TPM[i]
        more = [[100.0] * n] if isoforms else []
        lines = [head, *rows(first, second, [900.0] * n, [700.0] * n, count.round(2), tpm.round(4), tpm / 2, *more)]
        put(folder / f"{sample}.{'isoforms' if isoforms else 'genes'}.results", lines, packed=packed, end=end)
    return folder


def star(folder: Path, shares: list[float] | None = None, *, packed: bool = False, end: str = "\n") -> Path:
    """Write ReadsPerGene; shares: of reads on the forward strand, one a sample."""
    for i, sample in enumerate(NAMES):
        share = 0.02 if shares is None else shares[i]
        both = GENE_COUNTS[i].astype(int)
        forward = np.floor(both * share).astype(int)
        lines = [
            "N_unmapped\t99\t99\t99",
            "N_multimapping\t88\t88\t88",
            "N_noFeature\t7\t70\t8",
            "N_ambiguous\t6\t1\t2",
        ]
        lines += rows(GENES, both, forward, both - forward)
        put(folder / f"{sample}ReadsPerGene.out.tab", lines, packed=packed, end=end)
        put(folder / f"{sample}SJ.out.tab", ["1\t2\t3\t1\t1\t1\t5\t0\t30"])
    return folder


def gdc(folder: Path, *, packed: bool = False, end: str = "\n") -> Path:
    head = "gene_id gene_name gene_type unstranded stranded_first stranded_second tpm_unstranded fpkm_unstranded"
    for i, _sample in enumerate(NAMES):
        n = GENE_COUNTS[i].astype(int)
        lines = ["# gene-model: GENCODE v36", "\t".join([*head.split(), "fpkm_uq_unstranded"])]
        for name in ("unmapped", "multimapping", "noFeature", "ambiguous"):
            lines.append(f"N_{name}\t\t\t12\t13\t14\t\t\t")
        tpm = GENE_TPM[i].round(4)
        lines += rows(GENES, SYMBOLS, ["protein_coding"] * G, n, n // 2, n - n // 2, tpm, tpm / 2, tpm / 3)
        name = f"0000-{i}.rna_seq.augmented_star_gene_counts.tsv"
        put(folder / f"uuid-{i}" / name, lines, packed=packed, end=end)
    return folder


def sheet(folder: Path) -> Path:
    lines = ["File ID\tFile Name\tProject ID\tCase ID\tSample ID\tSample Type"]
    for i, sample in enumerate(NAMES):
        name = f"0000-{i}.rna_seq.augmented_star_gene_counts.tsv"
        lines.append(f"uuid-{i}\t{name}\tTCGA-KIRC\tc{i}\t{sample}\tPrimary Tumor")
    return put(folder / "gdc_sample_sheet.2026-01-01.tsv", lines)


def feature_counts(
    path: Path, *, bams: list[str] | None = None, named: bool = False, packed: bool = False, end: str = "\n"
) -> Path:
    bams = [f"/data/star/{sample}.Aligned.sortedByCoord.out.bam" for sample in NAMES] if bams is None else bams
    spans = ["chr1;chr1", "11869;12010", "12057;12227", "+;+"]
    columns = [GENES, *([span] * G for span in spans), LENGTHS]
    head = ["Geneid", "Chr", "Start", "End", "Strand", "Length"]
    if named:
        columns.append(SYMBOLS)
        head.append("gene_name")
    lines = ['# Program:featureCounts v2.0.3; Command:"featureCounts" "-a" "g.gtf" "-o" "counts.txt" "a.bam" ']
    lines += ["\t".join([*head, *bams]), *rows(*columns, *GENE_COUNTS.astype(int))]
    put(path.with_name(path.name + ".summary"), ["Status\ta.bam", "Assigned\t12"])
    return put(path, lines, packed=packed, end=end)


def transcript_table(path: Path, *, header: bool = True, version: bool = True, sep: str = "\t") -> Path:
    lines = [f"TXNAME{sep}GENEID"] if header else []
    for name, gene in zip(TRANSCRIPTS, OF_GENE, strict=True):
        lines.append(f"{name if version else name.split('.')[0]}{sep}{GENES[gene]}")
    return put(path, lines)


def gtf(path: Path) -> Path:
    lines = ["##description: evidence-based annotation"]
    for i, gene in enumerate(GENES):
        lines.append(f'chr1\tHAVANA\tgene\t1\t9000\t.\t+\t.\tgene_id "{gene}"; gene_name "{SYMBOLS[i]}";')
        for number in np.flatnonzero(OF_GENE == i):
            about = f'gene_id "{gene}"; transcript_id "{TRANSCRIPTS[number]}"; gene_name "{SYMBOLS[i]}";'
            lines.append(f"chr1\tHAVANA\ttranscript\t1\t{LENGTHS[i]}\t.\t+\t.\t{about}")
            lines.append(f"chr1\tHAVANA\texon\t1\t{LENGTHS[i]}\t.\t+\t.\t{about}")
    return put(path, lines)


def values_of(path: Path, folder: Path, scale: str | None = None, **how: Any) -> tuple[np.ndarray, np.ndarray | None]:
    with open_input(path, scale, folder, **how) as given:
        return given.read(), given.read("tpm") if "tpm" in given.layers else None


def fails(path: Path, match: str, **how: Any) -> None:
    with pytest.raises(UserError, match=match) as caught:
        read_lab_expression([path], how.pop("scale", None), **how)
    assert "\n" not in str(caught.value)
