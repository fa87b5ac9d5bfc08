"""The figures of the page, as SVG text: no display, no global plotting state, equal bytes for equal data.

Colours are of Okabe and Ito (2008), told apart by readers who do not see red and green; what matters is also told
by position, shape or number. Bars are mean ± sd over splits throughout.
"""

from __future__ import annotations

import io
import itertools
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import CenteredNorm, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bulkprobe.report.tables import TASKS

Cards = Mapping[str, Mapping[str, Any]]

BLUE, ORANGE, GREY, BLACK = "#0072B2", "#E69F00", "#767676", "#222222"
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7A5195", "#8C6D31")
TERTILE_COLOURS = {"low": "#0072B2", "middle": "#8C8C8C", "high": "#D55E00"}
STRENGTH_MARKS = {"strong": ("o", "#0072B2"), "weak": ("D", "#E69F00"), "none": ("s", "#767676")}
AROUND_HALF = LinearSegmentedColormap.from_list(
    "around_half", ["#7F3000", "#D55E00", "#F3B48B", "#FFFFFF", "#9ACBE8", "#2C8CC4", "#003F6B"], N=51
)
WIDTH = 11.0  # inches; the page stretches every figure to its own width
SQUARE = 2.2  # inches a row of six square panels takes with its title
NAME_LENGTH = 26
ON_LINE: Any = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}  # a mark that stands on the line of reference
STYLE: Any = {
    "svg.hashsalt": "bulkprobe",
    "svg.fonttype": "none",  # text stays text: it can be searched, copied and read aloud
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "axes.axisbelow": True,
    "text.parse_math": False,  # a dollar sign in an encoder's name is a dollar sign
}
# What the page's style sheet adds for readers without that font.
FONTS = '"DejaVu Sans", Verdana, "Helvetica Neue", Arial, sans-serif'


def headline(tasks: pd.DataFrame, cards: Cards) -> str:
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
                mean, sd = by_cell.loc[(encoder, task), "mean"], by_cell.loc[(encoder, task), "sd"]
                if pd.isna(mean):
                    axes.text(0.5, row, "–", ha="center", va="center", color=GREY, bbox=ON_LINE)
                    continue
                _interval(axes, float(mean), 0.0 if pd.isna(sd) else float(sd), row, cards.get(encoder, {}))
            axes.grid(axis="x", color="#eeeeee")
            axes.set_xlabel("C-index" if task == "survival" else "AUROC")
            axes.tick_params(length=2)
        panels[0].set_xlim(left, 1.0)
        panels[0].set_ylim(len(encoders) - 0.4, -0.6)
        panels[0].set_yticks(range(len(encoders)), [short(name) for name in encoders])
    return svg[0]


def heat_dots(values: pd.DataFrame, colour_label: str, gaps: Sequence[int] = ()) -> str:
    """Draw a grid of dots: encoders (index) × columns; colour and number say the value, white is 0.5.

    `gaps`: positions before which a thin line separates groups of columns. A dash is an undefined value.
    """
    rows, columns = values.shape
    with canvas(WIDTH, 1.0 + 0.3 * rows) as (figure, svg):
        axes = figure.subplots()
        y, x = (index.ravel() for index in np.indices((rows, columns)))
        flat = values.to_numpy(float).ravel()
        known = np.isfinite(flat)
        norm = CenteredNorm(0.5, 0.5)
        marks = axes.scatter(
            x[known], y[known], c=flat[known], s=340, cmap=AROUND_HALF, norm=norm, edgecolors="#bbbbbb", linewidths=0.5
        )
        for across, down, value in zip(x, y, flat, strict=True):
            text = f"{value:.2f}".replace("0.", ".", 1) if np.isfinite(value) else "–"
            dark = np.isfinite(value) and abs(value - 0.5) > 0.3
            axes.text(
                float(across),
                float(down),
                text,
                ha="center",
                va="center",
                color="white" if dark else BLACK,
                fontsize=7.5,
            )
        for gap in gaps:
            axes.axvline(gap - 0.5, color="#cccccc", linewidth=0.8)
        axes.set_xlim(-0.6, columns - 0.4)
        axes.set_ylim(rows - 0.4, -0.6)
        axes.set_xticks(range(columns), [short(str(name)) for name in values.columns])
        axes.set_yticks(range(rows), [short(str(name)) for name in values.index])
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(marks, ax=axes, fraction=0.02, pad=0.01, aspect=18)
        bar.set_label(colour_label)
        if bar.solids is not None:
            bar.solids.set(rasterized=False, edgecolor="face")  # shapes, not a picture
        bar.outline.set_visible(False)
    return svg[0]


