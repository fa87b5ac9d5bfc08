"""Readers of what quantifiers write, with small sound folders: each is read as `bulkprobe cohort` reads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from reading import COUNTS, GENES, SAMPLES, SYMBOLS, Reader, Rows, several, text

from bulkprobe.cohort.expression_files import read_lab_expression
from bulkprobe.cohort.transcripts import read_transcripts

N, T = 3, 90  # samples, transcripts
TRANSCRIPTS = [f"ENST{i:011d}.{i % 3 + 1}" for i in range(T)]
OF_GENE = [GENES[i % len(GENES)] for i in range(T)]
OF_TRANSCRIPT = np.random.default_rng(1).poisson(60, (N, T)) + 1
VERSIONED = [f"{gene}.{i % 4 + 1}" for i, gene in enumerate(GENES)]
TX2GENE: Rows = [["transcript", "gene"], *([t, g] for t, g in zip(TRANSCRIPTS, OF_GENE, strict=True))]
GTF: Rows = [
    ["chr1", "HAVANA", "exon", 100 * i + 1, 100 * i + 90, ".", "+", ".", f'gene_id "{g}.1"; transcript_id "{t}";']
    for i, (t, g) in enumerate(zip(TRANSCRIPTS, OF_GENE, strict=True))
]
SHEET: Rows = [
    ["File ID", "File Name", "Data Category", "Sample ID"],
    *([f"id{i}", f"{i}.rna_seq.augmented_star_gene_counts.tsv", "Transcriptome", SAMPLES[i]] for i in range(N)),
]


def _tpm(counts: np.ndarray) -> np.ndarray:
    return np.round(counts / counts.sum() * 1e6, 3)


def _of_transcripts(name: str, head: list[str], order: str) -> Callable[[Path], None]:
    """A table of transcripts a sample; order: what stands in the last columns."""

    def rows(sample: int) -> Rows:
        counts = OF_TRANSCRIPT[sample]
        values = {"c": counts.tolist(), "t": _tpm(counts).tolist(), "f": (_tpm(counts) / 2).tolist()}
        body = zip(*([900] * T if key == "l" else OF_GENE if key == "g" else values[key] for key in order), strict=True)
        return [list(head), *([t, *row] for t, row in zip(TRANSCRIPTS, body, strict=True))]

    return several(*(text(name.format(SAMPLES[i]), rows(i)) for i in range(N)))


def _of_genes(name: str, head: list[str], order: str, above: Rows | None = None) -> Callable[[Path], None]:
    def rows(sample: int) -> Rows:
        counts = COUNTS[sample]
        values = {
            "c": counts.tolist(), "h": (counts // 2).tolist(), "t": _tpm(counts).tolist(), "f": _tpm(counts).tolist(),
            "n": [0] * len(GENES), "s": SYMBOLS, "k": ["protein_coding"] * len(GENES), "l": [900] * len(GENES),
            "i": ["a,b"] * len(GENES),
        }  # fmt: skip
        body = zip(*(values[key] for key in order), strict=True)
        return [*(above or []), *([head] if head else []), *([g, *row] for g, row in zip(VERSIONED, body, strict=True))]

    return several(*(text(name.format(SAMPLES[i]), rows(i)) for i in range(N)))


SUMMARY: Rows = [[f"N_{kind}", 9, 9, 9] for kind in ("unmapped", "multimapping", "noFeature", "ambiguous")]
GDC_HEAD = (
    "gene_id gene_name gene_type unstranded stranded_first stranded_second tpm_unstranded fpkm_unstranded".split()
)
FEATURE_COUNTS: Rows = [
    ["# Program:featureCounts v2.0.3; Command:featureCounts"],
    ["Geneid", "Chr", "Start", "End", "Strand", "Length", *(f"bam/{sample}.bam" for sample in SAMPLES)],
    *([g, "1;1", "1;9", "5;99", "+;+", 900 + i, *COUNTS[:, i].tolist()] for i, g in enumerate(VERSIONED)),
]


def _read(folder: Path, transcripts: str | None = None, strand: str | None = None) -> None:
    given = folder / "q" if (folder / "q").is_dir() else next(p for p in sorted(folder.iterdir()) if p.is_file())
    source = read_lab_expression(
        [given], None, transcripts=None if transcripts is None else folder / transcripts, strand=strand
    )
    (folder / ".spool").mkdir()
    with source.rows(np.arange(len(source.sample_ids)), folder / ".spool") as rows:
        rows.read(0, len(source.sample_ids))


_SALMON = ["Name", "Length", "EffectiveLength", "TPM", "NumReads"]
_KALLISTO = ["target_id", "length", "eff_length", "est_counts", "tpm"]
_RSEM = ["length", "effective_length", "expected_count", "TPM", "FPKM"]
_TABLE, _GTF = text("t.tsv", TX2GENE), text("t.gtf.gz", GTF)

QUANTIFIERS = (
    Reader("salmon", several(_of_transcripts("q/{}/quant.sf", _SALMON, "lltc"), _TABLE), lambda f: _read(f, "t.tsv")),
    Reader("salmon-genes.gz", _of_genes("q/{}/quant.genes.sf.gz", _SALMON, "lltc"), _read),
    Reader(
        "kallisto",
        several(_of_transcripts("q/{}/abundance.tsv", _KALLISTO, "llct"), _GTF),
        lambda f: _read(f, "t.gtf.gz"),
    ),
    Reader("rsem", _of_genes("q/{}.genes.results", ["gene_id", "transcript_id(s)", *_RSEM], "illctf"), _read),
    Reader(
        "rsem-isoforms",
        _of_transcripts("q/{}.isoforms.results", ["transcript_id", "gene_id", *_RSEM], "gllctf"),
        _read,
    ),
    Reader("star", _of_genes("q/{}ReadsPerGene.out.tab", [], "chh", SUMMARY), _read),
    Reader(
        "star-strand.gz",
        _of_genes("q/{}ReadsPerGene.out.tab.gz", [], "cnc", SUMMARY),
        lambda f: _read(f, strand="reverse"),
    ),
    Reader(
        "gdc-folder",
        several(
            *(
                text(f"q/{i}.rna_seq.augmented_star_gene_counts.tsv", [["# gene-model: GENCODE v36"], GDC_HEAD, *rows])
                for i in range(N)
                for rows in [
                    [
                        [g, s, "protein_coding", c, c // 2, c // 2, t, t]
                        for g, s, c, t in zip(
                            VERSIONED, SYMBOLS, COUNTS[i].tolist(), _tpm(COUNTS[i]).tolist(), strict=True
                        )
                    ]
                ]
            ),
            text("q/gdc_sample_sheet.2026-01-01.tsv", SHEET),
        ),
        _read,
    ),
    Reader("featurecounts", text("counts.txt", FEATURE_COUNTS), _read),
    Reader("featurecounts.gz", text("counts.txt.gz", FEATURE_COUNTS), _read),
    Reader("transcripts.tsv", _TABLE, lambda f: read_transcripts(f / "t.tsv")),
    Reader("transcripts.gtf.gz", _GTF, lambda f: read_transcripts(f / "t.gtf.gz")),
)
