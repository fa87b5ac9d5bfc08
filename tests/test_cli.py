"""The `bulkprobe` command: every subcommand once as it is meant, and every kind of bad input."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import yaml

from bulkprobe import __version__, cli
from bulkprobe.cohort.read import read_cohort
from bulkprobe.encoders import MODELS, get_encoder
from bulkprobe.files import read_json, tree_hash
from bulkprobe.store import read_store
from pipeline import TOP
from workspace import copy_workspace, inside, shared_workspace

pytestmark = pytest.mark.xdist_group("workspace")


class Done(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture(name="made", scope="module")
def fixture_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_workspace(tmp_path_factory)


@pytest.fixture(name="run")
def fixture_run(made: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process, in the made workspace unless another folder is given."""

    def run(*arguments: object, folder: Path = made) -> Done:
        with inside(folder):
            monkeypatch.setattr(sys, "argv", ["bulkprobe", *map(str, arguments)])
            try:
                cli.main()
                status: object = 0
            except SystemExit as end:
                if isinstance(end.code, str):
                    print(end.code, file=sys.stderr)  # as the interpreter does
                status = 1 if isinstance(end.code, str) else end.code or 0
        captured = capfd.readouterr()
        return Done(int(str(status)), captured.out, captured.err)

    return run


def refused(done: Done, said: str) -> None:
    """Status other than 0, nothing on stdout, one sentence on stderr."""
    assert done.status != 0
    assert done.out == ""
    assert "Traceback" not in done.err
    lines = done.err.strip().splitlines()
    assert len(lines) == 1, done.err
    assert lines[0].startswith("error: ")
    assert said in lines[0]


def write_lab(folder: Path) -> Path:
    """A lab's tables: 40 patients, 30 genes, TPM."""
    rng = np.random.default_rng(5)
    ids = [f"L{i:02d}" for i in range(40)]
    genes = [f"ENSG{i:011d}" for i in range(1, 31)]
    tpm = pd.DataFrame(rng.lognormal(2, 1, (30, 40)).round(3), index=pd.Index(genes, name="gene"), columns=ids)
    tpm = tpm / tpm.sum() * 1e6
    tpm.to_csv(folder / "tpm.tsv", sep="\t")
    samples = pd.DataFrame({"sample_id": ids, "patient_id": ids, "cancer_type": "KIRC"})
    samples["os_time_days"] = rng.integers(30, 2000, 40)
    samples["os_event"] = rng.integers(0, 2, 40)
    samples.to_csv(folder / "samples.tsv", sep="\t", index=False)
    config = {"expression": "tpm.tsv", "expression_scale": "tpm", "samples": "samples.tsv"}
    (folder / "lab.yaml").write_text(yaml.safe_dump(config))
    return folder / "lab.yaml"


# ------------------------------------------------ as meant


def test_version_and_help(run: Run) -> None:
    assert run("--version").out == f"bulkprobe {__version__}\n"
    commands = run("--help").out
    for name in ("encoders", "fetch", "cohort", "check", "embed", "probe", "predict", "report", "diff", "verify"):
        assert name in commands
        assert run(name, "--help").status == 0


def test_encoders_lists_every_model_with_its_facts(run: Run) -> None:
    done = run("encoders")
    assert done.status == 0
    for model in MODELS:
        assert f"\n{model}: " in "\n" + done.out
    for fact in ("reads:", "gene ids:", "vector:", "options:", "code:", "weights:", "saw in training:"):
        assert done.out.count(fact) == len(MODELS)
    for fact in ("a token's value:", "trained on:", "saw TCGA:", "priors:"):
        assert done.out.count(fact) == sum(get_encoder(model).card.kind == "foundation" for model in MODELS)
    assert "not stated; latest: yes" in done.out
    assert done.out.count("circular scores:") == 3


@pytest.mark.parametrize("nested", ["the section itself", "files", "cohort.files"])
def test_cohort_check_and_embed_of_a_lab(run: Run, tmp_path: Path, nested: str) -> None:
    config = write_lab(tmp_path)
    section = yaml.safe_load(config.read_text())
    whole = {"files": {"files": section, "rules": {"zero_time": 1}}, "cohort.files": {"cohort": {"files": section}}}
    config.write_text(yaml.safe_dump(whole.get(nested, section)))
    folder = tmp_path / "cohort"
    done = run("cohort", "--files", config, "--output", folder)
    assert done.status == 0, done.err
    assert "bulkprobe check" in done.out
    assert len(read_cohort(folder).probing) == 40
    assert read_cohort(folder).provenance["rules"]["zero_time"] == (1 if nested == "files" else "drop")
    checked = run("check", folder)
    assert checked.status == 0
    assert "encoder pca: can read it" in checked.out
    assert run("embed", "expression", "--input", folder, "--output", tmp_path / "e.zarr").status == 0
    assert read_store(tmp_path / "e.zarr").embedding.shape == (40, 30)


