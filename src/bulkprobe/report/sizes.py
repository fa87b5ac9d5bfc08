"""How many patients, events, labels and splits stand behind a figure, in words: no figure is shown without its n."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from bulkprobe.report.comparison import tasks_of
from bulkprobe.report.figures import counted, spread
from bulkprobe.report.tables import ENDPOINT, TASKS, records


def genes(table: pd.DataFrame) -> pd.DataFrame:
    """Add to `tables.mutation_table` the column of a grid, its size, and what the dot of an encoder says.

    column: gene, a hotspot apart from the whole gene; size: "mutated / patients"; tip: text.
    """
    gene = table["gene"].astype(str)
    table = table.assign(column=np.where(table["kind"] == "hotspot", gene + " hotspot", gene))
    return _told(table, "within_", "AUROC within type", "positives", "mutated")


def cancers(table: pd.DataFrame) -> pd.DataFrame:
    """Add the same to `tables.survival_table`: column is the cancer type, size "events / patients"."""
    return _told(table.assign(column=table["cohort"].astype(str)), "", "C-index", "events", "deaths")


def wide(table: pd.DataFrame, value: str) -> pd.DataFrame:
    """Lay a column of `genes` or `cancers` out as encoders × columns; missing where an encoder lacks a column."""
    laid = table.pivot_table(value, "encoder", "column", aggfunc="first", sort=False, dropna=False)
    return laid.rename_axis(index=None, columns=None)


def of_tasks(tasks: pd.DataFrame, mutation: pd.DataFrame, survival: pd.DataFrame) -> str:
    """Say how many labels and patients stand behind the panels of the headline."""
    most = tasks.groupby("task", sort=False)["labels"].max()
    parts = [f"{TASKS[str(task)]} {counted(number, 'label')}" for task, number in most.items() if task != "survival"]
    said = f"mutation of up to {int(mutation['n'].max()):,} patients ({', '.join(parts)})" if len(mutation) else ""
    overall = survival[survival["endpoint"] == ENDPOINT].drop_duplicates("label")
    if len(overall):
        deaths = f"{overall['events'].sum():,} deaths of {overall['n'].sum():,} patients"
        said += f"{'; ' if said else ''}survival in {counted(len(overall), 'cancer type')} ({deaths})"
    return said or "nothing was probed"


def of_comparison(compare: Mapping[str, Any]) -> str:
    """Say over how many splits and labels the differences of each task were taken."""
    tasks = tasks_of(compare).values()
    entries = [entry for task in tasks for entry in task["against_reference"].values()]
    splits = max((entry["n_splits"] or 0 for entry in entries), default=0)
    labels = [
        f"{task['title']} {max((len(entry['labels']) for entry in task['against_reference'].values()), default=0)}"
        for task in tasks
    ]
    return f"{counted(splits, 'split')}; labels: {', '.join(labels)}"


def _told(table: pd.DataFrame, prefix: str, measure: str, cases: str, called: str) -> pd.DataFrame:
    tips, sizes = [], []
    for row in records(table):
        mean, sd, reason = (row[f"{prefix}{key}"] for key in ("mean", "sd", "reason"))
        value = f"undefined ({reason})" if pd.isna(mean) else f"{measure} {spread(mean, sd)} (sd)"
        sizes.append(f"{row[cases]} / {row['n']}")
        size = f"{counted(row['splits'], 'split')}, {row[cases]} {called} of {row['n']} patients"
        tips.append(f"{row['encoder']}, {row['column']}: {value}, {size}")
    return table.assign(
        tip=pd.Series(tips, table.index, dtype=object), size=pd.Series(sizes, table.index, dtype=object)
    )
