"""`bulkprobe verify`: one changed byte in any artefact is found and named, and an untouched study is well."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from bulkprobe import cli
from bulkprobe.encoders import get_encoder
from bulkprobe.encoders.base import Release, WeightFile
from bulkprobe.files import file_hash, read_json, write_json
from bulkprobe.stages import verify
from bulkprobe.stages.checkpoints import Checkpoint, folder_hash, hashes_of, write_record
from bulkprobe.stages.locked import Finding
from bulkprobe.stages.verify import Verdict, verify_results
from pipeline import Copy, make_copy
from workspace import inside

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("pipeline")]


@pytest.fixture(autouse=True)
def _no_dvc_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(tmp_path / "global"))
    monkeypatch.setenv("DVC_SYSTEM_CONFIG_DIR", str(tmp_path / "system"))


@pytest.fixture
def study(untouched: Path, tmp_path: Path) -> Path:
    """A finished study to spoil. Files are copied, so none is a link into a cache."""
    return Path(shutil.copytree(untouched, tmp_path / "study"))


def verdict(folder: Path) -> Verdict:
    with inside(folder):
        return verify_results()


def flip(path: Path, place: int = -9) -> None:
    """Change one bit and leave size and time as they were: what DVC's own record of hashes does not notice."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[place] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def rewrite(path: Path, table: pd.DataFrame) -> None:
    path.unlink()
    table.to_parquet(path, index=False)


def wrong(folder: Path) -> list[str]:
    return [f"{found.stage}: {found.what}" for found in verdict(folder).findings if found.kind == "wrong"]


def test_an_untouched_study_is_well(untouched: Path) -> None:
    found = verdict(untouched)
    assert found.findings == ()
    lock = yaml.safe_load((untouched / "dvc.lock").read_text())["stages"]
    assert found.hashed.stages == len(lock)
    assert found.hashed.outputs == sum(len(stage["outs"]) for stage in lock.values())
    assert found.hashed.size == sum(out["size"] for stage in lock.values() for out in stage["outs"])
    assert "data/splits.parquet: every patient once a split, 7 labels" in found.checked
    assert "metrics/mutation/pca.json: 12 scores equal to those recomputed from the predictions" in found.checked
    assert found.summary().startswith(f"all is well: {found.hashed.outputs} outputs (")


# One file of every kind of artefact: the stage that made it, and how it is named.
ARTEFACTS = {
    "data/raw/mc3.v0.2.8.PUBLIC.maf.gz": ("fetch", "data/raw (changed mc3.v0.2.8.PUBLIC.maf.gz)"),
    "data/truth/scores.parquet": ("fetch", "data/truth (changed scores.parquet)"),
    "data/cohort/survival.parquet": ("cohort", "data/cohort/survival.parquet"),
    "data/cohort/expression.zarr/X/c/0/0": ("cohort", "data/cohort/expression.zarr (changed X/c/0/0)"),
    "data/gene_sets/sets.gmt": ("gene_sets", "data/gene_sets (changed sets.gmt)"),
    "data/splits.parquet": ("splits", "data/splits.parquet"),
    "models/pca/release.json": ("weights@pca", "models/pca (changed release.json)"),
    "data/embeddings/pca.zarr/embedding/c/0/0": ("embed@pca", "data/embeddings/pca.zarr (changed embedding/c/0/0)"),
    "data/embeddings/expression.zarr/zarr.json": ("embed@expression", "expression.zarr (changed zarr.json)"),
    "data/predictions/pca.parquet/mutation.parquet": ("probe_mutation@pca", "pca.parquet/mutation.parquet"),
    "metrics/survival/expression.json": ("probe_survival@expression", "metrics/survival/expression.json"),
    "metrics/shift/pca.json": ("shift@pca", "metrics/shift/pca.json"),
    "metrics/biology/pca.json": ("biology@pca", "metrics/biology/pca.json"),
    "metrics/compare.json": ("compare", "metrics/compare.json"),
    "metrics/summary.json": ("summary", "metrics/summary.json"),
    "metrics/plots/roc.csv": ("summary", "metrics/plots (kept in git: `git diff` shows what of it)"),
    "metrics/report.html": ("summary", "metrics/report.html"),
    "metrics/tables/added-OS.csv": ("summary", "metrics/tables (changed added-OS.csv)"),
}


