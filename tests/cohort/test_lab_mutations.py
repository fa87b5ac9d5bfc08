from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from raw_tables import LAB_IDS as IDS
from raw_tables import LAB_RULES as RULES
from raw_tables import lab_chosen as chosen
from raw_tables import lab_config as config
from raw_tables import lab_table as plain_samples
from raw_tables import write_maf

from bulkprobe.cohort.flow import Flow
from bulkprobe.cohort.lab_mutations import lab_mutations
from bulkprobe.errors import UserError


def labels(
    tmp_path: Path, tables: list[pd.DataFrame | Path], samples: pd.DataFrame | None = None, **options: Any
) -> tuple[dict[tuple[str, str], tuple[Any, Any]], list[str]]:
    paths = []
    for number, table in enumerate(tables):
        if isinstance(table, Path):
            paths.append(table)
            continue
        paths.append(tmp_path / f"m{number}.tsv")
        table.to_csv(paths[-1], sep="\t", index=False)
    known = chosen(plain_samples()) if samples is None else samples
    found = lab_mutations(paths, known, config(**options), RULES, Flow())
    rows = found.status.to_dict("records")
    flat = {
        (r["key"], r["gene"]): (bool(r["mutated"]), None if pd.isna(r["hotspot"]) else bool(r["hotspot"])) for r in rows
    }
    return flat, list(found.profiled.index)


def test_matrix_absent_gene_is_unknown(tmp_path: Path) -> None:
    one = pd.DataFrame({"gene": ["KRAS", "X"], "s1": [1, 0], "s2": [0, 0]})
    two = pd.DataFrame({"gene": ["TP53"], "s3": ["1"]})
    status, profiled = labels(tmp_path, [one, two])
    assert status == {("s1", "KRAS"): (True, None), ("s2", "KRAS"): (False, None), ("s3", "TP53"): (True, None)}
    assert profiled == IDS
    status, _ = labels(tmp_path, [one, two], mutations_absent_gene="wild_type")
    assert status[("s1", "TP53")] == (False, None)
    assert status[("s3", "KRAS")] == (False, None)


def test_matrix_as_xena_writes_it(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"sample": ["KRAS", "KRAS", "NA", "TP53"], "s1": ["0", "1", "0", ""], "s2": [0, 0, 0, 1], "other": [1, 1, 1, 1]}
    )
    status, profiled = labels(tmp_path, [table])
    assert status == {("s1", "KRAS"): (True, None), ("s2", "KRAS"): (False, None), ("s2", "TP53"): (True, None)}
    assert profiled == ["s1", "s2"]


def test_long_calls(tmp_path: Path) -> None:
    calls = pd.DataFrame(
        {
            "sample_id": ["s1", "s1", "s2", "zz"],
            "gene": ["KRAS", "TP53", "OTHER", "KRAS"],
            "HGVSp_Short": ["p.G12D", "p.R175H", "", "p.G12D"],
        }
    )
    status, profiled = labels(tmp_path, [calls])
    assert status == {
        ("s1", "KRAS"): (True, True),
        ("s1", "TP53"): (True, None),
        ("s2", "KRAS"): (False, False),
        ("s2", "TP53"): (False, None),
    }
    assert profiled == ["s1", "s2"]  # s3 has no row: unknown
    known = chosen(plain_samples(mutation_profiled=["1", "0", "1"]))
    status, profiled = labels(tmp_path, [calls], known)
    assert profiled == ["s1", "s3"]  # the samples table knows better
    assert status[("s3", "KRAS")] == (False, False)


def test_long_with_wild_type_rows(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "patient_id": ["s1", "s2", "s3"],
            "gene": ["KRAS", "KRAS", "TP53"],
            "mutated": [1, 0, "NA"],
            "hotspot": [1, 0, 0],
        }
    )
    status, _ = labels(tmp_path, [table])
    assert status == {("s1", "KRAS"): (True, True), ("s2", "KRAS"): (False, False)}


def test_long_class_is_filtered(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"sample": ["s1", "s2"], "gene": ["KRAS", "KRAS"], "Variant_Classification": ["Silent", "Missense_Mutation"]}
    )
    status, _ = labels(tmp_path, [table])
    assert status == {("s1", "KRAS"): (False, None), ("s2", "KRAS"): (True, None)}


def test_a_maf_and_patients_by_barcode(tmp_path: Path) -> None:
    calls = [
        ("KRAS", "Missense_Mutation", "TCGA-AA-0001-01A-11D-A111-08", "p.G12D", "PASS"),
        ("KRAS", "Missense_Mutation", "TCGA-AA-0002-06A-11D-A111-08", "p.G12D", "PASS"),
        ("TTN", "Silent", "TCGA-AA-0003-01A-11D-A111-08", "", "PASS"),
    ]
    ids = ["TCGA-AA-0001", "TCGA-AA-0002", "TCGA-AA-0003"]  # named by patient
    path = write_maf(tmp_path / "m.maf.gz", calls)
    status, profiled = labels(tmp_path, [path], chosen(plain_samples(ids), ids))
    # a metastasis says nothing of the primary
    assert profiled == ["TCGA-AA-0001", "TCGA-AA-0003"]
    assert status == {("TCGA-AA-0001", "KRAS"): (True, True), ("TCGA-AA-0003", "KRAS"): (False, False)}


def test_mutations_refusals(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"m0.tsv: none of its 2 samples \(a, b\) is in the cohort"):
        labels(tmp_path, [pd.DataFrame({"gene": ["KRAS"], "a": [1], "b": [0]})])
    with pytest.raises(UserError, match=r"m0.tsv: cells that are neither 0 nor 1: '2', 'x'"):
        labels(tmp_path, [pd.DataFrame({"gene": ["KRAS"], "s1": [2], "s2": ["x"]})])
    with pytest.raises(UserError, match=r"none of the labelled genes KRAS, TP53 is in the mutation tables m0.tsv"):
        labels(tmp_path, [pd.DataFrame({"gene": ["BRAF"], "s1": [1], "s2": [0]})])


def test_a_maf_with_commas_keeps_the_filter(tmp_path: Path) -> None:
    calls = pd.DataFrame(
        [("KRAS", "s1", "p.G12D", "PASS"), ("TP53", "s1", "p.R175H", "oxog"), ("KRAS", "s2", "p.G12D", "oxog")],
        columns=["Hugo_Symbol", "Tumor_Sample_Barcode", "HGVSp_Short", "FILTER"],
    ).assign(Variant_Classification="Missense_Mutation")
    calls.to_csv(tmp_path / "calls.csv", index=False)
    status, profiled = labels(tmp_path, [tmp_path / "calls.csv"])
    assert status == {("s1", "KRAS"): (True, True)}  # s2 has no accepted call: not profiled
    assert profiled == ["s1"]
