"""The figures of single genes and cancers: averaged ROC curves, and survival by third of predicted risk."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import pandas as pd

from bulkprobe.report.figures import (
    BLACK,
    GREY,
    SERIES,
    SQUARE,
    TERTILE_COLOURS,
    Cards,
    counted,
    grid,
    legend,
    outer_labels,
    short,
)
from bulkprobe.report.svg import Svg, mark

TERTILE_DASHES = {"low": "-", "middle": (0, (4, 1.5)), "high": (0, (1.2, 1))}  # colour is not the only difference


def kaplan_meier(curves: pd.DataFrame) -> Svg:
    """Draw survival by third of predicted risk, one panel a cancer type (rows of one encoder of the table)."""
    types = list(dict.fromkeys(curves["cancer_type"]))
    with grid(types, 7, 1.5) as (panels, svg):
        for axes, name in zip(panels, types, strict=True):
            for tertile, colour in TERTILE_COLOURS.items():
                part = curves[(curves["cancer_type"] == name) & (curves["tertile"] == tertile)]
                look: dict[str, Any] = {"color": colour, "linestyle": TERTILE_DASHES[tertile], "linewidth": 1.3}
                (line,) = axes.step(part["years"], part["survival"], where="post", label=tertile, **look)
                if len(part):
                    first = part.iloc[0]
                    size = f"{first['patients']} patients, {counted(first['events'], 'event')}"
                    mark(line, first["encoder"], f"{first['encoder']}, {name}, {tertile} predicted risk: {size}")
            thirds = curves[curves["cancer_type"] == name].drop_duplicates("tertile")
            size = f"{thirds['events'].sum()} / {thirds['patients'].sum()}"
            axes.set(ylim=(0, 1.03), title=f"{short(str(name))}\n{size}")
            axes.set_xlim(left=0)
            axes.grid(color="#eeeeee")
        outer_labels(panels, 7, "years", "surviving")
        handles, labels = panels[0].get_legend_handles_labels()
        legend(panels[0], handles, [f"{label} predicted risk" for label in labels])
    return svg[0]


def roc(curves: pd.DataFrame, cards: Cards, sizes: Mapping[str, str] | None = None) -> Svg:
    """Draw the averaged ROC curves, one panel a gene; baselines are grey, PCA black and dotted.

    `sizes`: gene -> how many patients stand behind its panel, as text.
    """
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
    with grid(genes, 6, SQUARE) as (panels, svg):
        for axes, gene in zip(panels, genes, strict=True):
            axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
            for encoder, part in curves[curves["gene"] == gene].groupby("encoder", sort=False):
                (line,) = axes.plot(part["fpr"], part["tpr"], label=short(str(encoder)), **looks[str(encoder)])
                mark(line, str(encoder), f"{encoder}, {gene}: mean curve of {part['splits'].iloc[0]} splits")
            size = (sizes or {}).get(gene)
            axes.set(xlim=(0, 1), ylim=(0, 1), title=f"{gene}\n{size}" if size else gene, aspect="equal")
        outer_labels(panels, 6, "false positive rate", "sensitivity")
        handles, labels = panels[0].get_legend_handles_labels()
        legend(panels[0], handles, labels, list(dict.fromkeys(curves.loc[curves["gene"] == genes[0], "encoder"])))
    return svg[0]
