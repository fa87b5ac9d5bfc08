from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr

from bulkprobe.cohort.build import build_lab_cohort
from bulkprobe.cohort.check import check_cohort
from bulkprobe.cohort.read import read_cohort, write_columns
from bulkprobe.cohort.schema import (
    MUTATION_COLUMNS,
    MUTATIONS,
    SAMPLE_COLUMNS,
    SAMPLES,
    SURVIVAL,
    SURVIVAL_COLUMNS,
    CohortRules,
)
from bulkprobe.errors import UserError

IDS = [f"s{i}" for i in range(30)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lab")
    rng = np.random.default_rng(1)
    genes = ["TP53", "KRAS", "EGFR", "ACTB", "GAPDH"]
    counts = pd.DataFrame(rng.poisson(500, (5, 30)), index=pd.Index(genes, name="gene"), columns=IDS)
    counts.to_csv(folder / "counts.tsv", sep="\t")
    pd.DataFrame({"symbol": genes, "ensembl": "", "length_bp": 1000}).to_csv(folder / "genes.csv", index=False)
    pd.DataFrame(
        {
            "sample": IDS,
            "cancer_type": ["KIRC"] * 25 + ["KIRP"] * 4 + ["KIRC"],
            "sample_type": ["01"] * 29 + ["11"],
            "age": 60,
            "os_time_days": range(10, 40),
            "os_event": [0] * 25 + [1] * 5,
        }
    ).to_csv(folder / "samples.csv", index=False)
    pd.DataFrame([["KRAS", *[0, 1] * 15]], columns=["gene", *IDS]).to_csv(folder / "m.tsv", sep="\t", index=False)
    config: dict[str, Any] = {
        "expression": "counts.tsv",
        "expression_scale": "counts",
        "samples": "samples.csv",
        "mutations": "m.tsv",
        "genes": "genes.csv",
        "allow_all_censored": True,
    }
    build_lab_cohort(config, folder, folder / "cohort", CohortRules(genes=("KRAS",)))
    return folder / "cohort"


@pytest.fixture
def cohort(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "cohort"))


def test_findings(cohort: Path) -> None:
    found = check_cohort(cohort)
    lines = [f"{finding.level}: {finding.text}" for finding in found]
    assert "info: 30 samples, 29 patients for probing" in lines
    assert "info: patients by type: KIRC 25, KIRP 4" in lines
    assert "warning: types with fewer than 20 patients, too few to probe: KIRP (4)" in lines
    assert "info: not probed, by sample type: 11 1" in lines
    assert "info: profiled for mutations: 29 of 29 (100%)" in lines
    assert "info: KRAS mutated: all types 14/29, KIRC 12/25, KIRP 2/4, RCC 14/29" in lines
    assert "info: KRAS hotspot: unknown in this source" in lines
    assert "info: OS: events/patients KIRC 0/25, KIRP 4/4; median time 24 days" in lines
    assert "warning: OS: every patient is censored in KIRC (n = 25)" in lines
    assert "info: PFI: none" in lines
    assert any(line.startswith("info: missing: age 0%, sex 100%") for line in lines)
    assert "info: 5 genes; X is counts, layer tpm" in lines
    assert "warning: genes without an Ensembl id: 5, without a length: 0" in lines
    assert "info: X: 0% of the counts are fractional" in lines
    assert "info: tpm: sum of a sample 1,000,000 to 1,000,000, median 1,000,000" in lines


@pytest.mark.parametrize(
    ("layer", "value", "message"),
    [
        ("X", np.nan, r"expression X: 1 values are not finite, the first nan \(sample s2, gene EGFR\)"),
        ("X", -1.0, r"expression X: 1 values are negative, the first -1.0 \(sample s2, gene EGFR\); counts cannot"),
        ("layers/tpm", np.inf, r"expression tpm: 1 values are not finite, the first inf"),
    ],
)
def test_impossible_expression(cohort: Path, layer: str, value: float, message: str) -> None:
    array = zarr.open_array(str(cohort / "expression.zarr"), path=layer, mode="r+")
    array[2, 2] = value
    with pytest.raises(UserError, match=message):
        check_cohort(cohort)


