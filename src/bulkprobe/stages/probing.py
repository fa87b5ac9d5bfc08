"""What both probe stages share: embeddings lined up with patients, undefined labels, and writing the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bulkprobe.files import atomic_path, write_json
from bulkprobe.params import Params
from bulkprobe.probes.transform import Transform
from bulkprobe.probes.units import prediction_table, refused
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
    store: Store, encoder: str, task: str, metric: str, penalties: Sequence[float], params: Params, simulated: bool
) -> dict[str, Any]:
    """What every metrics file says about itself."""
    return {
        "encoder": encoder,
        "task": task,
        "metric": metric,
        "width": int(store.embedding.shape[1]),
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
            "penalties": list(penalties),
        },
    }


def undefined_label(label: str, counts: Mapping[str, Any], reason: str, n_splits: int) -> dict[str, Any]:
    """The entry of a label that could not even be split, in the shape of the others."""
    nothing = refused(reason, range(n_splits))
    empty = {"penalty": [None] * n_splits, "grid_edge_hits": 0, "tuning_curve": None}
    return {"cohort": label.split("/")[0], **counts, **nothing, **empty}


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
