"""Baseline: age, sex and stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bulkprobe.encoders.base import Card, resolve_options
from bulkprobe.preprocess.covariates import number, one_hot

CARD = Card(
    name="clinical",
    title="Age, sex and stage",
    kind="baseline",
    pooling="one column a fact, missing values marked",
    scales=(),
    pretraining="none",
)
AGE_CENTRE, AGE_UNIT = 60.0, 10.0  # years
STAGES = ("I", "II", "III", "IV")


@dataclass(frozen=True)
class Facts:
    """Clinical facts as columns."""

    attributes: Mapping[str, Any]
    width: int = 2 + 2 + 2 + len(STAGES)
    layer: str | None = None

    def embed(self, values: np.ndarray | None, obs: pd.DataFrame) -> np.ndarray:
        """Return age, sex, stage as a rank and as indicators, each with its mark for missing values."""
        age = number(obs.age, AGE_CENTRE, AGE_UNIT)
        sex = one_hot(obs.sex, ("female",))
        rank = number(obs.stage.map({stage: i for i, stage in enumerate(STAGES, start=1)}), 2.5, 1.0)
        return np.concatenate([age, sex, rank, one_hot(obs.stage, STAGES)[:, :-1]], axis=1)


class Clinical:
    """Clinical facts as an encoder."""

    card = CARD

    def start(self, var: pd.DataFrame, obs: pd.DataFrame, scale: str, options: Mapping[str, Any]) -> Facts:
        """Prepare for a cohort; takes no options."""
        resolve_options(CARD, options)
        return Facts({"probe_transform": {"kind": "none"}})


ENCODER = Clinical()