def samples(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    return lambda folder: write_columns(change(read_cohort(folder).samples), SAMPLE_COLUMNS, folder / SAMPLES)


def survival(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    return lambda folder: write_columns(change(read_cohort(folder).survival), SURVIVAL_COLUMNS, folder / SURVIVAL)


def mutations(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    return lambda folder: write_columns(change(read_cohort(folder).mutations), MUTATION_COLUMNS, folder / MUTATIONS)


def retyped(folder: Path) -> None:
    pd.read_parquet(folder / SAMPLES).assign(age="old").to_parquet(folder / SAMPLES, index=False)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (samples(lambda t: t.iloc[::-1]), "expression has 30 samples and the samples table 30; .*the order differs"),
        (samples(lambda t: t[:-1]), r"the samples table 29; expected the same in the same order \(in one only: s29\)"),
        (samples(lambda t: pd.concat([t, t[-1:]])), "samples.parquet: sample ids that occur more than once: s29"),
        (samples(lambda t: t.assign(patient_id="a")), "patients with several samples for probing: a;"),
        (samples(lambda t: t.assign(patient_id=None)), "samples.parquet: 30 rows without patient_id"),
        (samples(lambda t: t.assign(cancer_type=None)), "29 samples for probing, 29 without a cancer type"),
        (samples(lambda t: t.assign(for_probing=False)), "0 samples for probing"),
        (retyped, "samples.parquet: column age is .*string, expected float"),
        (survival(lambda t: t.assign(time_days=0.0)), "29 times that are not above zero, the smallest 0"),
        (survival(lambda t: t.assign(endpoint="RFS")), "unknown endpoints RFS; expected OS, DSS, DFI, PFI"),
        (survival(lambda t: pd.concat([t, t[:1]])), "survival.parquet: rows that occur more than once: s0 OS"),
        (mutations(lambda t: t.assign(patient_id="q")), "mutations.parquet: patients without a sample for probing: q"),
        (mutations(lambda t: pd.concat([t, t[:1]])), "mutations.parquet: rows that occur more than once: s0 KRAS"),
        (lambda folder: (folder / "flow.json").unlink(), "cohort is not a cohort folder: flow.json missing"),
        (lambda folder: (folder / SURVIVAL).write_text("x"), "survival.parquet: not a Parquet file"),
        (
            lambda folder: pd.DataFrame({"a": [1]}).to_parquet(folder / MUTATIONS),
            "mutations.parquet: columns a; expected patient_id, gene, mutated, hotspot in this order",
        ),
    ],
)
def test_invalid_folders(cohort: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(cohort)
    with pytest.raises(UserError, match=message):
        check_cohort(cohort)


def test_tables_come_back_as_written(cohort: Path) -> None:
    table = read_cohort(cohort).samples
    assert list(table.columns) == list(SAMPLE_COLUMNS)
    assert table["for_probing"].dtype == bool
    assert table["age"].dtype == float
    assert table["sex"].iloc[0] is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("flow.json", b"{", "flow.json: not JSON"),
        ("provenance.json", b"[]", "provenance.json: not JSON .*holds no JSON object"),
        ("expression.zarr/X/zarr.json", b"{", "zarr.json: not JSON"),
        ("expression.zarr/X/c/0/0", None, "expression.zarr: X has 0 of 1 files of values"),
        ("expression.zarr/X/c/0/0", b"cut", "expression.zarr: values cannot be read"),
        ("expression.zarr/obs/zarr.json", b" ", "expression.zarr"),
    ],
)
def test_damaged_files(cohort: Path, name: str, content: bytes | None, message: str) -> None:
    path = cohort / name
    before = path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_bytes(before + content if content == b" " else content)
    with pytest.raises(UserError, match=message):
        check_cohort(cohort)
