"""The work of a probe cut into units of one cohort and split, and run on several processes."""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import joblib
import numpy as np
import numpy.typing as npt
import pandas as pd
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from bulkprobe.errors import UserError, some
from bulkprobe.probes.metrics import Undefined
from bulkprobe.probes.tuning import Choice

LONG_RUN = 60.0  # seconds from which an estimate is given first
UNIT = 1 << 22  # patients x rank x splits of one unit of work
DIGITS = 6  # of the numbers in metric files
Rows = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Part:
    """Patients of one label and split, sorted by patient id.

    rows: their rows in the embedding. test: who is tested. fold: inner fold, -1 where tested.
    """

    label: str
    split: int
    rows: Ints
    test: npt.NDArray[np.bool_]
    fold: Ints


def check_embedding(embedding: Rows, patients: Sequence[str]) -> pd.Index[str]:
    """Return the patients as an index; raise UserError on repeats, a wrong number of rows, NaN."""
    index: pd.Index[str] = pd.Index(np.asarray(patients, dtype=object))
    if embedding.ndim != 2 or len(embedding) != len(index):
        raise UserError(
            f"The embedding has shape {embedding.shape} for {len(index)} patients; give one row for each patient"
        )
    if index.has_duplicates:
        repeated = index[index.duplicated()].unique()
        raise UserError(f"Patients stand twice in the embedding: {some(repeated)}; keep one sample for each patient")
    broken = np.flatnonzero(~np.isfinite(embedding).all(axis=1))
    if len(broken):
        raise UserError(f"The embedding holds NaN or infinite values for {some(index[broken])}; embed them again")
    return index


def parts_of(splits: pd.DataFrame, task: str, labels: Sequence[str], patients: pd.Index) -> dict[str, list[Part]]:
    """Read the parts of every label from the splits table; UserError if a label or an embedding row is missing."""
    table = splits[splits["task"] == task]
    absent = [label for label in labels if label not in set(table["label"].unique())]
    if absent:
        raise UserError(f"The splits table has no {task} rows for {some(absent)}; make the splits for these labels")
    table = table[table["label"].isin(labels)]
    names = table["patient_id"].astype(object)
    missing = pd.Index(names.unique()).difference(patients)
    if len(missing):
        raise UserError(
            f"Patients of the splits table have no row in the embedding: {some(missing)}; embed the whole cohort"
        )
    table = table.assign(row=patients.get_indexer(pd.Index(names)), patient_id=names)
    table = table.sort_values("patient_id", kind="stable")
    parts: dict[str, list[Part]] = {label: [] for label in labels}
    for key, rows in table.groupby(["label", "split"], observed=True, sort=True):
        label, split = str(key[0]), int(str(key[1]))
        parts[label].append(
            Part(
                label,
                split,
                rows["row"].to_numpy(dtype=np.int64),
                (rows["role"] == "test").to_numpy(dtype=bool),
                rows["fold"].to_numpy(dtype=np.int64),
            )
        )
    return parts


def run_units(
    work: Callable[..., Result], units: Sequence[tuple[Any, ...]], embedding: Rows, n_jobs: int, title: str
) -> list[Result]:
    """Return `work(embedding, *unit)` of every unit, in order.

    One BLAS thread a process, so that bytes do not depend on n_jobs. With several processes the embedding goes
    through a file that all of them map. Give the largest units first: the first one tells how long a run over a minute
    will take at most.
    """
    if n_jobs < 1:
        raise UserError(f"n_jobs is {n_jobs}; at least 1 process is needed")
    n_jobs = min(n_jobs, len(units))

    def collect(results: Iterable[Result]) -> list[Result]:
        begun, found = time.monotonic(), []
        for result in tqdm(results, total=len(units), desc=title, delay=2):
            found.append(result)
            seconds = (time.monotonic() - begun) * math.ceil(len(units) / n_jobs)
            if len(found) == 1 and seconds > LONG_RUN:
                print(f"{title}: at most about {math.ceil(seconds / 60)} minutes", file=sys.stderr)
        return found

    if n_jobs <= 1:
        with threadpool_limits(1):
            return collect(work(embedding, *unit) for unit in units)
    with tempfile.TemporaryDirectory(prefix="bulkprobe-") as folder:
        path = Path(folder) / "embedding.npy"
        np.save(path, np.asarray(embedding))
        calls = (joblib.delayed(_work_on_file)(work, path, unit) for unit in units)
        # The workers of a process that was killed end by themselves after half a minute, no longer five.
        return collect(joblib.Parallel(n_jobs=n_jobs, return_as="generator", idle_worker_timeout=30)(calls))


