"""Tiny raw files in the official formats, for the tests of this room."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pandas as pd

from bulkprobe import files
from bulkprobe.cohort.flow import Flow
from bulkprobe.cohort.lab_tables import lab_samples
from bulkprobe.cohort.schema import CohortRules, FilesConfig

QUALITY = (
    "patient_barcode",
    "aliquot_barcode",
    "cancer type",
    "platform",
    "patient_annotation",
    "sample_annotation",
    "aliquot_annotation",
    "AWG_excluded_because_of_pathology",
    "AWG_pathology_exclusion_reason",
    "Reviewed_by_EPC",
    "Do_not_use",
)
RNA = "IlluminaHiSeq_RNASeqV2"


def dropped(flow: Flow, rule: str) -> int:
    """Return how many rows the one rule whose text contains `rule` dropped."""
    (found,) = [entry["dropped"] for entry in flow.rules if rule in entry["rule"]]
    return int(found)


def write_quality(path: Path, rows: Iterable[Mapping[str, str]]) -> Path:
    """Rows need aliquot_barcode; RNA-seq, type KIRC, usable, not excluded unless said otherwise."""
    lines = ["\t".join(QUALITY)]
    for row in rows:
        full = dict.fromkeys(QUALITY, "") | {
            "patient_barcode": row["aliquot_barcode"][:12],
            "cancer type": "KIRC",
            "platform": RNA,
            "AWG_excluded_because_of_pathology": "0",
            "Do_not_use": "False",
        }
        lines.append("\t".join((full | dict(row)).values()))
    path.write_text("\n".join(lines) + "\n")
    return path


CDR = (
    "bcr_patient_barcode",
    "type",
    "age_at_initial_pathologic_diagnosis",
    "gender",
    "race",
    "ajcc_pathologic_tumor_stage",
    "clinical_stage",
    "Redaction",
    "OS",
    "OS.time",
    "DSS",
    "DSS.time",
    "DFI",
    "DFI.time",
    "PFI",
    "PFI.time",
)


def write_cdr(path: Path, rows: Iterable[Mapping[str, Any]], sheet: str = "TCGA-CDR") -> Path:
    """Rows need bcr_patient_barcode; everything else is missing in one of the official ways."""
    book = openpyxl.Workbook()
    table = book.active
    assert table is not None
    table.title = sheet
    table.append([None, *CDR])
    words = ["#N/A", "[Not Available]", "[Discrepancy]", "[Unknown]", "[Not Applicable]", None]
    for number, row in enumerate(rows, start=1):
        blank = {name: words[(number + i) % len(words)] for i, name in enumerate(CDR)} | {"Redaction": None}
        table.append([number, *(blank | {"type": "KIRC"} | dict(row)).values()])
    book.create_sheet("TCGA-CDR-Notes").append(["note"])
    book.save(path)
    return path


MAF = ("Hugo_Symbol", "Entrez_Gene_Id", "Variant_Classification", "Tumor_Sample_Barcode", "HGVSp_Short", "FILTER", "X")


def write_maf(path: Path, calls: Iterable[Sequence[str]], comment: str = "") -> Path:
    """Calls: gene, class, tumour barcode, protein change, filter."""
    lines = ["\t".join(MAF)]
    for gene, kind, barcode, change, tags in calls:
        lines.append("\t".join((gene, "0", kind, barcode, change, tags, 'a "lone quote')))
    with gzip.open(path, "wb") as handle:
        handle.write((comment + "\n".join(lines) + "\n").encode())
    return path


def write_purity(path: Path, purity: Mapping[str, str]) -> Path:
    """Write ABSOLUTE's table by 15-character barcode."""
    lines = ["array\tsample\tcall status\tpurity\tploidy"]
    lines += [f"{tissue}\t{tissue}A-11D-A234-01\tcalled\t{value}\t2.0" for tissue, value in purity.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_xena(path: Path, genes: Sequence[str], samples: Sequence[str], values: np.ndarray) -> Path:
    """Write a genes × samples matrix as Xena does."""
    with gzip.open(path, "wt") as handle:
        handle.write("sample\t" + "\t".join(samples) + "\n")
        for gene, row in zip(genes, values, strict=True):
            handle.write(gene + "\t" + "\t".join(f"{value:.4f}" for value in row) + "\n")
    return path


def write_gtf(path: Path, genes: Sequence[str], length: int = 1000) -> Path:
    """Write an annotation with one exon of `length` bases a gene."""
    with gzip.open(path, "wt") as handle:
        handle.write("##description: a test\n")
        for number, gene in enumerate(genes):
            start = 1 + 2 * length * number
            tail = f'gene_id "{gene}"; gene_name "SYM{number}";'
            for kind in ("gene", "exon"):
                handle.write(f"chr1\tTEST\t{kind}\t{start}\t{start + length - 1}\t.\t+\t.\t{tail}\n")
    return path


def write_source(raw: Path, source: str, expression: str | None) -> None:
    """Write source.json over every file of the folder."""
    recorded = {
        path.relative_to(raw).as_posix(): {
            "sha256": files.file_hash(path),
            "bytes": path.stat().st_size,
            "url": None,
        }
        for path in sorted(raw.rglob("*"))
        if path.is_file()
    }
    (raw / "source.json").write_text(json.dumps({"source": source, "expression": expression, "files": recorded}))


# A lab's tables.

LAB_RULES = CohortRules(genes=("KRAS", "TP53"))
LAB_IDS = ["s1", "s2", "s3"]


def lab_config(**options: Any) -> FilesConfig:
    return FilesConfig.from_mapping({"expression": "x.tsv", "expression_scale": "tpm", "samples": "s.tsv"} | options)


def text(table: dict[str, list[Any]]) -> pd.DataFrame:
    return pd.DataFrame(table, dtype=object)


def lab_table(ids: list[str] = LAB_IDS, **more: list[Any]) -> pd.DataFrame:
    return text({"sample_id": ids, "cancer_type": ["LUAD"] * len(ids)} | more)


def lab_chosen(table: pd.DataFrame, ids: list[str] = LAB_IDS, flow: Flow | None = None, **options: Any) -> pd.DataFrame:
    return lab_samples(table, ids, lab_config(**options), LAB_RULES, flow or Flow())
