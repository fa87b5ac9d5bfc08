"""The figures of the distributional shift: what a model reads, and the depth ladder."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes

from bulkprobe.report.figures import BLACK, BLUE, ORANGE, SERIES, WIDTH, Cards, canvas, short
from bulkprobe.report.measured import Blocks, having, one_or_range, power

ACROSS = 4


def drawn(shift: Blocks, cards: Cards) -> dict[str, tuple[str, str]]:
    """Draw what there is something to draw of: name -> (SVG, caption)."""
    found: dict[str, tuple[str, str]] = {}
    inputs = {name: block for name, block in having(shift, "input").items() if block.get("histogram")}
    if inputs:
        n = one_or_range([int(block["bulk"]["n"]) for block in inputs.values()])
        found["shift_input"] = (
            histograms(inputs),
            f"What enters each model, by its own tokeniser: bulk (blue, n = {n} tumours) and the single-cell reference "
            "(orange line). TV: total variation, the share of values that would have to change (0 same, 1 disjoint).",
        )
    ladders = having(shift, "ladder")
    if ladders:
        n = one_or_range([int(block["n"]) for block in ladders.values()])
        found["shift_ladder"] = (
            ladder(ladders, cards),
            f"The same n = {n} test tumours thinned to fewer counts, scored by probes fitted at full depth (dashed: "
            "full depth). Drift: 1 − cosine to the tumour's own vector at full depth, with the middle 90 % of tumours. "
            "Single cells hold about 10³ to 10⁴ counts.",
        )
    return found


def histograms(inputs: Mapping[str, Mapping[str, Any]]) -> str:
    """Draw the values that enter each model, one panel a model: bulk filled, the reference as a line."""
    down = -(-len(inputs) // ACROSS)
    with canvas(WIDTH, 0.5 + 1.7 * down) as (figure, svg):
        for place, (name, block) in enumerate(inputs.items(), start=1):
            axes, found, reference = figure.add_subplot(down, ACROSS, place), block["histogram"], block.get("reference")
            axes.stairs(found["bulk"], found["edges"], fill=True, color=BLUE, alpha=0.45, label="bulk")
            n = f"{block['bulk']['n']}"
            if found.get("reference") is not None:
                axes.stairs(found["reference"], found["edges"], color=ORANGE, linewidth=1.6, label="reference")
                n += f" / {reference['n']}" if reference else ""
            far = block.get("total_variation")
            axes.set_title(f"{short(name)} (n = {n})")
            axes.set_xlabel(f"{block['reads']}{'' if far is None else f' (TV {far:.2f})'}")
            axes.tick_params(length=2, labelsize=7)
            if (place - 1) % ACROSS == 0:
                axes.set_ylabel("share of values")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return svg[0]


def ladder(ladders: Mapping[str, Mapping[str, Any]], cards: Cards) -> str:
    """Draw drift, neighbours kept, within-type AUROC and C-index against depth, one line an encoder."""
    looks: dict[str, dict[str, Any]] = {}
    colours = itertools.cycle(SERIES)
    for name in ladders:
        model = cards.get(name, {}).get("kind") != "baseline"
        looks[name] = {"color": next(colours) if model else BLACK, "linestyle": "-" if model else ":"}
    with canvas(WIDTH, 3.1) as (figure, svg):
        panels = figure.subplots(1, 4)
        for name, block in ladders.items():
            _drift(panels[0], block, looks[name], short(name))
            depths, kept = zip(*((rung["depth"], rung["neighbour_overlap"]) for rung in block["depths"]), strict=True)
            panels[1].plot(depths, _numbers(kept), marker="o", markersize=3.5, **looks[name])
            for axes, key in ((panels[2], "mutation_within_type"), (panels[3], "survival")):
                scores = [(rung["scores"].get(key) or {}).get("value") for rung in block["depths"]]
                axes.plot(depths, _numbers(scores), marker="o", markersize=3.5, **looks[name])
                full = (block["full"].get(key) or {}).get("value")
                if full is not None:
                    axes.axhline(full, color=looks[name]["color"], linewidth=0.7, linestyle=(0, (4, 3)), alpha=0.6)
        every = sorted({rung["depth"] for block in ladders.values() for rung in block["depths"]})
        titles = ("Drift of the embedding", "Nearest neighbours kept", "Within-type AUROC", "C-index")
        n = one_or_range([int(block["n"]) for block in ladders.values()])
        for axes, title in zip(panels, titles, strict=True):
            axes.set(xscale="log", title=title, xlabel=f"counts a tumour (n = {n})")
            axes.set_xticks(every, [power(depth) for depth in every])
            axes.minorticks_off()
            axes.grid(color="#eeeeee")
            axes.tick_params(length=2, labelsize=7)
        panels[1].set_ylim(-0.03, 1.03)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(7, len(labels)), frameon=False)
    return svg[0]


def _drift(axes: Axes, block: Mapping[str, Any], look: Mapping[str, Any], label: str) -> None:
    rungs = [rung for rung in block["depths"] if rung["drift"].get("mean") is not None]
    depths = [rung["depth"] for rung in rungs]
    low, high = ([rung["drift"][end] for rung in rungs] for end in ("low", "high"))
    axes.fill_between(depths, low, high, color=look["color"], alpha=0.12, linewidth=0)
    axes.plot(depths, [rung["drift"]["mean"] for rung in rungs], marker="o", markersize=3.5, label=label, **look)


def _numbers(values: Any) -> list[float]:
    """An undefined rung is a gap in the line."""
    return [float("nan") if value is None else float(value) for value in values]
