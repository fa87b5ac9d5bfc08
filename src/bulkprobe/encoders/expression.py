"""Baseline: the expression values themselves.

Every gene of the cohort as log2(TPM + 1) (z-scores as they are). Nothing is fitted here; the probe standardises on its
training part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bulkprobe.encoders.base import (
    LOG_SCALES,
    Card,
    CohortView,
    LogExpression,
    Weights,
    log_expression_session,
    resolve_options,
)

CARD = Card(
    name="expression",
    title="Raw expression, log2(TPM + 1)",
    kind="baseline",
    pooling="every gene is one dimension",
    scales=LOG_SCALES,
    pretraining="none",
)


class Expression:
    """Raw expression as an encoder."""

    card = CARD

    def start(self, cohort: CohortView, options: Mapping[str, Any], weights: Weights | None = None) -> LogExpression:
        """Prepare for a cohort; takes no options."""
        resolve_options(CARD, options)
        return log_expression_session(CARD, cohort.var, cohort.scale, {"probe_transform": {"kind": "none"}})


ENCODER = Expression()
