"""What the page is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from bulkprobe.report.tables import Metrics, Summary


@dataclass(frozen=True)
class ReportContext:
    """Everything the page shows, as plain values.

    cards: encoder -> title, kind ("baseline" or "foundation"), pooling, width, untrained, pretraining, licence,
    coverage (share 0-1 of its vocabulary that the cohort measures, or None), absent (reason or None); optional:
    saw_tcga (bool, text or None) and priors (text).
    flow: rows of rule, before, dropped, after, note. planted: rows as in `tables.planted_table`, None without truth.
    predictions: encoder -> task, label, split, patient_id, score (higher = mutated, or worse survival), truth, time
    (days), event. samples: the cohort's sample table, with os_event
    and one column a gene (bool or missing) where the stage adds them. compare: content of metrics/compare.json.
    shift, biology: encoder -> content of its file in metrics/shift and metrics/biology; without any, no such section.
    """

    summary: Summary
    mutation: Mapping[str, Metrics]
    survival: Mapping[str, Metrics]
    cards: Mapping[str, Mapping[str, Any]]
    flow: Sequence[Mapping[str, Any]]
    provenance: Mapping[str, Any]
    simulated: bool
    planted: Sequence[Mapping[str, Any]] | None
    predictions: Mapping[str, pd.DataFrame]
    samples: pd.DataFrame
    params: Mapping[str, Any]
    version: str
    compare: Mapping[str, Any] | None = None
    shift: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    biology: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
