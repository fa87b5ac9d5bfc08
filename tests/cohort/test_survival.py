from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from raw_tables import dropped, write_cdr, write_purity

from bulkprobe.cohort.clinical import add_covariates, cdr_patients, collapse_stage, normalise_sex, read_purity
from bulkprobe.cohort.flow import Flow
from bulkprobe.cohort.schema import CohortRules, endpoint_advice
from bulkprobe.cohort.survival import all_censored, is_missing, parse_events, read_cdr, survival_table, to_days
from bulkprobe.errors import UserError

ROWS = [
    {
        "bcr_patient_barcode": "TCGA-AA-0001",
        "age_at_initial_pathologic_diagnosis": 61,
        "gender": "MALE",
        "ajcc_pathologic_tumor_stage": "Stage IIIA",
        "clinical_stage": "Stage I",
        "OS": 1,
        "OS.time": 100,
        "PFI": "1",
        "PFI.time": "50",
    },
    {
        "bcr_patient_barcode": "TCGA-AA-0002",
        "gender": "FEMALE",
        "ajcc_pathologic_tumor_stage": "[Discrepancy]",
        "clinical_stage": "Stage IVB",
        "OS": 0,
        "OS.time": 0,
    },
    {"bcr_patient_barcode": "TCGA-AA-0003", "OS": 0, "OS.time": "#N/A"},
    {"bcr_patient_barcode": "TCGA-AA-0004", "OS": 1, "OS.time": 7, "Redaction": "Redacted"},
]


def test_cdr(tmp_path: Path) -> None:
    patients = cdr_patients(read_cdr(write_cdr(tmp_path / "cdr.xlsx", ROWS)))
    assert list(patients["patient_id"]) == [f"TCGA-AA-000{i}" for i in range(1, 5)]
    first, second = patients.iloc[0], patients.iloc[1]
    assert (first["age"], first["sex"], first["stage"]) == (61.0, "male", "III")
    assert (second["sex"], second["stage"]) == ("female", "IV")  # clinical where pathologic is missing
    assert np.isnan(second["age"])
    assert list(patients["redacted"]) == [False, False, False, True]
    assert first["os_event"] is True
    assert first["pfi_time_days"] == 50.0
    assert patients["dss_event"].isna().all()


def test_long_table_counts_what_is_dropped(tmp_path: Path) -> None:
    patients = cdr_patients(read_cdr(write_cdr(tmp_path / "cdr.xlsx", ROWS)))
    flow = Flow()
    table = survival_table(patients, CohortRules(), flow)
    assert table.to_dict("records") == [
        {"patient_id": "TCGA-AA-0001", "endpoint": "OS", "time_days": 100.0, "event": True},
        {"patient_id": "TCGA-AA-0001", "endpoint": "PFI", "time_days": 50.0, "event": True},
    ]
    assert dropped(flow, "redacted") == 1
    assert dropped(flow, "OS: time and event are known") == 1
    assert dropped(flow, "OS: time is above zero") == 1
    kept = survival_table(patients, CohortRules(zero_time=0.5), flow)
    assert kept.loc[kept["patient_id"] == "TCGA-AA-0002", "time_days"].tolist() == [0.5]
    assert flow.notes == ["survival: OS: 1 times of zero set to 0.5 days"]
    everyone = survival_table(patients, CohortRules(drop_redacted=False), Flow())
    assert "TCGA-AA-0004" in set(everyone["patient_id"])


def test_cdr_refusals(tmp_path: Path) -> None:
    path = tmp_path / "cdr.xlsx"
    with pytest.raises(UserError, match="no sheet 'TCGA-CDR' among Other"):
        read_cdr(write_cdr(path, ROWS, sheet="Other"))
    with pytest.raises(UserError, match="patients that occur more than once: TCGA-AA-0001"):
        read_cdr(write_cdr(path, [ROWS[0], ROWS[0]]))
    with pytest.raises(UserError, match=r"column OS: 1 events that are neither 0 nor 1: '2'"):
        cdr_patients(read_cdr(write_cdr(path, [ROWS[0] | {"OS": 2}])))
    with pytest.raises(UserError, match=r"column OS.time: not a number: 'soon'"):
        cdr_patients(read_cdr(write_cdr(path, [ROWS[0] | {"OS.time": "soon"}])))
    negative = cdr_patients(read_cdr(write_cdr(path, [ROWS[0] | {"OS.time": -3}])))
    with pytest.raises(UserError, match="OS: 1 negative times"):
        survival_table(negative, CohortRules(), Flow())


def test_cdr_without_a_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raw_tables.CDR", ("bcr_patient_barcode", "type"))
    path = write_cdr(tmp_path / "cdr.xlsx", [{"bcr_patient_barcode": "TCGA-AA-0001"}])
    with pytest.raises(UserError, match=r"no column age_at_initial_pathologic_diagnosis, gender, .* in sheet TCGA-CDR"):
        read_cdr(path)


