"""Feeding on the small workspace, with untrained foundation models: every way is there, and equal ways differ by 0."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bulkprobe.encoders import get_encoder
from bulkprobe.encoders.base import Weights
from bulkprobe.params import EncoderEntry, ShiftEncoder, load_params
from bulkprobe.stages import probe_mutation, probe_survival, shift_feeding
from bulkprobe.stages.shift_feeding import Fed, run_feeding, variants
from bulkprobe.stages.shift_ladder import run_ladder
from bulkprobe.stages.shift_subject import Subject, open_subject
from bulkprobe.store import Store
from bulkprobe.untrained import write_untrained
from encoders.made import made_genes
from workspace import inside, shared_workspace

pytestmark = pytest.mark.xdist_group("workspace")
FOUNDATION = ("cellfm", "geneformer", "scbert", "scfoundation", "scgpt", "sclong", "bulkformer")
WAYS = {
    "geneformer": ["input=tpm"],
    "scfoundation": ["route=singlecell", "target_sum x0.5", "target_sum x2"],
    "scgpt": ["input=tpm", "genes=top", "genes=all"],
    "cellfm": ["genes=top", "genes=all"],
    "scbert": ["input=tpm", "positions=all", "positions=expressed"],
    "sclong": ["input=tpm", "positions=all", "positions=expressed"],
    "bulkformer": ["input=tpm", "positions=all", "positions=expressed"],
}


@pytest.fixture(name="pca", scope="module")
def fixture_pca(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    with inside(shared_workspace(tmp_path_factory)):
        found = open_subject("pca", load_params())
        assert isinstance(found, Subject)
        yield found


@pytest.fixture(name="subjects", scope="module")
def fixture_subjects(pca: Subject, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Subject]:
    return {model: foundation(pca, model, tmp_path_factory.mktemp(model)) for model in ("scbert", "scfoundation")}


def foundation(pca: Subject, model: str, folder: Path, genes: pd.DataFrame | None = None) -> Subject:
    """An untrained stand-in made ready for the workspace's cohort, with a store of its own; no metrics."""
    write_untrained(model, folder / "untrained", pca.expression.var if genes is None else genes, 3)
    weights, encoder = Weights(folder / "untrained"), get_encoder(model)
    session = encoder.start(pca.view, {}, weights)
    rows = np.arange(len(pca.obs))
    here = replace(
        pca,
        name=model,
        entry=EncoderEntry(model=model, release="untrained", enabled=True, options={}),
        encoder=encoder,
        weights=weights,
        session=session,
    )
    vectors = here.embed(here.values_of(rows), rows)
    entry = {model: ShiftEncoder(model=model, ladder=True, feeding=True)}
    return asked(
        replace(here, store=Store(vectors, pca.expression.sample_ids, dict(session.attributes))), encoders=entry
    )


def asked(subject: Subject, **settings: Any) -> Subject:
    """The same subject with other settings of section shift."""
    shift = subject.params.shift.model_copy(update=settings)
    return replace(subject, params=subject.params.model_copy(update={"shift": shift}))


def named(found: Mapping[str, Any]) -> dict[str, Any]:
    return {row["name"]: row for row in found["variants"]}


@pytest.mark.parametrize("model", FOUNDATION)
def test_ways_come_from_the_card(model: str) -> None:
    card = get_encoder(model).card
    found = variants(card, {}, {"target_sum": 10_000.0})
    assert [way.name for way in found] == WAYS[model]
    assert all(len(way.options) == 1 for way in found)
    assert not any("pooling" in way.options for way in found)


def test_ways_are_the_others_than_the_entrys_own() -> None:
    scgpt, scfoundation = get_encoder("scgpt").card, get_encoder("scfoundation").card
    names = [way.name for way in variants(scgpt, {"genes": "top", "input": "tpm"}, {})]
    assert names == ["input=counts", "genes=sample", "genes=all"]
    half, double = variants(scfoundation, {}, {"target_sum": 3000.0})[1:]
    assert half.options == {"target_sum": 1500.0}
    assert double.options == {"target_sum": 6000.0}
    assert variants(get_encoder("pca").card, {}, {}) == []
    assert variants(get_encoder("hvg").card, {}, {}) == []  # its `genes` is a number


def test_every_way_is_embedded_compared_and_probed(subjects: Mapping[str, Subject]) -> None:
    found = run_feeding(subjects["scfoundation"])
    assert found["reason"] is None
    assert found["n"] == len(subjects["scfoundation"].patients.types)
    assert found["splits"] == 3
    assert list(named(found)) == WAYS["scfoundation"]
    for row in found["variants"]:
        assert row["reason"] is None
        assert row["n"] == found["n"]
        assert row["cosine"] < 1
        assert row["cka"] < 1
        assert row["neighbour_overlap"] < 1
        for label, value in row["scores"]["labels"].items():
            base, difference = found["base"]["labels"][label], row["difference"]["labels"][label]
            if difference is not None:
                assert difference == pytest.approx(value - base, abs=2e-6)
    # Half and twice the target move the values by one constant each; another route moves what the tokens say.
    ways = named(found)
    assert ways["route=singlecell"]["cosine"] < min(ways[f"target_sum x{x}"]["cosine"] for x in ("0.5", "2"))


