"""Figures and tables of the page as files of their own, for a paper: SVG, PNG and CSV, equal bytes for equal data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from bulkprobe.files import atomic_folder
from bulkprobe.report.cells import MISSING, Table
from bulkprobe.report.drawings import Drawing


def write_figures(folder: Path, drawings: Mapping[str, Drawing]) -> None:
    """Write every figure as `<name>.svg` and `<name>.png`; the folder holds nothing else afterwards."""
    with atomic_folder(folder) as aside:
        for name, drawing in drawings.items():
            (aside / f"{name}.svg").write_text(drawing.plain.file(), encoding="utf-8")
            (aside / f"{name}.png").write_bytes(drawing.plain.png())


def write_tables(folder: Path, parts: Mapping[str, Any]) -> None:
    """Write every table among the parts of the page as `<name>.csv`; the folder holds nothing else afterwards."""
    with atomic_folder(folder) as aside:
        for table in tables_among(parts.values()):
            (aside / f"{table.file}.csv").write_text(csv(table), encoding="utf-8")


def tables_among(parts: Any) -> Iterator[Table]:
    """Find the tables among values, lists and mappings of them."""
    for part in parts:
        if isinstance(part, Table):
            yield part
        elif isinstance(part, Mapping):
            yield from tables_among(part.values())
        elif isinstance(part, list | tuple):
            yield from tables_among(part)


def csv(table: Table) -> str:
    """Write the numbers behind a table: scores to six decimals, p-values to all their digits, missing ones empty."""
    frame = table.frame if table.frame is not None else cells_frame(table)
    return frame.to_csv(index=False, float_format="%.10g", lineterminator="\n")


def cells_frame(table: Table) -> pd.DataFrame:
    """Read a table from its cells: numbers as they are sorted, the spread beside them, text as it is shown."""
    above = [text for text, span in table.groups for _ in range(span)] or [""] * len(table.columns)
    names = [" ".join(f"{group} {column}".split()) for group, column in zip(above, table.columns, strict=True)]
    content: dict[str, list[str]] = {}
    for place, name in enumerate(names):
        cells = [row[place] for row in table.rows]
        key = name if name not in content else f"{name} ({place + 1})"
        content[key] = [cell.sort if cell.number else cell.text.replace(MISSING, "") for cell in cells]
        if any(cell.spread for cell in cells):
            content[f"{key}, spread"] = [cell.spread for cell in cells]
    return pd.DataFrame(content)
