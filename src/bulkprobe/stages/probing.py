"""What both probe stages share: embeddings lined up with patients, undefined labels, and writing the results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from bulkprobe.files import atomic_path, write_json
from bulkprobe.params import Params, ProbeMutation, ProbeSurvival
from bulkprobe.probes.transform import Transform
from bulkprobe.probes.units import choice_columns, prediction_table, refused
from bulkprobe.stages import paths
from bulkprobe.stages.tasks import Patients
from bulkprobe.store import Store

CORES = 2  # processes a stage uses; the numbers do not depend on it


def embedding_of(store: Store, patients: Patients) -> np.ndarray:
    """Return (n_patients, width), the vectors of the patients' samples in the order of `patients`."""
    vectors: np.ndarray = store.embedding[store.rows_of(patients.sample_id.tolist())]
    return vectors


def transform_of(store: Store) -> Transform:
    """The transform that the encoder leaves to the probe, to be fitted on training parts."""
    return Transform(**store.attributes.get("probe_transform", {"kind": "none"}))


def header(
    store: Store,
    encoder: str,
    task: str,
    metric: str,
    settings: ProbeMutation | ProbeSurvival,
    params: Params,
    simulated: bool,
) -> dict[str, Any]:
    """What every metrics file says about itself."""
    return {
        "encoder": encoder,
        "task": task,
        "metric": metric,
        "width": int(store.embedding.shape[1]),
        "common_width": settings.common_width,
        "transform": store.attributes.get("probe_transform", {"kind": "none"}),
        "simulated": simulated,
        "untrained": bool(store.attributes.get("untrained", False)),
        "absent": store.absent,
        "protocol": {
            "n_splits": params.splits.n_splits,
            "test_fraction": params.splits.test_fraction,
            "inner_folds": params.splits.inner_folds,
            "scheme": params.splits.scheme,
            "seed": params.base.seed,
            "penalties": list(settings.penalties),
            "selection": settings.selection,
        },
    }


def undefined_label(label: str, counts: Mapping[str, Any], reason: str, n_splits: int) -> dict[str, Any]:
    """The entry of a label that could not even be split, in the shape of the others."""
    return {"cohort": label.split("/")[0], **counts, **refused(reason, range(n_splits)), **no_choice(n_splits)}


def no_choice(n_splits: int) -> dict[str, Any]:
    """What stands for the penalties where none was chosen."""
    return choice_columns([None] * n_splits)


def write_results(encoder: str, task: str, content: Mapping[str, Any], predictions: pd.DataFrame) -> str:
    """Write metrics and predictions and return the stage's last line."""
    target = paths.predictions_path(task, encoder)
    with atomic_path(target) as aside:
        predictions.to_parquet(aside, index=False)
    write_json(paths.metrics_path(task, encoder), content)
    return f"{paths.metrics_path(task, encoder)} and {target} are written"


def no_predictions() -> pd.DataFrame:
    """An empty table of predictions, for an encoder that is absent."""
    columns = ("task", "label", "split", "patient_id", "score", "truth", "time", "event")
    return prediction_table({name: [] for name in columns})
