"""The drawings of the page: which figures there are, and the sentence below each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup, escape

from bulkprobe.report import biology_figures, comparison_figures, curves, figures, plots, shift_figures
from bulkprobe.report.context import ReportContext
from bulkprobe.report.tables import ENDPOINT, PAN_CANCER


@dataclass(frozen=True)
class Drawing:
    """A figure of the page and the sentence that says how to read it."""

    svg: Markup
    caption: str


def composition(context: ReportContext) -> tuple[pd.DataFrame, list[str]]:
    """Count the probing set per cancer type, with the shares of deaths and of mutated tumours.

    Shares are of the patients whose status is known: from the sample table's own columns where it has them, else from
    the patients who were in a test part.
    """
    samples = context.samples
    if not {"patient_id", "cancer_type", "for_probing"} <= set(samples.columns):
        return pd.DataFrame(columns=["cancer_type", "patients", "events"]), []
    chosen = samples[samples["for_probing"].astype(bool)].drop_duplicates("patient_id")
    table = chosen.groupby("cancer_type", sort=True, observed=True).size().rename("patients").reset_index()
    genes = {label: label.split("/")[-1] for label in plots.pan_cancer_labels(context.mutation)}
    by_patient = chosen.set_index("patient_id")["cancer_type"]
    # Every encoder is tested on the same patients: the first one's rows say it all.
    nobody = pd.DataFrame(columns=["task", "label", "patient_id", "truth", "event"], dtype="str")
    rows = next(iter(context.predictions.values()), nobody)
    died = rows[(rows["task"] == "survival") & rows["label"].str.endswith(f"/{ENDPOINT}")]
    complete = "os_event" in chosen
    shares = {"events": _share(chosen, "os_event", by_patient) if complete else _share(died, "event", by_patient)}
    for label, gene in genes.items():
        tested = rows[rows["label"] == label]
        shares[gene] = _share(chosen, gene, by_patient) if gene in chosen else _share(tested, "truth", by_patient)
    for column, share in shares.items():
        table[column] = table["cancer_type"].map(share).astype("float64")
    return table, list(genes.values())


def _share(rows: pd.DataFrame, column: str, by_patient: pd.Series[Any]) -> Mapping[Any, float]:
    once = rows.dropna(subset=[column]).drop_duplicates("patient_id")
    kind = once["patient_id"].map(by_patient)
    shares = once[column].astype(float).groupby(kind.astype(str)).mean()
    return {name: float(value) for name, value in shares.items()}


def draw(
    context: ReportContext,
    tasks: pd.DataFrame,
    mutation: pd.DataFrame,
    survival: pd.DataFrame,
    planted: pd.DataFrame,
) -> dict[str, Drawing]:
    """Draw what there is something to draw of; the template leaves out the rest."""
    drawn: dict[str, tuple[str, str]] = {}
    if tasks["mean"].notna().any():
        drawn["headline"] = (
            figures.headline(tasks, context.cards),
            "Further right is better; the bar is one sd of the splits to each side and the dashed line is guessing. "
            "Blue circles: foundation models (hollow: untrained). Orange diamonds: baselines.",
        )
    within = _grid_values(mutation[mutation["cohort"] == PAN_CANCER])
    if within.notna().any(axis=None):
        drawn["within"] = (
            figures.heat_dots(within, "AUROC within type", gaps=()),
            "Can the mutation be told between two patients of the same cancer? "
            "White is guessing, blue is better than guessing, orange is worse, a dash is undefined.",
        )
    overall = survival[survival["endpoint"] == ENDPOINT]
    by_type = overall.pivot_table("mean", "encoder", "cohort", sort=False, dropna=False)
    if by_type.notna().any(axis=None):
        drawn["cancers"] = (
            figures.heat_dots(by_type.rename_axis(None), "C-index"),
            "Of two patients with the same cancer, how often did the one with the higher predicted risk die first? "
            "White is guessing; types with few deaths swing by 0.1 from chance alone.",
        )
    drawn.update(_comparison(context))
    drawn.update(shift_figures.drawn(context.shift, context.cards))
    drawn.update(biology_figures.drawn(context.biology, context.compare, context.cards))
    roc = curves.roc_table(context.predictions, plots.pan_cancer_labels(context.mutation))
    if len(roc):
        drawn["roc"] = (
            figures.roc(roc, context.cards),
            "Pan-cancer: the closer to the upper left corner, the better; each line is the mean over the splits. "
            "Much of this height is knowing the cancer type, which the within-type numbers take away.",
        )
    for position, name in enumerate(curves.curve_encoders(context.cards, context.predictions)):
        lines = curves.kaplan_meier_table(context.predictions, [name])
        if len(lines):
            drawn[f"survival_{position}"] = (
                figures.kaplan_meier(lines),
                f"{name}: patients of each type in thirds of predicted risk, all predicted while in a test part; lines "
                "that part in the order low, middle, high show a useful prediction.",
            )
    if len(planted.dropna(subset=["true", "recovered"])):
        drawn["planted"] = (
            figures.planted(planted),
            "On the dashed line an encoder does as well as the true predictor on the same test patients; below it, "
            "signal was lost. Labels planted with no signal belong at 0.5.",
        )
    people, genes = composition(context)
    if len(people):
        drawn["composition"] = (
            figures.composition(people, genes),
            "Left: patients and, dark, the share of them with the event; right: how often each gene is mutated. "
            "Shares are of the patients whose status is known.",
        )
    return {
        name: Drawing(Markup(figures.embed(svg, f"f-{name}", str(escape(caption)))), caption)
        for name, (svg, caption) in drawn.items()
    }


def _comparison(context: ReportContext) -> dict[str, tuple[str, str]]:
    compare, drawn = context.compare, {}
    if compare is None:
        return {}
    forest = comparison_figures.forest(compare, list(context.cards), context.cards)
    if forest is not None:
        drawn["forest"] = (
            forest,
            f"Difference to {compare['reference']} (dashed line): right of it is better. Bars are calibrated "
            f"{compare['level']:.0%} intervals, coloured where the difference stays after Holm's correction, else "
            "grey; every panel has its own scale. Hollow marks: untrained.",
        )
    ranks = comparison_figures.critical_difference(compare)
    if ranks is not None:
        missing = ""
        for measure, found in compare["ranks"].items():
            if not found["average_ranks"]:
                missing += f" {measure.capitalize()}: not ranked ({found['reason']})."
            elif found["left_out"]:
                missing += f" {measure.capitalize()}: not ranked for undefined labels: {', '.join(found['left_out'])}."
        drawn["ranks"] = (
            ranks,
            "Encoders that share a thick line are not told apart (Nemenyi). The labels share patients, so they are not "
            f"the independent blocks that the test assumes: real differences are less certain than drawn.{missing}",
        )
    return drawn


def _grid_values(table: pd.DataFrame) -> pd.DataFrame:
    names = np.where(table["kind"] == "hotspot", table["gene"].astype(str) + " hotspot", table["gene"].astype(str))
    wide = table.assign(gene=names).pivot_table("within_mean", "encoder", "gene", sort=False, dropna=False)
    return wide.rename_axis(None)
