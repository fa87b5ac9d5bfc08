"""Feeding: the same encoder, given the same tumours in every other way that its options allow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from bulkprobe.encoders.base import Card, Session
from bulkprobe.errors import UserError
from bulkprobe.probes.mutation import probe_mutation
from bulkprobe.probes.survival import probe_survival
from bulkprobe.probes.units import rounded
from bulkprobe.shift.ladder import NEIGHBOURS, cosine_distance, linear_cka, neighbour_overlap
from bulkprobe.stages import probing
from bulkprobe.stages.shift_scores import ENDPOINT, LabelScores, Value, in_the_mean
from bulkprobe.stages.shift_subject import Subject
from bulkprobe.stages.tasks import members, mutation_labels

FED = ("input", "route", "genes", "positions")  # options that say what a model is given; pooling comes after it
TARGET = "target_sum"
FACTORS = (0.5, 2.0)  # of the frozen target sum
READ = 256  # tumours whose expression is held at a time
FEW = 1000  # patients up to which probing takes less time than starting more processes


@dataclass(frozen=True)
class Variant:
    """One other way of feeding: how the table calls it, and the options that make it."""

    name: str
    options: Mapping[str, Any]


def variants(card: Card, given: Mapping[str, Any], attributes: Mapping[str, Any]) -> list[Variant]:
    """Every other value of the options that decide what is fed, one at a time; and other target sums.

    given: options of the encoder's entry. attributes: of its session, which hold the target sum that it froze.
    """
    now = {**card.defaults, **given}
    found = [
        Variant(f"{option}={value}", {option: value})
        for option in FED
        for value in card.choices.get(option, ())
        if value != now[option]
    ]
    target = attributes.get(TARGET)
    if TARGET in card.defaults and target is not None:
        found += [Variant(f"{TARGET} x{factor:g}", {TARGET: float(target) * factor}) for factor in FACTORS]
    return found


def run_feeding(subject: Subject) -> dict[str, Any]:
    """Embed some cancer types in every way, compare with the vectors of the store, and probe both alike."""
    settings = subject.params.shift
    if not settings.encoders[subject.name].feeding:
        return {"reason": "not asked for (feeding: false in section shift of params.yaml)"}
    ways = variants(subject.encoder.card, subject.entry.options, subject.session.attributes)
    if not ways:
        return {"reason": "this encoder can be fed in one way only"}
    fed = Fed.of(subject)
    if not len(fed.places):
        return {"reason": f"no probed patient has a cancer type of shift.feeding_types ({', '.join(fed.types)})"}
    base = fed.stored()
    scores = fed.probe(base)
    rows = []
    for variant in tqdm(ways, desc=f"feeding {subject.name}", unit="way", delay=2):
        row = _fed_as(fed, variant, base, scores)
        if row is not None:
            rows.append(row)
    return {
        "reason": None,
        "n": len(fed.places),
        "types": fed.types,
        "splits": int(fed.splits.split.nunique()),
        "base": scores.written(),
        "variants": rows,
    }


def _fed_as(fed: Fed, variant: Variant, base: np.ndarray, scores: LabelScores) -> dict[str, Any] | None:
    """One row of the table; None where `positions` changes nothing, since all of the model's genes are measured."""
    row: dict[str, Any] = {"name": variant.name, "options": dict(variant.options), "n": None}
    measures = dict.fromkeys(("cosine", "cka", "neighbour_overlap", "scores", "difference"))
    try:
        session = fed.subject.restart(variant.options)
        if "positions" in variant.options and fed.same(session, base):
            return None
        vectors = fed.vectors(session)
    except UserError as problem:
        return {**row, **measures, "reason": str(problem)}
    row["n"] = len(vectors)
    if vectors.shape == base.shape:
        measures["cosine"] = rounded(1 - float(np.nanmean(cosine_distance(base, vectors))))
    measures["cka"] = rounded(linear_cka(base, vectors))
    measures["neighbour_overlap"] = rounded(neighbour_overlap(base, vectors, NEIGHBOURS))
    found = fed.probe(vectors)
    return {**row, **measures, "scores": found.written(), "difference": found.minus(scores).written(), "reason": None}


