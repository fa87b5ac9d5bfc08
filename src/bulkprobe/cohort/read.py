"""Reading a cohort folder: its tables, checked against the schema."""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from bulkprobe import files
from bulkprobe.cohort.schema import (
    ENDPOINTS,
    EXPRESSION,
    FLOW,
    MUTATION_COLUMNS,
    MUTATIONS,
    PROVENANCE,
    SAMPLE_COLUMNS,
    SAMPLES,
    SURVIVAL,
    SURVIVAL_COLUMNS,
    Kind,
)
from bulkprobe.errors import UserError, some
from bulkprobe.foreign import refuse_wide_table, refusing

_TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None  # glibc's
_ARROW = {"text": pa.string(), "float": pa.float64(), "bool": pa.bool_()}


@dataclass(frozen=True)
class Cohort:
    """A cohort folder in memory, except its expression.

    Columns of the tables: `SAMPLE_COLUMNS`, `SURVIVAL_COLUMNS`, `MUTATION_COLUMNS`. Missing text is None,
    a missing number NaN, a missing flag `pd.NA` (dtype boolean).
    """

    samples: pd.DataFrame
    survival: pd.DataFrame
    mutations: pd.DataFrame
    flow: dict[str, Any]
    provenance: dict[str, Any]
    expression_path: Path

    @property
    def probing(self) -> pd.DataFrame:
        """The one sample of each patient that enters probing, in matrix order."""
        return self.samples[self.samples["for_probing"]]


def write_columns(table: pd.DataFrame, columns: Mapping[str, Kind], path: Path) -> None:
    """Write a table as Parquet with exactly these columns and types; equal tables give equal bytes."""
    arrays = []
    for name, kind in columns.items():
        values = table[name].astype(object)
        plain = [None if value is None or value is pd.NA or value != value else value for value in values]
        arrays.append(pa.array(plain, type=_ARROW[kind]))
    written = pa.Table.from_arrays(arrays, names=list(columns))
    # No pandas metadata: it holds the versions of libraries.
    pyarrow.parquet.write_table(written, path, compression="zstd")


def read_columns(path: Path, columns: Mapping[str, Kind]) -> pd.DataFrame:
    """Read a table of a cohort folder. Errors: `UserError` for missing or additional columns, or other types."""
    with refusing(f"{path.name}: not a Parquet file", "build the cohort again"):
        refuse_wide_table(path)
        names = pyarrow.parquet.read_schema(path).names
    if names != list(columns):
        raise UserError(
            f"{path.name}: columns {some(names, 20)}; expected {some(columns, 20)} in this order; "
            "build the cohort again"
        )
    frame: dict[str, Any] = {}
    for name, kind in columns.items():
        with refusing(f"{path.name}: not a Parquet file", "build the cohort again"):
            column = pyarrow.parquet.read_table(path, columns=[name]).column(0)  # one at a time takes less memory
        if column.type not in (_ARROW[kind], pa.null(), *([pa.large_string()] if kind == "text" else [])):
            raise UserError(f"{path.name}: column {name} is {column.type}, expected {kind}; build the cohort again")
        if kind == "text":
            frame[name] = column.to_pandas().astype(object)  # equal texts are one object, missing ones None
        elif kind == "float":
            frame[name] = pd.Series(column.cast(pa.float64()).to_numpy(), dtype=float)  # missing: NaN
        else:
            frame[name] = pd.Series(column.to_pylist(), dtype="boolean" if column.null_count else bool)
    return pd.DataFrame(frame, copy=False)


def read_cohort(folder: Path) -> Cohort:
    """Read a cohort folder and refuse what cannot be one.

    Errors: `UserError` for missing files, other columns, repeated samples, several samples of one patient
    in probing, labels of patients that are not probed, impossible times or unknown endpoints.
    """
    folder = Path(folder)
    samples = read_samples(folder)
    cohort = Cohort(
        samples=samples,
        survival=read_columns(folder / SURVIVAL, SURVIVAL_COLUMNS),
        mutations=read_columns(folder / MUTATIONS, MUTATION_COLUMNS),
        flow=_read_json(folder / FLOW),
        provenance=_read_json(folder / PROVENANCE),
        expression_path=folder / EXPRESSION,
    )
    _refuse_impossible_labels(cohort)
    return cohort


def read_samples(folder: Path) -> pd.DataFrame:
    """Read the sample table of a cohort folder, which is all of its tables that an embedding needs.

    Errors: `UserError` as for `read_cohort`, but for the labels, which are not read.
    """
    folder = Path(folder)
    absent = [
        name for name in (EXPRESSION, SAMPLES, SURVIVAL, MUTATIONS, FLOW, PROVENANCE) if not (folder / name).exists()
    ]
    if absent:
        raise UserError(
            f"{folder.name} is not a cohort folder: {some(absent)} missing; build it with `bulkprobe cohort` or "
            "`dvc repro cohort`"
        )
    samples = read_columns(folder / SAMPLES, SAMPLE_COLUMNS)
    _refuse_impossible_samples(samples)
    _refuse_lost_shards(folder / EXPRESSION)
    hand_back()
    return samples


