"""bulkprobe without DVC, from Python."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import pandas as pd

from bulkprobe.cluster import HERE, Plan, joblib_on
from bulkprobe.cohort.read import Cohort, read_cohort
from bulkprobe.errors import UserError, some
from bulkprobe.files import atomic_path, write_json
from bulkprobe.foreign import refusing
from bulkprobe.params import PARAMS_FILE, SHIPPED, Params, load_params, with_settings
from bulkprobe.probes import save as saving
from bulkprobe.splits import COLUMNS
from bulkprobe.stages import probe_mutation, probe_survival, probing
from bulkprobe.stages.applying import genes_lost, require_same, scores
from bulkprobe.stages.embed import embed_cohort
from bulkprobe.stages.tasks import make_splits, mutation_labels, probing_patients, survival_labels
from bulkprobe.stages.verify import Verdict, verify_results
from bulkprobe.store import Store, read_store

__all__ = [
    "Verdict",
    "embed_cohort",
    "own_params",
    "predict_store",
    "probe_store",
    "score_predictions",
    "verify_results",
]

Task = Literal["mutation", "survival"]


def own_params() -> Params:
    """The settings of the current folder's params.yaml; where it has none, those that bulkprobe came with."""
    return load_params(PARAMS_FILE if PARAMS_FILE.is_file() else SHIPPED)


def probe_store(
    store: Path | Store,
    cohort: Path,
    task: str,
    output: Path | None,
    *,
    splits: Path | None = None,
    save: Path | None = None,
    params: Params | None = None,
    settings: Mapping[str, Any] | None = None,
    plan: Plan = HERE,
) -> dict[str, Any]:
    """Probe an embedding store as the pipeline does and write the metrics file, if any; returns its content.

    params: without them `own_params`; settings: values in place of theirs, by key with dots
    ("probe_survival.types": ["KIRC"]). With `save`, a final probe a label is fitted on all its patients, with the
    median of the chosen penalties. plan: where units of work
    are computed; with workers on other machines, TMPDIR is a folder that they see.
    """
    if task not in ("mutation", "survival"):
        raise UserError(f"task is {task!r}, expected mutation or survival")
    if splits is not None and not splits.is_file():
        raise UserError(f"there is no splits table {splits}: leave it out, or make one with `dvc repro splits`")
    params = with_settings(params or own_params(), settings or {})
    people, (vectors, where) = read_cohort(cohort), _vectors(store)
    if vectors.absent is None:
        _require_labels(cast(Task, task), people, params)
    table = make_splits(people, params) if splits is None else read_splits(splits)
    run = probe_mutation.run if task == "mutation" else probe_survival.run
    name = str(vectors.attributes.get("encoder", Path(where).stem))
    with joblib_on(plan):
        content, _ = run(vectors, name, people, table, params)
    if save is not None and all(entry["mean"] is None for entry in content["labels"].values()):
        label, entry = next((label, entry) for label, entry in content["labels"].items() if entry.get("n"))
        raise UserError(f"no probe could be fitted, so there is none to save ({label}: {entry.get('reason')})")
    if save is not None:  # first, so that a metrics file never stands there without the probes that were asked for
        saving.save_probe(save, list(_final_probes(cast(Task, task), vectors, people, content, params)))
    if output is not None:
        write_json(output, content)
    return content


def _require_labels(task: Task, cohort: Cohort, params: Params) -> None:
    """Refuse a cohort none of whose patients has a label that is asked for."""
    patients = probing_patients(cohort)
    kinds = sorted(set(patients.types))
    if task == "mutation":
        if not mutation_labels(cohort, patients, params.probe_mutation).notna().to_numpy().any():
            raise UserError(
                "no patient of this cohort has any of the mutation labels of section probe_mutation (genes and types; "
                f"its types are {some(kinds)}): correct them with --set, or build the cohort with mutations"
            )
    elif survival_labels(cohort, patients, params.probe_survival).empty:
        raise UserError(
            f"no patient of this cohort has a follow-up and one of the types {some(params.probe_survival.types)}: pass "
            f"--set 'probe_survival.types=[{', '.join(kinds)}]', or build the cohort with survival times"
        )


def _vectors(store: Path | Store) -> tuple[Store, str]:
    """The embeddings, and what a message calls them."""
    return (store, "the embedding given") if isinstance(store, Store) else (read_store(store), str(store))


def read_splits(path: Path) -> pd.DataFrame:
    """Read a splits table; UserError where the file is something else."""
    with refusing(f"{path} is not a Parquet table", "give the splits that `dvc repro splits` makes"):
        table = pd.read_parquet(path)
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


def predict_store(probes: Path, store: Path | Store, output: Path | None) -> pd.DataFrame:
    """Apply stored probes to a store: one row a sample and label, column score (higher = mutated, or worse survival).

    Raises UserError where the store was made by another encoder or with other options.
    """
    if output is not None and output.suffix not in (".parquet", ".csv", ".tsv"):
        raise UserError(f"{output.name} ends in {output.suffix!r}, expected .parquet, .csv or .tsv")
    vectors, where = _vectors(store)
    if vectors.absent is not None:
        raise UserError(f"{where} holds no embeddings ({vectors.absent}): give a store that does")
    parts = []
    for fitted in saving.load_probe(probes):
        require_same(fitted.encoder, vectors.attributes, where)
        score = saving.predict(fitted, vectors.embedding)
        columns = {"task": fitted.task, "label": fitted.label, "sample_id": vectors.sample_id, "score": score}
        parts.append(pd.DataFrame(columns))
    table = pd.concat(parts, ignore_index=True)
    if lost := genes_lost(fitted.encoder, vectors.attributes):
        print(f"note: {lost}", file=sys.stderr)
    if output is None:
        return table
    with atomic_path(output) as aside:
        if output.suffix == ".parquet":
            table.to_parquet(aside, index=False)
        else:
            table.to_csv(aside, sep="," if output.suffix == ".csv" else "\t", index=False)
    return table


def score_predictions(table: pd.DataFrame, cohort: Path) -> Iterator[str]:
    """Say how well the predictions of `predict_store` rank the patients of a cohort folder, a line a label and type."""
    return scores(table, read_cohort(cohort))
