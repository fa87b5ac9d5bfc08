"""Baseline: the cancer type alone, one indicator a type.

The control of every pan-cancer result: what can be predicted without looking at expression at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bulkprobe.encoders.base import Card, CohortView, Weights, require_columns, resolve_options
from bulkprobe.preprocess.covariates import one_hot

CARD = Card(
    name="cancer_type",
    title="Cancer type alone",
    kind="baseline",
    pooling="one indicator a type",
    scales=(),
    pretraining="none",
)


@dataclass(frozen=True)
class Indicators:
    """Indicators of the cohort's cancer types."""

    categories: tuple[str, ...]
    width: int
    attributes: Mapping[str, Any]
    layer: str | None = None

    def embed(self, values: np.ndarray | None, obs: pd.DataFrame) -> np.ndarray:
        """Return (n_samples, n_types + 1) of 0 and 1."""
        return one_hot(obs.cancer_type, self.categories)


class CancerType:
    """The cancer type as an encoder."""

    card = CARD

    def start(self, cohort: CohortView, options: Mapping[str, Any], weights: Weights | None = None) -> Indicators:
        """Prepare for a cohort; takes no options."""
        resolve_options(CARD, options)
        require_columns(CARD, cohort.obs, "cancer_type")
        categories = tuple(sorted(cohort.obs.cancer_type.dropna().astype(str).unique()))
        attributes = {"categories": list(categories), "probe_transform": {"kind": "none"}}
        return Indicators(categories, len(categories) + 1, attributes)


ENCODER = CancerType()
