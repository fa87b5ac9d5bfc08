"""The figures of the page, as SVG text: no display, no global plotting state, equal bytes for equal data.

Colours are of Okabe and Ito (2008), told apart by readers who do not see red and green; what matters is also told
by position, shape or number. Bars are mean ± sd over splits throughout.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import CenteredNorm, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bulkprobe.report.svg import STYLE, Svg, mark
from bulkprobe.report.tables import TASKS, records

Cards = Mapping[str, Mapping[str, Any]]

BLUE, ORANGE, GREY, BLACK = "#0072B2", "#E69F00", "#767676", "#222222"
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7A5195", "#8C6D31")
TERTILE_COLOURS = {"low": "#0072B2", "middle": "#8C8C8C", "high": "#D55E00"}
ON_LIGHT, ON_DARK = "#010101", "#fefefe"  # numbers on coloured dots: they do not follow the theme of the page
STRENGTH_MARKS = {"strong": ("o", "#0072B2"), "weak": ("D", "#E69F00"), "none": ("s", "#767676")}
AROUND_HALF = LinearSegmentedColormap.from_list(
    "around_half", ["#7F3000", "#D55E00", "#F3B48B", "#FCFCFC", "#9ACBE8", "#2C8CC4", "#003F6B"], N=51
)
WIDTH = 11.0  # inches; the page stretches every figure to its own width
SQUARE = 2.2  # inches a row of six square panels takes with its title
NAME_LENGTH = 26
LEVEL_NAMES = 15  # columns whose names fit side by side
ON_LINE: Any = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}  # a mark that stands on the line of reference
# What the page's style sheet adds for readers without that font.
FONTS = '"DejaVu Sans", Verdana, "Helvetica Neue", Arial, sans-serif'


def headline(tasks: pd.DataFrame, cards: Cards) -> Svg:
    """Draw mean ± sd per encoder (rows) and summary task (panels), with a line at chance.

    `tasks` is `tables.task_table`. Hollow marks are untrained encoders; a dash is an undefined value.
    """
    encoders = list(dict.fromkeys(tasks["encoder"]))
    by_cell = tasks.set_index(["encoder", "task"])
    low = (tasks["mean"] - tasks["sd"].fillna(0)).min()
    left: float = 0.4 if pd.isna(low) else min(0.4, float(np.floor(low * 10)) / 10)
    with canvas(WIDTH, 1.1 + 0.24 * len(encoders)) as (figure, svg):
        panels = figure.subplots(1, len(TASKS), sharey=True, sharex=True)
        for axes, (task, title) in zip(panels, TASKS.items(), strict=True):
            axes.set_title(title)
            axes.axvline(0.5, color=GREY, linewidth=0.9, linestyle=(0, (4, 3)))
            for row, encoder in enumerate(encoders):
                cell = by_cell.loc[(encoder, task)]
                measure = "C-index" if task == "survival" else "AUROC"
                if pd.isna(cell["mean"]):
                    dash = axes.text(0.5, row, "–", ha="center", va="center", color=GREY, bbox=ON_LINE)
                    mark(dash, encoder, f"{encoder}, {title}: undefined ({cell['reason']})")
                    continue
                size = f"{cell['splits']} splits, {counted(cell['labels'], 'label')}"
                says = f"{encoder}, {title}: {measure} {spread(cell['mean'], cell['sd'])} (sd), {size}"
                _interval(axes, cell, row, cards.get(encoder, {}), encoder, says)
            axes.grid(axis="x", color="#eeeeee")
            axes.set_xlabel("C-index" if task == "survival" else "AUROC")
            axes.tick_params(length=2)
        panels[0].set_xlim(left, 1.0)
        panels[0].set_ylim(len(encoders) - 0.4, -0.6)
        name_rows(panels[0], encoders)
    return svg[0]


def heat_dots(
    values: pd.DataFrame,
    colour_label: str,
    gaps: Sequence[int] = (),
    tips: pd.DataFrame | None = None,
    sizes: Sequence[str] | None = None,
) -> Svg:
    """Draw a grid of dots: encoders (index) × columns; colour and number say the value, white is 0.5.

    `gaps`: positions before which a thin line separates groups of columns. A dash is an undefined value. `tips`: what
    the tooltip of a dot says, in the shape of `values`. `sizes`: how many patients stand behind a column.
    """
    rows, columns = values.shape
    with canvas(WIDTH, 1.0 + 0.3 * rows) as (figure, svg):
        axes = figure.subplots()
        shades = ScalarMappable(CenteredNorm(0.5, 0.5), AROUND_HALF)
        for (down, across), value in np.ndenumerate(values.to_numpy(float)):
            encoder, column = str(values.index[down]), str(values.columns[across])
            _dot(axes, across, down, float(value), shades, encoder, _tip(tips, down, across, encoder, column, value))
        for gap in gaps:
            axes.axvline(gap - 0.5, color="#cccccc", linewidth=0.8)
        axes.set_xlim(-0.6, columns - 0.4)
        axes.set_ylim(rows - 0.4, -0.6)
        beside = [f"\n{size}" for size in sizes] if sizes is not None else [""] * columns
        names = [short(str(name)) + size for name, size in zip(values.columns, beside, strict=True)]
        axes.set_xticks(range(columns), names)
        name_rows(axes, [str(name) for name in values.index])
        axes.xaxis.tick_top()
        if columns > LEVEL_NAMES:
            axes.tick_params(axis="x", labelrotation=90, labelsize=7)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(shades, ax=axes, fraction=0.02, pad=0.01, aspect=18)
        bar.set_label(colour_label)
        if bar.solids is not None:
            bar.solids.set(rasterized=False, edgecolor="face")  # shapes, not a picture
        bar.outline.set_visible(False)
    return svg[0]


def _dot(axes: Axes, across: int, down: int, value: float, shades: ScalarMappable, encoder: str, says: str) -> None:
    known = np.isfinite(value)
    text = f"{value:.2f}".replace("0.", ".", 1) if known else "–"
    shade = shades.to_rgba(np.array([value]))[0]
    if known:
        (dot,) = axes.plot(across, down, "o", markersize=18.4, markeredgecolor="#bbbbbb", markeredgewidth=0.5)
        dot.set_markerfacecolor(shade)
        mark(dot, encoder, says)
    colour = legible(shade) if known else GREY
    number = axes.text(across, down, text, ha="center", va="center", color=colour, fontsize=7.5)
    mark(number, encoder, "" if known else says)


def legible(shade: Sequence[float]) -> str:
    """Choose the colour of text on a shade (red, green, blue from 0 to 1): its contrast is at least 4.5 (WCAG)."""
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in shade[:3]]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return ON_LIGHT if luminance > 0.179 else ON_DARK


def _tip(tips: pd.DataFrame | None, down: int, across: int, encoder: str, column: str, value: float) -> str:
    said = tips.iat[down, across] if tips is not None else None
    if isinstance(said, str):
        return said
    return f"{encoder}, {column}: {spread(value, None) if np.isfinite(value) else 'undefined'}"


def planted(table: pd.DataFrame) -> Svg:
    """Draw what each encoder recovered against what the true predictor reaches (`tables.planted_table`).

    Encoders without any defined score have no panel.
    """
    table = table.dropna(subset=["true", "recovered"])
    encoders = list(dict.fromkeys(table["encoder"]))
    numbers = table[["true", "recovered"]].to_numpy(float)
    low = min(0.4, float(np.floor(numbers.min() * 10) / 10))
    handles: dict[str, Line2D] = {}
    with grid(encoders, 6, SQUARE) as (panels, svg):
        for axes, encoder in zip(panels, encoders, strict=True):
            axes.plot([low, 1], [low, 1], color=GREY, linewidth=0.9, linestyle=(0, (4, 3)))
            mark(axes, encoder)
            for row in records(table[table["encoder"] == encoder]):
                shape, colour = STRENGTH_MARKS.get(str(row["strength"]), ("^", "#CC79A7"))
                face = "white" if row["task"] == "survival" else colour
                (line,) = axes.plot(row["true"], row["recovered"], shape, linestyle="none", color=colour)
                line.set(markersize=5, markerfacecolor=face, markeredgewidth=1.1)
                reached = f"{row['measure']} {row['recovered']:.3f}, true predictor {row['true']:.3f}"
                mark(line, encoder, f"{encoder}, {row['label']}: {reached}, {row['positives']} positives or events")
                handles.setdefault(f"{row['strength']} ({row['task']})", line)
            axes.set(xlim=(low, 1), ylim=(low, 1), title=short(encoder), aspect="equal")
            axes.grid(color="#eeeeee")
        outer_labels(panels, 6, "true predictor", "recovered")
        legend(panels[0], list(handles.values()), list(handles))
    return svg[0]


def composition(table: pd.DataFrame, genes: Sequence[str]) -> Svg:
    """Draw the cohort: patients per cancer type with their share of deaths, and how often each gene is mutated.

    `table` has one row a type: cancer_type, patients, events (share 0-1 or NaN), and one column a gene (share).
    """
    rows = len(table)
    with canvas(WIDTH, 1.1 + 0.2 * rows) as (figure, svg):
        left, right = figure.subplots(1, 2, width_ratios=[1.1, 1], sharey=True)
        place = np.arange(rows)
        patients, share = table["patients"].to_numpy(float), table["events"].to_numpy(float)
        left.barh(place, patients, color="#c9dcea", height=0.75, label="patients")
        left.barh(place, patients * np.nan_to_num(share), color=BLUE, height=0.75, label="of them with the event (OS)")
        for row, count in enumerate(patients):
            left.annotate(f"{count:.0f}", (count, row), (3, 0), textcoords="offset points", va="center", fontsize=7)
        left.set(xlabel="patients", title="Patients in the probing set")
        left.set_yticks(place, [short(str(name)) for name in table["cancer_type"]])
        left.set_ylim(rows - 0.4, -0.6)
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=2, frameon=False, fontsize=7)
        shares = table[list(genes)].to_numpy(float)
        y, x = (index.ravel() for index in np.indices(shares.shape))
        flat = shares.ravel()
        right.scatter(x, y, s=np.nan_to_num(flat) * 160, color=ORANGE, linewidths=0)
        for across, down, value in zip(x, y, flat, strict=True):
            text = f"{100 * value:.0f}" if np.isfinite(value) else "–"
            right.text(across + 0.22, down, text, va="center", fontsize=7, color=BLACK)
        right.set_xlim(-0.6, len(genes) - 0.2)
        right.set_xticks(range(len(genes)), list(genes))
        right.set_title("Mutated, % of profiled patients")
        right.tick_params(length=0)
        right.spines[:].set_visible(False)
    return svg[0]


def short(name: str) -> str:
    """Shorten a long name in its middle: variants differ at their ends."""
    if len(name) <= NAME_LENGTH:
        return name
    return f"{name[: NAME_LENGTH // 2]}…{name[-(NAME_LENGTH // 2 - 1) :]}"


def spread(mean: float, sd: float | None) -> str:
    """Write mean ± sd to three decimals; the mean alone without a spread."""
    return f"{mean:.3f}" if sd is None or pd.isna(sd) else f"{mean:.3f} ± {sd:.3f}"


def counted(number: Any, noun: str) -> str:
    """Write a number with its noun: 1 label, 6 labels."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def name_rows(axes: Axes, encoders: Sequence[str]) -> None:
    """Write the encoders beside their rows, 0 on top; the page dims a name together with its marks."""
    axes.set_yticks(range(len(encoders)), [short(name) for name in encoders])
    for label, name in zip(axes.get_yticklabels(), encoders, strict=True):
        mark(label, name)


