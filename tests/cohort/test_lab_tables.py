from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from raw_tables import LAB_IDS as IDS
from raw_tables import LAB_RULES as RULES
from raw_tables import dropped, text
from raw_tables import lab_chosen as chosen
from raw_tables import lab_config as config
from raw_tables import lab_table as plain_samples

from bulkprobe.cohort import expression_parts, scales
from bulkprobe.cohort.flow import Flow
from bulkprobe.cohort.lab_survival import lab_survival
from bulkprobe.cohort.lab_tables import check_columns, read_table
from bulkprobe.cohort.schema import ORIENTATIONS, SCALES, CohortRules, FilesConfig
from bulkprobe.errors import UserError

# ---------------------------------------------------------------- configuration


def test_config_takes_one_path_or_several() -> None:
    assert config(mutations="m.tsv").mutations == ("m.tsv",)
    assert config(expression=["a", "b"]).expression == ("a", "b")
    assert FilesConfig.from_mapping(config(columns={"age": "AGE"}).to_mapping()) == config(columns={"age": "AGE"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"expresion": "x"}, r"cohort.files: unknown key 'expresion' \(did you mean 'expression'\?\)"),
        ({"samples": None}, "cohort.files: samples is missing"),
        ({"expression_scale": "TPM"}, r"expression_scale is 'TPM' \(did you mean 'tpm'\?\), expected one of counts"),
        ({"orientation": "rows"}, "orientation is 'rows', expected one of auto"),
        ({"time_unit": "weeks"}, "time_unit is 'weeks', expected one of days, months, years"),
        ({"mutations_absent_gene": "wt"}, "mutations_absent_gene is 'wt'.*expected one of unknown, wild_type"),
        ({"expression": 5}, "expression is 5, expected a path or a list of paths"),
        ({"mutations": [["m.tsv"]]}, "mutations is .*, expected a path or a list of paths"),
        ({"samples": ["s.tsv"]}, r"samples is \['s.tsv'\], expected one path"),
        ({"allow_unmatched": "maybe"}, "allow_unmatched is 'maybe', expected true or false"),
        ({"columns": {"age": 3}}, "columns: age is 3, expected a column name"),
        ({"columns": ["a"]}, r"columns is \['a'\], expected a mapping"),
    ],
)
def test_config_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gene": ["TP53"]}, r"cohort: unknown key 'gene' \(did you mean 'genes'\?\)"),
        ({"genes": ["TP53", "TP53"]}, "genes must be a list of different symbols"),
        ({"zero_time": "keep"}, "zero_time is 'keep', expected 'drop' or a number"),
        ({"zero_time": 0.0}, "zero_time is 0.0, expected 'drop' or days above zero"),
        ({"hypermutation": "iqr"}, "hypermutation is 'iqr', expected 'sd' or 'mad'"),
        ({"genes": "TP53"}, "genes is 'TP53', expected a list"),
        ({"genes": [1]}, r"genes is \[1\], expected a list of texts"),
        ({"zero_time": True}, "zero_time is True, expected 'drop' or days above zero"),
        ({"hypermutation_z": True}, "hypermutation_z is True, expected a number"),
        ({"zero_time": [1]}, r"zero_time is \[1\], expected one value"),
        ({"drop_redacted": "no"}, "drop_redacted is 'no', expected true or false"),
        ({"hypermutation_z": "5"}, "hypermutation_z is '5', expected a number"),
        ({"hypermutation_z": 0}, "hypermutation_z is 0, expected a number above zero"),
    ],
)
def test_rules_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CohortRules.from_mapping(options)


def test_scales_and_orientations_are_those_that_can_be_read() -> None:
    assert set(SCALES) == set(scales.SCALES)
    assert set(ORIENTATIONS) == set(expression_parts.ORIENTATIONS)


def test_rules_round_trip() -> None:
    rules = CohortRules.from_mapping({"genes": ["TP53"], "zero_time": 1})
    assert CohortRules.from_mapping(rules.to_mapping()) == rules


# ---------------------------------------------------------------- samples