def hand_back() -> None:
    """Give back to the system what reading took beside the tables: as much as they themselves have."""
    pa.default_memory_pool().release_unused()
    if _TRIM is not None:
        _TRIM(0)


def input_hash(folder: Path) -> str:
    """Return one hash of what an embedding is made of: the expression and the sample table, no labels."""
    parts = [files.tree_hash(Path(folder) / EXPRESSION), files.file_hash(Path(folder) / SAMPLES)]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a cohort folder. Errors: `UserError` for anything else."""
    try:
        return files.read_json(path)
    except ValueError as error:
        raise UserError(f"{path.name}: not JSON ({error}); build the cohort again") from error


def _refuse_lost_shards(expression: Path) -> None:
    """Refuse expression of which no file of values is left: Zarr would read zeros without a word."""
    for array in (expression / "X", *sorted((expression / "layers").glob("*/"))):
        if not (array / "zarr.json").is_file():
            continue  # what is no array at all is refused where it is opened
        meta = _read_json(array / "zarr.json")
        if meta.get("node_type") != "array":
            continue
        with refusing(f"{expression.name}: {array.name}/zarr.json is damaged", "build the cohort again"):
            shape, shard = meta["shape"], meta["chunk_grid"]["configuration"]["chunk_shape"]
            expected = math.prod(-(-length // step) for length, step in zip(shape, shard, strict=True))
        found = sum(path.is_file() and path.stat().st_size > 0 for path in (array / "c").glob("*/*"))
        if found < expected:
            raise UserError(
                f"{expression.name}: {array.name} has {found} of {expected} files of values; build the cohort again"
            )


def _refuse_gaps(table: pd.DataFrame, name: str, required: Iterable[str]) -> None:
    for column in required:
        if table[column].isna().any():
            raise UserError(f"{name}: {int(table[column].isna().sum())} rows without {column}; fill or drop them")


def _refuse_impossible_samples(samples: pd.DataFrame) -> None:
    _refuse_gaps(samples, SAMPLES, ("sample_id", "patient_id", "sample_type", "for_probing"))
    twice = samples["sample_id"][samples["sample_id"].duplicated()].unique()
    if len(twice):
        raise UserError(f"{SAMPLES}: sample ids that occur more than once: {some(twice)}; keep one row a sample")
    probing = samples.loc[samples["for_probing"], ["patient_id", "cancer_type"]]
    several = probing["patient_id"][probing["patient_id"].duplicated()].unique()
    if len(several):
        raise UserError(f"{SAMPLES}: patients with several samples for probing: {some(several)}; expected one each")
    if probing.empty or probing["cancer_type"].isna().any():
        raise UserError(
            f"{SAMPLES}: {len(probing)} samples for probing, {int(probing['cancer_type'].isna().sum())} without a "
            "cancer type; expected at least one, each with a type"
        )


def _refuse_impossible_labels(cohort: Cohort) -> None:
    probing, survival, mutations = cohort.probing, cohort.survival, cohort.mutations
    _refuse_gaps(survival, SURVIVAL, SURVIVAL_COLUMNS)
    _refuse_gaps(mutations, MUTATIONS, ("patient_id", "gene", "mutated"))
    for table, name, key in ((survival, SURVIVAL, "endpoint"), (mutations, MUTATIONS, "gene")):
        strange = sorted(set(table["patient_id"]) - set(probing["patient_id"]))
        if strange:
            raise UserError(f"{name}: patients without a sample for probing: {some(strange)}; build the cohort again")
        repeats = table[table.duplicated(["patient_id", key])]
        if len(repeats):
            pairs = (f"{p} {k}" for p, k in zip(repeats["patient_id"], repeats[key], strict=True))
            raise UserError(f"{name}: rows that occur more than once: {some(pairs)}; keep one a patient and {key}")
    unknown = sorted(set(survival["endpoint"]) - set(ENDPOINTS))
    if unknown:
        raise UserError(f"{SURVIVAL}: unknown endpoints {some(unknown)}; expected {some(ENDPOINTS)}")
    times = survival["time_days"]
    if not ((times > 0) & np.isfinite(times)).all():
        raise UserError(
            f"{SURVIVAL}: {int((~((times > 0) & np.isfinite(times))).sum())} times that are not above zero, the "
            f"smallest {times.min():g}; drop them or set them by the zero-time rule"
        )
