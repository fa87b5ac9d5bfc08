from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from raw_tables import dropped, write_quality

from bulkprobe.cohort.flow import Flow
from bulkprobe.cohort.samples import Quality, read_quality, tcga_samples
from bulkprobe.cohort.schema import CohortRules
from bulkprobe.errors import UserError


def patients(types: dict[str, str], redacted: tuple[str, ...] = ()) -> pd.DataFrame:
    return pd.DataFrame(
        {"cancer_type": list(types.values()), "redacted": [name in redacted for name in types]}, index=list(types)
    )


def choose(
    ids: list[str], types: dict[str, str], quality: Quality | None = None, **options: object
) -> tuple[pd.DataFrame, Flow]:
    flow = Flow()
    redacted = options.pop("redacted", ())
    rules = CohortRules(**options)  # type: ignore[arg-type]
    table = tcga_samples(ids, patients(types, redacted), quality, rules, flow)  # type: ignore[arg-type]
    assert list(table["sample_id"]) == ids
    return table.set_index("sample_id"), flow


def probing(table: pd.DataFrame) -> list[str]:
    return list(table.index[table["for_probing"]])


def test_primary_tumours_only() -> None:
    ids = ["TCGA-AA-0001-11", "TCGA-AA-0001-01", "TCGA-AA-0002-02", "TCGA-AA-0003-06", "TCGA-AA-0004-05"]
    table, flow = choose(ids, {f"TCGA-AA-000{i}": "KIRC" for i in range(1, 5)})
    assert probing(table) == ["TCGA-AA-0001-01"]
    (rule,) = [entry for entry in flow.rules if "primary tumour" in entry["rule"]]
    assert rule["detail"] == {"02": 1, "05": 1, "06": 1, "11": 1}
    assert (rule["before"], rule["after"]) == (5, 1)


def test_leukaemia_is_03_and_melanoma_may_be_06() -> None:
    ids = [
        "TCGA-AB-0001-03",
        "TCGA-AB-0002-01",
        "TCGA-SK-0001-06",
        "TCGA-SK-0002-06",
        "TCGA-SK-0002-01",
    ]
    kinds = {"TCGA-AB-0001": "LAML", "TCGA-AB-0002": "LAML", "TCGA-SK-0001": "SKCM", "TCGA-SK-0002": "SKCM"}
    table, _ = choose(ids, kinds)
    assert probing(table) == ["TCGA-AB-0001-03", "TCGA-SK-0001-06", "TCGA-SK-0002-01"]
    assert table["flagged"].to_dict() == dict.fromkeys(ids) | {"TCGA-SK-0001-06": "metastasis"}


def test_one_aliquot_a_patient_vial_then_plate() -> None:
    ids = [
        "TCGA-AA-0001-01B-01R-9999-07",
        "TCGA-AA-0001-01A-01R-1111-07",
        "TCGA-AA-0001-01A-01R-2222-07",
        "TCGA-AA-0001-01A-02R-2222-07",
    ]
    table, flow = choose(ids, {"TCGA-AA-0001": "KIRC"})
    assert probing(table) == ["TCGA-AA-0001-01A-01R-2222-07"]
    assert dropped(flow, "one sample per patient") == 3
    again, _ = choose(ids[::-1], {"TCGA-AA-0001": "KIRC"})
    assert probing(again) == probing(table)


@pytest.fixture
def quality(tmp_path: Path) -> Quality:
    unusable = {"Do_not_use": "True"}
    rows = [
        {"aliquot_barcode": "TCGA-AA-0001-01A-11R-1111-07", **unusable},
        {"aliquot_barcode": "TCGA-AA-0001-01A-11R-0999-07"},
        {"aliquot_barcode": "TCGA-AA-0002-01A-11R-1111-07", **unusable},
        {"aliquot_barcode": "TCGA-AA-0002-01A-11D-1111-01", "platform": "Genome_Wide_SNP_6"},
        {"aliquot_barcode": "TCGA-AA-0003-01A-11R-1111-07"},
        {"aliquot_barcode": "TCGA-AA-0003-01A-11R-1111-13", "platform": "IlluminaHiSeq_miRNASeq", **unusable},
        {"aliquot_barcode": "TCGA-AA-0004-01A-11D-1111-01", "platform": "Genome_Wide_SNP_6", **unusable},
        {"aliquot_barcode": "TCGA-AA-0005-01A-11R-1111-07"},
        {
            "aliquot_barcode": "TCGA-AA-0005-01A-11D-1111-01",
            "platform": "Genome_Wide_SNP_6",
            "AWG_excluded_because_of_pathology": "1",
        },
        {"aliquot_barcode": "TCGA-AA-0006-01B-11R-1111-07"},
        {"aliquot_barcode": "TCGA-AA-0006-01A-11R-1111-07", **unusable},
    ]
    return read_quality(write_quality(tmp_path / "quality.tsv", rows))