def test_minimal_table() -> None:
    flow = Flow()
    table = chosen(plain_samples(), flow=flow)
    assert list(table["patient_id"]) == IDS
    assert list(table["sample_type"]) == ["01"] * 3
    assert table["for_probing"].all()
    assert flow.notes == ["samples: 3 of 3 without a sample type are taken as primary tumours"]


def test_names_in_other_spelling_and_order() -> None:
    table = text(
        {
            "Sample ID": ["s3", "s2", "s1", "s9"],
            "Patient": ["c", "b", "a", "z"],
            "Project": ["TCGA-LUAD"] * 4,
            "Sample.Type": ["Primary Tumor", "normal", "1", "01"],
            "GENDER": ["F", "male", "unclear", "F"],
            "Tumor Stage": ["Stage IIA", "IV", None, None],
            "Age": ["60", "61.5", "[Not Available]", "3"],
            "Purity": ["0.5", None, None, None],
            "n_mutations": ["99", None, "0", None],
            "MSI": ["MSS", None, None, None],
        }
    )
    flow = Flow()
    ours = chosen(table, flow=flow)
    assert list(ours["sample_id"]) == IDS
    assert list(ours["patient_id"]) == ["a", "b", "c"]
    assert list(ours["cancer_type"]) == ["LUAD"] * 3
    assert list(ours["sample_type"]) == ["01", "11", "01"]
    assert list(ours["for_probing"]) == [True, False, True]
    assert list(ours["sex"]) == [None, "male", "female"]
    assert list(ours["stage"]) == [None, "IV", "II"]
    np.testing.assert_array_equal(ours["age"], [np.nan, 61.5, 60])
    np.testing.assert_allclose(ours["log10_mutation_burden"], [0, np.nan, 2])
    assert dropped(flow, "has expression") == 1
    assert "samples: sex of 1 samples not understood: unclear" in flow.notes


def test_columns_are_mapped() -> None:
    table = text({"Sample": IDS, "project": ["x"] * 3, "kind": ["COADREAD", "GBMLGG", "RCC"], "who": ["a", "b", "c"]})
    ours = chosen(table, columns={"sample_id": "Sample", "cancer_type": "kind", "patient_id": "who"})
    assert list(ours["cancer_type"]) == ["COADREAD", "GBMLGG", "RCC"]
    assert list(ours["patient_id"]) == ["a", "b", "c"]


def test_barcodes_give_patient_site_and_choice() -> None:
    ids = ["TCGA-AA-0001-01B", "TCGA-AA-0001-01A", "TCGA-AA-0002-11A"]
    ours = chosen(plain_samples(ids), ids)
    assert list(ours["patient_id"]) == ["TCGA-AA-0001", "TCGA-AA-0001", "TCGA-AA-0002"]
    assert list(ours["site"]) == ["AA"] * 3
    assert list(ours["for_probing"]) == [False, True, False]


def test_own_types() -> None:
    table = plain_samples().assign(cancer_type=["ESO", "MINE", "LUAD"])
    ours = chosen(table, cancer_types={"ESO": "ESCA", "MINE": {"name": "our tumour"}})
    assert list(ours["cancer_type"]) == ["ESCA", "MINE", "LUAD"]
    with pytest.raises(UserError, match=r"cancer_types: MINE: \{'label': 'x'\}; expected a TCGA code"):
        chosen(table, cancer_types={"ESO": "ESCA", "MINE": {"label": "x"}})


