"""Baseline: the most variable genes.

The store holds log2(TPM + 1) of every gene; the genes are chosen by the probe, on each training part alone.
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
    name="hvg",
    title="Most variable genes, log2(TPM + 1)",
    kind="baseline",
    pooling="genes of the largest variance in each training part",
    scales=LOG_SCALES,
    pretraining="none",
    defaults={"genes": 500},
)


class Hvg:
    """The most variable genes as an encoder."""

    card = CARD

    def start(self, cohort: CohortView, options: Mapping[str, Any], weights: Weights | None = None) -> LogExpression:
        """Prepare for a cohort; `genes` is the number of genes that the probe keeps."""
        chosen = resolve_options(CARD, options)
        return log_expression_session(
            CARD,
            cohort.var,
            cohort.scale,
            {"probe_transform": {"kind": "hvg", "size": whole_number(CARD, chosen, "genes", 1)}},
        )


ENCODER = Hvg()
