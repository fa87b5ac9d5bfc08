"""The report: one self-contained page, readable offline by someone who has never seen the code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from bulkprobe.report import cells, curves, figures, plots, tables
from bulkprobe.report.tables import ENDPOINT, PAN_CANCER, REFERENCE, Metrics, Summary

SOURCE_STUDY = (
    "Kim JH et al. Benchmarking gene expression foundation models on bulk RNA-Seq data. "
    "Cancer Research 86(7_Suppl):5478 (AACR 2026)"
)
SOURCE_LINK = "https://doi.org/10.1158/1538-7445.AM2026-5478"
EDGE_SHARE = 0.1  # of an encoder's fits: from here on the page warns of the grid
# What a reader will look for and this page does not hold yet.
NOT_YET = (
    "paired differences between encoders with a corrected test and multiplicity",
    "every embedding at one common width",
    "what an embedding adds to age, sex and stage",
    "how far bulk samples lie from what the models were trained on",
    "Uno's C beside Harrell's",
)


@dataclass(frozen=True)
class ReportContext:
    """Everything the page shows, as plain values.

    cards: encoder -> title, kind ("baseline" or "foundation"), pooling, width, untrained, pretraining, licence,
    coverage (share 0-1 of its vocabulary that the cohort measures, or None), absent (reason or None); optional:
    saw_tcga (bool, text or None) and priors (text).
    flow: rows of rule, before, dropped, after, note. planted: rows as in `tables.planted_table`, None without truth.
    predictions: encoder -> task, label, split, patient_id, score (higher = mutated, or worse survival), truth, time
    (days), event. samples: the cohort's sample table, with os_event
    and one column a gene (bool or missing) where the stage adds them.
    """

    summary: Summary
    mutation: Mapping[str, Metrics]
    survival: Mapping[str, Metrics]
    cards: Mapping[str, Mapping[str, Any]]
    flow: Sequence[Mapping[str, Any]]
    provenance: Mapping[str, Any]
    simulated: bool
    planted: Sequence[Mapping[str, Any]] | None
    predictions: Mapping[str, pd.DataFrame]
    samples: pd.DataFrame
    params: Mapping[str, Any]
    version: str


@dataclass(frozen=True)
class Drawing:
    """A figure of the page and the sentence that says how to read it."""

    svg: Markup
    caption: str


@dataclass(frozen=True)
class Warning_:
    """A warning above everything else: `grave` ones forbid reading the numbers as results."""

    title: str
    text: str
    grave: bool


def render_page(context: ReportContext) -> str:
    """Render the report as one HTML page without any external resource; equal input gives equal bytes."""
    environment = Environment(
        loader=PackageLoader("bulkprobe.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    tasks = tables.task_table(context.mutation, context.survival)
    mutation, survival = tables.mutation_table(context.mutation), tables.survival_table(context.survival)
    planted, splits = tables.planted_table(context.planted), split_count(context)
    endpoints = [name for name in dict.fromkeys(survival["endpoint"]) if name != ENDPOINT]
    return environment.get_template("page.html.j2").render(
        context=context,
        fonts=Markup(figures.FONTS),
        warnings=find_warnings(context),
        facts=find_facts(context),
        splits=splits,
        missing=find_missing(context),
        absent={name: card["absent"] for name, card in context.cards.items() if card.get("absent")},
        not_yet=NOT_YET,
        study=SOURCE_STUDY,
        study_link=SOURCE_LINK,
        drawings=_drawings(context, tasks, mutation, survival, planted),
        headline=cells.headline(tasks, context.cards, splits),
        genes=cells.genes(mutation),
        cohorts=cells.cohorts(mutation),
        every_label=cells.every_label(mutation),
        survival=cells.cancers(survival, ENDPOINT),
        other_endpoints=[cells.cancers(survival, name) for name in endpoints],
        planted_wide=cells.planted_wide(planted, context.cards),
        planted=cells.planted(planted),
        flow=cells.flow(context.flow),
        register=cells.register(context.cards),
        provenance=cells.pairs("provenance", "Where the data came from", context.provenance),
        params=cells.pairs("params", "Parameters of splits and probes", context.params),
    )


def split_count(context: ReportContext) -> int:
    """Return how many splits the metrics hold (the longest list of scores; 0 without any)."""
    labels = [
        label
        for metrics in (*context.mutation.values(), *context.survival.values())
        for label in (metrics.get("labels") or {}).values()
    ]
    return max((len(label.get("per_split") or []) for label in labels), default=0)


def find_warnings(context: ReportContext) -> list[Warning_]:
    """List what forbids or limits reading the numbers, the gravest first."""
    found = []
    if context.simulated:
        text = (
            "The patients are invented and their signal was planted. The page shows that the pipeline finds what was "
            "put in; it ranks nothing that exists outside of it."
        )
        found.append(Warning_("Simulated cohort: these numbers say nothing about real tumours.", text, grave=True))
    present = {name: card for name, card in context.cards.items() if not card.get("absent")}
    models = [name for name, card in present.items() if card["kind"] == "foundation"]
    untrained = [name for name in present if present[name].get("untrained")]
    if untrained:
        count = "All" if set(models) <= set(untrained) else f"{len(untrained)} of {len(models)}"
        text = f"Random stand-ins in the released layout, without anything learned: {', '.join(untrained)}."
        title = f"{count} foundation models are untrained: their numbers say nothing about the released models."
        found.append(Warning_(title, text, grave=True))
    seen = [name for name in models if present[name].get("saw_tcga") is True]
    if seen and not context.simulated:
        text = "Their embeddings may carry what they learned from the patients they are tested on."
        found.append(Warning_(f"Saw TCGA in pre-training: {', '.join(seen)}.", text, grave=False))
    edges = tables.grid_edges(context.mutation, context.survival)
    # Now and then the end of a grid is the best place; a habit of it asks for a wider grid.
    for task, rows in edges[edges["share"] >= EDGE_SHARE].groupby("task", sort=False):
        title = f"{str(task).capitalize()}: the chosen penalty often lay at an end of its grid."
        listed = [
            f"{row['encoder']} {row['hits']} of {row['fits']} fits (most often {row['worst']})"
            for row in tables.records(rows)
        ]
        text = f"A better one may lie beyond; widen probe_{task}.penalties. {'; '.join(listed)}."
        found.append(Warning_(title, text, grave=False))
    return found


def find_missing(context: ReportContext) -> list[str]:
    """Say which headline numbers are missing and why, one line an encoder and reason."""
    called = {"within_type_auroc": "within-type AUROC", "c_index": "C-index"}
    together: dict[tuple[str, str], list[str]] = {}
    for row in tables.headline(context.summary, context.cards)[1]:
        together.setdefault((row["encoder"], row["reason"]), []).append(called[row["measure"]])
    return [f"{encoder}, {' and '.join(measures)}: {reason}" for (encoder, reason), measures in together.items()]


def find_facts(context: ReportContext) -> list[str]:
    """Say in one sentence a measure where foundation models and the yardstick baselines stand, without a verdict."""
    facts = []
    for task, title in (
        ("mutation_within_type", "Mutation, between patients of the same cancer (AUROC)"),
        ("mutation_pan_cancer", "Mutation, over all cancers together (AUROC)"),
        ("survival", "Survival, mean over cancer types (C-index)"),
    ):
        parts = []
        values = {name: row[task] for name, row in context.summary.items() if row.get(task) is not None}
        models = [
            value
            for name, value in values.items()
            if value is not None and context.cards.get(name, {}).get("kind") == "foundation"
        ]
        if models:
            span = f"{min(models):.2f} to {max(models):.2f}" if len(models) > 1 else f"{models[0]:.2f}"
            noun = "foundation models" if len(models) > 1 else "foundation model"
            parts.append(f"{len(models)} {noun} {span}")
        for name, called in ((REFERENCE, "PCA"), ("cancer_type", "cancer type alone"), ("clinical", "clinical data")):
            if values.get(name) is not None:
                parts.append(f"{called} {values[name]:.2f}")
        facts.append(f"{title}: {'; '.join(parts) if parts else 'no encoder has a defined value'}.")
    return facts


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


def _drawings(
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


def _grid_values(table: pd.DataFrame) -> pd.DataFrame:
    names = np.where(table["kind"] == "hotspot", table["gene"].astype(str) + " hotspot", table["gene"].astype(str))
    wide = table.assign(gene=names).pivot_table("within_mean", "encoder", "gene", sort=False, dropna=False)
    return wide.rename_axis(None)
