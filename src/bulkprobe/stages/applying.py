"""Probes of one cohort on another: what the embeddings must have in common, and how well the probes do there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bulkprobe.cohort.read import Cohort
from bulkprobe.errors import UserError
from bulkprobe.probes.metrics import Undefined, auroc, harrell_c
from bulkprobe.probes.save import load_probe
from bulkprobe.stages.tasks import HOTSPOT, probing_patients
from bulkprobe.store import read_store

TARGET = "target_sum"
SAME = ("model", "options", "checkpoint_sha256", "values", "genes_sha256", "categories", "msi", "subtypes")


def require_same(trained: Mapping[str, Any], given: Mapping[str, Any], store: Path | str) -> None:
    """Refuse embeddings that the probe cannot read; `trained` and `given` are the stores' attributes.

    A library size that was fitted to the training cohort belongs to the probe: the other cohort must be scaled to it.
    """
    for key in SAME:
        if key == "options":
            _require_target(trained, given, store)
        ours, theirs = _of(trained, key), _of(given, key)
        if ours != theirs:
            raise UserError(
                f"the probe was trained on embeddings with {key} {ours!r}, but {store} has {theirs!r}: {_advice(key)}"
            )


def genes_lost(trained: Mapping[str, Any], given: Mapping[str, Any]) -> str | None:
    """Say where an encoder met fewer of its genes than in the training cohort; None where it did not."""
    ours, theirs = trained.get("genes_matched"), given.get("genes_matched")
    if ours is None or theirs is None or theirs >= ours:
        return None
    return (
        f"the encoder met {theirs} of its {given.get('genes_of_model')} genes here and {ours} in the training cohort: "
        "scores may suffer"
    )


def _of(attributes: Mapping[str, Any], key: str) -> Any:
    found = attributes.get(key)
    return {k: v for k, v in found.items() if k != TARGET} if key == "options" and isinstance(found, dict) else found


def _advice(key: str) -> str:
    if key == "genes_sha256":
        return (
            "the columns are other genes, or in another order; build both cohorts of the same genes in one order, "
            "or use an encoder with its own genes"
        )
    if key == "values":
        return "build both cohorts on the same scale"
    return "embed with the same encoder and options (`embed --like PROBES`)"


def _require_target(trained: Mapping[str, Any], given: Mapping[str, Any], store: Path | str) -> None:
    ours, theirs = trained.get(TARGET), given.get(TARGET)
    if ours != theirs and ours is not None:
        whose = "the median of its own cohort" if trained.get("target_sum_from") == "cohort_median" else "its option"
        raise UserError(
            f"the probe was trained on embeddings with target_sum {ours!r} ({whose}), but {store} has {theirs!r}: "
            f"embed it again with --set target_sum={ours!r}, or with --like PROBES"
        )


@dataclass(frozen=True)
class Like:
    """How another store was made: model, options with every fitted number fixed, checkpoint."""

    encoder: str
    model: str
    options: dict[str, Any]
    release: str | None
    checkpoint_sha256: str | None


def made_like(path: Path) -> Like:
    """Read how a store was made, or the store that stored probes were trained on."""
    attributes = read_store(path).attributes if path.is_dir() else load_probe(path)[0].encoder
    if "model" not in attributes or attributes.get("absent") is not None:
        raise UserError(f"{path} does not say how its embeddings were made: give a store or stored probes that do")
    options = dict(attributes.get("options") or {})
    if attributes.get("target_sum_from") in ("cohort_median", "option"):
        options[TARGET] = attributes[TARGET]
    return Like(
        str(attributes.get("encoder", attributes["model"])),
        str(attributes["model"]),
        options,
        attributes.get("release"),
        attributes.get("checkpoint_sha256"),
    )


def scores(table: pd.DataFrame, cohort: Cohort) -> Iterator[str]:
    """Say how well predictions rank the patients of a cohort, one line a label and cancer type.

    table: task, label, sample_id, score. Patients with a known label only; types are never pooled for survival.
    """
    patients = probing_patients(cohort)
    of_sample = pd.Series(patients.sample_id.index, index=patients.sample_id.to_numpy())
    table = table[table.sample_id.isin(of_sample.index)]
    table = table.assign(patient_id=table.sample_id.map(of_sample), kind=lambda t: t.patient_id.map(patients.types))
    if table.empty:
        raise UserError("the cohort has no patient of the store: give the cohort folder that the store was made of")
    for (task, label), rows in table.groupby(["task", "label"], sort=False):
        part = str(label).split("/", 1)[1]
        known = rows.merge(_truth(str(task), part, cohort), on="patient_id")
        if known.empty:
            yield f"{task} {label}: the cohort does not say {part} of any patient"
        kinds = [(str(kind), of_kind) for kind, of_kind in known.groupby("kind")]
        if task == "mutation" and len(kinds) > 1:
            kinds.append(("all types", known))
        for kind, of_kind in kinds:
            yield f"{task} {label} on {kind}: {_score(str(task), of_kind)}"


def _truth(task: str, part: str, cohort: Cohort) -> pd.DataFrame:
    if task == "survival":
        return cohort.survival[cohort.survival.endpoint == part][["patient_id", "time_days", "event"]]
    column = "hotspot" if part.endswith(HOTSPOT) else "mutated"
    rows = cohort.mutations[cohort.mutations.gene == part.removesuffix(HOTSPOT)]
    return rows[["patient_id", column]].rename(columns={column: "truth"}).dropna()


def _score(task: str, rows: pd.DataFrame) -> str:
    score = rows.score.to_numpy(float)
    try:
        if task == "survival":
            event = rows.event.to_numpy(bool)
            value = harrell_c(rows.time_days.to_numpy(float), event, score)
            return f"C-index {value:.3f} ({len(rows)} patients, {int(event.sum())} events)"
        truth = rows.truth.to_numpy(bool)
        return f"AUROC {auroc(truth, score):.3f} ({len(rows)} patients, {int(truth.sum())} mutated)"
    except Undefined as reason:
        return f"undefined, {reason.reason} ({len(rows)} patients)"
