"""`dvc repro` on a small cohort: what it writes, what it reruns, and that two folders give the same bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import yaml
import zarr

from pipeline import ENCODERS, MEASURED, Copy, make_copy, stages_named, write_params

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("pipeline")]
TASKS = ("mutation", "survival")
ENTRY = {"mean", "sd", "per_split", "reasons", "reason", "n", "penalty", "grid_edge_hits", "cohort"}


@pytest.fixture(name="changed")
def fixture_changed(reproduced: Copy) -> Iterator[Copy]:
    """The copy, to change params.yaml in; afterwards everything is as it was."""
    yield reproduced
    reproduced.run("git", "checkout", "--quiet", "--force", "HEAD")
    reproduced.dvc("checkout", "--force")
    assert stages_named(reproduced.dvc("repro", "--dry").stdout) == set()


def read(folder: Path, name: str) -> dict:  # type: ignore[type-arg]
    return json.loads((folder / name).read_text())  # type: ignore[no-any-return]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", ENCODERS)
def test_metrics_files_have_the_promised_keys(untouched: Path, name: str, task: str) -> None:
    content = read(untouched, f"metrics/{task}/{name}.json")
    head = {"encoder", "task", "metric", "width", "common_width", "transform", "simulated", "untrained", "absent"}
    head |= {"protocol", "labels"}
    assert set(content) == head | ({"overall"} if task == "survival" else set())
    assert (content["encoder"], content["task"], content["simulated"]) == (name, task, True)
    assert content["metric"] == {"mutation": "auroc", "survival": "c_index"}[task]
    protocol = {"n_splits", "test_fraction", "inner_folds", "scheme", "penalties", "selection", "seed"}
    assert set(content["protocol"]) == protocol
    own = {
        "mutation": {"gene", "kind", "positives", "average_precision", "without_hypermutated", "common_width"},
        "survival": {"endpoint", "events", "advice", "common_width", "uno_c", "integrated_brier"}
        | {"clinical", "with_clinical", "added_value"},
    }[task]
    assert content["labels"]
    for label, entry in content["labels"].items():
        assert set(entry) >= ENTRY | own, label
        assert len(entry["per_split"]) == len(entry["penalty"]) == 3
        assert (entry["mean"] is None) == (entry["reason"] is not None)
        for split, value in enumerate(entry["per_split"]):
            assert (value is None) == (str(split) in entry["reasons"])
        if label.startswith("pan_cancer/"):
            assert set(entry["within_type"]) >= {"mean", "sd", "per_split", "pairs", "n", "macro_mean", "reason"}
            assert set(entry["informative_types"]) >= {"mean", "sd", "per_split", "types", "reason"}


def test_summary_and_headline_have_the_promised_keys(untouched: Path) -> None:
    summary = read(untouched, "metrics/summary.json")
    keys = {"mutation_pan_cancer", "mutation_within_type", "survival"}
    keys |= {f"mutation_{name}" for name in ("BRCA", "COAD", "LUAD", "RCC")}
    assert set(summary) == set(ENCODERS)
    assert all(set(values) == keys for values in summary.values())
    headline = read(untouched, "metrics/headline.json")
    assert {key: set(values) for key, values in headline.items()} == {"within_type_auroc": {"pca"}, "c_index": {"pca"}}
    assert headline["within_type_auroc"]["pca"] == summary["pca"]["mutation_within_type"]
    assert headline["c_index"]["pca"] == summary["pca"]["survival"]


@pytest.mark.parametrize("name", ENCODERS)
def test_predictions_of_both_tasks_are_read_as_one_table(untouched: Path, name: str) -> None:
    table = pd.read_parquet(untouched / f"data/predictions/{name}.parquet")
    assert list(table.columns) == ["task", "label", "split", "patient_id", "score", "truth", "time", "event"]
    assert set(table.task) == set(TASKS)
    mutation, survival = table[table.task == "mutation"], table[table.task == "survival"]
    assert mutation.truth.notna().all()
    assert mutation.time.isna().all()
    assert survival.truth.isna().all()
    assert (survival.time > 0).all()
    assert survival.event.notna().all()


def test_splits_have_the_promised_columns(untouched: Path) -> None:
    table = pd.read_parquet(untouched / "data/splits.parquet")
    assert list(table.columns) == ["task", "label", "split", "fold", "patient_id", "role", "site"]
    assert set(table.role) == {"train", "test"}
    assert set(table.split) == {0, 1, 2}


@pytest.mark.parametrize("name", ENCODERS)
def test_stores_are_plain_zarr_with_what_made_them(untouched: Path, name: str) -> None:
    group = zarr.open_group(str(untouched / f"data/embeddings/{name}.zarr"), mode="r")
    samples = pd.read_parquet(untouched / "data/cohort/samples.parquet")
    assert group.metadata.zarr_format == 3
    assert group["embedding"].dtype == "float32"
    assert group["sample_id"][:].tolist() == samples.sample_id.tolist()
    assert group["embedding"].shape[0] == len(samples)
    promised = {"encoder", "release", "checkpoint_sha256", "options", "cohort_sha256", "precision"}
    assert set(group.attrs) >= promised
    assert group.attrs["encoder"] == name


def test_the_report_is_one_page_that_says_it_is_simulated(untouched: Path) -> None:
    text = (untouched / "metrics/report.html").read_text()
    assert "Simulated cohort" in text
    assert str(untouched) not in text
    for link in ('src="http', "src='http", "@import"):
        assert link not in text


def test_nothing_runs_again_when_nothing_changed(reproduced: Copy) -> None:
    output = reproduced.dvc("repro").stdout
    assert stages_named(output) == set()
    assert "Data and pipelines are up to date." in output


def test_another_penalty_reruns_one_task(changed: Copy) -> None:
    params = changed.params()
    params["probe_survival"]["penalties"] = [1.0, 0.01]
    write_params(changed.folder, params)
    # `compare` reads no parameter of the probes: it reruns once their results have changed.
    wanted = {f"probe_survival@{name}" for name in ENCODERS} | {f"shift@{MEASURED}", "summary"}
    assert set(json.loads(changed.dvc("status", "--json").stdout)) == wanted
    assert stages_named(changed.dvc("repro", "--dry").stdout) - {"compare"} == wanted


def test_an_option_of_an_encoder_reruns_that_encoder(changed: Copy) -> None:
    params = changed.params()
    params["encoders"]["pca"]["options"]["components"] = 7
    write_params(changed.folder, params)
    measured = {"shift@pca", "biology@pca"}
    at_once = {"embed@pca", "compare", "summary", *measured}
    assert set(json.loads(changed.dvc("status", "--json").stdout)) == at_once
    ran = stages_named(changed.dvc("repro").stdout)
    assert ran == {"probe_mutation@pca", "probe_survival@pca", *at_once}
    assert read(changed.folder, "metrics/mutation/pca.json")["transform"] == {"kind": "pca", "size": 7}


def test_an_encoder_that_is_switched_off_is_named_absent_and_stops_nothing(changed: Copy) -> None:
    params = changed.params()
    params["encoders"]["expression"]["enabled"] = False
    write_params(changed.folder, params)
    ran = stages_named(changed.dvc("repro").stdout)
    assert ran == {
        "weights@expression",
        "embed@expression",
        "probe_mutation@expression",
        "probe_survival@expression",
        "compare",
        "summary",
    }
    for task in TASKS:
        assert "enabled: false" in read(changed.folder, f"metrics/{task}/expression.json")["absent"]
    assert set(read(changed.folder, "metrics/summary.json")["expression"].values()) == {None}
    assert (
        "expression (switched off in params.yaml (enabled: false))"
        in (changed.folder / "metrics/report.html").read_text()
    )


def test_a_broken_params_file_stops_a_stage_with_one_sentence(changed: Copy) -> None:
    params = changed.params()
    params["splits"]["n_split"] = params["splits"].pop("n_splits")
    write_params(changed.folder, params)
    done = changed.run("env", "PYTHONPATH=src", "python", "-m", "bulkprobe.stages.splits", check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: params.yaml: ")
    assert "unknown key 'n_split'; did you mean 'n_splits'?" in lines[0]
    failed = changed.dvc("repro", check=False)
    assert failed.returncode != 0
    assert "Traceback" not in failed.stdout + failed.stderr


def test_dvc_shows_metrics_and_plots(reproduced: Copy, tmp_path: Path) -> None:
    shown = json.loads(reproduced.dvc("metrics", "show", "--json").stdout)
    assert shown[""]["data"]["metrics/headline.json"]["data"] == read(reproduced.folder, "metrics/headline.json")
    done = reproduced.dvc("plots", "show", "--out", str(tmp_path / "plots"))
    page = (tmp_path / "plots/index.html").read_text()
    assert "index.html" in done.stdout
    for name in ("tasks", "genes", "cancers", "compare", "roc", "kaplan_meier", "planted"):
        assert (reproduced.folder / f"metrics/plots/{name}.csv").is_file()
        assert f"#metrics_plots_{name}_csv" in page, name


def test_two_folders_give_the_same_bytes(reproduced: Copy, tmp_path: Path) -> None:
    # From the first copy, not from the checkout, which somebody may be editing.
    other = make_copy(tmp_path / "a folder of another name", reproduced.folder)
    other.dvc("repro")
    locked = (other.folder / "dvc.lock").read_bytes()
    assert locked == (reproduced.folder / "dvc.lock").read_bytes()
    stages = yaml.safe_load(locked)["stages"]
    assert len(stages) == 8 + 4 * len(ENCODERS)  # shift and biology of one encoder, and gene_sets, among the eight
    for name in ("metrics/summary.json", "metrics/headline.json", "metrics/plots/roc.csv"):
        assert (other.folder / name).read_bytes() == (reproduced.folder / name).read_bytes()