def test_unmatched_may_be_left_out() -> None:
    ours = chosen(plain_samples(IDS[:2]), allow_unmatched=True)
    assert list(ours["for_probing"]) == [True, True, False]
    assert ours["cancer_type"].isna().tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (text({"x": IDS, "cancer_type": ["LUAD"] * 3}), r"no column sample_id among x, cancer_type; map it"),
        (text({"sample_id": IDS}), "no column cancer_type among sample_id; map it"),
        (plain_samples(["s1", "s1", "s2"]), "sample ids that occur more than once: s1; keep one row"),
        (plain_samples(["s1", "s2", None]), "1 rows without a sample id"),  # type: ignore[list-item]
        (plain_samples(["a", "b", "c"]), r"no sample id is in both tables: expression has 3 \(s1, s2, s3\), samples"),
        (plain_samples(["s1", "s2"]), "1 of 3 expression samples have no row in the samples table: s3;"),
        (
            plain_samples().assign(cancer_type="LUADD"),
            r"unknown cancer type 'LUADD' \(did you mean 'LUAD'\?\), 3 samples",
        ),
        (plain_samples(sample_type=["01", "77", "x"]), "unknown sample types 77, x; expected codes such as 01"),
        (plain_samples(age=["old", "1", "2"]), "column age: not a number: 'old'"),
        (plain_samples(n_mutations=["-1", "1", "2"]), "column n_mutations: negative counts, the smallest -1"),
        (
            plain_samples(patient=["a", "a", "b"]).assign(cancer_type=["LUAD", "LUSC", "LUAD"]),
            "patients with several cancer types: a;",
        ),
        (plain_samples(sample_type=["11", "11", "02"]), "no sample enters probing: 3 samples of types 11 x 2, 02 x 1"),
    ],
)
def test_samples_refusals(table: pd.DataFrame, message: str) -> None:
    with pytest.raises(UserError, match=message):
        chosen(table)


def test_repeated_expression_samples() -> None:
    with pytest.raises(UserError, match="sample ids that occur more than once: s1; expected one column"):
        chosen(plain_samples(), ["s1", "s1"])


def test_columns_that_do_not_exist() -> None:
    headers = {"s.tsv": ["Sample", "project"]}
    with pytest.raises(UserError, match=r"'sampleid' is none of our columns \(did you mean 'sample_id'\?\)"):
        check_columns(config(columns={"sampleid": "Sample"}), headers)
    with pytest.raises(UserError, match=r"no table has a column 'sample' \(did you mean 'Sample'\?\)"):
        check_columns(config(columns={"sample_id": "sample"}), headers)
    check_columns(config(columns={"sample_id": "Sample"}), headers)


def test_tables_of_every_kind(tmp_path: Path) -> None:
    frame = pd.DataFrame({"sample_id": ["s1", "NA"], "n": [1, 2]})
    frame.to_csv(tmp_path / "a.csv.gz", index=False)
    frame.to_csv(tmp_path / "a.tsv", sep="\t", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    for name in ("a.csv.gz", "a.tsv", "a.parquet"):
        assert read_table(tmp_path / name).to_dict("list") == {"sample_id": ["s1", None], "n": ["1", "2"]}
    (tmp_path / "empty.tsv").write_text("sample_id\n")
    with pytest.raises(UserError, match=r"empty.tsv is an empty table"):
        read_table(tmp_path / "empty.tsv")


# ---------------------------------------------------------------- survival


def follow_up(table: pd.DataFrame, flow: Flow | None = None, **options: Any) -> pd.DataFrame:
    samples = chosen(plain_samples(patient_id=["a", "b", "c"]))
    return lab_survival(table, samples, config(**options), RULES, flow or Flow())


def test_wide_and_long_agree() -> None:
    wide = text(
        {
            "patient_id": ["a", "b", "z"],
            "OS.time": ["500", "0", "7"],
            "OS": ["1:DECEASED", "0", "1"],
            "pfi_months": ["12.5", None, "1"],
            "pfi_status": ["1", None, "1"],
        }
    )
    flow = Flow()
    table = follow_up(wide, flow)
    assert table.to_dict("records") == [
        {"patient_id": "a", "endpoint": "OS", "time_days": 500.0, "event": True},
        {"patient_id": "a", "endpoint": "PFI", "time_days": 380.5, "event": True},
    ]
    assert dropped(flow, "enters probing") == 1
    assert dropped(flow, "OS: time is above zero") == 1
    long = text(
        {
            "patient_id": ["a", "b", "a"],
            "endpoint": ["OS", "os", "PFI"],
            "time_days": ["500", "0", "380.5"],
            "event": ["1", "0", "1"],
        }
    )
    pd.testing.assert_frame_equal(follow_up(long), table)
    by_sample = wide[:2].drop(columns="patient_id").assign(sample=["s1", "s2"])
    pd.testing.assert_frame_equal(follow_up(by_sample), table)


def test_months_by_name_or_by_declaration() -> None:
    months = text({"patient_id": ["a", "b"], "m": ["10.5", "20.25"], "os_event": ["1", "0"]})
    expected = [10.5 * 30.44, 20.25 * 30.44]
    by_name = follow_up(months, columns={"os_time_months": "m"})
    np.testing.assert_allclose(by_name["time_days"], expected)
    declared = follow_up(months, columns={"os_time_days": "m"}, time_unit="months")
    np.testing.assert_allclose(declared["time_days"], expected)
    with pytest.raises(UserError, match="column m: times look like months, not days"):
        follow_up(months, columns={"os_time_days": "m"})
    with pytest.raises(UserError, match="column m is in months, but time_unit is 'days'"):
        follow_up(months, columns={"os_time_months": "m"}, time_unit="days")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (text({"x": ["a"]}), "survival table: neither patient_id nor sample_id among x"),
        (text({"patient_id": ["a"], "os_time": ["5"]}), "column os_time has no event column beside it"),
        (text({"patient_id": ["q"], "os_time": ["5"], "os": ["1"]}), "no patient is in both tables: survival has q"),
        (
            text({"patient_id": ["a", "a"], "os_time": ["5", "6"], "os": ["1", "1"]}),
            "rows of one patient disagree: a;",
        ),
        (text({"patient_id": ["a"], "os_time": ["-5"], "os": ["1"]}), "column os_time: 1 negative times"),
        (text({"patient_id": ["a"], "os_time": ["5"], "os": ["3"]}), "column os: 1 events that are neither 0 nor 1"),
        (
            text({"patient_id": ["a"], "os_time": ["5"], "os": ["0"]}),
            r"every patient is censored for OS in the whole cohort \(n = 1\)",
        ),
        (
            text({"patient_id": ["a"], "endpoint": ["RFS"], "time": ["5"], "event": ["1"]}),
            "unknown endpoints RFS; expected OS, DSS, DFI, PFI",
        ),
        (text({"patient_id": ["a"], "endpoint": ["OS"], "time": ["5"]}), "expected patient_id, endpoint, time_days"),
    ],
)
def test_survival_refusals(table: pd.DataFrame, message: str) -> None:
    with pytest.raises(UserError, match=message):
        follow_up(table)


