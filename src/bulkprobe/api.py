"""bulkprobe without DVC, from Python."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pandas as pd

from bulkprobe.cluster import HERE, Plan, joblib_on
from bulkprobe.cohort.read import Cohort, read_cohort
from bulkprobe.errors import UserError, some
from bulkprobe.files import atomic_path, read_json, write_json
from bulkprobe.params import Params, load_params
from bulkprobe.probes import save as saving
from bulkprobe.probes.metrics import auroc, harrell_c
from bulkprobe.splits import COLUMNS
from bulkprobe.stages import compare, paths, probe_mutation, probe_survival, probing
from bulkprobe.stages.embed import embed_cohort
from bulkprobe.stages.tasks import make_splits, mutation_labels, probing_patients, survival_labels
from bulkprobe.store import Store, read_store

__all__ = ["embed_cohort", "predict_store", "probe_store", "verify_results"]

Task = Literal["mutation", "survival"]
ROUNDING = 1e-6  # metrics files hold six decimals


def probe_store(
    store: Path,
    cohort: Path,
    task: str,
    output: Path,
    *,
    splits: Path | None = None,
    save: Path | None = None,
    plan: Plan = HERE,
) -> dict[str, Any]:
    """Probe an embedding store as the pipeline does and write the metrics file; returns its content.

    With `save`, a final probe a label is fitted on all its patients, with the median of the chosen penalties. plan:
    where units of work are computed; with workers on other machines, TMPDIR is a folder that they see.
    """
    if task not in ("mutation", "survival"):
        raise UserError(f"task is {task!r}, expected mutation or survival")
    if splits is not None and not splits.is_file():
        raise UserError(f"there is no splits table {splits}: leave it out, or make one with `dvc repro splits`")
    params, people, vectors = load_params(), read_cohort(cohort), read_store(store)
    table = make_splits(people, params) if splits is None else read_splits(splits)
    run = probe_mutation.run if task == "mutation" else probe_survival.run
    name = str(vectors.attributes.get("encoder", store.stem))
    with joblib_on(plan):
        content, _ = run(vectors, name, people, table, params)
    if save is not None:  # first, so that a metrics file never stands there without the probes that were asked for
        saving.save_probe(save, list(_final_probes(cast(Task, task), vectors, people, content, params)))
    write_json(output, content)
    return content


def read_splits(path: Path) -> pd.DataFrame:
    """Read a splits table; UserError where the file is something else."""
    try:
        table = pd.read_parquet(path)
    except (ValueError, OSError) as problem:  # pyarrow's errors are of these kinds
        reason = " ".join(str(problem).split())[:200]
        raise UserError(
            f"{path} is not a Parquet table ({reason}): give the splits that `dvc repro splits` makes"
        ) from None
    missing = [column for column in COLUMNS if column not in table]
    if missing:
        raise UserError(
            f"{path} has no column {some(missing)}, so it is no splits table: its columns are {some(COLUMNS)}"
        )
    return table


def _final_probes(
    task: Task, store: Store, cohort: Cohort, content: dict[str, Any], params: Params
) -> Iterator[saving.Probe]:
    patients = probing_patients(cohort)
    vectors, transform = probing.embedding_of(store, patients), probing.transform_of(store)
    mutation = mutation_labels(cohort, patients, params.probe_mutation)
    survival = survival_labels(cohort, patients, params.probe_survival)
    for label, entry in content["labels"].items():
        if entry["mean"] is None:
            continue  # undefined labels have no probe; the metrics file says why
        shared: dict[str, Any] = {
            "label": label,
            "penalty": saving.median_penalty(entry["penalty"]),
            "transform": transform,
            "encoder": store.attributes,
        }
        if task == "mutation":
            known = mutation[label].notna().to_numpy()
            truth = mutation[label][known].to_numpy(dtype=bool)
            yield saving.fit_mutation_probe(vectors[known], truth, **shared)
        else:
            rows = survival[survival.label == label]
            place = patients.types.index.get_indexer(rows.patient_id)
            yield saving.fit_survival_probe(
                vectors[place],
                rows.time.to_numpy(float),
                rows.event.to_numpy(bool),
                ties=params.probe_survival.ties,
                l1_ratio=params.probe_survival.l1_ratio,
                **shared,
            )


def predict_store(probes: Path, store: Path, output: Path) -> pd.DataFrame:
    """Apply stored probes to a store: one row a sample and label, column score (higher = mutated, or worse survival).

    Raises UserError where the store was made by another encoder or with other options.
    """
    if output.suffix not in (".parquet", ".csv", ".tsv"):
        raise UserError(f"{output.name} ends in {output.suffix!r}, expected .parquet, .csv or .tsv")
    vectors = read_store(store)
    if vectors.absent is not None:
        raise UserError(f"{store} holds no embeddings ({vectors.absent}): give a store that does")
    parts = []
    for fitted in saving.load_probe(probes):
        for key in ("model", "options", "checkpoint_sha256", "values", "genes_sha256", "categories", "msi", "subtypes"):
            trained, given = fitted.encoder.get(key), vectors.attributes.get(key)
            if trained != given:
                raise UserError(
                    f"the probe was trained on embeddings with {key} {trained!r}, but {store} has {given!r}: "
                    "embed with the same encoder and options"
                )
        score = saving.predict(fitted, vectors.embedding)
        columns = {"task": fitted.task, "label": fitted.label, "sample_id": vectors.sample_id, "score": score}
        parts.append(pd.DataFrame(columns))
    table = pd.concat(parts, ignore_index=True)
    with atomic_path(output) as aside:
        if output.suffix == ".parquet":
            table.to_parquet(aside, index=False)
        else:
            table.to_csv(aside, sep="," if output.suffix == ".csv" else "\t", index=False)
    return table


def verify_results() -> Iterator[str]:
    """Check the results of the pipeline in the current folder; UserError at the first that does not hold."""
    params = load_params()
    made = [paths.SPLITS, paths.COMPARE]
    for task in ("mutation", "survival"):
        for name in params.encoders:
            made += [paths.metrics_path(task, name), paths.predictions_path(task, name)]
    missing = [path for path in made if not path.is_file()]
    if missing:
        raise UserError(f"results are missing: {some(missing)}; run `dvc repro`")
    splits = pd.read_parquet(paths.SPLITS)
    twice = splits.duplicated(["task", "label", "split", "patient_id"])
    if twice.any():
        raise UserError(f"{paths.SPLITS} has patients twice in a split: {some(splits.patient_id[twice].unique())}")
    yield f"{paths.SPLITS}: every patient once a split, {splits.label.nunique()} labels"
    for name in params.encoders:
        store = read_store(paths.store_path(name))
        yield f"{paths.store_path(name)}: {store.absent or f'{len(store.sample_id)} vectors, all finite'}"
        for task in ("mutation", "survival"):
            n = _recompute(name, task, splits)
            yield f"{paths.metrics_path(task, name)}: {n} scores equal to those recomputed from the predictions"
    yield f"{paths.COMPARE}: {_recompare(params)} differences equal to those recomputed from the metrics"


def _recompute(encoder: str, task: str, splits: pd.DataFrame) -> int:
    """Recompute every defined per-split score from the stored predictions, made for the split's test patients alone."""
    labels = read_json(paths.metrics_path(task, encoder))["labels"]
    by_part = _by_part(pd.read_parquet(paths.predictions_path(task, encoder)))
    tested = _by_part(splits[(splits.task == task) & (splits.role == "test")])
    checked = 0
    for label, entry in labels.items():
        for split, value in enumerate(entry["per_split"]):
            if value is None:
                continue
            part, test = by_part.get((label, split)), tested.get((label, split))
            if part is None or test is None or sorted(part.patient_id) != sorted(test.patient_id):
                raise UserError(
                    f"{label}, split {split} of {encoder}: the predictions are not those of the split's test patients, "
                    "each once; run `dvc repro`"
                )
            score = part.score.to_numpy(float)
            if task == "mutation":
                again = auroc(part.truth.to_numpy(bool), score)
            else:
                again = harrell_c(part.time.to_numpy(float), part.event.to_numpy(bool), score)
            if not np.isclose(again, value, rtol=0, atol=ROUNDING):
                raise UserError(
                    f"{label}, split {split} of {encoder}: the metrics say {value}, the predictions {again:.6f}; "
                    "run `dvc repro`"
                )
            checked += 1
    return checked


def _recompare(params: Params) -> int:
    """Recompute every difference to the reference encoder and its p-value, without drawing patients again."""
    metrics = {
        name: {task: read_json(paths.metrics_path(task, name)) for task in ("mutation", "survival")}
        for name in params.encoders
    }
    again = compare.run(metrics, {}, pd.Series(dtype=str), params, n_boot=0)
    known, checked = read_json(paths.COMPARE), 0
    for task, comparisons in again["tasks"].items():
        stored = known.get("tasks", {}).get(task, {}).get("against_reference", {})
        for name, entry in comparisons["against_reference"].items():
            for key in ("mean", "p_calibrated"):
                if stored.get(name, {}).get(key) != entry[key]:
                    raise UserError(
                        f"{task}: {paths.COMPARE} says {key} {stored.get(name, {}).get(key)} of {name} against "
                        f"{again['reference']}, the metrics {entry[key]}; run `dvc repro`"
                    )
            checked += entry["mean"] is not None
    return checked


def _by_part(table: pd.DataFrame) -> dict[tuple[str, int], pd.DataFrame]:
    groups = table.groupby(["label", "split"], observed=True)
    return {(str(key[0]), int(str(key[1]))): part for key, part in groups}
