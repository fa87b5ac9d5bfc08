"""The simulated cohort in the official formats: names, headers, units, barcodes and compression of the TCGA files."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.csv

from bulkprobe.files import atomic_folder, atomic_path, file_hash, write_json
from bulkprobe.sources.headers import CDR_COLUMNS
from bulkprobe.sources.simulate import Simulation, simulate
from bulkprobe.sources.simulate_formats import aliquot_barcode, packed_text, write_rows
from bulkprobe.sources.simulate_maf import write_maf
from bulkprobe.sources.simulate_plan import EFFECTS, PROGNOSIS, STRENGTHS

Unit = Callable[[np.ndarray, slice], np.ndarray]  # (counts of a block of genes, which genes) → values as published

FLOOR = 0.001  # Xena's log2(TPM + 0.001)
PSEUDOAUTOSOMAL = (
    "ENSGR0000182378.13",
    "ENSGR0000178605.13",
    "ENSGR0000167393.17",
)  # in the Toil matrices, all zero


def fetch_simulated(raw: Path, truth: Path, *, patients: int, genes: int, seed: int) -> None:
    """Write the raw files of a simulated cohort to `raw` and the planted truth to `truth`, replacing both folders.

    The same arguments give the same bytes.
    """
    drawn = simulate(patients=patients, genes=genes, seed=seed)
    with atomic_folder(raw) as folder, atomic_folder(truth) as truth_folder:
        rng = np.random.default_rng(np.random.SeedSequence([seed, 11]))
        versions = [
            f"{gene}.{v}" for gene, v in zip(drawn.genes.ensembl_id, rng.integers(2, 19, len(drawn.genes)), strict=True)
        ]
        _write_matrices(folder, drawn, versions)
        _write_gtf(folder / "gencode.v23.annotation.gtf.gz", drawn.genes, versions, rng)
        write_maf(folder / "mc3.v0.2.8.PUBLIC.maf.gz", drawn, rng)
        _write_cdr(folder / "TCGA-CDR-SupplementalTableS1.xlsx", drawn, rng)
        _write_quality(folder / "merged_sample_quality_annotations.tsv", drawn, rng)
        _write_purity(folder / "TCGA_mastercalls.abs_tables_JSedit.fixed.txt", drawn, rng)
        listed = {
            p.name: {"bytes": p.stat().st_size, "sha256": file_hash(p), "url": None} for p in sorted(folder.iterdir())
        }
        write_json(folder / "source.json", {"source": "simulated", "expression": "xena_toil", "files": listed})
        _write_truth(truth_folder, drawn)


def _write_matrices(folder: Path, drawn: Simulation, versions: list[str]) -> None:
    counts = np.vstack([drawn.counts, np.zeros((len(PSEUDOAUTOSOMAL), drawn.counts.shape[1]), np.float32)])
    length = np.concatenate([drawn.genes.length.to_numpy(float), np.full(len(PSEUDOAUTOSOMAL), 1000.0)])
    ids = [*versions, *PSEUDOAUTOSOMAL]
    scale = np.zeros(counts.shape[1])
    for start in range(0, len(counts), 512):
        scale += (counts[start : start + 512] / length[start : start + 512, None]).sum(axis=0)
    scale = 1e6 / scale
    samples = drawn.samples.sample_id.tolist()
    _write_matrix(
        folder / "tcga_gene_expected_count.gz", ids, samples, counts, lambda block, rows: np.log2(block + 1.0)
    )
    _write_matrix(
        folder / "tcga_RSEM_gene_tpm.gz",
        ids,
        samples,
        counts,
        lambda block, rows: np.log2(block / length[rows, None] * scale + FLOOR),
    )


def _write_matrix(path: Path, ids: list[str], samples: list[str], counts: np.ndarray, unit: Unit) -> None:
    with atomic_path(path) as aside, aside.open("wb") as file, packed_text(file) as packed:
        packed.write(("\t".join(["sample", *samples]) + "\n").encode())
        for start in range(0, len(ids), 256):
            rows = slice(start, min(start + 256, len(ids)))
            values = np.round(unit(counts[rows].astype(np.float64), rows), 4)
            table = pa.table([pa.array(ids[rows]), *values.T], names=["sample", *samples])
            write_rows(packed, table)


def _write_gtf(path: Path, genes: pd.DataFrame, versions: list[str], rng: np.random.Generator) -> None:
    """Two transcripts a gene whose exons overlap; their union is the gene's length. PAR genes are on both X and Y."""
    lines = ["##description: evidence-based annotation of the human genome (GRCh38), version 23 (Ensembl 81)\n"]
    position = 10_000
    par = [(gene, f"PAR{number}", 1000, "chrY") for number, gene in enumerate(PSEUDOAUTOSOMAL, start=1)]
    listed = [(v, s, n, "chr1") for v, s, n in zip(versions, genes.symbol, genes.length, strict=True)]
    for number, (versioned, symbol, length, chromosome) in enumerate([*listed, *par], start=1):
        tag = f'gene_id "{versioned}"; gene_type "protein_coding"; gene_status "KNOWN"; gene_name "{symbol}"; level 2;'
        cut = int(rng.integers(length // 4, length // 2 + 1))
        second = position + cut + 500  # after an intron of 500 bases
        end = position + length + 500
        exons = {f"ENST{2 * number:011d}.1": [(position, position + cut - 1), (second, end - 1)]}
        exons[f"ENST{2 * number + 1:011d}.1"] = [(second, second + max(1, (length - cut) // 2) - 1)]
        rows = [("gene", position, end - 1, "")]
        for transcript, places in exons.items():
            name = f' transcript_id "{transcript}";'
            rows.append(("transcript", places[0][0], places[-1][1], name))
            rows.extend(("exon", first, last, name) for first, last in places)
        lines.extend(f"{chromosome}\tHAVANA\t{kind}\t{a}\t{b}\t.\t+\t.\t{tag}{name}\n" for kind, a, b, name in rows)
        position = end + 1000
    with atomic_path(path) as aside, aside.open("wb") as file, packed_text(file) as packed:
        packed.write("".join(lines).encode())


CLINICAL_STAGE_ONLY = ("OV", "UCEC")


def _write_cdr(path: Path, drawn: Simulation, rng: np.random.Generator) -> None:
    table = drawn.patients
    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet("TCGA-CDR")
    sheet.append([None, *CDR_COLUMNS])
    male_or_female = np.where(table.female, "FEMALE", "MALE")
    unknown = rng.random(len(table)) < 0.01
    disease_specific = rng.random(len(table)) < 0.9
    order = np.argsort(table.patient_id.to_numpy())
    for number, i in enumerate(order, start=1):
        row = table.loc[i]
        stage = f"Stage {row.stage}" if row.stage else "[Not Available]"
        cell: dict[str, object] = dict.fromkeys(CDR_COLUMNS, "[Not Available]")
        clinical = row.cancer_type in CLINICAL_STAGE_ONLY
        cell |= {"bcr_patient_barcode": row.patient_id, "type": row.cancer_type, "gender": male_or_female[i]}
        cell["age_at_initial_pathologic_diagnosis"] = "#N/A" if unknown[i] else int(row.age)
        cell["clinical_stage" if clinical else "ajcc_pathologic_tumor_stage"] = stage
        cell["vital_status"] = "Dead" if row.os_event == 1 else "Alive"
        blood = row.cancer_type == "LAML"
        cell |= {"OS": _cdr(row.os_event), "OS.time": _cdr(row.os_time)}
        dss = row.os_event * disease_specific[i]
        cell |= {"DSS": "#N/A" if blood else _cdr(dss), "DSS.time": "#N/A" if blood else _cdr(row.os_time)}
        cell |= {
            "DFI": "#N/A",
            "DFI.time": "#N/A",
            "PFI": _cdr(row.pfi_event),
            "PFI.time": _cdr(row.pfi_time),
        }
        cell["Redaction"] = "Redacted" if row.redacted else None
        sheet.append([number, *(cell[name] for name in CDR_COLUMNS)])
    book.create_sheet("Notes").append(["Simulated patients; none of this is real"])
    written = io.BytesIO()
    book.save(written)
    _write_zip_without_dates(path, written)


def _cdr(value: float) -> object:
    return "#N/A" if pd.isna(value) else int(value)


def _write_zip_without_dates(path: Path, written: io.BytesIO) -> None:
    """Write a spreadsheet again with fixed dates, so that the same seed gives the same bytes."""
    with (
        zipfile.ZipFile(written) as source,
        atomic_path(path) as aside,
        zipfile.ZipFile(aside, "w") as target,
    ):
        for name in sorted(source.namelist()):
            if name == "docProps/core.xml":  # holds the time of writing
                content = (
                    b'<?xml version="1.0"?><cp:coreProperties xmlns:cp='
                    b'"http://schemas.openxmlformats.org/package/2006/metadata/core-properties"/>'
                )
            else:
                content = source.read(name)
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            target.writestr(info, content, zipfile.ZIP_DEFLATED, 6)


def _write_quality(path: Path, drawn: Simulation, rng: np.random.Generator) -> None:
    samples = drawn.samples.sort_values("sample_id")
    patients = drawn.patients.loc[samples.patient]
    # Only in types that are not probed by themselves, so that the planted labels keep their numbers.
    excluded = patients.cancer_type.isin(["KICH", "LAML", "OV", "THCA"]).to_numpy() & (rng.random(len(samples)) < 0.05)
    unreviewed = rng.random(len(samples)) < 0.1
    rows = pd.DataFrame(
        {
            "patient_barcode": patients.patient_id.to_numpy(),
            "aliquot_barcode": [aliquot_barcode(s, "R") for s in samples.sample_id],
            "cancer type": patients.cancer_type.to_numpy(),
            "platform": "IlluminaHiSeq_RNASeqV2",
            "patient_annotation": "",
            "sample_annotation": "",
            "aliquot_annotation": np.where(samples.do_not_use, "Item flagged DNU", ""),
            "aliquot_annotation_updated": "",
            "AWG_excluded_because_of_pathology": np.where(excluded, "1.0", np.where(unreviewed, "NA", "0.0")),
            "AWG_pathology_exclusion_reason": np.where(excluded, "Wrong histology", ""),
            "Reviewed_by_EPC": "0.0",
            "Do_not_use": np.where(samples.do_not_use, "True", "False"),
        }
    )
    with atomic_path(path) as aside:
        rows.to_csv(aside, sep="\t", index=False)


def _write_purity(path: Path, drawn: Simulation, rng: np.random.Generator) -> None:
    tumours = drawn.samples[drawn.samples.sample_type.isin(["01", "03", "06"])].sort_values("sample_id")
    known = tumours[rng.random(len(tumours)) < 0.93]
    rows = pd.DataFrame(
        {
            "array": known.sample_id.to_numpy(),
            "sample": [aliquot_barcode(s, "D") for s in known.sample_id],
            "call status": "called",
            "purity": drawn.patients.purity.loc[known.patient].to_numpy(),
            "ploidy": np.round(rng.normal(2.4, 0.6, len(known)).clip(1.3, 6.0), 2),
            "Genome doublings": rng.integers(0, 3, len(known)),
            "Coverage for 80% power": 12,
            "Cancer DNA fraction": 0.7,
            "Subclonal genome fraction": 0.1,
            "solution": "new",
        }
    )
    with atomic_path(path) as aside:
        rows.to_csv(aside, sep="\t", index=False)


def _write_truth(folder: Path, drawn: Simulation) -> None:
    planted = {
        "simulated": True,
        "genes": {gene: {"effect": EFFECTS[gene], "strength": STRENGTHS[gene]} for gene in EFFECTS},
        "prognosis": {
            code: {
                "log_hazard_per_sd": PROGNOSIS.get(code, 0.0),
                "strength": _strength(PROGNOSIS.get(code, 0.0)),
            }
            for code in sorted(set(drawn.patients.cancer_type))
        },
        "hypermutated": sorted(drawn.patients.patient_id[drawn.patients.hypermutated]),
        "unprofiled": sorted(drawn.patients.patient_id[~drawn.patients.profiled]),
    }
    write_json(folder / "truth.json", planted)
    drawn.scores.sort_values(["target", "patient_id"]).to_parquet(folder / "scores.parquet", index=False)
    drawn.loadings.to_parquet(folder / "modules.parquet")


def _strength(log_hazard: float) -> str:
    return "strong" if log_hazard >= 0.8 else "weak" if log_hazard else "none"
