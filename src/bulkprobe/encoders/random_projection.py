"""Baseline: random directions through log expression (Johnson and Lindenstrauss 1984, 10.1090/conm/026/737400).

What a representation of the same width keeps by chance. A gene's weights are drawn from its own identifier, so neither
the order of the genes nor the presence of others changes a gene's contribution.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from bulkprobe.encoders.base import (
    LOG_SCALES,
    Card,
    CohortView,
    LogExpression,
    Weights,
    log_expression_session,
    resolve_options,
    whole_number,
)

CARD = Card(
    name="random_projection",
    title="Random projection of log2(TPM + 1)",
    kind="baseline",
    pooling="fixed random directions",
    scales=LOG_SCALES,
    pretraining="none",
    defaults={"width": 256, "draw_seed": 0},
)


@dataclass(frozen=True)
class Projection:
    """Log expression times a fixed random matrix (n_genes, width)."""

    inner: LogExpression
    matrix: np.ndarray
    width: int
    layer: str
    attributes: Mapping[str, Any]

    def embed(self, values: np.ndarray | None, obs: pd.DataFrame) -> np.ndarray:
        """Return (n_samples, width); each sample by itself, so that its bytes do not depend on the others."""
        rows = self.inner.embed(values, obs)
        with threadpool_limits(1, "blas"):  # threads would share the sum over a sample's genes
            return np.stack([row @ self.matrix for row in rows])


class RandomProjection:
    """A random projection as an encoder."""

    card = CARD

    def start(self, cohort: CohortView, options: Mapping[str, Any], weights: Weights | None = None) -> Projection:
        """Prepare for a cohort; `width` directions drawn with `draw_seed`."""
        chosen = resolve_options(CARD, options)
        width, seed = whole_number(CARD, chosen, "width", 1), whole_number(CARD, chosen, "draw_seed", 0)
        transform = {"probe_transform": {"kind": "none"}}
        inner = log_expression_session(CARD, cohort.var, cohort.scale, transform)
        var = cohort.var
        names = var.ensembl_id.where(var.ensembl_id.astype(bool) & var.ensembl_id.notna(), var.symbol)
        matrix = np.stack([_weights(str(name), seed, width) for name in names]) / np.sqrt(width)
        # A gene's weights hang on its name, so the order of the genes does not matter to a probe.
        attributes = {key: value for key, value in inner.attributes.items() if key != "genes_sha256"}
        return Projection(inner, matrix.astype(np.float32), width, inner.layer, attributes)


def _weights(name: str, seed: int, width: int) -> np.ndarray:
    words = np.frombuffer(hashlib.sha256(name.encode()).digest()[:16], dtype=np.uint32)
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence([seed, *words.tolist()]))).standard_normal(width)


ENCODER = RandomProjection()
