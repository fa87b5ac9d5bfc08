"""Follow-up: TCGA-CDR (Liu 2018, doi:10.1016/j.cell.2018.02.052) and times, events and their oddities."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pandas as pd

from bulkprobe.cohort.flow import Flow
from bulkprobe.cohort.schema import ENDPOINTS, TIME_UNITS, CohortRules
from bulkprobe.errors import UserError, some
from bulkprobe.foreign import refuse_zip_bomb, refusing

CDR_SHEET = "TCGA-CDR"
MOST_ROWS = 1 << 20  # that Excel can hold
CDR_COLUMNS = {
    "bcr_patient_barcode": "patient_id",
    "type": "cancer_type",
    "age_at_initial_pathologic_diagnosis": "age",
    "gender": "sex",
    "ajcc_pathologic_tumor_stage": "ajcc_stage",
    "clinical_stage": "clinical_stage",
    "Redaction": "redaction",
} | {
    theirs: ours
    for endpoint in ENDPOINTS
    for theirs, ours in (
        (endpoint, f"{endpoint.lower()}_event"),
        (f"{endpoint}.time", f"{endpoint.lower()}_time_days"),
    )
}
_MISSING_WORDS = frozenset({"", "#n/a", "na", "n/a", "nan", "none", "null", "<na>", "-", "."})
_BRACKETED = re.compile(r"^\[.*\]$")  # [Not Available], [Discrepancy], [Unknown], [Not Applicable] …
_CODED_EVENT = re.compile(r"^([01])\s*:")  # cBioPortal writes 1:DECEASED
_EVENTS = {
    "1": True,
    "1.0": True,
    "true": True,
    "dead": True,
    "deceased": True,
    "yes": True,
    "0": False,
    "0.0": False,
    "false": False,
    "alive": False,
    "living": False,
    "censored": False,
    "no": False,
}
MONTHS_BELOW = 400  # a longest follow-up under this many "days" …
WHOLE_FROM = 20  # … or which nothing calls days, over at least this many patients
FRACTIONAL_SHARE = 0.2  # … with more than this share of fractional values is read as months


def is_missing(value: object) -> bool:
    """Say whether a cell is one of the many ways of writing that nothing is known."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    text = str(value).strip()
    return text.casefold() in _MISSING_WORDS or _BRACKETED.match(text) is not None


def blank_missing(column: pd.Series[Any]) -> pd.Series[Any]:
    """Return the column as stripped text with None wherever nothing is known."""
    texts = [None if is_missing(value) else str(value).strip() for value in column]
    return pd.Series(texts, index=column.index, dtype=object, name=column.name)


def read_cdr(path: Path) -> pd.DataFrame:
    """Read sheet TCGA-CDR: one row a patient, text cells, columns named as ours (`CDR_COLUMNS`).

    Errors: `UserError` for a missing sheet or column, or a patient that occurs twice.
    """
    # Opened here: openpyxl leaves a damaged file open.
    with refusing(f"{path.name} is not an Excel workbook", "fetch the official file again"), path.open("rb") as file:
        refuse_zip_bomb(path)
        return _read_cdr(path, openpyxl.load_workbook(file, read_only=True, data_only=True))


def _read_cdr(path: Path, book: openpyxl.Workbook) -> pd.DataFrame:
    try:
        if CDR_SHEET not in book.sheetnames:
            raise UserError(
                f"{path.name}: no sheet {CDR_SHEET!r} among {some(book.sheetnames)}; fetch the official file again"
            )
        sheet = book[CDR_SHEET]
        sheet.reset_dimensions()  # some writers store a wrong extent, which read-only mode would believe
        rows = sheet.iter_rows(values_only=True)
        header = [str(cell) if cell is not None else "" for cell in next(rows, ())]
        absent = [name for name in CDR_COLUMNS if name not in header]
        if absent:
            raise UserError(
                f"{path.name}: no column {some(absent)} in sheet {CDR_SHEET}; fetch the official file again"
            )
        places = [header.index(name) for name in CDR_COLUMNS]
        cells = []
        for number, row in enumerate(rows):  # rows that a sheet leaves out are there as empty ones
            if number > MOST_ROWS:
                raise UserError(f"{path.name}: more than {MOST_ROWS:,} rows in {CDR_SHEET}; fetch the file again")
            if any(cell is not None for cell in row):
                cells.append([row[i] if i < len(row) else None for i in places])
    finally:
        book.close()
    table = pd.DataFrame(cells, columns=list(CDR_COLUMNS.values()), dtype=object)
    table = table.apply(blank_missing)
    table = table[table["patient_id"].notna()].reset_index(drop=True)
    repeated = table["patient_id"][table["patient_id"].duplicated()].unique()
    if len(repeated):
        raise UserError(
            f"{path.name}: patients that occur more than once: {some(repeated)}; expected one row a patient; "
            "fetch the official file again"
        )
    return table


def parse_events(column: pd.Series[Any], name: str) -> pd.Series[Any]:
    """Read an event column (1/0, True/False, dead/alive, 1:DECEASED …) as booleans with None for missing.

    Errors: `UserError` listing values that are neither.
    """
    texts = blank_missing(column)
    parsed: list[bool | None] = []
    wrong: list[str] = []
    for text in texts:
        if text is None:
            parsed.append(None)
            continue
        coded = _CODED_EVENT.match(text)
        event = _EVENTS.get(coded.group(1) if coded else text.casefold())
        if event is None:
            wrong.append(text)
        parsed.append(event)
    if wrong:
        raise UserError(
            f"column {name}: {len(wrong)} events that are neither 0 nor 1: {some(map(repr, sorted(set(wrong))))}; "
            "expected 1 for an event and 0 for censored"
        )
    return pd.Series(parsed, index=column.index, dtype=object)


