"""Readers of tables, those of a lab and those that official sources publish, with small sound files."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
from reading import CONFIG, COUNTS, GENES, RULES, SAMPLES, SYMBOLS, N, Reader, Rows, text

from bulkprobe.cli import _read_config
from bulkprobe.cohort.clinical import cdr_patients, read_purity
from bulkprobe.cohort.expression import XenaMatrix
from bulkprobe.cohort.expression_files import read_lab_expression
from bulkprobe.cohort.flow import Flow
from bulkprobe.cohort.gdc_star import GdcStar
from bulkprobe.cohort.gene_keys import read_gene_table
from bulkprobe.cohort.genes import read_gtf
from bulkprobe.cohort.inputs import open_input
from bulkprobe.cohort.lab_mutations import lab_mutations
from bulkprobe.cohort.lab_survival import lab_survival
from bulkprobe.cohort.lab_tables import lab_samples, read_table
from bulkprobe.cohort.labels import read_maf
from bulkprobe.cohort.samples import read_quality
from bulkprobe.cohort.schema import CohortRules, FilesConfig
from bulkprobe.cohort.survival import CDR_COLUMNS, read_cdr
from bulkprobe.preprocess.hgnc import read_nomenclature
from bulkprobe.sources.gdc_listing import STAR_COLUMNS, StarFile, manifest_text, read_manifest
from bulkprobe.sources.gmt import read_gmt
from bulkprobe.stages.biology import read_paralogs

# ---------------------------------------------------------------- tables of a lab

MATRIX: Rows = [
    ["gene", *SAMPLES],
    *([gene, *map(int, row)] for gene, row in zip(GENES, COUNTS.T, strict=True)),
]
TURNED: Rows = [
    ["sample", *GENES],
    *([sample, *map(int, row)] for sample, row in zip(SAMPLES, COUNTS, strict=True)),
]
CLINICAL: Rows = [
    ["sample_id", "cancer_type", "age", "sex", "stage", "purity", "n_mutations", "os_time_days", "os_event"],
    *([s, "KIRC", 50 + i, "female", "II", 0.5, 10 * i, 100 + i, i % 2] for i, s in enumerate(SAMPLES)),
]
MAF: Rows = [
    ["Hugo_Symbol", "Variant_Classification", "Tumor_Sample_Barcode", "HGVSp_Short", "FILTER"],
    *([SYMBOLS[i % 5], "Missense_Mutation", f"{s}-11D-A111-08", "p.G12D", "PASS"] for i, s in enumerate(SAMPLES)),
]
LONG: Rows = [
    ["sample_id", "gene", "mutated", "hotspot"],
    *([s, SYMBOLS[i % 2], i % 2, 0] for i, s in enumerate(SAMPLES)),
]
WIDE: Rows = [
    ["gene", *SAMPLES],
    *([gene, *(int(v % 3 == 0) for v in row)] for gene, row in zip(SYMBOLS, COUNTS.T, strict=True)),
]


def read_expression(folder: Path) -> None:
    (path,) = [p for p in folder.iterdir() if not p.name.startswith(".")]
    with open_input(path, None, folder / ".spool") as given:
        given.read()


def read_lab(folder: Path) -> None:
    (path,) = [p for p in folder.iterdir() if not p.name.startswith(".")]
    source = read_lab_expression([path], "counts")
    (folder / ".spool").mkdir()
    with source.rows(np.arange(len(source.sample_ids)), folder / ".spool") as rows:
        rows.read(0, len(source.sample_ids))


def _samples() -> pd.DataFrame:
    table = pd.DataFrame(CLINICAL[1:], columns=CLINICAL[0], dtype=object).astype(str)
    return lab_samples(table, SAMPLES, CONFIG, RULES, Flow())


def _clinical(folder: Path) -> None:
    (path,) = folder.iterdir()
    table = read_table(path)
    samples = lab_samples(table, SAMPLES, CONFIG, RULES, Flow())
    lab_survival(table, samples, CONFIG, RULES, Flow())


def _mutations(folder: Path) -> None:
    lab_mutations(sorted(folder.iterdir()), _samples(), CONFIG, RULES, Flow())


def _frame(rows: Rows) -> pd.DataFrame:
    return pd.DataFrame(rows[1:], columns=[str(name) for name in rows[0]])


def _parquet(rows: Rows, name: str) -> Callable[[Path], None]:
    return lambda folder: _frame(rows).to_parquet(folder / name, index=False)


# ---------------------------------------------------------------- official files


def _star(folder: Path) -> None:
    lines = ["# gene-model: GENCODE v36", "gene_id\tgene_name\tunstranded\ttpm_unstranded", "N_unmapped\t\t5\t"]
    rows = []
    for i, sample in enumerate(SAMPLES[:3]):
        body = [
            f"{g}.1\t{s}\t{c}\t{c / COUNTS[i].sum() * 1e6:.4f}"
            for g, s, c in zip(GENES, SYMBOLS, COUNTS[i], strict=True)
        ]
        identifier = f"0000000{i}-0000-0000-0000-000000000000"
        (folder / identifier).mkdir()
        (folder / identifier / f"f{i}.tsv").write_text("\n".join([*lines, *body]) + "\n")
        rows.append(StarFile(identifier, f"f{i}.tsv", "0" * 32, 1, sample, f"{sample}-11R-0001-07", "TCGA-KIRC", "P"))
    (folder / "manifest.tsv").write_text(manifest_text(rows))


def _read_star(folder: Path) -> None:
    star = GdcStar(folder)
    star.read(np.arange(len(star.sample_ids)))


def _read_xena(folder: Path) -> None:
    for _ in XenaMatrix(folder / "x.gz", "log2_counts_plus_1").gene_blocks():
        pass


XENA: Rows = [
    ["sample", *SAMPLES],
    *([f"{g}.1", *(f"{v:.4f}" for v in np.log2(row + 1))] for g, row in zip(GENES, COUNTS.T, strict=True)),
]


def _cdr(folder: Path) -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.title = "TCGA-CDR"
    sheet.append(list(CDR_COLUMNS))
    for i, sample in enumerate(SAMPLES):
        sheet.append([sample[:12], "KIRC", 50 + i, "MALE", "Stage II", "", "", *[i % 2, 100 + i] * 4])
    book.save(folder / "cdr.xlsx")


def _gtf(folder: Path) -> None:
    with (folder / "a.gtf").open("w") as file:
        for i, gene in enumerate(GENES):
            for kind in ("gene", "exon"):
                about = f'gene_id "{gene}.1"; gene_name "{SYMBOLS[i]}";'
                file.write(f"chr1\tHAVANA\t{kind}\t{100 * i + 1}\t{100 * i + 90}\t.\t+\t.\t{about}\n")


QUALITY: Rows = [
    [
        *("patient_barcode", "aliquot_barcode", "cancer type", "platform", "patient_annotation", "sample_annotation"),
        *("aliquot_annotation", "AWG_excluded_because_of_pathology", "AWG_pathology_exclusion_reason"),
        *("Reviewed_by_EPC", "Do_not_use"),
    ],
    *([s[:12], f"{s}-11R-A111-07", "KIRC", "IlluminaHiSeq_RNASeqV2", "", "", "", 0, "", "", "False"] for s in SAMPLES),
]
MANIFEST: Rows = [
    list(STAR_COLUMNS),
    *(
        [f"{i:08d}-0000-0000-0000-000000000000", "a.tsv", "0" * 32, 12, *["x"] * (len(STAR_COLUMNS) - 4)]
        for i in range(N)
    ),
]
GMT: Rows = [[f"SET{i}", "about", *SYMBOLS[i : i + 5]] for i in range(30)]
HGNC: Rows = [
    ["HGNC ID", "Approved symbol", "Status", "Previous symbols", "Alias symbols", "Ensembl gene ID"],
    *(
        [f"HGNC:{i}", s, "Approved", f"OLD{i}", f"A{i}, B{i}", g]
        for i, (s, g) in enumerate(zip(SYMBOLS, GENES, strict=True))
    ),
]
GENE_TABLE: Rows = [
    ["symbol", "ensembl_id", "length"], *([s, g, 900 + i] for i, (s, g) in enumerate(zip(SYMBOLS, GENES, strict=True)))
]  # fmt: skip
PURITY: Rows = [
    ["array", "sample", "call status", "purity", "ploidy"],
    *([s, f"{s}A", "called", 0.5 + i / 100, 2.1] for i, s in enumerate(SAMPLES)),
]
PARALOGS: Rows = [list(pair) for pair in pairwise(SYMBOLS)]
VAR = pd.DataFrame({"ensembl_id": GENES, "symbol": SYMBOLS, "length": 900.0}, index=GENES)
FILES_YAML = """\
cohort:
  rules: {genes: [TP53, KRAS], mutation_filters: [PASS, "."]}
  files:
    expression: [counts.tsv, more/counts.tsv]
    expression_scale: counts
    samples: samples.tsv
    survival: follow_up.csv
    mutations: calls.maf
    columns: {sample_id: Sample, os_time_days: "OS (days)", cancer_type: site}
    cancer_types: {kidney: KIRC, lung: {name: lung of our own}}
    time_unit: days
