"""Stage `embed@<encoder>`: one vector a sample, for every sample of the cohort."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from bulkprobe.cohort.read import read_cohort
from bulkprobe.cohort.schema import EXPRESSION, SAMPLES
from bulkprobe.cohort.store import ExpressionStore, open_expression
from bulkprobe.encoders import get_encoder
from bulkprobe.encoders.base import CohortView, Session, embed_blocks
from bulkprobe.errors import UserError
from bulkprobe.files import file_hash, tree_hash
from bulkprobe.params import load_params
from bulkprobe.preprocess.normalise import COUNTS_ALONE
from bulkprobe.stages import paths
from bulkprobe.stages.running import encoder_argument, run_stage
from bulkprobe.store import is_finished, prepare_store, write_absent, write_store


def main() -> str:
    """Write `data/embeddings/<encoder>.zarr`."""
    params = load_params()
    name = encoder_argument()
    entry = params.encoders.get(name)
    if entry is None:
        raise UserError(f"params.yaml: encoders has no {name!r}; known: {', '.join(params.encoders)}")
    path = paths.store_path(name)
    if entry.release is not None:
        raise UserError(
            f"params.yaml: encoders.{name}.release is {entry.release!r}, but {entry.model} is a baseline without "
            "weights: set release to null"
        )
    if not entry.enabled:
        write_absent(path, "switched off in params.yaml (enabled: false)", {"encoder": name, "model": entry.model})
        return f"{name} is switched off; {path} says so"
    written = embed_cohort(name, entry.model, paths.COHORT, path, entry.options, params.embed.shard_size)
    return f"{path} {'is written' if written else 'was complete and is left as it is'}"


def embed_cohort(
    name: str, model: str, cohort_folder: Path, path: Path, options: Mapping[str, Any], shard_size: int
) -> bool:
    """Embed every sample of a cohort; False where a complete store of the same input was there already."""
    cohort = read_cohort(cohort_folder)
    expression = open_expression(cohort_folder)
    obs = cohort.samples.set_index("sample_id", drop=False).loc[expression.sample_ids].reset_index(drop=True)
    scale = expression.scale
    if scale == "counts" and "tpm" not in expression.layers:
        scale = COUNTS_ALONE  # too few gene lengths are known for TPM
    view = CohortView(
        expression.var, obs, scale, tuple(expression.layers), lambda layer: expression.blocks(layer=layer)
    )
    session = get_encoder(model).start(view, options)
    attributes = {
        **session.attributes,
        "encoder": name,
        "model": model,
        "options": dict(options),
        "untrained": False,
        "release": None,
        "checkpoint_sha256": None,
        "precision": "float32",
        "cohort_sha256": input_hash(cohort_folder),
    }
    samples = expression.sample_ids
    if is_finished(path, sample_ids=samples, width=session.width, attributes=attributes):
        return False
    starts = prepare_store(path, sample_ids=samples, width=session.width, attributes=attributes, shard_size=shard_size)
    write_store(
        path,
        sample_ids=samples,
        width=session.width,
        attributes=attributes,
        shards=_shards(session, expression, obs, starts, shard_size, name),
        shard_size=shard_size,
    )
    return True


def input_hash(cohort_folder: Path) -> str:
    """Return one hash of what an embedding is made of: the expression and the sample table, no labels."""
    parts = [tree_hash(cohort_folder / EXPRESSION), file_hash(cohort_folder / SAMPLES)]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _shards(
    session: Session, expression: ExpressionStore, obs: pd.DataFrame, starts: Sequence[int], size: int, name: str
) -> Iterator[tuple[int, np.ndarray]]:
    for start in tqdm(starts, desc=f"embed {name}", unit="shard", delay=2):
        rows = np.arange(start, min(start + size, expression.n_samples))
        parts = list(embed_blocks(session, _blocks(session, expression, obs, rows), name))
        yield start, np.concatenate(parts)


def _blocks(
    session: Session, expression: ExpressionStore, obs: pd.DataFrame, rows: np.ndarray, size: int = 256
) -> Iterator[tuple[np.ndarray | None, pd.DataFrame]]:
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        values = None if session.layer is None else expression.read(session.layer, part)
        yield values, obs.iloc[part]


if __name__ == "__main__":
    run_stage(main)
