from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from raw_tables import (
    dropped,
    write_cdr,
    write_gtf,
    write_maf,
    write_purity,
    write_quality,
    write_source,
    write_xena,
)

from bulkprobe import files
from bulkprobe.cohort.build import build_cohort, build_lab_cohort
from bulkprobe.cohort.flow import Flow
from bulkprobe.cohort.read import read_cohort
from bulkprobe.cohort.schema import CohortRules
from bulkprobe.cohort.store import open_expression
from bulkprobe.errors import UserError
from bulkprobe.sources import schema as raw_names
from bulkprobe.sources.files import fetch_files

RULES = CohortRules(genes=("KRAS", "TP53"))
GENES = [f"ENSG{i:011d}.{i}" for i in range(1, 7)]
COUNTS = np.array([0, 10, 250, 4000, 30, 77], float)
# Patient 3: not profiled. 4: redacted. 5: a normal only. 1: a normal beside the tumour.
SAMPLES = [
    "TCGA-AA-0001-11",
    "TCGA-AA-0001-01",
    "TCGA-AA-0002-01",
    "TCGA-AA-0003-01",
    "TCGA-AA-0004-01",
    "TCGA-AA-0005-11",
]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    rows: list[dict[str, Any]] = [
        {"bcr_patient_barcode": f"TCGA-AA-000{i}", "OS": i % 2, "OS.time": 100 * i, "gender": "MALE"}
        for i in range(1, 6)
    ]
    rows[3]["Redaction"] = "Redacted"
    write_cdr(folder / raw_names.CDR_XLSX, rows)
    write_quality(
        folder / raw_names.SAMPLE_QUALITY,
        [{"aliquot_barcode": f"{sample}A-11R-A111-07"} for sample in SAMPLES],
    )
    write_purity(folder / raw_names.ABSOLUTE_PURITY, {"TCGA-AA-0002-01": "0.4"})
    tumour = "TCGA-AA-000{}-01A-11D-A234-08"
    write_maf(
        folder / raw_names.MC3_MAF,
        [
            ("KRAS", "Missense_Mutation", tumour.format(1), "p.G12V", "PASS"),
            ("TP53", "Silent", tumour.format(2), "p.R175R", "wga"),
            ("TP53", "Missense_Mutation", tumour.format(4), "p.R175H", "PASS"),
            ("TP53", "Missense_Mutation", tumour.format(9), "p.R175H", "PASS"),
        ],
    )
    counts = COUNTS[:, None] * np.arange(1, 7)[None, :]
    tpm = 1e6 * counts / counts.sum(axis=0)
    write_xena(folder / raw_names.XENA_COUNTS, GENES, SAMPLES, np.log2(counts + 1))
    write_xena(folder / raw_names.XENA_TPM, GENES, SAMPLES, np.log2(tpm + 0.001))
    write_gtf(folder / raw_names.GENCODE_V23, GENES)
    write_source(folder, "tcga", "xena_toil")
    return folder


def test_xena_cohort(raw: Path, tmp_path: Path) -> None:
    content = build_cohort(raw, tmp_path / "cohort", RULES)
    cohort = read_cohort(tmp_path / "cohort")
    assert content == cohort.flow
    assert list(cohort.samples["sample_id"]) == SAMPLES
    assert list(cohort.probing["patient_id"]) == ["TCGA-AA-0001", "TCGA-AA-0002", "TCGA-AA-0003"]
    first = cohort.probing.iloc[1]
    assert (first["cancer_type"], first["sex"], first["purity"]) == ("KIRC", "male", 0.4)
    assert first["aliquot"] == "TCGA-AA-0002-01A-11R-A111-07"
    np.testing.assert_allclose(cohort.probing["log10_mutation_burden"], [np.log10(2), 0, np.nan])
    assert cohort.mutations.to_dict("records") == [
        {"patient_id": "TCGA-AA-0001", "gene": "KRAS", "mutated": True, "hotspot": True},
        {"patient_id": "TCGA-AA-0002", "gene": "KRAS", "mutated": False, "hotspot": False},
        {"patient_id": "TCGA-AA-0001", "gene": "TP53", "mutated": False, "hotspot": None},
        {"patient_id": "TCGA-AA-0002", "gene": "TP53", "mutated": False, "hotspot": None},
    ]
    assert list(cohort.survival["time_days"]) == [100.0, 200.0, 300.0]
    assert list(cohort.survival["event"]) == [True, False, True]
    flow = Flow(rules=content["rules"])
    assert dropped(flow, "not wild type") == 1
    assert dropped(flow, "profiled sample has expression") == 1
    store = open_expression(tmp_path / "cohort")
    assert store.sample_ids == SAMPLES
    np.testing.assert_allclose(store.read()[0], COUNTS)
    assert store.layers == ["tpm"]
    assert cohort.provenance["raw"][raw_names.MC3_MAF] == files.file_hash(raw / raw_names.MC3_MAF)
    assert cohort.provenance["simulated"] is False
    assert cohort.provenance["rules"] == RULES.to_mapping()


