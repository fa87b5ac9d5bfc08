"""The report: one self-contained page, readable offline by someone who has never seen the code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bulkprobe.report import (
    biology_tables,
    cells,
    cells_survival,
    comparison,
    figures,
    relations,
    shift_tables,
    tables,
)
from bulkprobe.report.context import ReportContext
from bulkprobe.report.drawings import draw
from bulkprobe.report.methods import bibtex, methods_text, references
from bulkprobe.report.tables import REFERENCE

SOURCE_STUDY = (
    "Kim JH et al. Benchmarking gene expression foundation models on bulk RNA-Seq data. "
    "Cancer Research 86(7_Suppl):5478 (AACR 2026)"
)
SOURCE_LINK = "https://doi.org/10.1158/1538-7445.AM2026-5478"
EDGE_SHARE = 0.1  # of an encoder's fits: from here on the page warns of the grid


@dataclass(frozen=True)
class Warning_:
    """A warning above everything else: `grave` ones forbid reading the numbers as results."""

    title: str
    text: str
    grave: bool


def render_page(context: ReportContext) -> str:
    """Render the report as one HTML page without any external resource; equal input gives equal bytes."""
    return render(make_parts(context))


def render(parts: Mapping[str, Any]) -> str:
    """Render the page from its parts (`make_parts`)."""
    environment = Environment(
        loader=PackageLoader("bulkprobe.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(parts)


def make_parts(context: ReportContext) -> dict[str, Any]:
    """Make what the template shows, by the template's names: sentences, every table and every figure."""
    tasks = tables.task_table(context.mutation, context.survival)
    common = tables.task_table(context.mutation, context.survival, common=True)
    width = tables.common_width(context.mutation, context.survival)
    mutation, survival = tables.mutation_table(context.mutation), tables.survival_table(context.survival)
    survival_means = tables.survival_means(context.survival)
    planted, splits = tables.planted_table(context.planted), split_count(context)
    order, compare = list(dict.fromkeys([*context.mutation, *context.survival])), context.compare
    return dict(
        context=context,
        encoders=[
            {"name": name, "kind": card["kind"], "title": card.get("title") or name}
            for name, card in context.cards.items()
        ],
        fonts=Markup(figures.FONTS),
        warnings=find_warnings(context),
        facts=find_facts(context),
        splits=splits,
        missing=find_missing(context),
        absent={name: card["absent"] for name, card in context.cards.items() if card.get("absent")},
        study=SOURCE_STUDY,
        study_link=SOURCE_LINK,
        methods=methods_text(context),
        bibtex=bibtex(references(context)),
        drawings=draw(context, tasks, mutation, survival, planted),
        headline=cells.headline(tasks, context.cards, splits, common, width),
        genes=cells.genes(mutation),
        cohorts=cells.cohorts(mutation),
        every_label=cells.every_label(mutation),
        survival_means=cells_survival.means(survival_means, width),
        survival=cells_survival.cancers(survival),
        added_value=cells_survival.added_value(survival, survival_means, (compare or {}).get("added_value", {})),
        every_survival=cells_survival.every_label(survival),
        sentences=comparison.sentences(compare, order) if compare else [],
        differences=comparison.overview(compare, order) if compare else None,
        comparisons=comparison.tables_of(compare, order) if compare else [],
        shift=shift_tables.section(context.shift, context.cards),
        biology=biology_tables.section(context.biology, context.cards),
        relations=relations.section(compare, context.cards),
        planted_wide=cells.planted_wide(planted, context.cards),
        planted=cells.planted(planted),
        flow=cells.flow(context.flow),
        register=cells.register(context.cards),
        provenance=cells.pairs("provenance", "Where the data came from", context.provenance),
        params=cells.pairs("params", "Parameters of splits, probes and comparisons", context.params),
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