def test_embed_takes_options_from_params_and_leaves_a_finished_store_alone(
    run: Run, made: Path, tmp_path: Path
) -> None:
    store = tmp_path / "pca.zarr"
    command = ("embed", "pca", "--input", "data/cohort", "--output", store)
    assert "is written" in run(*command).out
    assert tree_hash(store) == tree_hash(made / "data/embeddings/pca.zarr")  # the same bytes as the stage
    times = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    done = run(*command)
    assert done.status == 0
    assert "was complete and is left as it is" in done.out
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == times
    assert "is written" in run(*command, "--set", "components=5").out
    assert read_store(store).attributes["options"] == {"components": 5}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pca.zarr"]


def test_embed_resumes_at_the_first_missing_shard(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bulkprobe.encoders.base import LogExpression

    store = tmp_path / "x.zarr"
    command = ("embed", "expression", "--input", "data/cohort", "--output", store, "--shard-size", "64")
    embed, seen = LogExpression.embed, []

    def stopped(session: LogExpression, values: np.ndarray | None, obs: pd.DataFrame) -> np.ndarray:
        if len(seen) == 2:
            raise SystemExit(9)  # killed
        seen.append(len(obs))
        return embed(session, values, obs)

    def counted(session: LogExpression, values: np.ndarray | None, obs: pd.DataFrame) -> np.ndarray:
        seen.append(len(obs))
        return embed(session, values, obs)

    monkeypatch.setattr(LogExpression, "embed", stopped)
    assert run(*command).status == 9
    assert not store.exists()
    monkeypatch.setattr(LogExpression, "embed", counted)
    assert "is written" in run(*command).out
    assert seen == [64] * 4 + [sum(seen) - 4 * 64]  # no shard twice
    assert sum(seen) == len(read_store(store).sample_id)
    whole = tmp_path / "whole.zarr"
    run("embed", "expression", "--input", "data/cohort", "--output", whole, "--shard-size", "64")
    assert tree_hash(whole) == tree_hash(store)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole.zarr", "x.zarr"]


@pytest.mark.parametrize("task", ["mutation", "survival"])
def test_probe_save_and_predict(run: Run, made: Path, tmp_path: Path, task: str) -> None:
    store = "data/embeddings/pca.zarr"
    output, probes, scores = tmp_path / "m.json", tmp_path / "p.npz", tmp_path / "scores.parquet"
    done = run("probe", store, "--cohort", "data/cohort", "--task", task, "--output", output, "--save", probes)
    assert done.status == 0, done.err
    assert output.read_bytes() == (made / f"metrics/{task}/pca.json").read_bytes()
    assert run("predict", probes, store, "--output", scores).status == 0
    table = pd.read_parquet(scores)
    assert list(table.columns) == ["task", "label", "sample_id", "score"]
    defined = [label for label, entry in read_json(output)["labels"].items() if entry["mean"] is not None]
    assert sorted(table.label.unique()) == sorted(defined)


def test_report(run: Run, made: Path, tmp_path: Path) -> None:
    copy = copy_workspace(made, tmp_path / "copy")
    before = (copy / "metrics/report.html").read_bytes()
    (copy / "metrics/report.html").unlink()
    assert "metrics/report.html" in run("report", folder=copy).out
    assert (copy / "metrics/report.html").read_bytes() == before
    assert "simulated" in (copy / "metrics/methods.md").read_text()
    assert (copy / "metrics/references.bib").read_text().startswith("@inproceedings{kim2026,")


# ------------------------------------------------ bad input


def test_an_unknown_encoder_names_the_nearest(run: Run, tmp_path: Path) -> None:
    done = run("embed", "expresion", "--input", "data/cohort", "--output", tmp_path / "x.zarr")
    refused(done, "there is no encoder 'expresion'; did you mean 'expression'?")
    assert not list(tmp_path.iterdir())


def test_a_missing_folder(run: Run, tmp_path: Path) -> None:
    nothing, out = tmp_path / "nothing", tmp_path / "out"
    refused(run("embed", "pca", "--input", nothing, "--output", out), "nothing is not a cohort folder")
    refused(run("check", nothing), "nothing is not a cohort folder")
    refused(run("cohort", "--files", nothing, "--output", out), "is not there: give the YAML file")
    probing = ("--cohort", "data/cohort", "--task", "mutation", "--output", out)
    refused(run("probe", nothing, *probing), "is not an embedding store: make one with `bulkprobe embed`")
    refused(
        run("predict", nothing, "data/embeddings/pca.zarr", "--output", tmp_path / "o.csv"), "There is no probe file"
    )
    refused(run("verify", folder=tmp_path), "params.yaml is not here: run the command in the project's top folder")
    assert not list(tmp_path.iterdir())


def test_results_that_are_not_there_yet(run: Run, made: Path, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes((made / "params.yaml").read_bytes())
    refused(run("verify", folder=tmp_path), "this folder is in no DVC project, so nothing is recorded")
    refused(run("report", folder=tmp_path), "metrics/mutation/pca.json")


def test_labels_of_which_the_cohort_has_nobody(run: Run, made: Path, tmp_path: Path) -> None:
    probing = ("probe", made / "data/embeddings/pca.zarr", "--cohort", made / "data/cohort", "--task", "survival")
    probing += ("--set", "probe_survival.types=[UVM]", "--output", tmp_path / "m.json", "--save", tmp_path / "p.npz")
    refused(run(*probing), "no patient of this cohort has a follow-up and one of the types UVM: pass")
    shipped = run(*probing, folder=tmp_path)  # without params.yaml: by the one that came with the package
    refused(shipped, "pass --set 'probe_survival.types=[BLCA, BRCA, COAD, GBM, ")
    other = [f"--set=probe_mutation.{setting}" for setting in ("genes=[ATRX]", "within_type={}", "hotspot_genes=[]")]
    refused(run(*probing[:5], "mutation", *other, *probing[8:10]), "has any of the mutation labels of section")
    probing = (*probing[:6], "--set", "probe_survival.min_events=9999", *probing[8:])
    refused(run(*probing), "no probe could be fitted, so there is none to save (")
    assert not list(tmp_path.iterdir())


def test_a_wrong_task(run: Run, tmp_path: Path) -> None:
    done = run(
        "probe",
        "data/embeddings/pca.zarr",
        "--cohort",
        "data/cohort",
        "--task",
        "mutations",
        "--output",
        tmp_path / "m",
    )
    refused(done, "task is 'mutations', expected mutation or survival")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("components", "--set 'components' has no '=': write --set KEY=VALUE"),
        ("components=[1", "--set 'components=[1': '[1' is no YAML value"),
        ("component=3", "encoder pca has no option component: its options are components"),
    ],
)
def test_a_bad_setting(run: Run, tmp_path: Path, setting: str, said: str) -> None:
    done = run("embed", "pca", "--input", "data/cohort", "--output", tmp_path / "x.zarr", "--set", setting)
    refused(done, said)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("expression: [1", "is not valid YAML"),
        ("- a\n- b\n", "holds list, but a mapping (expression, samples, …) was expected"),
        ("", "is empty: write expression"),
        ("cohort: {files: null}", "holds NoneType, but a mapping"),
        ("expressoin: x.tsv", "unknown key 'expressoin' (did you mean 'expression'?)"),
        ("files: {expression: x.tsv, expression_scale: tpm, samples: s.tsv}", "no such file: "),
        ("files: {expression: x.tsv, expression_scale: tpms, samples: s.tsv}", "expression_scale is 'tpms'"),
        ("{rules: [1], expression: x.tsv}", "rules is [1], but a mapping was expected"),
        ("{rules: {gene: [TP53]}, expression: x.tsv}", "unknown key 'gene' (did you mean 'genes'?)"),
    ],
)
def test_a_bad_configuration(run: Run, tmp_path: Path, text: str, said: str) -> None:
    config = tmp_path / "lab.yaml"
    config.write_text(text)
    refused(run("cohort", "--files", config, "--output", tmp_path / "out"), said)
    assert [path.name for path in tmp_path.iterdir()] == ["lab.yaml"]