def test_the_base_on_all_patients_is_the_studys_own_score(pca: Subject) -> None:
    scores = Fed.of(pca).probe(Fed.of(pca).stored()).written()
    for label, value in scores["labels"].items():
        task = "survival" if label.endswith("/OS") else "mutation"
        assert value == pca.metrics[task]["labels"][label]["mean"], label
    assert set(scores["labels"]) >= {"pan_cancer/TP53", "BRCA/TP53", "KIRC/OS"}


def test_a_way_that_changes_nothing_differs_by_nothing(
    subjects: Mapping[str, Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shift_feeding, "FACTORS", (1.0,))
    monkeypatch.setattr(shift_feeding, "FED", ())
    found = run_feeding(subjects["scfoundation"])
    (row,) = found["variants"]
    assert (row["name"], row["cosine"], row["cka"], row["neighbour_overlap"]) == ("target_sum x1", 1, 1, 1)
    assert row["scores"] == found["base"]
    assert {value for value in row["difference"]["labels"].values() if value is not None} == {0}
    assert row["difference"]["mutation_pan_cancer"]["value"] == 0


def test_a_way_that_does_not_fit_says_why_and_the_others_go_on(subjects: Mapping[str, Subject]) -> None:
    bare = replace(subjects["scbert"], view=replace(subjects["scbert"].view, layers=()))
    ways = named(run_feeding(bare))
    assert "asked for input=tpm" in ways["input=tpm"]["reason"]
    assert ways["input=tpm"]["scores"] is ways["input=tpm"]["difference"] is ways["input=tpm"]["n"] is None
    assert ways["positions=expressed"]["reason"] is None
    assert ways["positions=expressed"]["cosine"] < 1
    assert "positions=all" not in ways  # the cohort measures all genes of this vocabulary: the same vectors again


def test_all_positions_are_a_way_where_the_vocabulary_is_wider(pca: Subject, tmp_path: Path) -> None:
    more = made_genes(600, 5)
    genes = pd.concat([pca.expression.var, more[~more.symbol.isin(pca.expression.var.symbol)]], ignore_index=True)
    ways = named(run_feeding(foundation(pca, "scbert", tmp_path, genes)))
    assert list(ways) == WAYS["scbert"]
    assert ways["positions=all"]["cosine"] < 1
    assert ways["positions=all"]["reason"] is None


def test_cancer_types_choose_patients_and_labels(subjects: Mapping[str, Subject]) -> None:
    subject = asked(subjects["scbert"], feeding_types=["RCC", "GBMLGG"])
    fed = Fed.of(subject)
    kinds = {"KIRC", "KIRP", "KICH", "GBM", "LGG"}
    assert set(subject.patients.types.iloc[fed.places]) == kinds
    assert fed.status.columns.tolist() == ["pan_cancer/TP53", "pan_cancer/KRAS", "RCC/TP53"]
    assert fed.survival == ["KIRC/OS", "GBMLGG/OS"]
    assert set(fed.splits.patient_id) <= set(fed.status.index)
    part = asked(subject, feeding_types=["KIRC"])
    assert Fed.of(part).status.columns.tolist() == ["pan_cancer/TP53", "pan_cancer/KRAS"]
    found = run_feeding(part)
    assert found["types"] == ["KIRC"]
    assert found["n"] == int((part.patients.types == "KIRC").sum())
    few = found["base"]["mutation_pan_cancer"]
    assert few["value"] is None or few["n_labels"] < 2
    assert "too few patients" in few["reason"]
    nowhere = run_feeding(asked(subject, feeding_types=["XXXX"]))
    assert nowhere == {"reason": "no probed patient has a cancer type of shift.feeding_types (XXXX)"}


def test_where_nothing_is_fed_it_says_why(pca: Subject, subjects: Mapping[str, Subject]) -> None:
    assert run_feeding(pca) == {"reason": "not asked for (feeding: false in section shift of params.yaml)"}
    entry = pca.params.shift.encoders["pca"].model_copy(update={"feeding": True})
    assert run_feeding(asked(pca, encoders={"pca": entry})) == {"reason": "this encoder can be fed in one way only"}


def test_the_ladder_keeps_the_target_sum_of_the_whole_cohort(subjects: Mapping[str, Subject]) -> None:
    subject = subjects["scfoundation"]
    runs = {"mutation": probe_mutation.run, "survival": probe_survival.run}
    metrics = {
        task: run(subject.store, subject.name, subject.cohort, subject.splits, subject.params)[0]
        for task, run in runs.items()
    }
    found = run_ladder(asked(replace(subject, metrics=metrics), depths=[10**9, 1000]))
    assert found["target_sum"] == subject.session.attributes["target_sum"] > 10_000
    assert found["gap"] <= 1e-6
    assert found["space"] == "the embedding"
    assert found["depths"][0]["drift"]["mean"] == 0
    assert found["depths"][1]["relative_drift"] > 0
