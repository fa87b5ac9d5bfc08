"""Turning columns of the sample table into numbers, for the baselines that read no expression."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

AGE_CENTRE, AGE_UNIT = 60.0, 10.0  # years
STAGES = ("I", "II", "III", "IV")
CLINICAL_WIDTH = 2 + 2 + 2 + len(STAGES)


def one_hot(column: pd.Series, categories: Sequence[str]) -> np.ndarray:
    """Return (n_samples, len(categories) + 1) of 0 and 1; the last column marks a missing value."""
    values = column.astype(object)
    known = [np.asarray(values == category, dtype=np.float32) for category in categories]
    return np.stack([*known, np.asarray(values.isna(), dtype=np.float32)], axis=1)


def number(column: pd.Series, centre: float, unit: float) -> np.ndarray:
    """Return (n_samples, 2): (value - centre) / unit with 0 where it is missing, and 1 where it is missing.

    Centre and unit are fixed constants, so that nothing is fitted on any sample.
    """
    values = pd.to_numeric(column).to_numpy(dtype=np.float64, na_value=np.nan)
    missing = ~np.isfinite(values)
    return np.stack([np.where(missing, 0.0, (values - centre) / unit), missing], axis=1).astype(np.float32)


def clinical_facts(obs: pd.DataFrame) -> np.ndarray:
    """Age, sex, stage as a rank and as indicators, each with its mark for missing values: (n, CLINICAL_WIDTH)."""
    age = number(obs.age, AGE_CENTRE, AGE_UNIT)
    sex = one_hot(obs.sex, ("female",))
    rank = number(obs.stage.map({stage: i for i, stage in enumerate(STAGES, start=1)}), 2.5, 1.0)
    return np.concatenate([age, sex, rank, one_hot(obs.stage, STAGES)[:, :-1]], axis=1)
