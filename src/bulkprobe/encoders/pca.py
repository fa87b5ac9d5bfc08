"""Baseline: principal components of log expression.

The store holds log2(TPM + 1) of every gene; the components are fitted by the probe, on each training part alone.
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
    whole_number,
)

CARD = Card(
    name="pca",
    title="Principal components of log2(TPM + 1)",
    kind="baseline",
    pooling="components fitted on each training part",
    scales=LOG_SCALES,
    pretraining="none",
    defaults={"components": 128},
)


class Pca:
    """Principal components as an encoder."""

    card = CARD

    def start(self, cohort: CohortView, options: Mapping[str, Any], weights: Weights | None = None) -> LogExpression:
        """Prepare for a cohort; `components` is the number of components that the probe keeps."""
        chosen = resolve_options(CARD, options)
        transform = {"kind": "pca", "size": whole_number(CARD, chosen, "components", 1)}
        return log_expression_session(CARD, cohort.var, cohort.scale, {"probe_transform": transform})


ENCODER = Pca()