def parse_numbers(column: pd.Series[Any], name: str) -> pd.Series[float]:
    """Read a numeric column with NaN for missing. Errors: `UserError` listing what is not a finite number."""
    texts = blank_missing(column)
    numbers = pd.to_numeric(texts, errors="coerce").astype(float)
    wrong = texts[texts.notna() & ~np.isfinite(numbers)]
    if len(wrong):
        raise UserError(f"column {name}: not a number: {some(repr(t) for t in wrong.unique())}; correct the table")
    return numbers


def to_days(times: pd.Series[float], unit: str | None, name: str) -> pd.Series[float]:
    """Convert times to days; an undeclared unit means days, unless the values look like months.

    Errors: `UserError` for negative times and for times that look like months.
    """
    known = times.dropna()
    if (known < 0).any():
        raise UserError(
            f"column {name}: {int((known < 0).sum())} negative times, the smallest {known.min():g}; expected days "
            "since diagnosis; correct the table"
        )
    fractional = float((known % 1 != 0).mean()) if len(known) else 0.0
    # Whole numbers are judged by their column's name, where there are enough of them.
    unnamed = "day" not in name.casefold() and len(known) >= WHOLE_FROM
    if unit is None and len(known) and known.max() < MONTHS_BELOW and (fractional > FRACTIONAL_SHARE or unnamed):
        raise UserError(
            f"column {name}: times look like months, not days (longest {known.max():g}, {fractional:.0%} fractional); "
            "declare the unit: time_unit: months (or time_unit: days if they are days)"
        )
    return times * TIME_UNITS[unit or "days"]


def survival_table(clinical: pd.DataFrame, rules: CohortRules, flow: Flow) -> pd.DataFrame:
    """Return the long table patient_id, endpoint, time_days (> 0), event, sorted; what is dropped is counted.

    `clinical`: patient_id, redacted, and per endpoint `os_time_days`, `os_event` … as far as known. A
    redacted patient is dropped; so is a missing time or event; a time of zero follows `rules.zero_time`.
    Errors: `UserError` for negative times.
    """
    redacted = clinical["redacted"].astype(bool) & rules.drop_redacted
    flow.drop("survival", "patient is not redacted", len(clinical), int(redacted.sum()))
    usable = clinical[~redacted]
    parts = []
    for endpoint in ENDPOINTS:
        time_name, event_name = f"{endpoint.lower()}_time_days", f"{endpoint.lower()}_event"
        if time_name not in usable or event_name not in usable:
            continue
        part = pd.DataFrame(
            {
                "patient_id": usable["patient_id"],
                "endpoint": endpoint,
                "time_days": usable[time_name].astype(float),
                "event": usable[event_name],
            }
        )
        if (part["time_days"] < 0).any():
            raise UserError(
                f"{endpoint}: {int((part['time_days'] < 0).sum())} negative times; expected days since diagnosis; "
                "correct the table"
            )
        missing = part["time_days"].isna() | part["event"].isna()
        flow.drop("survival", f"{endpoint}: time and event are known", len(part), int(missing.sum()))
        part = part[~missing]
        zero = part["time_days"] == 0
        if isinstance(rules.zero_time, str):
            flow.drop("survival", f"{endpoint}: time is above zero", len(part), int(zero.sum()))
            part = part[~zero]
        elif zero.any():
            flow.note(f"survival: {endpoint}: {int(zero.sum())} times of zero set to {rules.zero_time:g} days")
            part = part.assign(time_days=part["time_days"].mask(zero, float(rules.zero_time)))
        parts.append(part)
    if not parts:
        return pd.DataFrame({"patient_id": [], "endpoint": [], "time_days": [], "event": []})
    table = pd.concat(parts).astype({"event": bool})
    order = pd.Categorical(table["endpoint"], categories=list(ENDPOINTS), ordered=True)
    table = table.assign(order=order).sort_values(["order", "patient_id"], kind="stable").drop(columns="order")
    return table.reset_index(drop=True)


ALL_CENSORED_FROM = 20  # patients; below, an all-censored type is no surprise


def all_censored(survival: pd.DataFrame, cancer_types: pd.Series[Any], endpoint: str = "OS") -> dict[str, int]:
    """Return {cancer type: n} of types with at least 20 patients and no event. `cancer_types`: by patient."""
    rows = survival[survival["endpoint"] == endpoint]
    kinds = cancer_types.reindex(rows["patient_id"]).to_numpy()
    grouped = rows["event"].astype(bool).groupby(kinds).agg(["size", "sum"])
    found = grouped[(grouped["size"] >= ALL_CENSORED_FROM) & (grouped["sum"] == 0)]
    return {str(kind): int(n) for kind, n in found["size"].items()}


def listed(found: Iterable[tuple[str, int]]) -> str:
    """Return "ACC (n = 20), UCS (n = 31)"."""
    return some(f"{kind} (n = {n})" for kind, n in found)
