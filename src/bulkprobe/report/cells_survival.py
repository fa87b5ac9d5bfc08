"""The tables of survival: both endpoints side by side, other measures, and what an embedding adds to clinical data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from bulkprobe.report import tables
from bulkprobe.report.cells import (
    MISSING,
    Cell,
    Notes,
    Table,
    cells_of,
    count,
    interval,
    p_value,
    plus,
    score,
    signed,
    words,
)
from bulkprobe.report.tables import OWN, SURVIVAL_BLOCKS

ADDED = ("clinical", "with_clinical", "added_value")
MEASURES = (OWN, "common_width", "uno_c", "integrated_brier")


def means(table: pd.DataFrame, width: int | None) -> Table:
    """Means over cancer types, the endpoints side by side under every measure (`tables.survival_means`)."""
    endpoints = list(dict.fromkeys(table["endpoint"]))
    shown = [measure for measure in MEASURES if measure != "common_width" or width is not None]
    called = {**SURVIVAL_BLOCKS, "common_width": f"Harrell's C, common width {width}"}
    called["integrated_brier"] += "\n(lower is better)"
    notes, rows, by_cell = Notes(), [], table.set_index(["encoder", "endpoint", "measure"])
    for encoder in dict.fromkeys(table["encoder"]):
        keys: list[tuple[Any, ...]] = [(encoder, endpoint, measure) for measure in shown for endpoint in endpoints]
        rows.append([words(encoder), *(_mean_cell(by_cell.loc[key], notes) for key in keys)])
    groups = [("", 1), *((called[measure], len(endpoints)) for measure in shown)]
    columns = ["Encoder", *endpoints * len(shown)]
    caption = "Mean over cancer types ± sd over splits"
    return Table("survival-means", caption, columns, rows, groups, notes.texts, frame=table)


def cancers(table: pd.DataFrame) -> Table:
    """Harrell's C per cancer type, the endpoints side by side (`tables.survival_table`)."""
    types, endpoints = list(dict.fromkeys(table["cohort"])), list(dict.fromkeys(table["endpoint"]))
    notes, by_cell, rows = Notes(), table.set_index(["encoder", "label"]), []
    first = table.drop_duplicates("label").set_index("label")
    for advice in first["advice"].dropna().unique():
        named = ", ".join(label.replace("/", " ") for label in first.index[first["advice"] == advice])
        notes.number(f"{named}: {advice}")
    labels = [f"{name}/{endpoint}" for name in types for endpoint in endpoints]
    for encoder in dict.fromkeys(table["encoder"]):
        rows.append([words(encoder), *(cells_of(by_cell, (encoder, label), ("",), notes)[0] for label in labels)])
    groups = [("events / patients", 1)]
    for name in types:
        known = [endpoint for endpoint in endpoints if f"{name}/{endpoint}" in first.index]
        sizes = (first.loc[f"{name}/{endpoint}"] for endpoint in known)
        lines = [f"{end} {row['events']} / {row['n']}" for end, row in zip(known, sizes, strict=True)]
        groups.append(("\n".join([name, *lines]), len(endpoints)))
    columns = ["Encoder", *endpoints * len(types)]
    caption, own = "Harrell's C by cancer type, mean ± sd", list(table.columns[: table.columns.get_loc("advice")])
    return Table("cancers", caption, columns, rows, groups, notes.texts, wide=True, frame=table[own])


