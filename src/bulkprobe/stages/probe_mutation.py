"""Stage `probe_mutation@<encoder>`: AUROC of mutation status from frozen embeddings."""

from __future__ import annotations

from typing import Any

import pandas as pd

from bulkprobe.cohort.read import Cohort, read_cohort
from bulkprobe.params import Params, load_params
from bulkprobe.probes.mutation import probe_mutation
from bulkprobe.stages import paths, probing
from bulkprobe.stages.running import encoder_argument, run_stage
from bulkprobe.stages.tasks import HOTSPOT, PAN_CANCER, is_simulated, mutation_labels, probing_patients, require_split
from bulkprobe.store import Store, read_store


def main() -> str:
    """Write `metrics/mutation/<encoder>.json` and the encoder's mutation predictions."""
    params = load_params()
    encoder = encoder_argument()
    store = read_store(paths.store_path(encoder))
    content, predictions = run(store, encoder, read_cohort(paths.COHORT), pd.read_parquet(paths.SPLITS), params)
    return probing.write_results(encoder, "mutation", content, predictions)


def run(
    store: Store, encoder: str, cohort: Cohort, splits: pd.DataFrame, params: Params
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Probe every mutation label; returns the content of the metrics file and the predictions."""
    settings = params.probe_mutation
    content = probing.header(store, encoder, "mutation", "auroc", settings, params, is_simulated(cohort))
    if store.absent is not None:
        return {**content, "labels": {}}, probing.no_predictions()
    patients = probing_patients(cohort)
    labels = mutation_labels(cohort, patients, settings)
    split = set(splits.label[splits.task == "mutation"])
    usable = [label for label in labels.columns if label in split]
    metrics: dict[str, Any] = {}
    predictions = probing.no_predictions()
    if usable:
        metrics, predictions = probe_mutation(
            probing.embedding_of(store, patients),
            patients.sample_id.index.tolist(),
            patients.types,
            labels[usable],
            splits,
            transform=probing.transform_of(store),
            penalties=settings.penalties,
            selection=settings.selection,
            common_width=settings.common_width,
            hypermutated=patients.hypermutated,
            min_positives=settings.min_positives,
            n_jobs=probing.CORES,
        )
    for label in labels.columns.difference(usable):
        require_split(label, int(labels[label].notna().sum()))
        metrics[label] = _undefined(label, labels[label], params.splits.n_splits, settings.common_width)
    return {**content, "labels": metrics}, predictions


def _undefined(label: str, status: pd.Series, n_splits: int, common_width: int | None) -> dict[str, Any]:
    cohort, gene = label.split("/")
    n = int(status.notna().sum())
    reason = f"too few patients: {n} profiled for this gene in this cohort"
    counts = {
        "gene": gene.removesuffix(HOTSPOT),
        "kind": "hotspot" if gene.endswith(HOTSPOT) else "nonsilent",
        "n": n,
        "positives": int(status.fillna(False).sum()),
    }
    entry = probing.undefined_label(label, counts, reason, n_splits)
    part = {key: entry[key] for key in ("mean", "sd", "per_split", "reasons", "reason")}
    entry["average_precision"] = part
    entry["without_hypermutated"] = {**part, "n": 0, "positives": 0}
    if common_width is not None:
        entry["common_width"] = {"width": common_width, **part, **probing.no_choice(n_splits)}
    if cohort == PAN_CANCER:
        entry["within_type"] = {**part, "pairs": None, "n": None, "macro_mean": None}
        entry["informative_types"] = {**part, "types": []}
    return entry


if __name__ == "__main__":
    run_stage(main)
