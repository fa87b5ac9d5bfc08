"""The figures of the distributional shift: what a model reads, and the depth ladder."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import StrMethodFormatter

from bulkprobe.report.figures import BLACK, BLUE, ORANGE, SERIES, WIDTH, Cards, canvas, short
from bulkprobe.report.measured import Blocks, having, one_or_range, power, tiny
from bulkprobe.report.shift_tables import SCORES
from bulkprobe.report.svg import Svg, mark

ACROSS = 4
LABEL = 34  # letters in a line below a panel
PLAIN = StrMethodFormatter("{x:g}")  # matplotlib would write powers in the markup that these figures do without


def drawn(shift: Blocks, cards: Cards) -> dict[str, tuple[Svg, str]]:
    """Draw what there is something to draw of: name -> (SVG, caption)."""
    found: dict[str, tuple[Svg, str]] = {}
    inputs = {
        name: block for name, block in having(shift, "input").items() if (block.get("histogram") or {}).get("edges")
    }
    if inputs:
        tumours = one_or_range([int(block["bulk"]["n"]) for block in inputs.values()])
        cells = one_or_range([int(block["reference"]["n"]) for block in inputs.values() if block.get("reference")])
        found["shift_input"] = (
            histograms(inputs),
            "What enters each model, by its own tokeniser: bulk (blue) and the single-cell reference (orange line). "
            "TV: total variation, the share of values that would have to change (0 same, 1 disjoint). "
            f"n: {tumours} tumours, {cells} cells.",
        )
    ladders = having(shift, "ladder")
    if ladders:
        n = one_or_range([int(block["n"]) for block in ladders.values()])
        found["shift_ladder"] = (
            ladder(ladders, cards),
            "The same test tumours thinned to fewer counts, scored by probes fitted at full depth (dashed: "
            "full depth). Drift: distance (1 − cosine) to the tumour's own vector at full depth, in units of the mean "
            "distance between tumours: at 1 it might be anybody; band: the middle 90 % of tumours. "
            f"Single cells hold about 10³ to 10⁴ counts. n: {n} tumours.",
        )
    return found


def histograms(inputs: Mapping[str, Mapping[str, Any]]) -> Svg:
    """Draw the values that enter each model, one panel a model: bulk filled, the reference as a line."""
    down = -(-len(inputs) // ACROSS)
    with canvas(WIDTH, 0.5 + 1.7 * down) as (figure, svg):
        for place, (name, block) in enumerate(inputs.items(), start=1):
            axes, found, reference = figure.add_subplot(down, ACROSS, place), block["histogram"], block.get("reference")
            bulk = axes.stairs(found["bulk"], found["edges"], fill=True, color=BLUE, alpha=0.45, label="bulk")
            mark(bulk, name)
            n = f"{block['bulk']['n']}"
            if found.get("reference") is not None:
                line = axes.stairs(found["reference"], found["edges"], color=ORANGE, linewidth=1.6, label="reference")
                mark(line, name)
                n += f" / {reference['n']}" if reference else ""
            far = block.get("total_variation")
            axes.set_title(f"{short(name)} (n = {n})")
            axes.set_xlabel("\n".join(wrap(f"{block['reads']}{'' if far is None else f' (TV {far:.2f})'}", LABEL)))
            if _grow(found["edges"]):
                axes.set_xscale("log")
                axes.xaxis.set_major_formatter(PLAIN)
                axes.minorticks_off()
            axes.tick_params(length=2, labelsize=7)
            if (place - 1) % ACROSS == 0:
                axes.set_ylabel("share of values")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return svg[0]


def _grow(edges: Sequence[float]) -> bool:
    """Whether the bars were cut on a logarithmic scale: the last is many times as wide as the first."""
    return edges[0] > 0 and edges[-1] - edges[-2] > 3 * (edges[1] - edges[0])


def ladder(ladders: Mapping[str, Mapping[str, Any]], cards: Cards) -> Svg:
    """Draw relative drift, neighbours kept, within-type AUROC and C-index against depth, one line an encoder."""
    looks: dict[str, dict[str, Any]] = {}
    colours = itertools.cycle(SERIES)
    for name in ladders:
        model = cards.get(name, {}).get("kind") != "baseline"
        looks[name] = {"color": next(colours) if model else BLACK, "linestyle": "-" if model else ":"}
    with canvas(WIDTH, 3.1) as (figure, svg):
        panels = figure.subplots(1, 4)
        for name, block in ladders.items():
            _drift(panels[0], name, block, looks[name])
            kept = [rung["neighbour_overlap"] for rung in block["depths"]]
            _climb(panels[1], name, block, kept, looks[name], "nearest neighbours kept")
            for axes, key in ((panels[2], "mutation_within_type"), (panels[3], "survival")):
                scores = [(rung["scores"].get(key) or {}).get("value") for rung in block["depths"]]
                _climb(axes, name, block, scores, looks[name], SCORES[key])
                full = (block["full"].get(key) or {}).get("value")
                if full is not None:
                    line = axes.axhline(
                        full, color=looks[name]["color"], linewidth=0.7, linestyle=(0, (4, 3)), alpha=0.6
                    )
                    mark(line, name)
        every = sorted({rung["depth"] for block in ladders.values() for rung in block["depths"]})
        titles = ("Drift / distance of patients", "Nearest neighbours kept", "Within-type AUROC", "C-index")
        n = one_or_range([int(block["n"]) for block in ladders.values()])
        for axes, title in zip(panels, titles, strict=True):
            axes.set(xscale="log", title=title, xlabel=f"counts a tumour (n = {n})")
            axes.set_xticks(every, [power(depth) for depth in every])
            axes.minorticks_off()
            axes.grid(color="#eeeeee")
            axes.tick_params(length=2, labelsize=7)
        panels[0].set_yscale("symlog", linthresh=1.0)  # from none at all to many times the distance of patients
        panels[0].yaxis.set_major_formatter(PLAIN)
        panels[0].set_ylim(bottom=0)
        panels[1].set_ylim(-0.03, 1.03)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(7, len(labels)), frameon=False)
    return svg[0]


def _drift(axes: Axes, name: str, block: Mapping[str, Any], look: Mapping[str, Any]) -> None:
    """Draw the drift in units of the distance between patients: cosines of different models do not compare."""
    rungs = [rung for rung in block["depths"] if rung["relative_drift"] is not None]
    unit = [rung["relative_drift"] / rung["drift"]["mean"] if rung["drift"]["mean"] else 0.0 for rung in rungs]
    low, high = ([rung["drift"][end] * one for rung, one in zip(rungs, unit, strict=True)] for end in ("low", "high"))
    band = axes.fill_between([rung["depth"] for rung in rungs], low, high, color=look["color"], alpha=0.12, linewidth=0)
    mark(band, name)
    _climb(axes, name, block, [rung["relative_drift"] for rung in block["depths"]], look, "drift")


def _climb(
    axes: Axes,
    name: str,
    block: Mapping[str, Any],
    values: Sequence[float | None],
    look: Mapping[str, Any],
    measure: str,
) -> None:
    """Draw a value against depth; an undefined rung is a gap in the line."""
    depths = [rung["depth"] for rung in block["depths"]]
    numbers = [float("nan") if value is None else float(value) for value in values]
    (line,) = axes.plot(depths, numbers, label=short(name), **look)
    mark(line, name)
    for rung, number in zip(block["depths"], numbers, strict=True):
        (point,) = axes.plot(rung["depth"], number, "o", markersize=3.5, color=look["color"])
        mark(point, name, f"{name}, {power(rung['depth'])} counts: {measure} {tiny(number)}, n = {rung['n']}")
