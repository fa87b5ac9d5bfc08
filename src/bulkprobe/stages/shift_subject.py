"""The encoder that stage `shift` looks at: its session on the cohort, its store, and its results at full depth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bulkprobe.cohort.read import Cohort, read_cohort
from bulkprobe.cohort.store import MILLION, ExpressionStore, open_expression
from bulkprobe.encoders import get_encoder
from bulkprobe.encoders.base import COUNT_SCALES, CohortView, Encoder, Session, Weights, embed_blocks
from bulkprobe.errors import UserError
from bulkprobe.files import read_json
from bulkprobe.params import EncoderEntry, Params
from bulkprobe.stages import paths
from bulkprobe.stages.checkpoints import Checkpoint, recorded
from bulkprobe.stages.embed import view_of
from bulkprobe.stages.tasks import Patients, probing_patients
from bulkprobe.store import Store, read_store

BLOCK = 64  # samples handed to a session at a time


@dataclass(frozen=True)
class Subject:
    """An encoder made ready for the whole cohort, so that what it takes from a cohort (a target sum) is frozen.

    obs: the sample table in the order of the expression; its index is the row number. `rows` below are such numbers.
    """

    name: str
    entry: EncoderEntry
    params: Params
    encoder: Encoder
    view: CohortView
    weights: Weights | None
    session: Session
    store: Store
    cohort: Cohort
    expression: ExpressionStore
    obs: pd.DataFrame
    patients: Patients
    metrics: Mapping[str, Mapping[str, Any]]  # mutation, survival: what the probes wrote
    splits: pd.DataFrame

    @property
    def no_counts(self) -> str | None:
        """Why this cohort cannot be thinned, where it cannot."""
        if self.expression.scale in COUNT_SCALES:
            return None
        return f"the cohort is on the scale {self.expression.scale!r}: only counts can be thinned"

    def rows_of(self, samples: list[str]) -> np.ndarray:
        """Return the row numbers of sample ids."""
        place = {sample: row for row, sample in enumerate(self.expression.sample_ids)}
        return np.array([place[sample] for sample in samples], dtype=np.intp)

    def values_of(self, rows: np.ndarray, session: Session | None = None) -> np.ndarray:
        """Return what a session (default: the subject's own) reads of samples, (n, n_genes)."""
        return self.expression.read(str((session or self.session).layer), rows)

    def thinned_values(self, thinned: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return what the session reads of samples whose counts were thinned to `thinned` (n, n_genes)."""
        if self.session.layer == "X":
            return thinned.astype(np.float32)
        return thinned_tpm(thinned, self.expression.read("X", rows), self.values_of(rows))

    def embed(self, values: np.ndarray, rows: np.ndarray, session: Session | None = None) -> np.ndarray:
        """Embed given values of samples by a session (default: the subject's own), (n, width) float32."""
        used, obs = session or self.session, self.obs.iloc[rows]
        starts = range(0, len(rows), BLOCK)
        blocks = ((values[s : s + BLOCK], obs.iloc[s : s + BLOCK]) for s in starts)
        return np.concatenate(list(embed_blocks(used, blocks, self.name)))

    def restart(self, options: Mapping[str, Any]) -> Session:
        """Make the same encoder ready with other options; UserError where they do not fit."""
        return self.encoder.start(self.view, {**self.entry.options, **options}, self.weights)


def thinned_tpm(thinned: np.ndarray, counts: np.ndarray, tpm: np.ndarray) -> np.ndarray:
    """Return TPM (n, n_genes) of counts that were thinned from `counts` to `thinned`.

    They are scaled gene by gene as the counts were, so that the source's effective lengths stay; a sample that lost no
    count keeps its values exactly.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = np.where(counts > 0, tpm.astype(np.float64) * thinned / counts, 0.0)
    total = rate.sum(axis=1, keepdims=True)
    scaled = np.where(total > 0, rate * (MILLION / np.where(total > 0, total, 1.0)), 0.0).astype(np.float32)
    same = (thinned == counts).all(axis=1)
    scaled[same] = tpm[same]
    return scaled


def open_subject(name: str, params: Params) -> Subject | Store:
    """Make an encoder ready; where it is absent, its store, which says why."""
    entry = params.encoders.get(name)
    if entry is None:
        raise UserError(f"params.yaml: encoders has no {name!r}; known: {', '.join(params.encoders)}")
    store = read_store(paths.store_path(name))
    if store.absent is not None:
        return store
    checkpoint = recorded(paths.weights_path(name))
    weights = None
    if isinstance(checkpoint, Checkpoint):
        weights = Weights(checkpoint.folder, params.embed.device, params.embed.precision)
    cohort, expression = read_cohort(paths.COHORT), open_expression(paths.COHORT / "expression.zarr")
    obs = cohort.samples.set_index("sample_id", drop=False).loc[expression.sample_ids].reset_index(drop=True)
    encoder, view = get_encoder(entry.model), view_of(expression, obs)
    return Subject(
        name=name,
        entry=entry,
        params=params,
        encoder=encoder,
        view=view,
        weights=weights,
        session=encoder.start(view, entry.options, weights),
        store=store,
        cohort=cohort,
        expression=expression,
        obs=obs,
        patients=probing_patients(cohort),
        metrics={task: read_json(paths.metrics_path(task, name)) for task in ("mutation", "survival")},
        splits=pd.read_parquet(paths.SPLITS),
    )
