"""Stage `summary`: the numbers in one place, the plots and the report page. Reads results only; fits nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from bulkprobe import __version__
from bulkprobe.cohort.read import Cohort, read_cohort
from bulkprobe.encoders import get_encoder
from bulkprobe.files import atomic_path, read_json, write_json
from bulkprobe.foreign import in_markdown
from bulkprobe.params import Params, load_params
from bulkprobe.report.context import ReportContext
from bulkprobe.report.exports import write_figures, write_tables
from bulkprobe.report.methods import bibtex, methods_text, references
from bulkprobe.report.page import make_parts, render
from bulkprobe.report.plots import write_plots
from bulkprobe.report.tables import headline, summarise
from bulkprobe.stages import paths
from bulkprobe.stages.planted import planted_rows
from bulkprobe.stages.running import run_stage
from bulkprobe.stages.tasks import probing_patients
from bulkprobe.store import read_attributes

Metrics = dict[str, Any]


def main() -> str:
    """Write summary.json, headline.json, the plot tables and the report with its figures and tables as files."""
    params = load_params()
    mutation = {name: read_json(paths.metrics_path("mutation", name)) for name in params.encoders}
    survival = {name: read_json(paths.metrics_path("survival", name)) for name in params.encoders}
    predictions = {
        name: pd.read_parquet(paths.PREDICTIONS / f"{name}.parquet")
        for name in params.encoders
        if mutation[name]["absent"] is None
    }
    cohort = read_cohort(paths.COHORT)
    cards = {name: card_of(name, params) for name in params.encoders}
    summary = summarise(mutation, survival)
    write_json(paths.SUMMARY, summary)
    values, _ = headline(summary, cards)
    write_json(paths.HEADLINE, values)
    planted = planted_rows(paths.TRUTH, predictions, mutation, survival, probing_patients(cohort).types)
    compare = read_json(paths.COMPARE)
    shift, biology = (
        {name: read_json(path) for name, path in paths.written(task, chosen).items()}
        for task, chosen in (("shift", params.shift.encoders), ("biology", params.biology.encoders))
    )
    write_plots(paths.PLOTS, mutation, survival, cards, predictions, planted, compare, shift, biology)
    context = ReportContext(
        summary=summary,
        mutation=mutation,
        survival=survival,
        cards=cards,
        flow=flow_rows(cohort),
        provenance=cohort.provenance,
        simulated=bool(read_json(paths.TRUTH / "truth.json")["simulated"]),
        planted=planted,
        predictions=predictions,
        samples=samples_with_labels(cohort, params),
        params=params.model_dump(mode="json", exclude={"embed", "encoders", "fetch"}),
        version=__version__,
        compare=compare,
        shift=shift,
        biology=biology,
    )
    parts = make_parts(context)
    with atomic_path(paths.REPORT) as aside:
        aside.write_text(render(parts), encoding="utf-8")
    write_figures(paths.FIGURES, parts["drawings"])
    write_tables(paths.TABLES, parts)
    for path, text in (
        (paths.METHODS, in_markdown(methods_text(context))),
        (paths.REFERENCES, bibtex(references(context))),
    ):
        with atomic_path(path) as aside:
            aside.write_text(f"{text}\n", encoding="utf-8")
    return (
        f"the report is {paths.REPORT}, its figures are in {paths.FIGURES}, its tables in {paths.TABLES}, "
        f"the numbers in {paths.SUMMARY} (see also: dvc plots show, dvc metrics show)"
    )


def card_of(name: str, params: Params) -> dict[str, Any]:
    """What the report says about an encoder: its card, and what its store records."""
    entry = params.encoders[name]
    card = get_encoder(entry.model).card
    attributes: Mapping[str, Any] = read_attributes(paths.store_path(name))
    return {
        "title": card.title,
        "model": entry.model,
        "options": dict(entry.options),
        "kind": card.kind,
        "pooling": card.pooling,
        "width": probed_width(attributes),
        "untrained": bool(attributes.get("untrained", False)),
        "published": card.published,
        "pretraining": card.pretraining,
        "saw_tcga": card.release_saw_tcga(attributes.get("release")),
        "priors": card.priors,
        "paper": card.paper,
        "licence": card.licence_weights,
        "release": attributes.get("release"),
        "precision": attributes.get("precision"),
        "verified": attributes.get("verified"),
        "twin": bool(attributes.get("untrained_twin", False)),
        "draw_noise": (attributes.get("draw_noise") or {}).get("ratio"),
        "coverage": attributes.get("gene_coverage") if card.kind == "foundation" else None,
        "absent": attributes.get("absent"),
    }


def probed_width(attributes: Mapping[str, Any]) -> int | None:
    """The dimensions that the probe sees: those of the store, or what its PCA or choice of genes leaves of them."""
    width = attributes.get("width")
    size = (attributes.get("probe_transform") or {}).get("size")
    return width if width is None or size is None else min(int(width), int(size))


def flow_rows(cohort: Cohort) -> list[dict[str, Any]]:
    """The cohort flow as rows of rule, before, dropped, after, note."""
    rows = []
    for step in cohort.flow["rules"]:
        detail = ", ".join(f"{key}: {value}" for key, value in step.get("detail", {}).items())
        rows.append({**{key: step[key] for key in ("before", "dropped", "after")}, "note": detail})
        rows[-1]["rule"] = f"{step['table']}: {step['rule']}"
    return rows


def samples_with_labels(cohort: Cohort, params: Params) -> pd.DataFrame:
    """The probed samples with OS and one column a labelled gene, for the picture of the cohort."""
    samples = cohort.samples[np.asarray(cohort.samples.for_probing, dtype=bool)]
    status = cohort.mutations.pivot(index="patient_id", columns="gene", values="mutated")
    overall = cohort.survival[cohort.survival.endpoint == "OS"].set_index("patient_id").event
    table = samples.assign(os_event=samples.patient_id.map(overall))
    for gene in params.probe_mutation.genes:
        if gene in status:
            table[gene] = samples.patient_id.map(status[gene])
    return table


if __name__ == "__main__":
    run_stage(main)