def test_nothing_else_can_be_fetched(run: Run) -> None:
    refused(run("fetch", "gtex"), "there is nothing to fetch for 'gtex'")


def test_an_output_that_cannot_be_written_is_one_sentence(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    output = tmp_path / "file" / "m.json"
    done = run("probe", "data/embeddings/pca.zarr", "--cohort", "data/cohort", "--task", "survival", "--output", output)
    refused(done, str(tmp_path / "file"))


def test_the_command_as_a_process(made: Path, tmp_path: Path) -> None:
    """One sentence, status 1; with --debug the traceback."""
    env = {**os.environ, "PYTHONPATH": str(TOP / "src")}
    command = [sys.executable, "-c", "from bulkprobe.cli import main; main()", "check", str(tmp_path / "none")]
    plain = subprocess.run(command, cwd=made, env=env, capture_output=True, text=True, check=False)
    assert plain.returncode == 1
    assert plain.stdout == ""
    assert plain.stderr.startswith("error: none is not a cohort folder")
    assert len(plain.stderr.splitlines()) == 1
    debug = subprocess.run([*command, "--debug"], cwd=made, env=env, capture_output=True, text=True, check=False)
    assert debug.returncode == 1
    assert "Traceback" in debug.stderr


def test_usage_errors_have_status_two(run: Run) -> None:
    done = run("embed", "pca")
    assert done.status == 2
    assert "--input" in done.err
    assert "Traceback" not in done.err


def test_nothing_foreign_is_replaced(run: Run, tmp_path: Path) -> None:
    config = write_lab(tmp_path)
    refused(run("cohort", "--files", config, "--output", tmp_path), "is no cohort folder (it holds lab.yaml")
    refused(run("cohort", "--files", config, "--output", config), "is a file")
    folder = tmp_path / "cohort"
    for _ in range(2):  # an older cohort may be replaced
        assert run("cohort", "--files", config, "--output", folder).status == 0
    refused(run("embed", "burden", "--input", folder, "--output", folder), "is no embedding store")
    refused(run("embed", "burden", "--input", folder, "--output", config), "is a file")
    assert run("check", folder).status == 0
    config.write_bytes(b"samples: K\xf6ln")
    refused(run("cohort", "--files", config, "--output", folder), "is not valid YAML")
    config.write_text("# nothing\n")
    refused(run("cohort", "--files", config, "--output", folder), "is empty")
