"""The figures of gene vectors and of what goes with transfer across models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter

from bulkprobe.report.biology_tables import DAGGER, SCORES, SIDES, n_sets
from bulkprobe.report.figures import BLACK, BLUE, GREY, ON_LINE, ORANGE, WIDTH, Cards, canvas, name_rows, short, spread
from bulkprobe.report.measured import Blocks, part
from bulkprobe.report.relations import Relations, pairs, relations_of, titles
from bulkprobe.report.svg import Svg, mark

ACROSS = 4
MARKS = {"input": ("o", -0.16), "contextual": ("s", 0.16)}  # mark, place beside the encoder's row
LETTER, LINE = 0.024, 0.075  # of a panel: width of a letter, height of a name


def drawn(biology: Blocks, compare: Mapping[str, Any] | None, cards: Cards) -> dict[str, tuple[Svg, str]]:
    """Draw what there is something to draw of: name -> (SVG, caption)."""
    found: dict[str, tuple[Svg, str]] = {}
    blocks = [part(c, "vectors", side, key) for c in biology.values() for side in SIDES for key in SCORES]
    if any(block.get("mean") is not None or block.get("r2") is not None for block in blocks):
        found["biology"] = (
            dots(biology, cards),
            "Gene vectors at a model's input (circles) and inside it (squares); bars: ± sd over sets (co-expression: "
            "over folds of genes). The upright tick is what random sets of the same size reach. Hollow: untrained. "
            f"Orange: baseline. Grey with {DAGGER}: circular by construction. n: {n_sets(biology)} gene sets.",
        )
    relations = relations_of(compare)
    if any(test["spearman"] is not None for test in relations.get("tests", [])):
        found["relations"] = (
            scatter(relations, cards),
            "One dot a foundation model (hollow: untrained); ρ is Spearman's, p by permutation and before correction. "
            "Each panel says on how many models it rests; those with fewer than four are left out. "
            f"n: {relations['n_encoders']} models.",
        )
    return found


def dots(biology: Blocks, cards: Cards) -> Svg:
    """Draw set recovery, the same without paralogs, and co-expression R², one row an encoder."""
    names = list(biology)
    with canvas(WIDTH, 1.0 + 0.3 * len(names)) as (figure, svg):
        panels = figure.subplots(1, len(SCORES), sharey=True)
        for axes, (key, (number, title)) in zip(panels, SCORES.items(), strict=True):
            genes = key == "coexpression"
            axes.axvline(0.0 if genes else 0.5, color=GREY, linewidth=0.9, linestyle=(0, (4, 3)))
            for row, name in enumerate(names):
                sides = {side: part(biology[name], "vectors", side, key) for side in SIDES}
                defined = {side: entry for side, entry in sides.items() if entry.get(number) is not None}
                for side, entry in defined.items():
                    says = f"{name}, {SIDES[side].lower()}, {title}: {spread(entry[number], entry.get('sd'))} (sd)"
                    for artist in _dot(axes, row, side, entry, number, cards.get(name, {})):
                        mark(artist, name, says)
                if not defined:
                    middle = 0.0 if genes else 0.5
                    dash = axes.text(middle, row, "–", ha="center", va="center", color=GREY, bbox=ON_LINE)
                    mark(dash, name, f"{name}, {title}: undefined ({sides['input'].get('reason')})")
            axes.set_title(title[:1].upper() + title[1:])
            axes.set_xlabel("R² on held-out genes" if genes else f"AUROC (n = {n_sets(biology)} sets)")
            axes.grid(axis="x", color="#eeeeee")
            axes.tick_params(length=2)
        panels[0].set_ylim(len(names) - 0.4, -0.6)
        name_rows(panels[0], names)
    return svg[0]


def _dot(
    axes: Axes, row: int, side: str, entry: Mapping[str, Any], number: str, card: Mapping[str, Any]
) -> list[Artist]:
    shape, offset = MARKS[side]
    middle, sd = float(entry[number]), float(entry.get("sd") or 0.0)
    colour = ORANGE if card.get("kind") == "baseline" else BLUE
    drawn: list[Artist] = []
    if entry.get("circular"):
        colour, place = GREY, (middle, row + offset)
        drawn.append(axes.annotate(DAGGER, place, (5, 2), textcoords="offset points", fontsize=7, color=GREY))
    drawn += axes.plot([middle - sd, middle + sd], [row + offset] * 2, color=colour, linewidth=1.1)
    face = "white" if card.get("untrained") else colour
    drawn += axes.plot(middle, row + offset, shape, markersize=4.4, markerfacecolor=face, markeredgecolor=colour)
    if entry.get("null_mean") is not None:
        drawn += axes.plot(entry["null_mean"], row + offset, "|", color=BLACK, markersize=7)
    return drawn


def scatter(relations: Relations, cards: Cards) -> Svg:
    """Draw every defined relation: what may explain (across) against transfer (up), one named dot a model."""
    tests = [test for test in relations["tests"] if test["spearman"] is not None]
    untrained = set(relations["untrained"])
    down = -(-len(tests) // ACROSS)
    with canvas(WIDTH, 0.3 + 2.1 * down) as (figure, svg):
        for place, test in enumerate(tests, start=1):
            axes, (what, transfer) = figure.add_subplot(down, ACROSS, place), titles(test)
            dots_ = pairs(relations, test)
            for name, x, y in dots_:
                face = "white" if name in untrained else BLUE
                (dot,) = axes.plot(x, y, "o", markersize=4.6, markerfacecolor=face, markeredgecolor=BLUE)
                mark(dot, name, f"{name}: {what} {x:.4g}, {transfer} {y:.3f}")
            if test["predictor"] in ("parameters", "training_samples"):
                _logarithmic(axes, [x for _, x, _ in dots_])
            axes.margins(x=0.12, y=0.15)
            _name(axes, dots_)
            rho = f"{test['spearman']:.2f}".replace("-", "−")
            axes.set_title(f"n = {test['n']}, ρ = {rho}, p = {test['p']:.2g}", fontweight="normal")
            axes.set_xlabel(what)
            axes.set_ylabel(transfer)
            axes.tick_params(length=2, labelsize=6.5)
            axes.locator_params(axis="y", nbins=4)
    return svg[0]


def _logarithmic(axes: Axes, numbers: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(sorted({*np.geomspace(min(numbers), max(numbers), 3)}))
    axes.xaxis.set_major_formatter(EngFormatter(places=0, sep=""))
    axes.minorticks_off()


def _name(axes: Axes, dots_: Sequence[tuple[str, float, float]]) -> None:
    """Name every dot at the nearest place beside it that covers neither a dot nor another name."""
    axes.autoscale_view()  # places are shares of the panel, which must have its limits by now
    transform, inverse = axes.transData, axes.transAxes.inverted()
    placed = {name: inverse.transform(transform.transform((x, y))) for name, x, y in dots_}
    boxes = [(x - 0.02, y - 0.03, x + 0.02, y + 0.03) for x, y in placed.values()]
    for name, (x, y) in placed.items():
        wide, high = LETTER * len(short(name)), LINE
        spots = [
            (
                x + radius * across - (wide if across < 0 else wide / 2 if across == 0 else 0.0),
                y + radius * up - high / 2,
            )
            for radius in (0.04, 0.09, 0.14, 0.2, 0.27, 0.35)
            for across, up in ((1, 0), (-1, 0), (0, 1.3), (0, -1.3), (1, 1), (1, -1), (-1, 1), (-1, -1))
        ]
        inside = [(left, low) for left, low in spots if left >= 0 and low >= 0 and left + wide <= 1 and low + high <= 1]
        free = (s for s in inside if not any(_meet((*s, s[0] + wide, s[1] + high), box) for box in boxes))
        left, low = next(free, spots[0])
        boxes.append((left, low, left + wide, low + high))
        line = {"arrowstyle": "-", "color": "#bbbbbb", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3}
        far = abs(low + high / 2 - y) > LINE or min(abs(left - x), abs(left + wide - x)) > LINE
        label = axes.annotate(
            short(name),
            (x, y),
            (left + wide / 2, low + high / 2),
            xycoords="axes fraction",
            textcoords="axes fraction",
            ha="center",
            va="center",
            fontsize=6.5,
            arrowprops=line if far else None,
        )
        mark(label, name)


def _meet(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