def _work_on_file(work: Callable[..., Result], path: Path, unit: tuple[Any, ...]) -> Result:
    with threadpool_limits(1):
        return work(np.load(path, mmap_mode="r"), *unit)


def chunks(splits: int, patients: int, width: int) -> Iterator[list[int]]:
    """Numbers of splits that make one unit of work: all where they are small, each alone where they are large."""
    together = max(1, UNIT // (patients * max(1, min(patients, width))))
    for start in range(0, splits, together):
        yield list(range(start, min(start + together, splits)))


def choice_columns(choices: Sequence[Choice | None]) -> dict[str, Any]:
    """What a metrics file says of the penalties chosen, one entry of `choices` a split."""
    curves = [choice.curve for choice in choices if choice is not None]
    errors = [choice.errors for choice in choices if choice is not None and choice.errors is not None]
    return {
        "penalty": [None if choice is None else choice.penalty for choice in choices],
        "grid_edge_hits": sum(choice is not None and choice.grid_edge for choice in choices),
        "tuning_curve": [rounded(x) for x in np.mean(curves, axis=0)] if curves else None,
        "tuning_curves": [None if choice is None else [rounded(x) for x in choice.curve] for choice in choices],
        "tuning_errors": [rounded(x) for x in np.mean(errors, axis=0)] if errors else None,
    }


def attempt(metric: Callable[[], Result]) -> tuple[Result | None, str | None]:
    """Return a metric and no reason, or None and the reason why it is undefined."""
    try:
        return metric(), None
    except Undefined as undefined:
        return None, str(undefined)


def summarise(values: Sequence[tuple[float | None, str | None]], splits: Sequence[int]) -> dict[str, Any]:
    """Return mean, sd (n - 1), per_split, reasons and reason; the mean is null unless every split has a value."""
    numbers = [value for value, _ in values]
    reasons = {str(split): reason for split, (_, reason) in zip(splits, values, strict=True) if reason is not None}
    defined = np.array([number for number in numbers if number is not None], dtype=np.float64)
    complete = len(defined) == len(numbers) and len(numbers) > 0
    reason = None
    if not complete:
        first = next(iter(reasons.values()), "no split")
        reason = f"undefined in {len(numbers) - len(defined)} of {len(numbers)} splits: {first}"
    return {
        "mean": rounded(defined.mean()) if complete else None,
        "sd": rounded(defined.std(ddof=1)) if complete and len(defined) > 1 else None,
        "per_split": [rounded(number) for number in numbers],
        "reasons": reasons,
        "reason": reason,
    }


def refused(reason: str, splits: Sequence[int]) -> dict[str, Any]:
    """Return the same as `summarise` for a label that is not probed at all."""
    return {
        "mean": None,
        "sd": None,
        "per_split": [None] * len(splits),
        "reasons": {str(split): reason for split in splits},
        "reason": reason,
    }


def rounded(number: float | np.floating[Any] | None) -> float | None:
    """Round for a metric file; -0 becomes 0."""
    return None if number is None else round(float(number), DIGITS) + 0.0


def by_patient(values: pd.Series, patients: pd.Index, what: str) -> pd.Series:
    """Bring a series indexed by patient id into the order of the embedding; UserError on repeats."""
    if values.index.has_duplicates:
        repeated = values.index[values.index.duplicated()].unique()
        raise UserError(f"Patients stand twice in {what}: {some(repeated)}; keep one row for each patient")
    return values.reindex(patients)


def prediction_table(columns: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    """Bring predictions to their stored types, sorted by label, split and patient."""
    table = pd.DataFrame(columns)
    table = table.sort_values(["label", "split", "patient_id"], kind="stable", ignore_index=True)
    for column in ("task", "label", "patient_id"):
        table[column] = pd.Categorical(table[column], categories=sorted(table[column].unique()))
    types = {"split": "int16", "score": "float64", "truth": "boolean", "time": "float64", "event": "boolean"}
    return table.astype(types)[["task", "label", "split", "patient_id", "score", "truth", "time", "event"]]