def test_survival_file_without_times() -> None:
    with pytest.raises(UserError, match="survival table: no times among patient_id; expected os_time_days"):
        follow_up(text({"patient_id": ["a"]}), survival="f.tsv")
    flow = Flow()
    assert follow_up(text({"patient_id": ["a"]}), flow).empty
    assert flow.notes == ["survival: the samples table has no survival columns"]


def test_type_without_events() -> None:
    ids = [f"s{i}" for i in range(40)]
    table = plain_samples(ids, os_time=["500"] * 40, os_event=["0"] * 20 + ["1"] * 20)
    table["cancer_type"] = ["OV"] * 20 + ["LUAD"] * 20
    samples = chosen(table, ids)
    with pytest.raises(UserError, match=r"every patient is censored for OS in OV \(n = 20\)"):
        lab_survival(table, samples, config(), RULES, Flow())
    flow = Flow()
    assert len(lab_survival(table, samples, config(allow_all_censored=True), RULES, flow)) == 40
    assert "survival: every patient is censored for OS in OV (n = 20)" in flow.notes


def test_whole_months_and_impossible_covariates() -> None:
    ids = [f"s{i}" for i in range(20)]
    table = plain_samples(ids, OS_TIME=[str(i + 1) for i in range(20)], os_event=["1"] * 20)
    with pytest.raises(
        UserError, match=r"column OS_TIME: times look like months, not days \(longest 20, 0% fractional"
    ):
        lab_survival(table, chosen(table, ids), config(), RULES, Flow())
    days = table.rename(columns={"OS_TIME": "os_time_days"})
    assert len(lab_survival(days, chosen(days, ids), config(), RULES, Flow())) == 20
    with pytest.raises(UserError, match="column age: 3 values outside 0 to 120: 20000; expected years"):
        chosen(plain_samples(age=["20000"] * 3))
    with pytest.raises(UserError, match="column purity: 1 values outside 0 to 1: 55; expected a fraction"):
        chosen(plain_samples(purity=["55", "0.5", None]))