"""


def _files(folder: Path) -> None:
    given = _read_config(folder / "files.yaml")
    CohortRules.from_mapping(given.pop("rules", None) or {})
    FilesConfig.from_mapping(given)


def _gene_table(folder: Path) -> None:
    (path,) = folder.iterdir()
    read_gene_table(path)


TABLES = (
    Reader("matrix.tsv", text("a.tsv", MATRIX), read_expression),
    Reader("matrix.csv", text("a.csv", TURNED, ","), read_expression),
    Reader("matrix.tsv.gz", text("a.tsv.gz", MATRIX), read_lab),
    Reader("matrix.parquet", _parquet(MATRIX, "a.parquet"), read_expression),
    Reader("matrix-turned.parquet", _parquet(TURNED, "a.parquet"), read_lab),
    Reader("clinical.tsv", text("s.tsv", CLINICAL), _clinical),
    Reader("clinical.csv.gz", text("s.csv.gz", CLINICAL, ","), _clinical),
    Reader("clinical.parquet", _parquet(CLINICAL, "s.parquet"), _clinical),
    Reader("files.yaml", lambda f: (f / "files.yaml").write_text(FILES_YAML), _files),
    Reader("mutations.maf", text("m.maf", MAF), _mutations),
    Reader("mutations-long.tsv", text("m.tsv", LONG), _mutations),
    Reader("mutations-wide.csv", text("m.csv", WIDE, ","), _mutations),
    Reader("mutations.parquet", _parquet(LONG, "m.parquet"), _mutations),
    Reader("mc3.maf.gz", text("m.maf.gz", MAF), lambda f: read_maf(f / "m.maf.gz", RULES)),
    Reader("gene-table.tsv", text("g.tsv", GENE_TABLE), _gene_table),
    Reader("gene-table.csv.gz", text("g.csv.gz", GENE_TABLE, ","), _gene_table),
    Reader("gene-table.parquet", _parquet(GENE_TABLE, "g.parquet"), _gene_table),
    Reader("gene-table.hgnc", text("h.txt", HGNC), _gene_table),
    Reader("gene-table.gtf", _gtf, _gene_table),
    Reader("paralogs.tsv", text("p.tsv", PARALOGS), lambda f: read_paralogs(str(f / "p.tsv"), VAR)),
    Reader("paralogs.csv.gz", text("p.csv.gz", PARALOGS, ","), lambda f: read_paralogs(str(f / "p.csv.gz"), VAR)),
    Reader("gdc-star", _star, _read_star),
    Reader("gdc-manifest", text("manifest.tsv", MANIFEST), lambda f: read_manifest(f / "manifest.tsv")),
    Reader("xena.gz", text("x.gz", XENA), _read_xena),
    Reader("cdr.xlsx", _cdr, lambda f: cdr_patients(read_cdr(f / "cdr.xlsx"))),
    Reader("quality.tsv", text("q.tsv", QUALITY), lambda f: read_quality(f / "q.tsv")),
    Reader("purity.txt", text("p.txt", PURITY), lambda f: read_purity(f / "p.txt")),
    Reader("annotation.gtf", _gtf, lambda f: read_gtf(f / "a.gtf")),
    Reader("sets.gmt", text("s.gmt", GMT), lambda f: read_gmt(f / "s.gmt")),
    Reader("sets.gmt.gz", text("s.gmt.gz", GMT), lambda f: read_gmt(f / "s.gmt.gz")),
    Reader("hgnc.txt", text("h.txt", HGNC), lambda f: read_nomenclature(f / "h.txt")),
)