def test_one_changed_bit_of_every_kind_of_artefact_is_found_and_named(study: Path) -> None:
    for path in ARTEFACTS:
        flip(study / path)
    found = verdict(study)
    said = {stage: "" for stage, _ in ARTEFACTS.values()}
    for finding in found.findings:
        if finding.kind == "changed":
            said[finding.stage] += finding.what + ", "
    for path, (stage, named) in ARTEFACTS.items():
        assert f"{named}, " in said[stage], path
    # All else that is said is about files that do not fit together any more.
    assert {finding.kind for finding in found.findings} == {"changed", "wrong"}


@pytest.mark.parametrize("path", ["data/embeddings/pca.zarr/embedding/c/0/0", "metrics/report.html"])
def test_nothing_else_is_blamed_for_one_changed_bit(study: Path, path: str) -> None:
    flip(study / path)
    assert {finding.stage for finding in verdict(study).findings} == {ARTEFACTS[path][0]}


def test_missing_and_added_files_of_a_folder_are_named(study: Path) -> None:
    (study / "data/cohort/flow.json").unlink()
    (study / "data/truth/scores.parquet").unlink()
    (study / "data/truth/note.txt").write_text("mine")
    assert verdict(study).findings[:2] == (
        Finding("missing", "cohort", "data/cohort/flow.json"),
        Finding("changed", "fetch", "data/truth (missing scores.parquet; added note.txt)"),
    )


def test_a_stage_without_a_record_and_one_run_otherwise(study: Path) -> None:
    lock = yaml.safe_load((study / "dvc.lock").read_text())
    del lock["stages"]["probe_survival@pca"]
    splits = next(d for d in lock["stages"]["probe_mutation@pca"]["deps"] if d["path"] == "data/splits.parquet")
    splits["md5"] = "0" * 32
    (study / "dvc.lock").write_text(yaml.safe_dump(lock))
    params = yaml.safe_load((study / "params.yaml").read_text())
    params["biology"]["random_sets"] += 1
    (study / "params.yaml").unlink()
    (study / "params.yaml").write_text(yaml.safe_dump(params))
    source = study / "src/bulkprobe/splits.py"
    source.write_text(source.read_text() + "# changed\n")
    found = {(finding.kind, finding.stage): finding.what for finding in verdict(study).findings}
    own = "data/predictions/pca.parquet/survival.parquet, metrics/survival/pca.json"
    assert found["not locked", "probe_survival@pca"] == own
    assert found["stale", "probe_mutation@pca"].startswith("was run with other data/splits.parquet, src/bulkprobe/sp")
    assert found["stale", "biology@pca"] == (
        "was run with other src/bulkprobe/splits.py, params.yaml: biology.random_sets than is here"
    )
    assert found["stale", "splits"] == "was run with other src/bulkprobe/splits.py than is here"