def test_equal_input_gives_equal_bytes(raw: Path, tmp_path: Path) -> None:
    build_cohort(raw, tmp_path / "one", RULES)
    build_cohort(raw, tmp_path / "two", RULES)
    build_cohort(raw, tmp_path / "two", RULES)  # replaces
    assert files.tree_hash(tmp_path / "one") == files.tree_hash(tmp_path / "two")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "raw", "two"]


def test_gdc_cohort(raw: Path, tmp_path: Path) -> None:
    (raw / raw_names.XENA_TPM).unlink()
    (raw / raw_names.XENA_COUNTS).unlink()
    (raw / raw_names.GENCODE_V23).rename(raw / raw_names.GENCODE_V36)
    aliquots = ["TCGA-AA-0001-01A-11R-A111-07", "TCGA-AA-0001-01A-11R-A222-07", "TCGA-ZZ-0002-01A-11R-A111-07"]
    lines = ["\t".join(raw_names.STAR_COLUMNS)]
    for number, aliquot in enumerate(aliquots):
        folder = raw / raw_names.STAR_FOLDER / f"id{number}"
        folder.mkdir(parents=True)
        head = "gene_id gene_name gene_type unstranded stranded_first stranded_second tpm_unstranded fpkm_unstranded"
        rows = ["# gene-model: GENCODE v36", head.replace(" ", "\t"), "N_unmapped\t\t\t5\t5\t5\t\t"]
        counts = COUNTS * (number + 1)
        for gene, count in zip(GENES, counts, strict=True):
            rows.append(f"{gene}\tx\tprotein_coding\t{count:.0f}\t0\t0\t{1e6 * count / counts.sum():.4f}\t0")
        (folder / "f.tsv").write_text("\n".join(rows) + "\n")
        lines.append("\t".join((f"id{number}", "f.tsv", "", "0", aliquot[:16], aliquot, "TCGA-KIRC", "Primary Tumor")))
    (raw / raw_names.STAR_MANIFEST).write_text("\n".join(lines) + "\n")
    (raw / "source.json").unlink()
    write_source(raw, "tcga", "gdc_star")
    build_cohort(raw, tmp_path / "cohort", RULES)
    cohort = read_cohort(tmp_path / "cohort")
    assert list(cohort.samples["sample_id"]) == aliquots
    assert list(cohort.probing["sample_id"]) == aliquots[1:]  # the larger plate
    assert list(cohort.probing["cancer_type"]) == ["KIRC", "KIRC"]  # the second from the project
    assert set(cohort.mutations["patient_id"]) == {"TCGA-AA-0001"}


def test_raw_refusals(raw: Path, tmp_path: Path) -> None:
    output = tmp_path / "cohort"
    path = raw / raw_names.SOURCE_JSON
    source = json.loads(path.read_text())
    with pytest.raises(UserError, match="nothing was fetched"):
        build_cohort(tmp_path / "elsewhere", output, RULES)
    path.write_text(json.dumps(source | {"expression": "array"}))
    with pytest.raises(UserError, match="source 'tcga' with expression 'array'; expected simulated or tcga"):
        build_cohort(raw, output, RULES)
    path.write_text(json.dumps(source))
    purity = raw / raw_names.ABSOLUTE_PURITY
    purity.write_text(purity.read_text() + "\n")
    with pytest.raises(UserError, match=f"{purity.name}: .* bytes, expected .*; the file was changed or cut"):
        build_cohort(raw, output, RULES)
    purity.unlink()
    with pytest.raises(UserError, match=f"files missing: {purity.name}; fetch again"):
        build_cohort(raw, output, RULES)
    assert not output.exists()


