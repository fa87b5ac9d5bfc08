"""Stage `probe_survival@<encoder>`: C-index of survival from frozen embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from bulkprobe.cohort.read import Cohort, read_cohort
from bulkprobe.cohort.schema import GROUPS, endpoint_advice
from bulkprobe.params import Params, load_params
from bulkprobe.preprocess.covariates import clinical_facts
from bulkprobe.probes.survival import overall, probe_survival
from bulkprobe.stages import paths, probing
from bulkprobe.stages.running import encoder_argument, run_stage
from bulkprobe.stages.tasks import Patients, is_simulated, probing_patients, require_split, survival_labels
from bulkprobe.store import Store, read_store


def main() -> str:
    """Write `metrics/survival/<encoder>.json` and the encoder's survival predictions."""
    params = load_params()
    encoder = encoder_argument()
    store = read_store(paths.store_path(encoder))
    content, predictions = run(store, encoder, read_cohort(paths.COHORT), pd.read_parquet(paths.SPLITS), params)
    return probing.write_results(encoder, "survival", content, predictions)


def run(
    store: Store, encoder: str, cohort: Cohort, splits: pd.DataFrame, params: Params
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Probe every survival label; returns the content of the metrics file and the predictions."""
    settings = params.probe_survival
    content = probing.header(store, encoder, "survival", "c_index", settings, params, is_simulated(cohort))
    if store.absent is not None:
        return {**content, "labels": {}, "overall": {}}, probing.no_predictions()
    patients = probing_patients(cohort)
    known = survival_labels(cohort, patients, settings)
    wanted = [f"{kind}/{endpoint}" for kind in settings.types for endpoint in settings.endpoints]
    split = set(splits.label[splits.task == "survival"])
    usable = [label for label in wanted if label in split]
    metrics: dict[str, Any] = {}
    predictions = probing.no_predictions()
    if usable:
        metrics, _, predictions = probe_survival(
            probing.embedding_of(store, patients),
            patients.sample_id.index.tolist(),
            cohort.survival,
            splits,
            transform=probing.transform_of(store),
            penalties=settings.penalties,
            selection=settings.selection,
            common_width=settings.common_width,
            ties=settings.ties,
            l1_ratio=settings.l1_ratio,
            covariates=clinical_covariates(cohort, patients) if store.attributes.get("model") != "clinical" else None,
            no_covariates="this encoder is the clinical data",
            labels=usable,
            min_events=settings.min_events,
            n_jobs=probing.CORES,
        )
    for label in wanted:
        if label not in metrics:
            rows = known[known.label == label]
            require_split(label, len(rows))
            reason = f"too few patients: {len(rows)} with follow-up"
            counts = {"endpoint": label.split("/")[1], "n": len(rows), "events": int(rows.event.sum())}
            metrics[label] = _undefined(label, counts, reason, params.splits.n_splits, settings.common_width)
        metrics[label]["advice"] = endpoint_advice(*label.split("/"))
    return {**content, "labels": metrics, "overall": overall(in_the_mean(metrics))}, predictions


def clinical_covariates(cohort: Cohort, patients: Patients) -> np.ndarray:
    """Age, sex and stage of the probed patients, (n_patients, q): the columns of the baseline `clinical`."""
    samples = cohort.samples.set_index("sample_id", drop=False).loc[patients.sample_id.tolist()]
    return clinical_facts(samples)


def _undefined(
    label: str, counts: Mapping[str, Any], reason: str, n_splits: int, common_width: int | None
) -> dict[str, Any]:
    entry = probing.undefined_label(label, counts, reason, n_splits)
    part = {key: entry[key] for key in ("mean", "sd", "per_split", "reasons", "reason")}
    entry["uno_c"] = {**part, "tau_days": [None] * n_splits}
    entry |= dict.fromkeys(("integrated_brier", "clinical", "with_clinical", "added_value"), part)
    if common_width is not None:
        entry["common_width"] = {"width": common_width, **part, **probing.no_choice(n_splits)}
    return entry


def in_the_mean(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out types that stand beside their merger (GBM and LGG where GBMLGG is probed)."""
    cohorts = {entry["cohort"] for entry in metrics.values()}
    beside = {kind for group, kinds in GROUPS.items() if group in cohorts for kind in kinds}
    return {label: entry for label, entry in metrics.items() if entry["cohort"] not in beside}


if __name__ == "__main__":
    run_stage(main)
