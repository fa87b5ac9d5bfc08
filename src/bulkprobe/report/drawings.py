"""The drawings of the page: which figures there are, and the sentence below each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup, escape

from bulkprobe.report import (
    biology_figures,
    comparison_figures,
    curve_figures,
    curves,
    figures,
    plots,
    shift_figures,
    sizes,
)
from bulkprobe.report.context import ReportContext
from bulkprobe.report.figures import counted
from bulkprobe.report.svg import Svg, embed
from bulkprobe.report.tables import ENDPOINT, PAN_CANCER


@dataclass(frozen=True)
class Drawing:
    """A figure of the page and the sentence that says how to read it."""

    svg: Markup
    caption: str
    plain: Svg  # as it is written to files


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
    drawn: dict[str, tuple[Svg, str]] = {}
    splits = counted(int(tasks["splits"].max()) if len(tasks) else 0, "split")
    if tasks["mean"].notna().any():
        drawn["headline"] = (
            figures.headline(tasks, context.cards),
            "Further right is better; the bar is one sd of the splits to each side and the dashed line is guessing. "
            "Blue circles: foundation models (hollow: untrained). Orange diamonds: baselines. "
            f"n: {splits}; {sizes.of_tasks(tasks, mutation, survival)}.",
        )
    genes_of, called = sizes.genes(mutation[mutation["cohort"] == PAN_CANCER]), "AUROC within type"
    within = sizes.wide(genes_of, "within_mean")
    if within.notna().any(axis=None):
        tips, beside = sizes.wide(genes_of, "tip"), sizes.wide(genes_of, "size").bfill().iloc[0]
        drawn["within"] = (
            figures.heat_dots(within, called, tips=tips, sizes=list(beside)),
            "Can the mutation be told between two patients of the same cancer? "
            "White is guessing, blue is better than guessing, orange is worse, a dash is undefined. "
            f"Below each gene: mutated / profiled patients; {splits}.",
        )
    types_of = sizes.cancers(survival[survival["endpoint"] == ENDPOINT])
    by_type = sizes.wide(types_of, "mean")
    if by_type.notna().any(axis=None):
        tips, beside = sizes.wide(types_of, "tip"), sizes.wide(types_of, "size").bfill().iloc[0]
        drawn["cancers"] = (
            figures.heat_dots(by_type, "C-index", tips=tips, sizes=list(beside)),
            "Of two patients with the same cancer, how often did the one with the higher predicted risk die first? "
            "White is guessing; types with few deaths swing by 0.1 from chance alone. "
            f"Below each type: deaths / patients; {splits}.",
        )
    drawn.update(_comparison(context))
    drawn.update(shift_figures.drawn(context.shift, context.cards))
    drawn.update(biology_figures.drawn(context.biology, context.compare, context.cards))
    roc = curves.roc_table(context.predictions, plots.pan_cancer_labels(context.mutation))
    if len(roc):
        drawn["roc"] = (
            curve_figures.roc(roc, context.cards, dict(zip(genes_of["column"], genes_of["size"], strict=True))),
            "Pan-cancer: the closer to the upper left corner, the better; each line is the mean over the splits. "
            "Much of this height is knowing the cancer type, which the within-type numbers take away. "
            f"Below each gene: mutated / profiled patients; {splits}.",
        )
    for position, name in enumerate(curves.curve_encoders(context.cards, context.predictions)):
        lines = curves.kaplan_meier_table(context.predictions, [name])
        if len(lines):
            drawn[f"survival_{position}"] = (
                curve_figures.kaplan_meier(lines),
                f"{name}: patients of each type in thirds of predicted risk, all predicted while in a test part; lines "
                "that part in the order low, middle, high show a useful prediction. "
                "Below each type: deaths / patients.",
            )
    if len(planted.dropna(subset=["true", "recovered"])):
        drawn["planted"] = (
            figures.planted(planted),
            "On the dashed line an encoder does as well as the true predictor on the same test patients; below it, "
            "signal was lost. Labels planted with no signal belong at 0.5. "
            f"n: {counted(planted['label'].nunique(), 'label')}, {splits}; patients of each stand in the table above.",
        )
    people, genes = composition(context)
    if len(people):
        drawn["composition"] = (
            figures.composition(people, genes),
            "Left: patients and, dark, the share of them with the event; right: how often each gene is mutated. "
            "Shares are of the patients whose status is known. "
            f"n: {counted(int(people['patients'].sum()), 'patient')}, {counted(len(people), 'cancer type')}.",
        )
    return {
        name: Drawing(Markup(embed(svg, f"f-{name}", str(escape(caption)))), caption, svg)
        for name, (svg, caption) in drawn.items()
    }


def _comparison(context: ReportContext) -> dict[str, tuple[Svg, str]]:
    compare, drawn = context.compare, {}
    if compare is None:
        return {}
    forest = comparison_figures.forest(compare, list(context.cards), context.cards)
    if forest is not None:
        drawn["forest"] = (
            forest,
            f"Difference to {compare['reference']} (dashed line): right of it is better. Bars are calibrated "
            f"{compare['level']:.0%} intervals, coloured where the difference stays after Holm's correction, else "
            f"grey; every panel has its own scale. Hollow marks: untrained. n: {sizes.of_comparison(compare)}.",
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