def added_value(
    table: pd.DataFrame, overall: pd.DataFrame, tests: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> list[Table]:
    """What an embedding adds to age, sex and stage: C of both together minus C of clinical data alone.

    One table an endpoint: the means over types with the interval of the difference (`tests`: endpoint -> encoder ->
    entry of metrics/compare.json), then the difference in every type.
    """
    made = []
    for endpoint in dict.fromkeys(table["endpoint"]):
        chosen = table[table["endpoint"] == endpoint]
        if chosen["added_value_mean"].isna().all():
            continue
        types = list(dict.fromkeys(chosen["cohort"]))
        notes, by_cell, rows = Notes(), chosen.set_index(["encoder", "cohort"]), []
        by_mean = overall[overall["endpoint"] == endpoint].set_index(["encoder", "measure"])
        for encoder in dict.fromkeys(chosen["encoder"]):
            row = [words(encoder)]
            row += [_mean_cell(by_mean.loc[(encoder, block)], notes) for block in ("clinical", "with_clinical")]
            mean = by_mean.loc[(encoder, "added_value")]
            entry = tests.get(endpoint, {}).get(encoder, {})
            row.append(signed(mean["mean"], mean["reason"], notes, interval(entry)))
            row.append(p_value(entry.get("p_holm")))
            for name in types:
                if (encoder, name) not in by_cell.index:
                    row.append(score(None, None, "this encoder was not probed on this label", notes))
                    continue
                cell = by_cell.loc[(encoder, name)]
                spread = f"± {cell['added_value_sd']:.3f}" if pd.notna(cell["added_value_sd"]) else ""
                row.append(signed(cell["added_value_mean"], cell["added_value_reason"], notes, spread))
            rows.append(row)
        groups = [("", 1), ("Mean over types", 4), ("Added value by cancer type, ± sd", len(types))]
        columns = ["Encoder", "clinical", "+ embedding", "added", "p (Holm)", *types]
        caption = f"What the embedding adds to age, sex and stage: C-index for {endpoint}"
        frame = _added_frame(chosen, overall[overall["endpoint"] == endpoint], tests.get(endpoint, {}))
        made.append(Table(f"added-{endpoint}", caption, columns, rows, groups, notes.texts, wide=True, frame=frame))
    return made


def _added_frame(by_type: pd.DataFrame, overall: pd.DataFrame, tests: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """One row an encoder, cancer type ("mean" = mean over types) and measure; the mean added value with its test."""
    rows = []
    for block in ADDED:
        keys = {key: f"{block}_{key}" for key in ("mean", "sd", "reason")}
        rows += [
            {**{key: row[key] for key in ("encoder", "endpoint", "cohort", "n", "events")}, "measure": block}
            | {key: row[column] for key, column in keys.items()}
            for row in tables.records(by_type)
        ]
    for row in tables.records(overall[overall["measure"].isin(ADDED)]):
        entry = tests.get(row["encoder"], {}) if row["measure"] == "added_value" else {}
        test = {key: entry.get(key) for key in ("low", "high", "p_holm")}
        kept = {key: row[key] for key in ("encoder", "endpoint", "measure", "mean", "sd", "reason")}
        rows.append({**kept, "cohort": "mean", **test})
    columns = [
        "encoder",
        "endpoint",
        "cohort",
        "n",
        "events",
        "measure",
        "mean",
        "sd",
        "low",
        "high",
        "p_holm",
        "reason",
    ]
    return pd.DataFrame(rows, columns=columns)


def every_label(table: pd.DataFrame) -> Table:
    """All survival labels with every measure, one row a label and encoder."""
    notes, rows = Notes(), []
    for row in tables.records(table):
        cells = [
            words(row["label"]),
            words(row["encoder"]),
            count(row["n"]),
            count(row["events"]),
            count(row["splits"]),
        ]
        for block in SURVIVAL_BLOCKS:
            prefix = "" if block == OWN else f"{block}_"
            cell = score(row[f"{prefix}mean"], row[f"{prefix}sd"], row[f"{prefix}reason"], notes)
            if block == "added_value" and cell.text != MISSING:
                cell = replace(cell, text=plus(row["added_value_mean"]))
            cells.append(cell)
        rows.append([*cells, count(row["grid_edge_hits"])])
    columns = ["Label", "Encoder", "Patients", "Events", "Splits", *SURVIVAL_BLOCKS.values(), "Grid edge"]
    caption = "Every survival label, mean ± sd"
    return Table("every-survival", caption, columns, rows, notes=notes.texts, wide=True, frame=table)


def _mean_cell(row: pd.Series, notes: Notes) -> Cell:
    cell = score(row["mean"], row["sd"], row["reason"], notes)
    if row["undefined"] and cell.text != MISSING:
        left_out = f"mean over {row['labels']} cancer types; left out as undefined: {row['undefined']}"
        cell = replace(cell, tip=left_out, note=notes.number(left_out))
    return cell