@dataclass(frozen=True)
class Fed:
    """The tumours that are fed, and the study's own splits as far as they are among them.

    places: among the probed patients, rising. rows: in the expression. types: as params.yaml names them. status:
    mutation labels, one row a patient. survival: labels of overall survival.
    """

    subject: Subject
    places: np.ndarray
    rows: np.ndarray
    types: list[str]
    splits: pd.DataFrame
    status: pd.DataFrame
    survival: list[str]

    @classmethod
    def of(cls, subject: Subject) -> Fed:
        """Choose the patients of `shift.feeding_types`, and the labels that the summary averages or all lie in them."""
        named, patients, params = subject.params.shift.feeding_types, subject.patients, subject.params
        there = set(patients.types)
        kinds = there if named is None else {member for name in named for member in members(name)}

        def inside(cohort: str) -> bool:
            return bool(there & set(members(cohort))) and there & set(members(cohort)) <= kinds

        places = np.flatnonzero(patients.types.isin(kinds).to_numpy())
        chosen = patients.types.index[places]
        status = mutation_labels(subject.cohort, patients, params.probe_mutation).loc[chosen]
        wanted = in_the_mean(map(str, status.columns))
        wanted += [str(label) for label in status.columns if inside(str(label).split("/")[0])]
        endpoints, types = params.probe_survival.endpoints, params.probe_survival.types
        return cls(
            subject,
            places,
            subject.rows_of(patients.sample_id.iloc[places].tolist()),
            sorted(there) if named is None else list(named),
            subject.splits[subject.splits.patient_id.isin(chosen)],
            status[wanted],
            [f"{kind}/{ENDPOINT}" for kind in types if inside(kind) and ENDPOINT in endpoints],
        )

    def stored(self) -> np.ndarray:
        """The patients' vectors in the store."""
        return np.asarray(probing.embedding_of(self.subject.store, self.subject.patients)[self.places])

    def vectors(self, session: Session) -> np.ndarray:
        """The patients' vectors by a session."""
        parts = [self.rows[start : start + READ] for start in range(0, len(self.rows), READ)]
        return np.concatenate([self._embed(rows, session) for rows in parts])

    def same(self, session: Session, base: np.ndarray) -> bool:
        """Whether a session gives the first patient the vector that `base` holds, to the last bit."""
        return bool(np.array_equal(self._embed(self.rows[:1], session), base[:1]))

    def _embed(self, rows: np.ndarray, session: Session) -> np.ndarray:
        return self.subject.embed(self.subject.values_of(rows, session), rows, session)

    def probe(self, vectors: np.ndarray) -> LabelScores:
        """Tune, fit and score every label on the splits of these patients."""
        subject, labels = self.subject, [str(label) for label in self.status.columns]
        mutation, survival = subject.params.probe_mutation, subject.params.probe_survival
        split = {task: set(self.splits.label[self.splits.task == task]) for task in ("mutation", "survival")}
        shared: dict[str, Any] = {
            "transform": probing.transform_of(subject.store),
            "n_jobs": probing.CORES if len(vectors) > FEW else 1,
        }
        mutated: Mapping[str, Any] = {}
        if usable := [label for label in labels if label in split["mutation"]]:
            mutated, _ = probe_mutation(
                vectors,
                self.status.index.tolist(),
                subject.patients.types.iloc[self.places],
                self.status[usable],
                self.splits,
                penalties=mutation.penalties,
                selection=mutation.selection,
                min_positives=mutation.min_positives,
                **shared,
            )
        followed: Mapping[str, Any] = {}
        if usable := [label for label in self.survival if label in split["survival"]]:
            followed, _, _ = probe_survival(
                vectors,
                self.status.index.tolist(),
                subject.cohort.survival,
                self.splits,
                penalties=survival.penalties,
                selection=survival.selection,
                ties=survival.ties,
                l1_ratio=survival.l1_ratio,
                labels=usable,
                min_events=survival.min_events,
                **shared,
            )
        pan_cancer = in_the_mean(labels)
        return LabelScores(
            {label: _value(mutated, label) for label in labels},
            {label: _value(mutated, label, "within_type") for label in pan_cancer},
            {label: _value(followed, label) for label in self.survival},
        )


def _value(metrics: Mapping[str, Any], label: str, block: str | None = None) -> Value:
    """A label's mean over splits, or why there is none."""
    if label not in metrics:
        return None, "none of these patients is in a split of this label"
    entry = metrics[label] if block is None else metrics[label].get(block)
    if entry is None:
        return None, "all patients of this label are of one cancer type"
    return entry["mean"], entry["reason"]
