"""Labels to probe, from a cohort in memory and params.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bulkprobe.cohort.read import Cohort
from bulkprobe.errors import UserError
from bulkprobe.params import Params
from bulkprobe.stages import tasks
from pipeline import small_params

KINDS = ["KIRC", "KIRP", "KICH", "BRCA", "GBM", "LGG"]
N = 120


def cohort_of(**changes: Any) -> Cohort:
    """Twenty patients of each of six types; patient 0 also has a normal, patient 1 was not profiled."""
    ids = [f"P{i:03d}" for i in range(N)]
    kinds = [KINDS[i % 6] for i in range(N)]
    samples = pd.DataFrame(
        {
            "sample_id": [f"{name}-01" for name in ids],
            "patient_id": ids,
            "cancer_type": kinds,
            "site": [f"S{i % 7}" for i in range(N)],
            "hypermutated": pd.array([None] * N, dtype="boolean"),
            "for_probing": True,
        }
    )
    normal = samples.iloc[:1].assign(sample_id="P000-11", for_probing=False)
    samples = pd.concat([normal, samples.iloc[::-1]], ignore_index=True)
    profiled = [name for name in ids if name != "P001"]
    rows = [
        {"patient_id": name, "gene": gene, "mutated": int(name[1:]) % every == 0, "hotspot": int(name[1:]) % 12 == 0}
        for gene, every in (("TP53", 3), ("KRAS", 4))
        for name in profiled
    ]
    survival = pd.DataFrame(
        {"patient_id": ids, "endpoint": "OS", "time_days": np.arange(1.0, N + 1), "event": np.arange(N) % 2 == 0}
    )
    parts = {"samples": samples, "survival": survival, "mutations": pd.DataFrame(rows)} | changes
    return Cohort(**parts, flow={}, provenance={"source": "simulated"}, expression_path=Path("x"))


def params_of(**changes: Any) -> Params:
    content = small_params()
    content["probe_mutation"] |= {
        "genes": ["TP53", "KRAS"],
        "hotspot_genes": ["KRAS"],
        "within_type": {"RCC": ["TP53"]},
    }
    for section, values in changes.items():
        content[section] |= values
    return Params.model_validate(content)


def test_one_sample_a_patient_enters_in_sorted_order() -> None:
    patients = tasks.probing_patients(cohort_of())
    assert patients.types.index.tolist() == [f"P{i:03d}" for i in range(N)]
    assert patients.sample_id["P000"] == "P000-01"
    assert patients.sites["P008"] == "S1"


def test_two_samples_of_a_patient_are_refused() -> None:
    samples = cohort_of().samples.assign(for_probing=True)
    with pytest.raises(UserError, match="patient P000 enters probing with two samples"):
        tasks.probing_patients(cohort_of(samples=samples))


def test_a_cohort_without_usable_samples_is_refused() -> None:
    samples = cohort_of().samples.assign(for_probing=False)
    with pytest.raises(UserError, match=r"no sample for probing: see its flow\.json"):
        tasks.probing_patients(cohort_of(samples=samples))


def test_groups_hold_their_types() -> None:
    assert tasks.members("RCC") == ("KIRC", "KIRP", "KICH", "RCC")
    assert tasks.members("BRCA") == ("BRCA",)


def test_mutation_labels_leave_out_who_was_not_profiled() -> None:
    cohort = cohort_of()
    patients = tasks.probing_patients(cohort)
    labels = tasks.mutation_labels(cohort, patients, params_of().probe_mutation)
    assert list(labels.columns) == ["pan_cancer/TP53", "pan_cancer/KRAS", "pan_cancer/KRAS_hotspot", "RCC/TP53"]
    assert labels.loc["P001"].isna().all()
    assert labels["pan_cancer/TP53"].notna().sum() == N - 1
    assert labels.loc["P003", "pan_cancer/TP53"]
    assert not labels.loc["P004", "pan_cancer/TP53"]
    assert labels["pan_cancer/KRAS_hotspot"].sum() == N / 12
    inside = labels["RCC/TP53"].notna()
    assert set(patients.types[inside]) == {"KIRC", "KIRP", "KICH"}
    assert inside.sum() == N / 2 - 1


def test_a_gene_within_a_type_must_be_probed_pan_cancer_too() -> None:
    cohort = cohort_of()
    params = params_of(probe_mutation={"within_type": {"BRCA": ["BAP1"]}})
    with pytest.raises(UserError, match=r"within_type names BAP1, but probe_mutation\.genes does not"):
        tasks.mutation_labels(cohort, tasks.probing_patients(cohort), params.probe_mutation)


def test_survival_labels_are_of_the_type_or_the_group() -> None:
    cohort = cohort_of()
    params = params_of(probe_survival={"types": ["KIRC", "GBMLGG", "PAAD"], "endpoints": ["OS", "PFI"]})
    table = tasks.survival_labels(cohort, tasks.probing_patients(cohort), params.probe_survival)
    assert list(table.columns) == ["label", "patient_id", "time", "event"]
    assert table.label.value_counts().to_dict() == {"GBMLGG/OS": 40, "KIRC/OS": 20}
    row = table[table.patient_id == "P006"].iloc[0]
    assert (row.label, row.time, bool(row.event)) == ("KIRC/OS", 7.0, True)


def test_patients_without_a_probed_sample_have_no_labels() -> None:
    cohort = cohort_of()
    samples = cohort.samples.assign(for_probing=cohort.samples.for_probing & (cohort.samples.patient_id != "P006"))
    cohort = cohort_of(samples=samples)
    patients = tasks.probing_patients(cohort)
    assert "P006" not in tasks.mutation_labels(cohort, patients, params_of().probe_mutation).index
    assert "P006" not in set(tasks.survival_labels(cohort, patients, params_of().probe_survival).patient_id)


def test_all_labels_of_a_cohort_share_one_split_and_small_cohorts_have_none() -> None:
    params = params_of(probe_survival={"types": ["KIRC", "GBMLGG", "PAAD"]})
    cohort = cohort_of()
    survival = cohort.survival[~cohort.survival.patient_id.isin(["P000"])]  # nineteen patients left in KIRC
    cohort = cohort_of(survival=survival)
    table = tasks.make_splits(cohort, params)
    labels = {"pan_cancer/TP53", "pan_cancer/KRAS", "pan_cancer/KRAS_hotspot", "RCC/TP53", "GBMLGG/OS"}
    assert set(table.label) == labels
    first, second = (table[table.label == f"pan_cancer/{gene}"] for gene in ("TP53", "KRAS"))
    keys = ["split", "fold", "patient_id", "role", "site"]
    pd.testing.assert_frame_equal(first[keys].reset_index(drop=True), second[keys].reset_index(drop=True))
    assert "P001" not in set(first.patient_id)


def test_splits_do_not_depend_on_the_order_of_the_tables() -> None:
    cohort = cohort_of()
    turned = cohort_of(
        samples=cohort.samples.iloc[::-1].reset_index(drop=True),
        survival=cohort.survival.sample(frac=1, random_state=1),
        mutations=cohort.mutations.sample(frac=1, random_state=2),
    )
    pd.testing.assert_frame_equal(tasks.make_splits(cohort, params_of()), tasks.make_splits(turned, params_of()))


def test_a_label_large_enough_must_be_in_the_splits() -> None:
    tasks.require_split("KIRC/OS", tasks.MIN_SPLIT_PATIENTS - 1)
    with pytest.raises(UserError, match="no 'KIRC/OS', which has 20 patients: make the splits again"):
        tasks.require_split("KIRC/OS", tasks.MIN_SPLIT_PATIENTS)


def test_only_the_simulator_is_simulated() -> None:
    assert tasks.is_simulated(cohort_of())


def test_a_cohort_without_follow_up_or_without_mutations_is_split_by_what_it_has() -> None:
    whole, params = cohort_of(), params_of()
    for table, task in (("survival", "mutation"), ("mutations", "survival")):
        splits = tasks.make_splits(cohort_of(**{table: getattr(whole, table).iloc[:0]}), params)
        assert set(splits.task) == {task}
        expected = tasks.make_splits(whole, params)
        pd.testing.assert_frame_equal(
            splits, expected[expected.task == task].reset_index(drop=True), check_categorical=False
        )
