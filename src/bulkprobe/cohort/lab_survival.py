"""A lab's own survival: wide or long, under the lab's names, in days, months or years, made ours."""

from __future__ import annotations

from typing import Any

import pandas as pd

from bulkprobe.cohort.flow import Flow
from bulkprobe.cohort.lab_tables import find_column
from bulkprobe.cohort.schema import ENDPOINTS, CohortRules, FilesConfig
from bulkprobe.cohort.survival import all_censored, listed, parse_events, parse_numbers, survival_table, to_days
from bulkprobe.errors import UserError, some


def _time(table: pd.DataFrame, ours: str, config: FilesConfig) -> tuple[pd.Series[float] | None, str]:
    """Return the times in days and their column. The unit stands in our name, or `time_unit`, or is days."""
    for unit in ("months", "years", "days", None):
        name = find_column(list(table.columns), ours if unit is None else f"{ours}_{unit}", config.columns)
        if name is None:
            continue
        if unit in ("months", "years") and config.time_unit not in (None, unit):
            raise UserError(f"column {name} is in {unit}, but time_unit is {config.time_unit!r}; make them agree")
        declared = unit if unit in ("months", "years") else config.time_unit
        return to_days(parse_numbers(table[name], name), declared, name), name
    return None, ""


def lab_survival(
    table: pd.DataFrame, samples: pd.DataFrame, config: FilesConfig, rules: CohortRules, flow: Flow
) -> pd.DataFrame:
    """Read survival, wide (`os_time_days`, `os_event` …) or long (endpoint, time, event), keyed by patient or sample.

    Returns the long table of the patients that enter probing. Errors: `UserError` for missing columns,
    rows of a patient that disagree, ids that match nothing, and (unless `allow_all_censored`) a cancer type
    of 20 or more patients without a single event.
    """
    patient = find_column(list(table.columns), "patient_id", config.columns)
    sample = find_column(list(table.columns), "sample_id", config.columns)
    by_sample = samples.set_index("sample_id")["patient_id"]
    if patient is None and sample is None:
        raise UserError(
            f"survival table: neither patient_id nor sample_id among {some(table.columns)}; map one of them"
        )
    key = (
        table[sample].map(by_sample)
        if sample is not None
        else pd.Series([None] * len(table), index=table.index, dtype=object)
    )
    if patient is not None:
        key = key.where(key.notna(), table[patient])
    if sample is not None and patient is None:
        key = key.where(key.notna(), table[sample])
    columns = {}
    endpoint = find_column(list(table.columns), "endpoint", config.columns)
    if endpoint is not None:
        wide = _widen(table, key, endpoint, config)
    else:
        for ours in (name.lower() for name in ENDPOINTS):
            times, name = _time(table, f"{ours}_time", config)
            event = find_column(list(table.columns), f"{ours}_event", config.columns)
            if times is None:
                continue
            if event is None:
                raise UserError(
                    f"column {name} has no event column beside it; expected {ours}_event (1 event, 0 censored)"
                )
            columns[f"{ours}_time_days"] = times
            columns[f"{ours}_event"] = parse_events(table[event], event)
        wide = _one_row_a_patient(pd.DataFrame({"patient_id": key, **columns}))
    if wide.shape[1] == 1:
        if config.survival is not None:
            raise UserError(
                f"survival table: no times among {some(table.columns, 40)}; expected os_time_days and os_event, or "
                "endpoint, time_days and event; map them under columns"
            )
        flow.note("survival: the samples table has no survival columns")
    probing = samples[samples["for_probing"]]
    known = wide["patient_id"].isin(probing["patient_id"])
    if not known.any():
        raise UserError(
            f"no patient is in both tables: survival has {some(wide['patient_id'].iloc[:3])}, the cohort has "
            f"{some(probing['patient_id'].iloc[:3])}; expected the same identifiers"
        )
    flow.drop("survival", "patient has a sample that enters probing", len(wide), int((~known).sum()))
    redacted = set(samples["patient_id"][samples["redacted"]])
    wide = wide[known].assign(redacted=wide["patient_id"].isin(redacted))
    survival = survival_table(wide, rules, flow)
    found = all_censored(survival, probing.set_index("patient_id")["cancer_type"])
    overall = survival[survival["endpoint"] == "OS"]
    if len(overall) and not overall["event"].any():
        found = {"the whole cohort": len(overall)}
    if found and not config.allow_all_censored:
        raise UserError(
            f"every patient is censored for OS in {listed(sorted(found.items()))}; expected at least one event; check "
            "the event column (1 = event), or set allow_all_censored: true"
        )
    for kind, n in sorted(found.items()):
        flow.note(f"survival: every patient is censored for OS in {kind} (n = {n})")
    return survival


def _one_row_a_patient(wide: pd.DataFrame) -> pd.DataFrame:
    wide = wide[wide["patient_id"].notna()].drop_duplicates()
    several = wide["patient_id"][wide["patient_id"].duplicated()].unique()
    if len(several):
        raise UserError(f"survival: rows of one patient disagree: {some(several)}; expected the same follow-up in each")
    return wide.reset_index(drop=True)


def _widen(table: pd.DataFrame, key: pd.Series[Any], endpoint: str, config: FilesConfig) -> pd.DataFrame:
    times, _ = _time(table, "time", config)
    event = find_column(list(table.columns), "event", config.columns)
    if times is None or event is None:
        raise UserError(f"survival table: {some(table.columns)}; expected patient_id, endpoint, time_days, event")
    names = table[endpoint].astype(str).str.upper()
    wrong = sorted(set(names) - set(ENDPOINTS))
    if wrong:
        raise UserError(f"survival table: unknown endpoints {some(wrong)}; expected {some(ENDPOINTS)}")
    events = parse_events(table[event], event)
    wide = pd.DataFrame({"patient_id": key[key.notna()].unique()})
    for name in ENDPOINTS:
        rows = names == name
        if rows.any():
            columns = {f"{name.lower()}_time_days": times[rows], f"{name.lower()}_event": events[rows]}
            part = _one_row_a_patient(pd.DataFrame({"patient_id": key[rows], **columns}))
            wide = wide.merge(part, on="patient_id", how="left")
    return wide
