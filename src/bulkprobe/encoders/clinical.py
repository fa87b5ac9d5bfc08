"""Baseline: age, sex and stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bulkprobe.encoders.base import Card, CohortView, Weights, require_columns, resolve_options
from bulkprobe.preprocess.covariates import CLINICAL_WIDTH, clinical_facts

CARD = Card(
    name="clinical",
    title="Age, sex and stage",
    kind="baseline",
    pooling="one column a fact, missing values marked",
    scales=(),
    pretraining="none",
)


@dataclass(frozen=True)
class Facts:
    """Clinical facts as columns."""

    attributes: Mapping[str, Any]
    width: int = CLINICAL_WIDTH
    layer: str | None = None

    def embed(self, values: np.ndarray | None, obs: pd.DataFrame) -> np.ndarray:
        """Return age, sex, stage as a rank and as indicators, each with its mark for missing values."""
        return clinical_facts(obs)


class Clinical:
    """Clinical facts as an encoder."""

    card = CARD

    def start(self, cohort: CohortView, options: Mapping[str, Any], weights: Weights | None = None) -> Facts:
        """Prepare for a cohort; takes no options."""
        resolve_options(CARD, options)
        require_columns(CARD, cohort.obs, "age", "sex", "stage")
        return Facts({"probe_transform": {"kind": "none"}})


ENCODER = Clinical()
