"""A lab's own tables: finding columns under the lab's names, and the table of samples."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bulkprobe.cohort.barcodes import PATIENT_LENGTH, SAMPLE_TYPES, is_barcode, split_barcodes
from bulkprobe.cohort.clinical import collapse_stage, normalise_sex
from bulkprobe.cohort.flow import Flow
from bulkprobe.cohort.legible import read_frame, read_text_table
from bulkprobe.cohort.samples import REDACTED, choose_samples, refuse_repeats
from bulkprobe.cohort.schema import (
    ENDPOINTS,
    GROUPS,
    SAMPLE_COLUMNS,
    TCGA_STUDIES,
    TIME_UNITS,
    CohortRules,
    FilesConfig,
    nearest,
)
from bulkprobe.cohort.survival import blank_missing, parse_numbers
from bulkprobe.cohort.text_matrix import delimiter_of
from bulkprobe.errors import UserError, some

# Ours -> names under which it is recognised without `columns`: case, dots, spaces do not matter.
ALIASES: dict[str, tuple[str, ...]] = {
    "sample_id": ("sample_id", "sample", "sampleid", "sample_barcode", "barcode", "tumor_sample_barcode"),
    "patient_id": ("patient_id", "patient", "patientid", "case_id", "patient_barcode", "bcr_patient_barcode"),
    "cancer_type": ("cancer_type", "cancer_type_abbreviation", "project", "project_id", "study", "tumor_type"),
    "sample_type": ("sample_type", "sample_type_code", "sample_type_id"),
    "aliquot": ("aliquot", "aliquot_barcode"),
    "site": ("site", "site_code", "tissue_source_site", "tss"),
    "age": ("age", "age_years", "age_at_diagnosis", "age_at_initial_pathologic_diagnosis"),
    "sex": ("sex", "gender"),
    "stage": ("stage", "ajcc_stage", "tumor_stage", "ajcc_pathologic_tumor_stage", "ajcc_pathologic_stage"),
    "purity": ("purity", "tumor_purity"),
    "n_mutations": ("n_mutations", "mutation_count"),
    "log10_mutation_burden": ("log10_mutation_burden",),
    "msi": ("msi", "msi_status"),
    "subtype": ("subtype",),
    "redaction": ("redaction",),
    "mutation_profiled": ("mutation_profiled",),
    "endpoint": ("endpoint",),
    "time": ("time", "time_days"),
    "event": ("event", "status"),
    "gene": ("gene", "symbol", "gene_symbol", "hugo_symbol"),
    "mutated": ("mutated", "mutation", "value"),
    "hotspot": ("hotspot",),
}
for _unit in TIME_UNITS:
    ALIASES[f"time_{_unit}"] = (f"time_{_unit}",)
for _endpoint in (name.lower() for name in ENDPOINTS):
    ALIASES[f"{_endpoint}_time"] = (f"{_endpoint}_time",)
    ALIASES[f"{_endpoint}_event"] = (f"{_endpoint}_event", f"{_endpoint}_status", _endpoint)
    for _unit in TIME_UNITS:
        ALIASES[f"{_endpoint}_time_{_unit}"] = (f"{_endpoint}_time_{_unit}", f"{_endpoint}_{_unit}")

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # what the GDC calls its files
_SAMPLE_TYPE_WORDS = {
    "primary": "01",
    "primary tumor": "01",
    "primary tumour": "01",
    "primary solid tumor": "01",
    "tumor": "01",
    "tumour": "01",
    "recurrent": "02",
    "recurrent tumor": "02",
    "primary blood derived cancer - peripheral blood": "03",
    "metastatic": "06",
    "metastasis": "06",
    "normal": "11",
    "solid tissue normal": "11",
}


def read_table(path: Path) -> pd.DataFrame:
    """Read a table (.tsv, .csv, packed or not, .parquet) as text, None where nothing is known."""
    if path.suffix == ".parquet":
        table = read_frame(path)
    else:
        table = read_text_table(path, delimiter_of(path))
        if len(table.columns) == 1 and len(str(table.columns[0]).split("\t" if ".csv" in path.suffixes else ",")) > 1:
            raise UserError(
                f"{path.name} has one column ({str(table.columns[0])[:40]}…): fields are expected between "
                f"{'commas' if '.csv' in path.suffixes else 'tabs'}; name it .csv if it has commas, .tsv if it has tabs"
            )
    if not len(table):
        raise UserError(f"{path.name} is an empty table: it has a header and no rows; check the export")
    return table.apply(blank_missing)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "_", str(name).strip().casefold()).strip("_")


def find_column(names: Sequence[str], ours: str, columns: Mapping[str, str]) -> str | None:
    """Return the name that one of our columns has in a table: as `columns` says, else a usual name, else None."""
    if ours in columns:
        return columns[ours] if columns[ours] in names else None
    known = {_plain(name): name for name in reversed(list(names)) if name not in columns.values()}
    return next((known[alias] for alias in ALIASES[ours] if alias in known), None)


def check_columns(config: FilesConfig, headers: Mapping[str, Sequence[str]]) -> None:
    """Refuse `columns` entries of which either side does not exist. Errors: `UserError` with the nearest match."""
    every = [name for names in headers.values() for name in names]
    for ours, theirs in config.columns.items():
        if ours not in ALIASES:
            raise UserError(
                f"cohort.files.columns: {ours!r} is none of our columns{nearest(ours, ALIASES)}; "
                f"expected one of {some(ALIASES, 60)}"
            )
        if theirs not in every:
            raise UserError(
                f"cohort.files.columns: {ours}: no table has a column {theirs!r}{nearest(theirs, every)}; "
                f"looked in {some(headers)}"
            )


def column_of(table: pd.DataFrame, ours: str, config: FilesConfig) -> pd.Series[Any]:
    name = find_column(list(table.columns), ours, config.columns)
    return pd.Series([None] * len(table), index=table.index, dtype=object) if name is None else table[name]


def cancer_types(column: pd.Series[Any], config: FilesConfig) -> pd.Series[Any]:
    """Translate a lab's cancer types into TCGA codes, group codes or declared own names.

    Errors: `UserError` for codes that are neither, with the nearest match.
    """
    known = [*TCGA_STUDIES, *GROUPS]
    translated: dict[str, str] = {}
    for theirs in (str(value) for value in column.dropna().unique()):
        declared = config.cancer_types.get(theirs)
        if isinstance(declared, Mapping):
            if set(declared) != {"name"} or not declared["name"]:
                raise UserError(
                    f"cohort.files.cancer_types: {theirs}: {dict(declared)!r}; expected a TCGA code or "
                    "{name: own name}"
                )
            translated[theirs] = theirs
            continue
        code = str(declared if declared is not None else theirs.upper().removeprefix("TCGA-"))
        if code not in known:
            raise UserError(
                f"unknown cancer type {code!r}{nearest(code, known)}, {int((column == theirs).sum())} samples; "
                "expected a TCGA code or COADREAD, GBMLGG, RCC; translate it under cohort.files.cancer_types, or "
                f"declare your own type there: {theirs}: {{name: …}}"
            )
        translated[theirs] = code
    return column.map(translated).astype(object).where(column.notna(), None)


def _sample_types(given: pd.Series[Any], sample_ids: pd.Series[Any], flow: Flow) -> pd.Series[str]:
    codes: list[str | None] = []
    wrong = []
    for value, sample in zip(given, sample_ids, strict=True):
        if value is None:
            part = split_barcodes([sample])["sample_type"].iloc[0] if is_barcode(sample) else None
            codes.append(part)
            continue
        code = str(value).removesuffix(".0")
        code = code.zfill(2) if code.isdigit() else _SAMPLE_TYPE_WORDS.get(code.casefold(), code)
        if code not in SAMPLE_TYPES:
            wrong.append(value)
        codes.append(code)
    if wrong:
        raise UserError(
            f"unknown sample types {some(sorted(set(wrong)))}; expected codes such as 01 (primary), 03 (blood), "
            "06 (metastasis), 11 (normal); correct the column"
        )
    types = pd.Series(codes, index=given.index, dtype=object)
    if types.isna().any():
        unknown = int(types.isna().sum())
        flow.note(f"samples: {unknown} of {len(types)} without a sample type are taken as primary tumours")
    return types.fillna("01")


def lab_samples(
    table: pd.DataFrame, expression_ids: Sequence[str], config: FilesConfig, rules: CohortRules, flow: Flow
) -> pd.DataFrame:
    """Bring a lab's sample table into expression order and choose the sample that counts for each patient.

    Returns `SAMPLE_COLUMNS` (burden as far as the table gives it, hypermutated null), then redacted and
    mutation_profiled. Errors: `UserError` for missing columns, repeated ids, tables that do not match, unknown types.
    """
    refuse_repeats(expression_ids)
    name = find_column(list(table.columns), "sample_id", config.columns)
    if name is None:
        raise UserError(
            f"samples table: no column sample_id among {some(table.columns)}; map it: columns: {{sample_id: …}}"
        )
    if table[name].isna().any():
        raise UserError(f"samples table: {int(table[name].isna().sum())} rows without a sample id; remove or name them")
    repeats = table[name][table[name].duplicated()].unique()
    if len(repeats):
        raise UserError(f"samples table: sample ids that occur more than once: {some(repeats)}; keep one row a sample")
    ours = pd.Index(np.array(list(expression_ids), dtype=object))
    matched = ours.isin(table[name])
    if not matched.any():
        from_gdc = all(_UUID.match(sample) for sample in ours)
        raise UserError(
            f"no sample id is in both tables: expression has {len(ours)} ({some(ours[:3])}), samples has {len(table)} "
            f"({some(table[name].iloc[:3])}); expected the same identifiers in both"
            + (": put the portal's gdc_sample_sheet*.tsv, which names the samples, into the folder" * from_gdc)
        )
    if not matched.all() and not config.allow_unmatched:
        raise UserError(
            f"{int((~matched).sum())} of {len(ours)} expression samples have no row in the samples table: "
            f"{some(ours[~matched])}; add them, or set allow_unmatched: true to leave them out of probing"
        )
    extra = int((~table[name].isin(ours)).sum())
    flow.drop("samples", "row of the samples table has expression", len(table), extra)
    table = table.set_index(name, drop=False).reindex(ours)
    table = table.astype(object).where(table.notna(), None)
    ids = pd.Series(list(ours), index=table.index, dtype=object)
    derived = ids.map(lambda text: text[:PATIENT_LENGTH] if is_barcode(text) else text)
    patients = column_of(table, "patient_id", config).fillna(derived)
    type_name = find_column(list(table.columns), "cancer_type", config.columns)
    if type_name is None:
        raise UserError(
            f"samples table: no column cancer_type among {some(table.columns)}; map it: columns: {{cancer_type: …}}"
        )
    aliquots = column_of(table, "aliquot", config)
    fine = aliquots.where(aliquots.notna(), ids).map(
        lambda text: split_barcodes([text]).iloc[0][["vial", "plate"]].tolist() if is_barcode(text) else [None, None]
    )
    redaction = column_of(table, "redaction", config)
    redacted = redaction.notna() & ~redaction.astype(str).str.casefold().isin(["0", "false", "no"])
    barcoded = ids.map(lambda text: text[5:7] if is_barcode(text) else None)
    sex = column_of(table, "sex", config)
    stage = column_of(table, "stage", config)
    for what, given, read in (("sex", sex, sex.map(normalise_sex)), ("stage", stage, stage.map(collapse_stage))):
        unread = given[given.notna() & read.isna()]
        if len(unread):
            flow.note(f"samples: {what} of {len(unread)} samples not understood: {some(sorted(set(unread)))}")
    full = pd.DataFrame(
        {
            "sample_id": ids,
            "patient_id": patients,
            "cancer_type": cancer_types(table[type_name], config),
            "sample_type": _sample_types(column_of(table, "sample_type", config), ids, flow),
            "aliquot": aliquots,
            "site": column_of(table, "site", config).fillna(barcoded),
            "age": _between(table, "age", config, (0.0, 120.0), "years"),
            "sex": sex.map(normalise_sex),
            "stage": stage.map(collapse_stage),
            "purity": _between(table, "purity", config, (0.0, 1.0), "a fraction"),
            "log10_mutation_burden": _burden(table, config),
            "hypermutated": pd.Series(pd.NA, index=table.index, dtype="boolean"),
            "msi": column_of(table, "msi", config),
            "subtype": column_of(table, "subtype", config),
            "vial": [pair[0] for pair in fine],
            "plate": [pair[1] for pair in fine],
            "do_not_use": False,
            "excluded": redacted.map(lambda yes: REDACTED if yes and rules.drop_redacted else None),
            "redacted": redacted,
            "mutation_profiled": column_of(table, "mutation_profiled", config),
        }
    ).reset_index(drop=True)
    kinds = full.dropna(subset="cancer_type").groupby("patient_id")["cancer_type"].nunique()
    if (kinds > 1).any():
        raise UserError(
            f"patients with several cancer types: {some(kinds.index[kinds > 1])}; expected one type a patient"
        )
    chosen = choose_samples(full, rules, flow)
    return chosen[[*SAMPLE_COLUMNS, "redacted", "mutation_profiled"]]


def _between(
    table: pd.DataFrame, ours: str, config: FilesConfig, limits: tuple[float, float], unit: str
) -> pd.Series[float]:
    numbers = parse_numbers(column_of(table, ours, config), ours)
    wrong = numbers[numbers.notna() & ~numbers.between(*limits)]
    if len(wrong):
        raise UserError(
            f"column {ours}: {len(wrong)} values outside {limits[0]:g} to {limits[1]:g}: "
            f"{some(f'{value:g}' for value in wrong.unique())}; expected {unit}; correct the table"
        )
    return numbers


def _burden(table: pd.DataFrame, config: FilesConfig) -> pd.Series[float]:
    log10 = parse_numbers(column_of(table, "log10_mutation_burden", config), "log10_mutation_burden")
    counts = parse_numbers(column_of(table, "n_mutations", config), "n_mutations")
    if (counts < 0).any():
        raise UserError(f"column n_mutations: negative counts, the smallest {counts.min():g}; correct the table")
    return log10.fillna(counts.map(lambda n: math.log10(1 + n)))
