"""What is known about patients and samples besides labels: age, sex, stage, tumour purity."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd

from bulkprobe.cohort.barcodes import SAMPLE_LENGTH
from bulkprobe.cohort.legible import read_text_table
from bulkprobe.cohort.schema import ENDPOINTS
from bulkprobe.cohort.survival import blank_missing, parse_events, parse_numbers
from bulkprobe.errors import UserError, some

_STAGE = re.compile(r"^(?:STAGE)?\s*(IV|I{1,3})\s*(?:[ABCS]\d?)?$")
_STAGE_NUMBERS = {"1": "I", "2": "II", "3": "III", "4": "IV"}
_SEXES = {"female": "female", "f": "female", "woman": "female", "male": "male", "m": "male", "man": "male"}
ABSOLUTE_COLUMNS = ("array", "purity")


def collapse_stage(text: object) -> str | None:
    """Return I, II, III or IV for "Stage IIIC2", "iva", "2" …; None for what names no single stage."""
    if text is None:
        return None
    plain = str(text).strip().upper()
    plain = plain.removesuffix(".0")
    found = _STAGE.match(plain)
    return found.group(1) if found else _STAGE_NUMBERS.get(plain)


def normalise_sex(text: object) -> str | None:
    """Return female, male or None."""
    return None if text is None else _SEXES.get(str(text).strip().casefold())


def cdr_patients(table: pd.DataFrame) -> pd.DataFrame:
    """Turn the text cells of `read_cdr` into values: index patient_id, which also stays a column.

    age in years, sex, stage (pathologic, else clinical; I to IV), redacted, and per endpoint
    `os_time_days`, `os_event` …
    """
    pathologic = table["ajcc_stage"].map(collapse_stage)
    stage = pathologic.where(pathologic.notna(), table["clinical_stage"].map(collapse_stage))
    columns: dict[str, Any] = {
        "patient_id": table["patient_id"],
        "cancer_type": table["cancer_type"],
        "age": parse_numbers(table["age"], "age_at_initial_pathologic_diagnosis"),
        "sex": table["sex"].map(normalise_sex),
        "stage": stage.where(stage.notna(), None),
        "redacted": table["redaction"].notna(),
    }
    for endpoint in ENDPOINTS:
        time, event = f"{endpoint.lower()}_time_days", f"{endpoint.lower()}_event"
        columns[time] = parse_numbers(table[time], f"{endpoint}.time")
        columns[event] = parse_events(table[event], endpoint)
    return pd.DataFrame(columns).set_index("patient_id", drop=False).rename_axis(index=None)


def read_purity(path: Path) -> pd.Series[float]:
    """Read ABSOLUTE's purity (Carter 2012, doi:10.1038/nbt.2203) by 15-character sample barcode.

    Where a sample has several calls the first is taken. Errors: `UserError` for missing columns.
    """
    table = read_text_table(path, "\t", list(ABSOLUTE_COLUMNS))
    absent = [name for name in ABSOLUTE_COLUMNS if name not in table]
    if absent:
        raise UserError(
            f"{path.name}: no column {some(absent)}, expected {some(ABSOLUTE_COLUMNS)}; fetch the official file again"
        )
    purity = parse_numbers(table["purity"], "purity")
    tissue = blank_missing(table["array"]).str[:SAMPLE_LENGTH]
    known = pd.DataFrame({"tissue": tissue, "purity": purity}).dropna().drop_duplicates("tissue")
    return known.set_index("tissue")["purity"]


def add_covariates(samples: pd.DataFrame, patients: pd.DataFrame, purity: pd.Series[float] | None) -> pd.DataFrame:
    """Add age, sex, stage by patient and purity by sample; subtype and MSI are not in these sources."""
    by_patient = patients[["age", "sex", "stage"]].reindex(samples["patient_id"]).set_axis(samples.index)
    tissue = samples["sample_id"].str[:SAMPLE_LENGTH]
    known = pd.Series(dtype=float) if purity is None else purity
    return samples.assign(
        age=by_patient["age"],
        sex=by_patient["sex"],
        stage=by_patient["stage"],
        purity=known.reindex(tissue).to_numpy(),
        msi=None,
        subtype=None,
    )
