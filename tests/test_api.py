"""Probing, predicting and verifying without DVC, on the results that the stages made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bulkprobe import api
from bulkprobe.errors import UserError
from bulkprobe.files import read_json
from bulkprobe.stages import embed, probe_mutation
from bulkprobe.stages.embed import embed_cohort
from bulkprobe.store import read_store
from workspace import copy_workspace, inside, shared_workspace

pytestmark = pytest.mark.xdist_group("workspace")
COHORT = Path("data/cohort")
STORE = Path("data/embeddings/pca.zarr")


@pytest.fixture(name="made", scope="module")
def fixture_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_workspace(tmp_path_factory)


@pytest.fixture(name="spoilt")
def fixture_spoilt(made: Path, tmp_path: Path) -> Path:
    return copy_workspace(made, tmp_path / "copy")


def rewrite(path: Path, table: pd.DataFrame) -> None:
    path.unlink()
    table.to_parquet(path, index=False)


@pytest.mark.parametrize("task", ["mutation", "survival"])
@pytest.mark.parametrize("given", [True, False], ids=["the stage's splits", "splits made anew"])
def test_probe_store_writes_the_metrics_of_the_stage_to_the_byte(
    made: Path, tmp_path: Path, task: str, given: bool
) -> None:
    output = tmp_path / "metrics.json"
    with inside(made):
        content = api.probe_store(STORE, COHORT, task, output, splits=Path("data/splits.parquet") if given else None)
    assert output.read_bytes() == (made / f"metrics/{task}/pca.json").read_bytes()
    assert content == read_json(output)


def test_probe_store_refuses_what_it_cannot_use(made: Path, tmp_path: Path) -> None:
    output, probes = tmp_path / "m.json", tmp_path / "probes.npz"
    with inside(made):
        with pytest.raises(UserError, match="task is 'mutations', expected mutation or survival"):
            api.probe_store(STORE, COHORT, "mutations", output)
        with pytest.raises(UserError, match=r"no splits table .*nowhere\.parquet"):
            api.probe_store(STORE, COHORT, "survival", output, splits=tmp_path / "nowhere.parquet")
        with pytest.raises(UserError, match="is not an embedding store"):
            api.probe_store(tmp_path / "nothing.zarr", COHORT, "survival", output)
        with pytest.raises(UserError, match="is not a cohort folder"):
            api.probe_store(STORE, tmp_path, "survival", output)
        few = pd.read_parquet("data/splits.parquet")
        few[few.label != "pan_cancer/TP53"].to_parquet(tmp_path / "few.parquet")
        with pytest.raises(UserError, match=r"has no 'pan_cancer/TP53', which has \d+ patients"):
            api.probe_store(STORE, COHORT, "mutation", output, splits=tmp_path / "few.parquet", save=probes)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["few.parquet"]


def test_no_metrics_are_written_where_the_probes_cannot_be_saved(spoilt: Path) -> None:
    text = (spoilt / "params.yaml").read_text().replace("min_events: 5", "min_events: 5000")
    (spoilt / "params.yaml").write_text(text)
    with inside(spoilt), pytest.raises(UserError, match="no probe could be fitted, so there is none to save"):
        api.probe_store(STORE, COHORT, "survival", spoilt / "m.json", save=spoilt / "p.npz")
    assert not (spoilt / "m.json").exists()
    assert not (spoilt / "p.npz").exists()


@pytest.mark.parametrize("task", ["mutation", "survival"])
def test_a_saved_probe_scores_every_sample_of_a_store(made: Path, tmp_path: Path, task: str) -> None:
    with inside(made):
        content = api.probe_store(STORE, COHORT, task, tmp_path / "m.json", save=tmp_path / "p.npz")
        table = api.predict_store(tmp_path / "p.npz", STORE, tmp_path / "scores.tsv")
    defined = [label for label, entry in content["labels"].items() if entry["mean"] is not None]
    samples = read_store(made / STORE).sample_id
    assert sorted(table.label.unique()) == sorted(defined)
    assert len(table) == len(defined) * len(samples)
    assert set(table.task) == {task}
    assert np.isfinite(table.score).all()
    written = pd.read_csv(tmp_path / "scores.tsv", sep="\t")
    np.testing.assert_allclose(written.score, table.score)


def test_predict_store_refuses_stores_of_another_encoder_or_other_options(made: Path, tmp_path: Path) -> None:
    probes, output = tmp_path / "p.npz", tmp_path / "out.parquet"
    with inside(made):
        api.probe_store(STORE, COHORT, "survival", tmp_path / "m.json", save=probes)
        with pytest.raises(UserError, match=r"trained on embeddings with model 'pca', but .* has 'expression'"):
            api.predict_store(probes, Path("data/embeddings/expression.zarr"), output)
        other = tmp_path / "other.zarr"
        embed_cohort("pca", "pca", COHORT, other, {"components": 5}, 512)
        with pytest.raises(UserError, match=r"options \{'components': 8\}, but .* has \{'components': 5\}"):
            api.predict_store(probes, other, output)
        with pytest.raises(UserError, match=r"out\.xlsx ends in '\.xlsx', expected \.parquet, \.csv or \.tsv"):
            api.predict_store(probes, STORE, tmp_path / "out.xlsx")
    assert not list(tmp_path.glob("*out*"))


def test_an_absent_encoder_has_empty_metrics_and_no_predictions(spoilt: Path, tmp_path: Path) -> None:
    text = (spoilt / "params.yaml").read_text()
    (spoilt / "params.yaml").write_text(text.replace("enabled: true", "enabled: false", 1))
    with inside(spoilt, "pca"):
        embed.main()
        probe_mutation.main()
        other = Path("data/embeddings/cancer_type.zarr")
        api.probe_store(other, COHORT, "survival", tmp_path / "m", save=tmp_path / "p")
        with pytest.raises(UserError, match=r"holds no embeddings .switched off in params.yaml"):
            api.predict_store(tmp_path / "p", STORE, tmp_path / "out.csv")
    content = read_json(spoilt / "metrics/mutation/pca.json")
    assert content["absent"] == "switched off in params.yaml (enabled: false)"
    assert content["labels"] == {}
    assert len(pd.read_parquet(spoilt / "data/predictions/pca.parquet/mutation.parquet")) == 0


def test_a_file_that_is_no_splits_table_is_refused(tmp_path: Path) -> None:
    junk = tmp_path / "junk.parquet"
    junk.write_bytes(b"not a table")
    with pytest.raises(UserError, match="is not a Parquet table"):
        api.read_splits(junk)
    pd.DataFrame({"label": ["a"]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(UserError, match="has no column task, split, fold, patient_id, role, site"):
        api.read_splits(tmp_path / "other.parquet")
