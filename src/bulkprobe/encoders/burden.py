"""Baseline: mutation burden, purity, microsatellite status and subtype, where the source has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bulkprobe.encoders.base import Card, CohortView, Weights, require_columns, resolve_options
from bulkprobe.preprocess.covariates import number, one_hot

CARD = Card(
    name="burden",
    title="Mutation burden, purity, subtype, MSI",
    kind="baseline",
    pooling="one column a fact, missing values marked",
    scales=(),
    pretraining="none; counts the sample's own mutations, the labelled genes among them",
)
BURDEN_CENTRE, BURDEN_UNIT = 1.5, 0.5  # log10 of non-silent calls
PURITY_CENTRE, PURITY_UNIT = 0.6, 0.2


@dataclass(frozen=True)
class Covariates:
    """Genomic covariates as columns."""

    msi: tuple[str, ...]
    subtypes: tuple[str, ...]
    width: int
    attributes: Mapping[str, Any]
    layer: str | None = None

    def embed(self, values: np.ndarray | None, obs: pd.DataFrame) -> np.ndarray:
        """Return burden, purity, MSI and subtype, each with its mark for missing values."""
        burden = number(obs.log10_mutation_burden, BURDEN_CENTRE, BURDEN_UNIT)
        purity = number(obs.purity, PURITY_CENTRE, PURITY_UNIT)
        return np.concatenate([burden, purity, one_hot(obs.msi, self.msi), one_hot(obs.subtype, self.subtypes)], axis=1)


class Burden:
    """Genomic covariates as an encoder."""

    card = CARD

    def start(self, cohort: CohortView, options: Mapping[str, Any], weights: Weights | None = None) -> Covariates:
        """Prepare for a cohort; takes no options."""
        resolve_options(CARD, options)
        require_columns(CARD, cohort.obs, "log10_mutation_burden", "purity", "msi", "subtype")
        msi = tuple(sorted(cohort.obs.msi.dropna().astype(str).unique()))
        subtypes = tuple(sorted(cohort.obs.subtype.dropna().astype(str).unique()))
        attributes = {"msi": list(msi), "subtypes": list(subtypes), "probe_transform": {"kind": "none"}}
        return Covariates(msi, subtypes, 4 + len(msi) + 1 + len(subtypes) + 1, attributes)


ENCODER = Burden()