def test_a_clone_without_data_says_what_is_not_here(
    reproduced: Copy, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reproduced.run("git", "clone", "--quiet", str(reproduced.folder), str(tmp_path / "clone"))
    monkeypatch.setattr(sys, "argv", ["bulkprobe", "verify", "--json", str(tmp_path / "v.json")])
    monkeypatch.chdir(tmp_path / "clone")
    with pytest.raises(
        SystemExit, match=r"are not here: `dvc pull` brings them from a remote, `dvc repro` makes again"
    ):
        cli.main()
    out = capsys.readouterr().out.splitlines()
    assert "missing     embed@pca: data/embeddings/pca.zarr" in out
    content = read_json(tmp_path / "v.json")
    assert content["ok"] is False
    assert content["counts"]["missing"] > 20
    assert content["counts"]["outputs"] == 3  # those that git keeps: summary.json, headline.json, plots
    assert {finding["kind"] for finding in content["findings"]} == {"missing"}


def test_the_command_ends_well(untouched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with inside(untouched, "verify", "--quiet"):
        sys.argv[0] = "bulkprobe"
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert not ended.value.code
    assert capsys.readouterr().out.startswith("all is well: ")


# ------------------------------------------------ files that do not fit together


def test_a_changed_comparison(study: Path) -> None:
    path = study / "metrics/compare.json"
    content = read_json(path)
    content["tasks"]["survival"]["against_reference"]["expression"]["mean"] = 0.2
    write_json(path, content)
    (said,) = wrong(study)
    assert said.startswith("compare: survival: metrics/compare.json says mean 0.2 of expression")


@pytest.mark.parametrize("task", ["mutation", "survival"])
def test_a_changed_metrics_file(study: Path, task: str) -> None:
    path = study / f"metrics/{task}/pca.json"
    content = read_json(path)
    label = "pan_cancer/TP53" if task == "mutation" else "GBMLGG/OS"
    content["labels"][label]["per_split"][1] += 0.00001
    write_json(path, content)
    assert wrong(study)[0].startswith(f"probe_{task}@pca: {label}, split 1 of pca: the metrics say")


def test_a_patient_twice_in_a_split(study: Path) -> None:
    table = pd.read_parquet(study / "data/splits.parquet")
    again = table[(table.split == 2) & (table.role == "test")].iloc[:1].assign(role="train", fold=0)
    rewrite(study / "data/splits.parquet", pd.concat([table, again], ignore_index=True))
    assert f"has patients twice in a split: {again.patient_id.iloc[0]}" in wrong(study)[0]


def test_predictions_for_a_training_patient(study: Path) -> None:
    """The score may stay the same: who was scored is checked by name."""
    path = study / "data/predictions/pca.parquet/mutation.parquet"
    table, splits = pd.read_parquet(path), pd.read_parquet(study / "data/splits.parquet")
    here = (table.label == "pan_cancer/TP53") & (table.split == 0)
    trained = splits[(splits.label == "pan_cancer/TP53") & (splits.split == 0) & (splits.role == "train")].patient_id
    names = table.patient_id.astype(object)
    names[here.idxmax()] = trained.iloc[0]
    rewrite(path, table.assign(patient_id=names))
    (said,) = wrong(study)
    assert "TP53, split 0 of pca: the predictions are not those of the split's test patients" in said


def test_lost_predictions(study: Path) -> None:
    path = study / "data/predictions/pca.parquet/survival.parquet"
    table = pd.read_parquet(path)
    rewrite(path, table[table.split != 1])
    assert "split 1 of pca: the predictions are not those of the split's test patients" in wrong(study)[0]


def test_a_store_of_another_cohort_and_of_other_weights(study: Path) -> None:
    path = study / "data/embeddings/pca.zarr/zarr.json"
    content = json.loads(path.read_text())
    content["attributes"] |= {"cohort_sha256": "ab" * 32, "checkpoint_sha256": "cd" * 32}
    path.unlink()
    path.write_text(json.dumps(content))
    (said,) = wrong(study)
    assert said.startswith("embed@pca: data/embeddings/pca.zarr was made of something else than is here: cohort_sha256")
    assert "checkpoint_sha256 cdcdcdcdcdcd in the store, None here; run `dvc repro embed@pca`" in said


def test_weights_are_held_against_their_record_and_what_was_published(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = study / "models/pca/R1"
    folder.mkdir()
    (folder / "weights").write_bytes(b"as published")

    def record() -> None:
        (study / "models/pca/release.json").unlink(missing_ok=True)
        hashes = hashes_of(folder)
        write_record(folder.parent, "scgpt", Checkpoint(folder, folder_hash(hashes), "R1", verified=True), hashes)

    sha256 = file_hash(folder / "weights")
    release = Release("R1", (WeightFile("weights", sha256=sha256),), 8, None)
    monkeypatch.setattr(type(get_encoder("scgpt").card), "release", lambda card, name: release)
    record()
    with inside(study):
        assert verify._check_weights("pca", "scgpt") == "models/pca/R1: 1 files have the hashes of release.json"
    flip(folder / "weights", 0)
    (said,) = [text for text in wrong(study) if text.startswith("weights@pca")]
    assert "the files in models/pca/R1 have changed since they were checked" in said
    record()  # files and record changed together: the published hash still tells
    (said,) = [text for text in wrong(study) if text.startswith("weights@pca")]
    assert "recorded as R1, but its files have other hashes than were published" in said


def test_before_the_first_run_nothing_is_locked(tmp_path: Path) -> None:
    found = verdict(make_copy(tmp_path).folder)
    assert {finding.kind for finding in found.findings} == {"not locked"}
    assert "not locked  fetch: data/raw, data/truth" in map(str, found.findings)