def planted(table: pd.DataFrame) -> str:
    """Draw what each encoder recovered against what the true predictor reaches (`tables.planted_table`).

    Encoders without any defined score have no panel.
    """
    table = table.dropna(subset=["true", "recovered"])
    encoders = list(dict.fromkeys(table["encoder"]))
    numbers = table[["true", "recovered"]].to_numpy(float)
    low = min(0.4, float(np.floor(numbers.min() * 10) / 10))
    handles: dict[str, Line2D] = {}
    with _grid(encoders, 6, SQUARE) as (panels, svg):
        for axes, encoder in zip(panels, encoders, strict=True):
            axes.plot([low, 1], [low, 1], color=GREY, linewidth=0.9, linestyle=(0, (4, 3)))
            for (strength, task), part in table[table["encoder"] == encoder].groupby(["strength", "task"], sort=False):
                mark, colour = STRENGTH_MARKS.get(str(strength), ("^", "#CC79A7"))
                face = "white" if task == "survival" else colour
                (line,) = axes.plot(part["true"], part["recovered"], mark, linestyle="none", color=colour)
                line.set(markersize=5, markerfacecolor=face, markeredgewidth=1.1)
                handles.setdefault(f"{strength} ({task})", line)
            axes.set(xlim=(low, 1), ylim=(low, 1), title=short(encoder), aspect="equal")
            axes.grid(color="#eeeeee")
        _outer_labels(panels, 6, "true predictor", "recovered")
        _legend(panels[0], list(handles.values()), list(handles))
    return svg[0]


def composition(table: pd.DataFrame, genes: Sequence[str]) -> str:
    """Draw the cohort: patients per cancer type with their share of deaths, and how often each gene is mutated.

    `table` has one row a type: cancer_type, patients, events (share 0-1 or NaN), and one column a gene (share).
    """
    rows = len(table)
    with canvas(WIDTH, 1.0 + 0.2 * rows) as (figure, svg):
        left, right = figure.subplots(1, 2, width_ratios=[1.1, 1], sharey=True)
        place = np.arange(rows)
        patients, share = table["patients"].to_numpy(float), table["events"].to_numpy(float)
        left.barh(place, patients, color="#c9dcea", height=0.75, label="patients")
        left.barh(place, patients * np.nan_to_num(share), color=BLUE, height=0.75, label="of them with the event (OS)")
        for row, count in enumerate(patients):
            left.text(count, row, f" {count:.0f}", va="center", fontsize=7)
        left.set(xlabel="patients", title="Patients in the probing set")
        left.set_yticks(place, [short(str(name)) for name in table["cancer_type"]])
        left.set_ylim(rows - 0.4, -0.6)
        left.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.5 / (0.2 * rows)), ncols=2, fontsize=7)
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


def kaplan_meier(curves: pd.DataFrame) -> str:
    """Draw survival by third of predicted risk, one panel a cancer type (rows of one encoder of the table)."""
    types = list(dict.fromkeys(curves["cancer_type"]))
    with _grid(types, 7, 1.5) as (panels, svg):
        for axes, name in zip(panels, types, strict=True):
            for tertile, colour in TERTILE_COLOURS.items():
                part = curves[(curves["cancer_type"] == name) & (curves["tertile"] == tertile)]
                axes.step(part["years"], part["survival"], where="post", color=colour, label=tertile, linewidth=1.3)
            axes.set(ylim=(0, 1.03), title=short(str(name)))
            axes.set_xlim(left=0)
            axes.grid(color="#eeeeee")
        _outer_labels(panels, 7, "years", "surviving")
        handles, labels = panels[0].get_legend_handles_labels()
        _legend(panels[0], handles, [f"{label} predicted risk" for label in labels])
    return svg[0]