# ---------------------------------------------------------------- a lab's tables


@pytest.fixture
def lab(tmp_path: Path) -> tuple[dict[str, Any], Path]:
    folder = tmp_path / "lab"
    folder.mkdir()
    rng = np.random.default_rng(0)
    ids = [f"s{i}" for i in range(8)]
    genes = ["TP53", "KRAS", "EGFR", "ACTB", "GAPDH"]
    counts = pd.DataFrame(rng.poisson(500, (5, 8)), index=pd.Index(genes, name="gene"), columns=ids)
    counts.to_csv(folder / "counts.tsv", sep="\t")
    pd.DataFrame({"symbol": genes, "ensembl": GENES[:5], "length_bp": 1000}).to_csv(folder / "genes.csv", index=False)
    pd.DataFrame(
        {
            "sample": ids,
            "cancer_type": ["LUAD"] * 8,
            "os_time_days": range(10, 18),
            "os_event": [0, 1] * 4,
        }
    ).to_csv(folder / "samples.csv", index=False)
    pd.DataFrame([["KRAS", *[0, 1] * 4]], columns=["gene", *ids]).to_csv(folder / "m.tsv", sep="\t", index=False)
    config = {
        "expression": "counts.tsv",
        "expression_scale": "counts",
        "samples": "samples.csv",
        "mutations": "m.tsv",
        "genes": "genes.csv",
    }
    return config, folder


