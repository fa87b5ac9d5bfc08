"""Stage `compare`: which differences between encoders are larger than chance, and what goes with transfer.

Reads results only; fits nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from bulkprobe.cohort.read import read_columns
from bulkprobe.cohort.schema import SAMPLE_COLUMNS, SAMPLES
from bulkprobe.errors import UserError
from bulkprobe.files import read_json, write_json
from bulkprobe.params import Params, load_params
from bulkprobe.report.tables import TASKS
from bulkprobe.stages import comparing, paths
from bulkprobe.stages.comparing import WITHIN, Metrics, Study, Unit
from bulkprobe.stages.relating import relate
from bulkprobe.stages.resampling import (
    Draws,
    Floats,
    Pairs,
    TestPart,
    draw_patients,
    mutation_pairs,
    resample_label,
    survival_pairs,
)
from bulkprobe.stages.running import run_stage

ROUNDING = 1e-6  # metrics files hold six decimals
NOTES = {
    "difference": (
        "a - b per split, averaged over the labels that are defined for both; splits of the same number test the same "
        "patients for every encoder; positive = a is better"
    ),
    "p_values": (
        "two-sided; p_nadeau_bengio by the corrected resampled t-test (10.1023/A:1024068626366), p_calibrated with a "
        "larger variance factor found by simulation, p_holm the calibrated one adjusted over the encoders of one task "
        "or label and one comparison; low and high by the calibrated variance"
    ),
    "bootstrap": (
        "patients drawn with replacement within their cohort, each with all its test predictions; probes are not "
        "fitted again, so the interval tells of other test patients and not of other training sets"
    ),
    "best": (
        "the best is chosen on the scores that it is compared on, so its lead is overstated and its p-values are too "
        "small; a set that cannot be told apart from it is not a proof of equality"
    ),
    "ranks": (
        "over labels as blocks; labels share patients, so the blocks are not independent and Friedman's p is too small"
    ),
}


def main() -> str:
    """Write `metrics/compare.json`."""
    params = load_params()
    metrics = {
        name: {task: read_json(paths.metrics_path(task, name)) for task in ("mutation", "survival")}
        for name in params.encoders
    }
    predictions = {
        name: {task: pd.read_parquet(paths.predictions_path(task, name)) for task in ("mutation", "survival")}
        for name in params.encoders
    }
    samples = read_columns(paths.COHORT / SAMPLES, SAMPLE_COLUMNS)
    probed = samples[samples.for_probing.to_numpy(bool)]
    shift, biology = (
        {name: read_json(path) for name, path in paths.written(task, chosen).items()}
        for task, chosen in (("shift", params.shift.encoders), ("biology", params.biology.encoders))
    )
    types = probed.set_index("patient_id").cancer_type
    write_json(paths.COMPARE, run(metrics, predictions, types, params, shift=shift, biology=biology))
    return f"{paths.COMPARE} is written; the report shows it"


def run(
    metrics: Mapping[str, Mapping[str, Metrics]],
    predictions: Mapping[str, Mapping[str, pd.DataFrame]],
    types: pd.Series,
    params: Params,
    n_boot: int | None = None,
    shift: Mapping[str, Metrics] | None = None,
    biology: Mapping[str, Metrics] | None = None,
) -> dict[str, Any]:
    """Return the content of `metrics/compare.json`.

    metrics, predictions: encoder -> task -> what the probes wrote. types: cancer type by patient id. n_boot: instead
    of that of params.yaml; 0 leaves the bootstrap out. shift, biology: encoder -> what the stage of that name wrote.
    Raises UserError where predictions and metrics do not agree.
    """
    settings = params.compare
    n_boot = settings.n_boot if n_boot is None else n_boot
    plain = Study(metrics, params.splits.test_fraction, settings.level)
    draws, tested = _resampled(plain, predictions, types, n_boot, params.base.seed) if n_boot else ({}, {})
    study = Study(metrics, params.splits.test_fraction, settings.level, draws, tested)
    tasks, twins = comparing.task_units(study), comparing.twins_of(study)
    labels: dict[str, dict[str, Any]] = {}
    for unit in comparing.label_units(study):
        labels.setdefault(unit.label, {})[unit.measure] = _compared(study, [unit], settings.reference, twins)
    return {
        "reference": settings.reference,
        "level": settings.level,
        "n_boot": n_boot,
        "n_splits": params.splits.n_splits,
        "test_fraction": params.splits.test_fraction,
        "common_width": next((w for one in metrics.values() if (w := one["mutation"].get("common_width"))), None),
        "simulated": any(bool(one["mutation"].get("simulated")) for one in metrics.values()),
        "encoders": {name: _encoder(metrics[name]["mutation"], name, twins) for name in metrics},
        "notes": NOTES,
        "tasks": {
            task: {
                "title": title,
                "measure": comparing.measure_of(task),
                **_compared(study, tasks[task], settings.reference, twins),
                "against_reference_common_width": comparing.against(
                    study, tasks[task], settings.reference, "common_width"
                ),
                "own_width_minus_common_width": comparing.widths(study, tasks[task]),
            }
            for task, title in TASKS.items()
        },
        "labels": labels,
        "added_value": {
            endpoint: comparing.added_value(study, comparing.survival_units(study, endpoint))
            for endpoint in params.probe_survival.endpoints
        },
        "ranks": comparing.ranks(study, tasks),
        "relations": relate(
            metrics,
            shift or {},
            biology or {},
            [name for name in metrics if params.encoders[name].release is not None],  # a baseline has no release
            [twin for twin in twins.values() if twin],
            seed=params.base.seed,
            level=settings.level,
        ),
    }


def _compared(study: Study, units: list[Unit], reference: str, twins: Mapping[str, str | None]) -> dict[str, Any]:
    return {
        "against_reference": comparing.against(study, units, reference),
        "against_twin": comparing.against_twin(study, units, twins),
        **comparing.against_best(study, units),
    }


def _encoder(metrics: Metrics, name: str, twins: Mapping[str, str | None]) -> dict[str, Any]:
    twin = twins.get(name)
    reason = None
    if name not in twins:
        reason = f"{name} is an untrained twin itself"
    elif twin is None:
        reason = f"the study has no untrained twin of {name}"
    return {
        "untrained": bool(metrics.get("untrained")),
        "absent": metrics.get("absent"),
        "twin": twin,
        "twin_reason": reason,
    }


def _resampled(
    study: Study,
    predictions: Mapping[str, Mapping[str, pd.DataFrame]],
    types: pd.Series,
    n_boot: int,
    seed: int,
) -> tuple[dict[Unit, dict[str, Floats]], dict[Unit, frozenset[str]]]:
    """Draw the patients of every cohort and score every encoder that is defined on a unit on every draw."""
    by_label = {
        encoder: {task: _by_label(table) for task, table in tables.items()} for encoder, tables in predictions.items()
    }
    cohorts: dict[tuple[str, str], Draws] = {}
    found: dict[Unit, dict[str, Floats]] = {}
    tested: dict[Unit, frozenset[str]] = {}
    for unit in comparing.label_units(study):
        task, cohort = ("survival" if unit.measure == "c_index" else "mutation"), unit.label.split("/")[0]
        able = [name for name in study.encoders if study.scores(name, unit) is not None]
        missing = [name for name in able if unit.label not in by_label[name][task]]
        if missing:
            raise UserError(f"{unit.label} of {missing[0]} has metrics but no predictions; run `dvc repro`")
        if not able:
            continue
        rows = {name: by_label[name][task][unit.label] for name in able}
        parts, scores = _parts(unit, rows, types)
        if (task, cohort) not in cohorts:
            people = {
                patient
                for tables in by_label.values()
                for label, of_label in tables[task].items()
                if label.split("/")[0] == cohort
                for part in of_label.values()
                for patient in part.patient_id
            }
            entropy = (seed, zlib.crc32(f"{task}/{cohort}".encode()))
            cohorts[task, cohort] = draw_patients(sorted(people), n_boot, entropy)
        resampled = resample_label(cohorts[task, cohort], parts, scores)
        for name, one in resampled.items():
            _check_agreement(study, name, unit, one.observed)
        found[unit] = {name: one.means for name, one in resampled.items()}
        tested[unit] = frozenset(str(patient) for part in parts.values() for patient in part.patients)
    return found, tested


def _by_label(table: pd.DataFrame) -> dict[str, dict[int, pd.DataFrame]]:
    """Cut predictions into label -> split -> rows in the order of patients."""
    plain = table.astype({"label": str, "patient_id": str}).sort_values("patient_id", kind="stable")
    found: dict[str, dict[int, pd.DataFrame]] = {}
    for key, part in plain.groupby(["label", "split"], sort=True):
        found.setdefault(str(key[0]), {})[int(str(key[1]))] = part
    return found


def _parts(
    unit: Unit, rows: Mapping[str, Mapping[int, pd.DataFrame]], types: pd.Series
) -> tuple[dict[int, TestPart], dict[str, dict[int, Floats]]]:
    """Line up the predictions of one unit: the test patients of each split, and every encoder's scores for them."""
    first = next(iter(rows))
    ids = {split: part.patient_id.to_numpy() for split, part in rows[first].items()}
    for name, of_name in rows.items():
        for split in sorted(set(ids) | set(of_name)):
            part = of_name.get(split)
            if part is None or split not in ids or not np.array_equal(part.patient_id.to_numpy(), ids[split]):
                raise UserError(
                    f"{unit.label}, split {split}: {name} was tested on other patients than {first}, so they cannot "
                    "be compared; run `dvc repro`"
                )
    parts = {split: TestPart(pd.Index(ids[split]), _pairs(unit, part, types)) for split, part in rows[first].items()}
    scores = {
        name: {split: part.score.to_numpy(float) for split, part in of_name.items()} for name, of_name in rows.items()
    }
    return parts, scores


def _pairs(unit: Unit, part: pd.DataFrame, types: pd.Series) -> list[Pairs]:
    if unit.measure == "c_index":
        return survival_pairs(part.time.to_numpy(float), part.event.to_numpy(bool))
    kinds = types.reindex(part.patient_id).to_numpy(dtype=str) if unit.measure == WITHIN else None
    return mutation_pairs(part.truth.to_numpy(bool), kinds)


def _check_agreement(study: Study, encoder: str, unit: Unit, observed: Mapping[int, float]) -> None:
    """Refuse predictions whose scores are not those of the metrics file."""
    known = study.scores(encoder, unit) or []
    for split, value in enumerate(known):
        again = observed.get(split, float("nan"))
        if not np.isclose(again, value, rtol=0, atol=ROUNDING):
            raise UserError(
                f"{unit.label}, split {split} of {encoder}: the metrics say {unit.measure} {value}, the predictions "
                f"{again:.6f}; run `dvc repro`"
            )


if __name__ == "__main__":
    run_stage(main)