QUALITY_IDS = [f"TCGA-AA-000{i}-01" for i in range(1, 7)]
QUALITY_TYPES = {name[:12]: "KIRC" for name in QUALITY_IDS}


def test_do_not_use_and_pathology(quality: Quality) -> None:
    table, flow = choose(QUALITY_IDS, QUALITY_TYPES, quality)
    # 0001: a usable aliquot of the same tissue; 0003: another platform; 0006: the usable vial.
    assert probing(table) == ["TCGA-AA-0001-01", "TCGA-AA-0003-01", "TCGA-AA-0006-01"]
    assert table["aliquot"]["TCGA-AA-0001-01"] == "TCGA-AA-0001-01A-11R-0999-07"
    assert table["aliquot"]["TCGA-AA-0006-01"] == "TCGA-AA-0006-01B-11R-1111-07"
    assert table["flagged"]["TCGA-AA-0002-01"] == "do_not_use"  # its aliquot
    assert table["flagged"]["TCGA-AA-0004-01"] == "do_not_use"  # every row of the patient
    assert table["flagged"]["TCGA-AA-0005-01"] == "pathology"  # the tissue, whatever the platform
    assert dropped(flow, "Do_not_use") == 2
    assert dropped(flow, "pathology") == 1


def test_quality_rules_can_be_switched_off(quality: Quality) -> None:
    table, _ = choose(QUALITY_IDS, QUALITY_TYPES, quality, drop_do_not_use=False, drop_pathology_excluded=False)
    assert probing(table) == QUALITY_IDS
    # vial A comes first then, flagged or not
    assert table["aliquot"]["TCGA-AA-0006-01"] == "TCGA-AA-0006-01A-11R-1111-07"


def test_type_from_the_quality_table(quality: Quality) -> None:
    table, flow = choose(["TCGA-AA-0001-01", "TCGA-ZZ-0001-01"], {"TCGA-AA-0009": "KIRC"}, quality)
    assert table["cancer_type"]["TCGA-AA-0001-01"] == "KIRC"
    assert table["cancer_type"].isna()["TCGA-ZZ-0001-01"]
    assert dropped(flow, "cancer type") == 1


def test_redacted() -> None:
    kinds = {"TCGA-AA-0001": "KIRC", "TCGA-AA-0002": "KIRC"}
    ids = [f"{name}-01" for name in kinds]
    table, flow = choose(ids, kinds, redacted=("TCGA-AA-0001",))
    assert probing(table) == ["TCGA-AA-0002-01"]
    assert dropped(flow, "redacted") == 1
    table, _ = choose(ids, kinds, redacted=("TCGA-AA-0001",), drop_redacted=False)
    assert probing(table) == ids


def test_refusals(tmp_path: Path) -> None:
    kinds = {"TCGA-AA-0001": "KIRC"}
    with pytest.raises(UserError, match="occur more than once: TCGA-AA-0001-01"):
        choose(["TCGA-AA-0001-01", "TCGA-AA-0001-01"], kinds)
    with pytest.raises(UserError, match="without a sample type: TCGA-AA-0001"):
        choose(["TCGA-AA-0001"], kinds)
    with pytest.raises(UserError, match="no sample enters probing: 1 samples of types 11 x 1"):
        choose(["TCGA-AA-0001-11"], kinds)
    (tmp_path / "quality.tsv").write_text("patient_barcode\tplatform\n")
    with pytest.raises(UserError, match=r"no column aliquot_barcode, cancer type, .*Do_not_use"):
        read_quality(tmp_path / "quality.tsv")