def test_lab_cohort(lab: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    config, folder = lab
    build_lab_cohort(config, folder, tmp_path / "cohort", RULES)
    cohort = read_cohort(tmp_path / "cohort")
    assert len(cohort.probing) == 8
    assert list(cohort.mutations["gene"].unique()) == ["KRAS"]
    assert cohort.mutations["mutated"].sum() == 4
    assert cohort.mutations["hotspot"].isna().all()
    assert cohort.provenance["raw"]["m.tsv"] == files.file_hash(folder / "m.tsv")
    store = open_expression(tmp_path / "cohort")
    assert (store.scale, store.layers) == ("counts", ["tpm"])
    assert str(tmp_path) not in json.dumps(cohort.provenance)


def test_fetched_lab_tables_give_the_same_cohort(lab: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    config, folder = lab
    fetch_files(config, tmp_path / "raw", base=folder)
    flow = build_cohort(tmp_path / "raw", tmp_path / "fetched", RULES)
    assert flow == build_lab_cohort(config, folder, tmp_path / "direct", RULES)
    fetched, direct = read_cohort(tmp_path / "fetched"), read_cohort(tmp_path / "direct")
    pd.testing.assert_frame_equal(fetched.samples, direct.samples)
    assert fetched.provenance["raw"]["files/m.tsv"] == direct.provenance["raw"]["m.tsv"]


def test_lab_cohort_without_labels(lab: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    config, folder = lab
    table = pd.read_csv(folder / "samples.csv").drop(columns=["os_time_days", "os_event"])
    table.to_csv(folder / "samples.csv", index=False)
    build_lab_cohort({k: v for k, v in config.items() if k != "mutations"}, folder, tmp_path / "cohort")
    cohort = read_cohort(tmp_path / "cohort")
    assert cohort.mutations.empty
    assert cohort.survival.empty


def test_lab_refusals(lab: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    config, folder = lab
    with pytest.raises(UserError, match=r"no such file: nowhere.tsv; correct the paths"):
        build_lab_cohort(config | {"samples": "nowhere.tsv"}, folder, tmp_path / "cohort")
    with pytest.raises(UserError, match=r"no table has a column 'OS_DAYS'.*looked in samples.csv, m.tsv"):
        build_lab_cohort(config | {"columns": {"os_time_days": "OS_DAYS"}}, folder, tmp_path / "cohort")


# ---------------------------------------------------------------- real material


@pytest.mark.shared
def test_porpoise(shared: Path, tmp_path: Path) -> None:
    config = {
        "expression": ["expression/KIRP.parquet", "expression/PAAD.parquet"],
        "expression_scale": "zscore",
        "samples": "samples.tsv.gz",
        "mutations": ["mutations/KIRP.parquet", "mutations/PAAD.parquet"],
    }
    build_lab_cohort(config, shared / "real/porpoise", tmp_path / "cohort")
    cohort = read_cohort(tmp_path / "cohort")
    kinds = cohort.probing.set_index("patient_id")["cancer_type"]
    assert kinds.value_counts().to_dict() == {"KIRP": 260, "PAAD": 166}
    table = cohort.mutations.assign(kind=kinds.reindex(cohort.mutations["patient_id"]).to_numpy())
    found = table.groupby(["kind", "gene"])["mutated"].agg(["sum", "size"])
    # KRAS and TP53 were not published for KIRP: unknown there, not wild type.
    assert found.to_dict("index") == {
        ("KIRP", "BAP1"): {"sum": 14, "size": 260},
        ("PAAD", "KRAS"): {"sum": 108, "size": 166},
        ("PAAD", "TP53"): {"sum": 101, "size": 166},
    }
    overall = cohort.survival[cohort.survival["endpoint"] == "OS"]
    assert (len(overall), int(overall["event"].sum())) == (426, 130)
    assert open_expression(tmp_path / "cohort").scale == "zscore"


@pytest.mark.shared
def test_rtcga(shared: Path, tmp_path: Path) -> None:
    config = {
        "expression": "expression.parquet",
        "expression_scale": "rsem_normalised",
        "samples": "samples.tsv.gz",
        "mutations": "mutations.parquet",
        "genes": "genes.tsv.gz",
        "mutations_absent_gene": "wild_type",
    }
    flow = build_lab_cohort(config, shared / "real/rtcga_rnaseqv2_small", tmp_path / "cohort")
    cohort = read_cohort(tmp_path / "cohort")
    assert len(cohort.samples) == 229
    assert cohort.probing["cancer_type"].value_counts().to_dict() == {"ACC": 79, "UCS": 57, "DLBC": 48, "CHOL": 36}
    assert cohort.mutations.groupby("gene")["patient_id"].count().to_dict() == dict.fromkeys(
        ("BAP1", "EGFR", "KRAS", "PBRM1", "PIK3CA", "TP53"), 217
    )
    assert dropped(Flow(rules=flow["rules"]), "OS: time is above zero") == 2
    assert open_expression(tmp_path / "cohort").scale == "rsem_normalised"


def test_files_about_other_patients(raw: Path, tmp_path: Path) -> None:
    def rewrite() -> None:
        (raw / raw_names.SOURCE_JSON).unlink()
        write_source(raw, "tcga", "xena_toil")

    write_cdr(raw / raw_names.CDR_XLSX, [{"bcr_patient_barcode": "TCGA-ZZ-0001", "OS": 1, "OS.time": 5}])
    rewrite()
    with pytest.raises(UserError, match=f"{raw_names.CDR_XLSX} has no patient of the expression matrix"):
        build_cohort(raw, tmp_path / "cohort", RULES)
    calls = [(gene, "Silent", "TCGA-ZZ-0001-01A-11D-A234-08", "p.=", "PASS") for gene in RULES.genes]
    write_maf(raw / raw_names.MC3_MAF, calls)
    rewrite()
    with pytest.raises(UserError, match=f"{raw_names.MC3_MAF} has nothing about any patient"):
        build_cohort(raw, tmp_path / "cohort", RULES)
    write_xena(raw / raw_names.XENA_TPM, GENES, ["TCGA-ZZ-0001-01"], np.zeros((len(GENES), 1)))
    rewrite()
    with pytest.raises(UserError, match="no sample is in both matrices"):
        build_cohort(raw, tmp_path / "cohort", RULES)
    (raw / raw_names.CDR_XLSX).write_text("<html>")
    rewrite()
    with pytest.raises(UserError, match="is not an Excel workbook"):
        build_cohort(raw, tmp_path / "cohort", RULES)
    assert not (tmp_path / "cohort").exists()


def test_a_folder_in_place_of_a_table(lab: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    config, folder = lab
    (folder / "d.tsv").mkdir()
    with pytest.raises(UserError, match=r"cohort.files: d.tsv is a folder, expected a file"):
        build_lab_cohort(config | {"survival": "d.tsv"}, folder, tmp_path / "cohort", RULES)
