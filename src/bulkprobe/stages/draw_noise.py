"""How far a vector depends on which genes were drawn, for encoders that draw genes at random (scGPT, CellFM).

On a few samples, embedded with several draw seeds: the spread of one sample's vectors over draws, against the spread
between samples. A ratio near 1 says that the draw hides what tells patients apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import pandas as pd

from bulkprobe.encoders.base import CohortView, Encoder, Weights

SAMPLES = 16
DRAWS = 4


class Readable(Protocol):
    """Expression of which rows can be read."""

    def read(self, layer: str, rows: np.ndarray) -> np.ndarray:
        """Return rows of a layer."""


def measure_draw_noise(
    encoder: Encoder, view: CohortView, options: Mapping[str, Any], weights: Weights, expression: Readable
) -> dict[str, Any]:
    """Return what the store records: number of samples and draws, both spreads (standard deviations) and their ratio.

    Empty for an encoder that draws nothing.
    """
    if "draw_seed" not in encoder.card.defaults or {**encoder.card.defaults, **options}.get("genes") != "sample":
        return {}
    rows = np.unique(np.linspace(0, len(view.obs) - 1, min(SAMPLES, len(view.obs))).astype(np.int64))
    if len(rows) < 3:
        return {}
    seed = int({**encoder.card.defaults, **options}["draw_seed"])
    each = []
    for k in range(DRAWS):
        session = encoder.start(view, {**options, "draw_seed": seed + k, "draws": 1}, weights)
        each.append(session.embed(expression.read(str(session.layer), rows), _rows_of(view.obs, rows)))
    vectors = np.stack(each).astype(np.float64)  # (draws, samples, width)
    within = float(np.sqrt(vectors.var(axis=0, ddof=1).mean()))
    between = float(np.sqrt(vectors.mean(axis=0).var(axis=0, ddof=1).mean()))
    noise: dict[str, Any] = {"samples": len(rows), "draws": DRAWS, "within": within, "between": between}
    noise["ratio"] = within / between if between > 0 else None
    return {"draw_noise": {key: round(v, 6) if isinstance(v, float) else v for key, v in noise.items()}}


def _rows_of(obs: pd.DataFrame, rows: np.ndarray) -> pd.DataFrame:
    return obs.iloc[rows]