@pytest.mark.parametrize("text", [None, float("nan"), "", " ", "#N/A", "NA", "[Not Available]", "[Unknown]", "[X]"])
def test_missing_words(text: object) -> None:
    assert is_missing(text)
    assert not is_missing("0")


@pytest.mark.parametrize("text", ["1", "1.0", "True", "dead", "DECEASED", "1:DECEASED", "1:Recurred/Progressed"])
def test_events(text: str) -> None:
    assert parse_events(pd.Series([text, None]), "os").tolist() == [True, None]


@pytest.mark.parametrize("text", ["0", "0.0", "False", "alive", "0:LIVING", "censored", "0:ALIVE OR DEAD TUMOR FREE"])
def test_censored(text: str) -> None:
    assert parse_events(pd.Series([text]), "os").tolist() == [False]


def test_time_units() -> None:
    months = pd.Series([12.5, 24.03, 3.1, np.nan])
    with pytest.raises(
        UserError, match=r"column os: times look like months, not days \(longest 24.03, 100% fractional"
    ):
        to_days(months, None, "os")
    np.testing.assert_allclose(to_days(months, "months", "os")[:2], [380.5, 731.4732])
    np.testing.assert_array_equal(to_days(months, "days", "os"), months)
    np.testing.assert_allclose(to_days(pd.Series([2.0]), "years", "os"), [730.5])
    days = pd.Series([300.0, 20.0, 100.0])  # short follow-up, but whole days
    np.testing.assert_array_equal(to_days(days, None, "os"), days)
    long = pd.Series([1200.5, 20.25])  # fractional, but too long for months
    np.testing.assert_array_equal(to_days(long, None, "os"), long)
    with pytest.raises(UserError, match="1 negative times, the smallest -1"):
        to_days(pd.Series([-1.0, 3.0]), None, "os")


def test_all_censored() -> None:
    patients = [f"p{i}" for i in range(45)]
    table = pd.DataFrame({"patient_id": patients, "endpoint": "OS", "time_days": 1.0, "event": False})
    kinds = pd.Series(["ACC"] * 20 + ["UCS"] * 19 + ["OV"] * 6, index=patients)
    assert all_censored(table, kinds) == {"ACC": 20}
    table.loc[0, "event"] = True
    assert all_censored(table, kinds) == {}


@pytest.mark.parametrize(
    ("text", "stage"),
    [
        ("Stage I", "I"),
        ("Stage IIIC2", "III"),
        ("stage iva", "IV"),
        ("IIb", "II"),
        ("2", "II"),
        ("3.0", "III"),
        ("Stage IS", "I"),
        ("Stage 0", None),
        ("Stage X", None),
        ("I/II NOS", None),
        ("Stage Tis", None),
        (None, None),
    ],
)
def test_stage(text: str | None, stage: str | None) -> None:
    assert collapse_stage(text) == stage


def test_sex() -> None:
    assert [normalise_sex(t) for t in ("F", "Male", "other", None)] == ["female", "male", None, None]


def test_purity_joins_on_the_sample(tmp_path: Path) -> None:
    path = write_purity(tmp_path / "absolute.txt", {"TCGA-AA-0001-01": "0.7", "TCGA-AA-0002-01": "NA"})
    purity = read_purity(path)
    assert purity.to_dict() == {"TCGA-AA-0001-01": 0.7}
    samples = pd.DataFrame({"sample_id": ["TCGA-AA-0001-01A", "TCGA-AA-0001-11A"], "patient_id": ["TCGA-AA-0001"] * 2})
    patients = pd.DataFrame({"age": [60.0], "sex": ["male"], "stage": ["II"]}, index=["TCGA-AA-0001"])
    table = add_covariates(samples, patients, purity)
    np.testing.assert_array_equal(table["purity"], [0.7, np.nan])
    assert list(table["stage"]) == ["II", "II"]
    path.write_text("sample\tpurity\n")
    with pytest.raises(UserError, match="no column array, expected array, purity"):
        read_purity(path)


def test_advice() -> None:
    assert "without reservation" in str(endpoint_advice("BLCA", "OS"))
    assert "caution" in str(endpoint_advice("BRCA", "OS"))
    assert "COAD: usable" in str(endpoint_advice("COADREAD", "OS"))
    assert "left truncated" in str(endpoint_advice("SKCM", "PFI"))
    assert endpoint_advice("GBM", "OS") is None
    assert endpoint_advice("my own", "OS") is None


@pytest.mark.shared
def test_stage_as_in_the_prepared_table(shared: Path) -> None:
    table = pd.read_csv(shared / "real/tcga_cdr/samples.tsv.gz", sep="\t", dtype=str, keep_default_na=False)
    ajcc = table["ajcc_stage"].map(collapse_stage)
    ours = ajcc.where(ajcc.notna(), table["clinical_stage"].map(collapse_stage)).fillna("")
    # The prepared table leaves out bare numerals (thymoma) and testicular IS, which is a stage I.
    assert set(table["cancer_type"][ours != table["stage"]]) == {"THYM", "TGCT"}
