"""Writes the small tidy tables behind `dvc plots show` to `metrics/plots/`.

In the files of the probes `low` and `high` are mean - sd and mean + sd over the splits: the spread of the splits, not
a confidence interval. In `compare.csv` they are calibrated intervals, in `ladder.csv` and `shift.csv` those of the
measure (quantiles over tumours, bootstrap), in `biology.csv` mean ± sd over gene sets or folds. A value that is
undefined is an empty cell with its reason beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bulkprobe import files
from bulkprobe.report import biology_tables, comparison, curves, relations, shift_tables, tables
from bulkprobe.report.tables import Metrics

INTERVAL = ["mean", "low", "high"]
# File -> its columns, in order.
FILES: dict[str, list[str]] = {
    "tasks.csv": ["encoder", "task", *INTERVAL, "splits", "reason"],
    "genes.csv": ["encoder", "panel", "measure", *INTERVAL, "positives", "reason"],
    "cancers.csv": ["encoder", "panel", "measure", *INTERVAL, "events", "reason"],
    "roc.csv": curves.ROC_COLUMNS,
    "kaplan_meier.csv": curves.SURVIVAL_COLUMNS,
    "planted.csv": [
        *["task", "label", "measure", "strength", "positives"],
        *["encoder", "true", "recovered", "difference"],
    ],
    "compare.csv": comparison.PLOT_COLUMNS,
    "ranks.csv": comparison.RANK_COLUMNS,
    "shift.csv": shift_tables.PLOT_COLUMNS,
    "ladder.csv": shift_tables.LADDER_COLUMNS,
    "biology.csv": biology_tables.PLOT_COLUMNS,
    "relations.csv": relations.PLOT_COLUMNS,
}


def plot_tables(
    mutation: Mapping[str, Metrics],
    survival: Mapping[str, Metrics],
    cards: Mapping[str, Mapping[str, Any]],
    predictions: Mapping[str, pd.DataFrame],
    planted: Sequence[Mapping[str, Any]] | None,
    compare: Mapping[str, Any] | None = None,
    shift: Mapping[str, Metrics] | None = None,
    biology: Mapping[str, Metrics] | None = None,
) -> dict[str, pd.DataFrame]:
    """Make every plot table: file name -> tidy frame with the columns of `FILES`."""
    tasks = tables.task_table(mutation, survival)
    tasks["task"] = tasks["task"].map(tables.TASKS)
    encoders = list(dict.fromkeys([*mutation, *survival]))
    frames = {
        "tasks.csv": _with_interval(tasks),
        "genes.csv": gene_table(mutation),
        "cancers.csv": cancer_table(survival),
        "roc.csv": curves.roc_table(predictions, pan_cancer_labels(mutation)),
        "kaplan_meier.csv": curves.kaplan_meier_table(predictions, curves.curve_encoders(cards, predictions)),
        "planted.csv": tables.planted_table(planted),
        "compare.csv": comparison.difference_plot(compare, encoders),
        "ranks.csv": comparison.rank_plot(compare, encoders),
        "shift.csv": shift_tables.shift_plot(shift or {}),
        "ladder.csv": shift_tables.ladder_plot(shift or {}),
        "biology.csv": biology_tables.biology_plot(biology or {}),
        "relations.csv": relations.relation_plot(compare, encoders),
    }
    return {name: frames[name][columns] for name, columns in FILES.items()}


def write_plots(
    folder: Path,
    mutation: Mapping[str, Metrics],
    survival: Mapping[str, Metrics],
    cards: Mapping[str, Mapping[str, Any]],
    predictions: Mapping[str, pd.DataFrame],
    planted: Sequence[Mapping[str, Any]] | None,
    compare: Mapping[str, Any] | None = None,
    shift: Mapping[str, Metrics] | None = None,
    biology: Mapping[str, Metrics] | None = None,
) -> list[Path]:
    """Write every plot table to `folder` as CSV (six decimals, equal content gives equal bytes).

    All files are always written, with their header alone where there is nothing to draw, so that an experiment
    without survival or without truth still has the outputs its stage promises.
    """
    written = []
    frames = plot_tables(mutation, survival, cards, predictions, planted, compare, shift, biology)
    for name, frame in frames.items():
        with files.atomic_path(Path(folder) / name) as aside:
            frame.to_csv(aside, index=False, float_format="%.6f", lineterminator="\n", encoding="utf-8")
        written.append(Path(folder) / name)
    return written


def gene_table(mutation: Mapping[str, Metrics]) -> pd.DataFrame:
    """Give, for each pan-cancer gene, its AUROC over all pairs and over pairs of one cancer type.

    Columns: encoder, panel (gene), measure ("pan-cancer" or "within type"), mean, low, high, positives, reason.
    """
    table = tables.mutation_table(mutation)
    table = table[(table["cohort"] == tables.PAN_CANCER) & (table["kind"] == "nonsilent")]
    parts = [
        pd.DataFrame(
            {
                "encoder": table["encoder"],
                "panel": table["gene"],
                "measure": measure,
                "mean": table[f"{prefix}mean"],
                "sd": table[f"{prefix}sd"],
                "positives": table["positives"],
                "reason": table[f"{prefix}reason"],
            }
        )
        for measure, prefix in (("pan-cancer", ""), ("within type", "within_"))
    ]
    return _with_interval(pd.concat(parts, ignore_index=True))[FILES["genes.csv"]]


def cancer_table(survival: Mapping[str, Metrics]) -> pd.DataFrame:
    """Give Harrell's C per cancer type and endpoint.

    Columns: encoder, panel (cancer type), measure (endpoint), mean, low, high, events, reason.
    """
    table = tables.survival_table(survival).rename(columns={"cohort": "panel", "endpoint": "measure"})
    return _with_interval(table)[FILES["cancers.csv"]]


def pan_cancer_labels(mutation: Mapping[str, Metrics]) -> list[str]:
    """List the non-silent pan-cancer labels that any encoder was probed on, in the order first met."""
    table = tables.mutation_table(mutation)
    chosen = table[(table["cohort"] == tables.PAN_CANCER) & (table["kind"] == "nonsilent")]
    return list(dict.fromkeys(chosen["label"]))


def _with_interval(table: pd.DataFrame) -> pd.DataFrame:
    spread = table["sd"].fillna(0.0)  # one defined split: a point without a bar
    return table.assign(low=(table["mean"] - spread).round(6), high=(table["mean"] + spread).round(6))
