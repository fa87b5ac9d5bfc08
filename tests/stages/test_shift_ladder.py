"""The depth ladder on the small workspace: nothing moves where nothing is thinned, and nothing is read too early."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bulkprobe.encoders.base import Session
from bulkprobe.errors import UserError
from bulkprobe.files import read_json
from bulkprobe.params import load_params
from bulkprobe.report.tables import labels_of
from bulkprobe.stages import shift_ladder
from bulkprobe.stages.shift_ladder import run_ladder
from bulkprobe.stages.shift_probes import Truth, fit_probes
from bulkprobe.stages.shift_scores import MEANS, LabelScores
from bulkprobe.stages.shift_subject import Subject, open_subject
from workspace import inside, shared_workspace

pytestmark = pytest.mark.xdist_group("workspace")
ABOVE_ALL = 10**9


@pytest.fixture(name="made", scope="module")
def fixture_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_workspace(tmp_path_factory)


@pytest.fixture(name="subject", scope="module")
def fixture_subject(made: Path) -> Iterator[Subject]:
    with inside(made):
        found = open_subject("pca", load_params())
        assert isinstance(found, Subject)
        yield found


def asked(subject: Subject, **settings: Any) -> Subject:
    """The same subject with other settings of section shift."""
    shift = subject.params.shift.model_copy(update=settings)
    return replace(subject, params=subject.params.model_copy(update={"shift": shift}))


def without(content: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name != key}


@pytest.fixture(name="found", scope="module")
def fixture_found(subject: Subject) -> dict[str, Any]:
    return run_ladder(asked(subject, depths=[ABOVE_ALL, 100_000, 1000]))


def test_a_depth_above_all_libraries_moves_nothing(found: dict[str, Any], subject: Subject) -> None:
    step = found["depths"][0]
    assert step["depth"] == ABOVE_ALL
    assert step["n_thinned"] == step["n_lost"] == 0
    assert step["n"] == found["n"]
    assert step["drift"] == {"mean": 0, "median": 0, "low": 0, "high": 0}
    assert step["relative_drift"] == 0
    assert step["neighbour_overlap"] == 1
    assert step["scores"] == found["full"]
    # The ladder takes such vectors from the store; embedding them again gives the same to the last bit.
    rows = np.arange(20)
    assert (subject.embed(subject.values_of(rows), rows) == subject.store.embedding[rows]).all()


def test_less_depth_shows_fewer_genes_and_moves_farther(found: dict[str, Any]) -> None:
    steps = found["depths"]
    assert [step["n_thinned"] for step in steps] == [0, found["n"], found["n"]]
    assert steps[0]["expressed"] > steps[1]["expressed"] > steps[2]["expressed"]
    assert 0 < steps[1]["drift"]["mean"] < steps[2]["drift"]["mean"]
    assert steps[0]["neighbour_overlap"] > steps[1]["neighbour_overlap"] > steps[2]["neighbour_overlap"]
    for step in steps[1:]:
        assert step["relative_drift"] == pytest.approx(step["drift"]["mean"] / found["between"], rel=1e-4)
        assert step["drift"]["low"] <= step["drift"]["median"] <= step["drift"]["high"]
    assert set(found["half_lost"]) == set(MEANS)
    for task, lost in found["half_lost"].items():
        assert lost["depth"] in (None, 100_000, 1000), task
        assert (lost["depth"] is None) == (lost["reason"] is not None)
    assert found["space"].startswith("8 principal components, fitted on the ")


def test_full_scores_are_those_of_the_metrics_files(subject: Subject, found: dict[str, Any], made: Path) -> None:
    assert found["gap"] <= 1e-6
    for task in ("mutation", "survival"):
        for label, entry in subject.metrics[task]["labels"].items():
            assert found["full"]["labels"][label] == entry["per_split"][0], label
    every = run_ladder(asked(subject, ladder_splits=3, depths=[ABOVE_ALL]))
    assert every["splits"] == 3
    assert every["gap"] <= 1e-6
    assert every["n"] > found["n"]
    summary = read_json(made / "metrics/summary.json")["pca"]
    for task in MEANS:
        metrics = subject.metrics["survival" if task == "survival" else "mutation"]
        defined = {name for name, label in labels_of(metrics, task).items() if label["mean"] is not None}
        assert every["full"][task]["n_labels"] == len(defined)
        if summary[task] is not None:
            assert every["full"][task]["value"] == pytest.approx(summary[task], abs=2e-6)


def test_labels_of_the_means_are_those_of_the_summary() -> None:
    mutation = ["pan_cancer/TP53", "pan_cancer/KRAS_hotspot", "BRCA/TP53"]
    survival = ["KIRC/OS", "GBM/OS", "LGG/OS", "GBMLGG/OS", "KIRC/PFI"]
    written = LabelScores(
        {label: (0.5 + i / 10, None) for i, label in enumerate(mutation)},
        dict.fromkeys(mutation[:2], (0.9, None)),
        {label: (i / 10, None) for i, label in enumerate(survival)},
    ).written()
    assert [(written[task]["value"], written[task]["n_labels"]) for task in MEANS] == [(0.5, 1), (0.9, 1), (0.15, 2)]
    kinds = {"TP53": "nonsilent", "KRAS_hotspot": "hotspot"}
    for task, labels in (("mutation_pan_cancer", mutation), ("survival", survival)):
        entries = {}
        for label in labels:
            cohort, _, what = label.partition("/")
            entries[label] = {"cohort": cohort, "kind": kinds.get(what), "endpoint": what}
        assert len(labels_of({"labels": entries, "absent": None}, task)) == written[task]["n_labels"]


def test_an_undefined_label_is_left_out_and_said() -> None:
    here = LabelScores({"pan_cancer/A": (0.8, None), "pan_cancer/B": (None, "one class only")}, {}, {})
    there = LabelScores({"pan_cancer/A": (0.5, None), "pan_cancer/B": (0.4, None)}, {}, {})
    with pytest.raises(KeyError):
        here.written()  # the within-type scores belong to it
    here, there = (replace(one, within_type=one.mutation) for one in (here, there))
    written = here.minus(there).written()
    assert written["mutation_pan_cancer"]["value"] == 0.3
    assert written["mutation_pan_cancer"]["n_labels"] == 1
    assert written["mutation_pan_cancer"]["reason"] == "undefined for 1 of 2 labels: pan_cancer/B (one class only)"
    assert written["labels"] == {"pan_cancer/A": 0.3, "pan_cancer/B": None}
    assert written["survival"] == {"value": None, "n_labels": 0, "reason": "no label of this task is probed here"}


def spoilt(subject: Subject) -> Subject:
    """Labels of the test patients of split 0 are turned round: pan-cancer mutation, and survival of each type."""
    first = subject.splits[(subject.splits.split == 0) & (subject.splits.role == "test")]
    tested = set(first.patient_id[first.label.str.startswith("pan_cancer/")])
    mutations = subject.cohort.mutations.copy()
    here = mutations.patient_id.isin(tested)
    for column in ("mutated", "hotspot"):
        mutations.loc[here, column] = ~mutations.loc[here, column].astype("boolean")
    survival = subject.cohort.survival.copy()
    here = survival.patient_id.isin(set(first.patient_id[first.task == "survival"]))
    survival.loc[here, "time_days"] = 10_000.0 - survival.loc[here, "time_days"]
    return replace(subject, cohort=replace(subject.cohort, mutations=mutations, survival=survival))


def test_labels_of_test_patients_change_scores_alone(
    subject: Subject, found: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = spoilt(subject)
    alike = 0
    pairs = zip(*(fit_probes(one, Truth.of(one), 1) for one in (subject, other)), strict=True)
    for ours, theirs in pairs:
        assert ours.labels == theirs.labels
        if ours.task == "survival" or ours.labels[0].startswith("pan_cancer/"):  # others train on these patients
            assert (ours.coef == theirs.coef).all()
            assert (ours.intercept == theirs.intercept).all()
            alike += 1
    assert alike >= 3
    monkeypatch.setattr("bulkprobe.stages.shift_probes.AGREED", 1.0)
    again = run_ladder(asked(other, depths=[ABOVE_ALL, 100_000, 1000]))
    for ours, theirs in zip(found["depths"], again["depths"], strict=True):
        assert without(ours, "scores") == without(theirs, "scores")
    assert again["full"]["labels"]["KIRC/OS"] != found["full"]["labels"]["KIRC/OS"]
    assert again["full"]["labels"]["pan_cancer/TP53"] == pytest.approx(
        1 - found["full"]["labels"]["pan_cancer/TP53"], abs=1e-6
    )


def test_the_order_of_splits_and_labels_changes_nothing(subject: Subject, found: dict[str, Any]) -> None:
    metrics = {
        task: {**content, "labels": dict(reversed(content["labels"].items()))}
        for task, content in subject.metrics.items()
    }
    turned = replace(subject, splits=subject.splits[::-1], metrics=metrics)
    again = run_ladder(asked(turned, depths=[ABOVE_ALL, 100_000, 1000]))
    assert without(again, "space") == without(found, "space")  # it is called after another label of the same patients


class Fussy:
    """A session that cannot read some samples."""

    def __init__(self, session: Session, refused: set[str]) -> None:
        self.width, self.layer, self.attributes = session.width, session.layer, session.attributes
        self.session, self.refused = session, refused

    def embed(self, values: np.ndarray | None, obs: pd.DataFrame) -> np.ndarray:
        bad = self.refused & set(obs.sample_id)
        # Of a hundred counts one is thousands of TPM: so thinned samples are told from whole ones.
        if bad and values is not None and values.max() > 0 and values[values > 0].min() > 1000:
            raise UserError(f"sample {min(bad)}: nothing left to read")
        return self.session.embed(values, obs)


def test_samples_with_nothing_left_are_lost_and_counted(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shift_ladder, "BLOCK", 5)
    empty = run_ladder(asked(subject, depths=[1]))["depths"][0]  # every third library or so is empty then
    assert empty["n_lost"] > 0
    assert empty["n"] + empty["n_lost"] == empty["n_thinned"]
    first = subject.splits[(subject.splits.split == 0) & (subject.splits.role == "test")].patient_id
    refused = set(subject.patients.sample_id[sorted(set(first))[:3]])
    whole = run_ladder(asked(subject, depths=[100]))
    fussy = replace(subject, session=Fussy(subject.session, refused))
    found = run_ladder(asked(fussy, depths=[100]))
    step = found["depths"][0]
    assert step["n_lost"] == 3
    assert step["n"] == found["n"] - 3
    assert found["full"] == whole["full"]
    assert step["drift"] != whole["depths"][0]["drift"]
    # A test part of which nobody is left has no score, and the label says so.
    deaf = replace(subject, session=Fussy(subject.session, set(subject.obs.sample_id)))
    step = run_ladder(asked(deaf, depths=[100]))["depths"][0]
    assert step["n"] == 0
    assert step["drift"]["mean"] is None
    assert step["relative_drift"] is None
    assert step["neighbour_overlap"] is None
    assert step["scores"]["survival"]["value"] is None
    assert "nobody of the test part is left" in step["scores"]["survival"]["reason"]


def test_results_of_another_run_are_refused(subject: Subject) -> None:
    turned = replace(subject.store, embedding=subject.store.embedding[::-1].copy())
    with pytest.raises(UserError, match=r"another vector than its store holds .* run `dvc repro embed@pca`"):
        run_ladder(replace(subject, store=turned))
    spoiled = {
        task: {
            **content,
            "labels": {
                label: {**entry, "per_split": [None if x is None else x - 0.05 for x in entry["per_split"]]}
                for label, entry in content["labels"].items()
            },
        }
        for task, content in subject.metrics.items()
    }
    with pytest.raises(UserError, match=r"probes of pca fitted again score 0\.05\d* away from metrics/"):
        run_ladder(replace(subject, metrics=spoiled))


def test_a_label_without_a_penalty_keeps_its_reason(subject: Subject) -> None:
    labels = dict(subject.metrics["survival"]["labels"])
    n = len(labels["KIRC/OS"]["per_split"])
    nothing = {"penalty": [None] * n, "per_split": [None] * n, "reasons": {str(i): "no event" for i in range(n)}}
    labels["KIRC/OS"] = {**labels["KIRC/OS"], **nothing}
    metrics = {**subject.metrics, "survival": {**subject.metrics["survival"], "labels": labels}}
    full = run_ladder(asked(replace(subject, metrics=metrics), depths=[ABOVE_ALL]))["full"]
    assert full["labels"]["KIRC/OS"] is None
    assert full["survival"]["n_labels"] == 1
    assert full["survival"]["reason"] == "undefined for 1 of 2 labels: KIRC/OS (no event)"


def test_where_there_is_no_ladder_it_says_why(subject: Subject) -> None:
    entry = subject.params.shift.encoders["pca"].model_copy(update={"ladder": False})
    found = run_ladder(asked(subject, encoders={"pca": entry}))
    assert found == {"reason": "not asked for (ladder: false in section shift of params.yaml)"}
    scored = replace(subject, expression=replace(subject.expression, scale="zscore"))
    assert "only counts can be thinned" in run_ladder(scored)["reason"]