def _interval(axes: Axes, cell: Mapping[str, Any], row: int, card: Mapping[str, Any], encoder: str, says: str) -> None:
    mean, sd = float(cell["mean"]), 0.0 if pd.isna(cell["sd"]) else float(cell["sd"])
    colour = BLUE if card.get("kind") == "foundation" else ORANGE
    (bar,) = axes.plot([mean - sd, mean + sd], [row, row], color=colour, linewidth=1.4, solid_capstyle="butt")
    face = "white" if card.get("untrained") else colour
    shape = "o" if card.get("kind") == "foundation" else "D"
    (point,) = axes.plot(mean, row, shape, markersize=4.6, markerfacecolor=face, markeredgecolor=colour)
    point.set_markeredgewidth(1.3)
    for artist in (bar, point):
        mark(artist, encoder, says)


def outer_labels(panels: Sequence[Axes], across: int, x: str, y: str) -> None:
    """Label the outer panels of a grid alone."""
    for position, axes in enumerate(panels):
        first = position % across == 0
        axes.tick_params(length=2, labelsize=7, labelleft=first)
        if first:
            axes.set_ylabel(y)
        if position + across >= len(panels):
            axes.set_xlabel(x)


def legend(axes: Axes, handles: Sequence[Any], labels: Sequence[str], encoders: Sequence[str] = ()) -> None:
    """Write one legend below all panels; `encoders`: whose its entries are, where they are anybody's."""
    figure = axes.get_figure(root=True)
    if figure is not None:
        made = figure.legend(handles, labels, loc="outside lower center", ncols=min(7, len(labels)), frameon=False)
        for line, text, encoder in zip(made.legend_handles, made.get_texts(), encoders, strict=bool(encoders)):
            for artist in (line, text):
                if artist is not None:
                    mark(artist, encoder)


@contextmanager
def grid(names: Sequence[str], across: int, height: float) -> Iterator[tuple[list[Axes], list[Svg]]]:
    """Give one panel a name, `across` in a row, all with the same vertical axis."""
    down = -(-len(names) // across)
    with canvas(WIDTH, 0.5 + height * down) as (figure, svg):
        first = figure.add_subplot(down, across, 1)
        others = [figure.add_subplot(down, across, place + 1, sharey=first) for place in range(1, len(names))]
        panels = [first, *others]
        yield panels, svg


@contextmanager
def canvas(width: float, height: float) -> Iterator[tuple[Figure, list[Svg]]]:
    """Give a figure to draw on; when the block ends, the list holds its SVG, fit to stand inside a page."""
    result: list[Svg] = []
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        # A name in a script that the measuring font lacks is drawn by the reader's browser with its own font.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, result
        result.append(Svg.of(figure))