def roc(curves: pd.DataFrame, cards: Cards) -> str:
    """Draw the averaged ROC curves, one panel a gene; baselines are grey, PCA black and dotted."""
    genes, encoders = list(dict.fromkeys(curves["gene"])), list(dict.fromkeys(curves["encoder"]))
    looks: dict[str, dict[str, Any]] = {}
    models = itertools.product(("-", "--", ":"), SERIES)
    dashes = itertools.cycle(("-", (0, (6, 2)), (0, (3, 1, 1, 1)), (0, (1, 1))))
    for encoder in encoders:
        if cards.get(encoder, {}).get("kind") == "foundation":
            dash, colour = next(models, ("-.", BLACK))
            looks[encoder] = {"color": colour, "linestyle": dash, "linewidth": 1.3}
        elif encoder == "pca":
            looks[encoder] = {"color": BLACK, "linestyle": ":", "linewidth": 1.6}
        else:
            looks[encoder] = {"color": GREY, "linestyle": next(dashes), "linewidth": 0.8, "zorder": 1}
    with _grid(genes, 6, SQUARE) as (panels, svg):
        for axes, gene in zip(panels, genes, strict=True):
            axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
            for encoder, part in curves[curves["gene"] == gene].groupby("encoder", sort=False):
                axes.plot(part["fpr"], part["tpr"], label=short(str(encoder)), **looks[str(encoder)])
            axes.set(xlim=(0, 1), ylim=(0, 1), title=gene, aspect="equal")
        _outer_labels(panels, 6, "false positive rate", "sensitivity")
        handles, labels = panels[0].get_legend_handles_labels()
        _legend(panels[0], handles, labels)
    return svg[0]


def short(name: str) -> str:
    """Shorten a long name in its middle: variants differ at their ends."""
    if len(name) <= NAME_LENGTH:
        return name
    return f"{name[: NAME_LENGTH // 2]}…{name[-(NAME_LENGTH // 2 - 1) :]}"


def _interval(axes: Axes, mean: float, sd: float, row: int, card: Mapping[str, Any]) -> None:
    colour = BLUE if card.get("kind") == "foundation" else ORANGE
    axes.plot([mean - sd, mean + sd], [row, row], color=colour, linewidth=1.4, solid_capstyle="butt")
    face = "white" if card.get("untrained") else colour
    mark = "o" if card.get("kind") == "foundation" else "D"
    axes.plot(mean, row, mark, markersize=4.6, markerfacecolor=face, markeredgecolor=colour, markeredgewidth=1.3)


def _outer_labels(panels: Sequence[Axes], across: int, x: str, y: str) -> None:
    for position, axes in enumerate(panels):
        first = position % across == 0
        axes.tick_params(length=2, labelsize=7, labelleft=first)
        if first:
            axes.set_ylabel(y)
        if position + across >= len(panels):
            axes.set_xlabel(x)


def _legend(axes: Axes, handles: Sequence[Any], labels: Sequence[str]) -> None:
    figure = axes.get_figure(root=True)
    if figure is not None:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(7, len(labels)), frameon=False)


@contextmanager
def _grid(names: Sequence[str], across: int, height: float) -> Iterator[tuple[list[Axes], list[str]]]:
    """Give one panel a name, `across` in a row, all with the same vertical axis."""
    down = -(-len(names) // across)
    with canvas(WIDTH, 0.5 + height * down) as (figure, svg):
        first = figure.add_subplot(down, across, 1)
        others = [figure.add_subplot(down, across, place + 1, sharey=first) for place in range(1, len(names))]
        panels = [first, *others]
        yield panels, svg


@contextmanager
def canvas(width: float, height: float) -> Iterator[tuple[Figure, list[str]]]:
    """Give a figure to draw on; when the block ends, the list holds its SVG, fit to stand inside a page."""
    result: list[str] = []
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        # A name in a script that the measuring font lacks is drawn by the reader's browser with its own font.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, result
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    result.append(svg.strip())


def embed(svg: str, prefix: str, description: str) -> str:
    """Prepare an SVG for a page that holds several: own identifiers, flexible size, a description to read aloud.

    `description` must be escaped for an HTML attribute already.
    """
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", svg)
    svg = re.sub(r'^<svg([^>]*?) width="[^"]*"', r"<svg\1", svg, count=1)
    svg = re.sub(r'^<svg([^>]*?) height="[^"]*"', r"<svg\1", svg, count=1)
    return svg.replace("<svg", f'<svg role="img" aria-label="{description}"', 1)
