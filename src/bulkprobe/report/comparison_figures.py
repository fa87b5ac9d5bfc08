"""The figures of the comparison: differences with their intervals, and average ranks with the critical difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from bulkprobe.report.cells import interval, p_value, plus
from bulkprobe.report.comparison import Compare, differs, tasks_of
from bulkprobe.report.figures import BLACK, BLUE, GREY, ON_LINE, ORANGE, WIDTH, Cards, canvas, counted, name_rows
from bulkprobe.report.svg import Svg, mark

PALE = "#b4b4b4"


def forest(compare: Compare, order: Sequence[str], cards: Cards) -> Svg | None:
    """Draw each encoder's difference to the reference (rows) with its calibrated interval, one panel a summary task.

    The scale is of each panel. Coloured intervals differ after Holm's correction, grey ones do not; hollow marks
    are untrained encoders; a dash is undefined. None where nothing is defined.
    """
    tasks = list(tasks_of(compare).values())
    names = [name for name in order if any(name in task["against_reference"] for task in tasks)]
    if not any(task["against_reference"][name]["mean"] is not None for task in tasks for name in names):
        return None
    with canvas(WIDTH, 1.1 + 0.24 * len(names)) as (figure, svg):
        panels = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
        for axes, task in zip(panels, tasks, strict=True):
            axes.set_title(task["title"])
            axes.axvline(0.0, color=GREY, linewidth=0.9, linestyle=(0, (4, 3)))
            for row, name in enumerate(names):
                says = _says(name, task, compare)
                for artist in _difference(axes, row, task["against_reference"][name], compare, cards.get(name, {})):
                    mark(artist, name, says)
            axes.grid(axis="x", color="#eeeeee")
            axes.set_xlabel("C-index" if task["measure"] == "c_index" else "AUROC")
            axes.xaxis.set_major_locator(MaxNLocator(nbins=3, steps=[1, 2, 5, 10], min_n_ticks=2))
            axes.margins(x=0.1)
            axes.tick_params(length=2)
        panels[0].set_ylim(len(names) - 0.4, -0.6)
        name_rows(panels[0], names)
    return svg[0]


def _says(name: str, task: Mapping[str, Any], compare: Compare) -> str:
    entry = task["against_reference"][name]
    pair = f"{name} minus {compare['reference']}, {task['title']}"
    if entry["mean"] is None:
        return f"{pair}: undefined ({entry['reason']})"
    ends = f", {compare['level']:.0%} interval {interval(entry)}" if interval(entry) else ""
    holm = "" if entry["p_holm"] is None else f", p (Holm) {p_value(entry['p_holm']).text}"
    size = f"{entry['n_splits']} splits, {counted(len(entry['labels']), 'label')}"
    return f"{pair}: {plus(entry['mean'])}{ends}{holm}, {size}"


def _difference(
    axes: Axes, row: int, entry: Mapping[str, Any], compare: Compare, card: Mapping[str, Any]
) -> list[Artist]:
    if entry["mean"] is None:
        return [axes.text(0.0, row, "–", ha="center", va="center", color=GREY, bbox=ON_LINE)]
    drawn: list[Artist] = []
    model = card.get("kind") == "foundation"
    colour = BLUE if model else ORANGE
    if entry["low"] is not None:
        line = colour if differs(compare, entry) else PALE
        drawn += axes.plot([entry["low"], entry["high"]], [row, row], color=line, linewidth=1.6, solid_capstyle="butt")
    face = "white" if card.get("untrained") else colour
    shape = "o" if model else "D"
    drawn += axes.plot(entry["mean"], row, shape, markersize=4.4, markerfacecolor=face, markeredgecolor=colour)
    return drawn


def critical_difference(compare: Compare) -> Svg | None:
    """Draw average ranks (1 = best), mutation and survival side by side; None where nothing could be ranked.

    Encoders in one thick line are not told apart; the bar above is the critical difference (Demsar 2006, JMLR 7:1-30).
    """
    ranked = {title: found for title, found in compare["ranks"].items() if found["average_ranks"]}
    if not ranked:
        return None
    longest = max(len(found["average_ranks"]) for found in ranked.values())
    with canvas(WIDTH, 1.2 + 0.24 * longest) as (figure, svg):
        for axes, (title, found) in zip(figure.subplots(1, len(ranked), squeeze=False)[0], ranked.items(), strict=True):
            _ranks(axes, title, found, longest)
    return svg[0]


def _ranks(axes: Axes, title: str, found: Mapping[str, Any], rows: int) -> None:
    ranks = sorted(found["average_ranks"].items(), key=lambda item: (item[1], item[0]))
    row_of = {name: row for row, (name, _) in enumerate(ranks)}
    right = len(ranks) + 0.35
    for name, rank in ranks:
        axes.plot([rank, right], [row_of[name]] * 2, color="#e2e2e2", linewidth=0.8, zorder=1)
        (point,) = axes.plot(rank, row_of[name], "o", color=BLACK, markersize=4.6)
        mark(point, name, f"{name}, {title}: average rank {rank:.2f} over {found['n_blocks']} labels")
    for place, group in enumerate(found["groups"]):
        spans = [row_of[name] for name in group]
        x = right + 0.16 * (place + 1)
        axes.plot([x, x], [min(spans) - 0.18, max(spans) + 0.18], color=BLUE, linewidth=3, solid_capstyle="butt")
    width = found["critical_difference"]
    if width is not None:
        axes.plot([1, 1 + width], [-1.1, -1.1], color=BLACK, linewidth=1.6, marker="|", markersize=6)
        label = f"critical difference {width:.2f}"
        axes.annotate(label, (1 + width, -1.1), (7, 0), textcoords="offset points", va="center", fontsize=7)
    axes.set_title(f"{title.capitalize()}: average rank over {found['n_blocks']} labels", loc="left")
    axes.set_xlim(0.6, right + 0.16 * (len(found["groups"]) + 1))
    axes.set_ylim(rows - 0.4, -1.8)
    axes.set_xticks(np.arange(1, len(ranks) + 1))
    axes.set_xlabel("average rank (1 = best)")
    name_rows(axes, [name for name, _ in ranks])
    axes.tick_params(length=0)
    axes.grid(axis="x", color="#eeeeee")
