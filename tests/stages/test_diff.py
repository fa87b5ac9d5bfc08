"""`bulkprobe diff`: hand-made revisions with known differences, and a small study under git and DVC."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from bulkprobe import cli
from bulkprobe.errors import UserError
from bulkprobe.report.tables import summarise
from bulkprobe.stages.diff import compare_revisions, diff, moved
from bulkprobe.stages.diff_text import lines
from bulkprobe.stages.revisions import Revision, read_revision
from bulkprobe.statistics import holm, paired_test
from pipeline import Copy

SPLITS = 10
SAME = "constant score"
NOISE = np.round(np.random.default_rng(3).normal(0, 0.01, (4, SPLITS)), 6)
PARAMS: dict[str, Any] = {
    "splits": {"n_splits": SPLITS, "test_fraction": 0.2},
    "encoders": {name: {"model": name, "options": {}} for name in ("pca", "expression", "cancer_type")},
    "probe_mutation": {"penalties": [1.0, 0.00001]},
    "compare": {"level": 0.95},
}


def block(values: Any, reason: str = SAME) -> dict[str, Any]:
    per_split = [None] * SPLITS if values is None else [round(float(value), 6) for value in values]
    mean = None if values is None else round(float(np.mean(per_split)), 6)
    return {"mean": mean, "per_split": per_split, "reason": None if values is not None else reason}


def metrics(shift: Any = 0.0, survival: Any = 0.0, absent: str | None = None, within: bool = True) -> dict[str, Any]:
    """Metrics of one encoder: two pan-cancer genes at 0.7 and one survival label at 0.6, plus a shift a split."""
    base = 0.7 + NOISE[0] + shift
    labels = {
        f"pan_cancer/{gene}": {
            **{"cohort": "pan_cancer", "gene": gene, "kind": "nonsilent"},
            **block(base),
            "within_type": block(base - 0.1 if within else None),
        }
        for gene in ("TP53", "KRAS")
    }
    outcome = {"KIRC/OS": {"cohort": "KIRC", "endpoint": "OS", **block(0.6 + NOISE[1] + survival)}}
    empty: dict[str, Any] = {}
    return {
        "mutation": {"absent": absent, "labels": empty if absent else labels},
        "survival": {"absent": absent, "labels": empty if absent else outcome},
    }


def locked(**changed: str) -> dict[str, Any]:
    """Stages as dvc.lock holds them; `changed` replaces hashes by the last part of a path."""

    def entry(path: str) -> dict[str, str]:
        return {"path": path, "hash": "md5", "md5": changed.get(Path(path).stem, "0123456789abcdef")}

    splits = {"cmd": "split", "deps": [entry("src/cut.py")], "outs": [entry("data/splits.parquet")]}
    probe = {
        "cmd": "probe",
        "deps": [entry("data/splits.parquet"), entry("src/fit.py")],
        "outs": [entry("metrics/mutation/pca.json")],
    }
    return {"splits": splits, "probe_mutation@pca": probe}


BASE = {"pca": metrics(), "expression": metrics(0.02), "cancer_type": metrics(-0.1, within=False)}


def revision(name: str, **of: Any) -> Revision:
    return Revision(name, **{"params": PARAMS, "stages": locked(), "metrics": BASE, **of})


def said(result: dict[str, Any], markdown: bool = False) -> str:
    return "\n".join(lines(result, markdown))


def test_equal_revisions_differ_in_nothing() -> None:
    result = compare_revisions(revision("one"), revision("two"))
    assert said(result) == "Nothing differs between one and two."
    assert result["parameters"] == []
    assert result["scores"]["unchanged"] == list(BASE)


def test_a_shift_is_found_with_the_test_of_its_differences() -> None:
    by_split = {"pca": 0.05 + NOISE[2], "expression": NOISE[3]}
    after = revision("two", metrics={**BASE, "pca": metrics(by_split["pca"]), "expression": metrics(0.02 + NOISE[3])})
    result = compare_revisions(revision("one"), after)
    entries = result["scores"]["tasks"]["mutation_pan_cancer"]["encoders"]
    assert set(entries) == set(by_split)  # an unchanged encoder takes no part in the correction
    tests = {name: paired_test(list(values), 0.2) for name, values in by_split.items()}
    adjusted = holm([tests[name].p_calibrated for name in entries])
    for (name, entry), p_holm in zip(entries.items(), adjusted, strict=True):
        assert entry["difference"] == pytest.approx(float(by_split[name].mean()), abs=2e-6)
        assert entry["p_calibrated"] == pytest.approx(tests[name].p_calibrated, rel=2e-3)
        assert entry["p_holm"] == pytest.approx(p_holm, rel=2e-3)
        assert entry["low"] == pytest.approx(tests[name].low, abs=2e-6)
        assert entry["labels"] == ["pan_cancer/TP53", "pan_cancer/KRAS"]
    assert set(moved(result["scores"])) == {"pca"}
    assert result["sentence"].startswith("1 of 3 encoders moved by more than chance in some task: pca (Pan-cancer +0.0")
    assert result["sentence"].endswith("1 differ by no more than chance; 1 not at all.")


def test_swapped_revisions_give_negated_differences_and_the_same_p() -> None:
    one, two = revision("one"), revision("two", metrics={**BASE, "pca": metrics(0.03 + NOISE[2], NOISE[3])})
    there, back = compare_revisions(one, two)["scores"], compare_revisions(two, one)["scores"]
    for task, content in there["tasks"].items():
        for name, entry in content["encoders"].items():
            other = back["tasks"][task]["encoders"][name]
            assert (entry["before"], entry["after"]) == (other["after"], other["before"])
            if entry["difference"] is not None:
                assert entry["difference"] == -other["difference"]
                assert (entry["p_calibrated"], entry["p_holm"]) == (other["p_calibrated"], other["p_holm"])


def test_other_splits_give_a_difference_and_no_test() -> None:
    fewer = {name: {task: dict(part) for task, part in one.items()} for name, one in BASE.items()}
    label = {**fewer["pca"]["mutation"]["labels"]["pan_cancer/TP53"], "per_split": [0.9, 0.8, 0.85]}
    fewer["pca"]["mutation"] = {"absent": None, "labels": {"pan_cancer/TP53": label}}
    result = compare_revisions(revision("one"), revision("two", stages=locked(splits="f" * 16), metrics=fewer))
    entry = result["scores"]["tasks"]["mutation_pan_cancer"]["encoders"]["pca"]
    assert entry["after"] == pytest.approx(0.85)
    assert entry["difference"] == pytest.approx(0.85 - 0.7 - float(NOISE[0].mean()), abs=2e-6)
    assert entry["p_calibrated"] is entry["p_holm"] is entry["low"] is None
    assert entry["left_out"] == {"pan_cancer/KRAS": "pca (after): this label was not probed"}
    why = "no paired test is possible: the splits differ (data/splits.parquet 01234567 and ffffffff)"
    assert why in result["sentence"]
    assert "no paired test is possible" in said(result)
    assert "p Holm" not in said(result)


def test_without_a_lock_the_splits_are_not_known() -> None:
    result = compare_revisions(revision("one", stages={}), revision("two", metrics={**BASE, "pca": metrics(0.1)}))
    assert result["scores"]["reason"] == "dvc.lock of one has no data/splits.parquet, so its splits are not known"


def test_new_gone_and_absent_encoders() -> None:
    entries = {**PARAMS["encoders"], "scgpt": {"model": "scgpt", "options": {}}}
    del entries["expression"]
    why = "its weights are not in models/scgpt"
    before = revision("one", metrics={**BASE, "pca": metrics(absent=why)})
    after = revision("two", params={**PARAMS, "encoders": entries}, metrics={**BASE, "scgpt": metrics()})
    result = compare_revisions(before, after)
    assert result["scores"]["only_before"] == ["expression"]
    assert result["scores"]["only_after"] == ["scgpt"]
    entry = result["scores"]["tasks"]["survival"]["encoders"]["pca"]
    assert (entry["before"], entry["difference"], entry["p_holm"]) == (None, None, None)
    nulls = [row for row in result["scores"]["nulls"] if row["encoder"] == "pca"]
    assert {(row["before"], row["after"]) for row in nulls} == {(why, None)}
    text = said(result)
    assert "Only in one: expression." in text
    assert f"one: {why}; two: defined" in " ".join(text.split())
    assert {row["key"]: row["only"] for row in result["parameters"]} == {
        "encoders.expression": "before",
        "encoders.scgpt": "after",
    }


def test_constant_scores_are_listed_with_their_reason() -> None:
    result = compare_revisions(revision("one"), revision("two", metrics={**BASE, "pca": metrics(0.01)}))
    rows = [row for row in result["scores"]["nulls"] if row["encoder"] == "cancer_type"]
    assert {(row["measure"], row["before"], row["after"]) for row in rows} == {("within_type_auroc", SAME, SAME)}
    pca = result["scores"]["tasks"]["mutation_pan_cancer"]["encoders"]["pca"]
    assert "no variance to test against" in pca["reason"]  # the same step in every split
    assert pca["p_holm"] is None


def test_means_of_the_summary_stand_in_for_metrics_that_cannot_be_read() -> None:
    means = summarise(*({name: one[task] for name, one in BASE.items()} for task in ("mutation", "survival")))
    unread = {"pca": "metrics/mutation/pca.json: not in DVC's cache"}
    kept = {name: one for name, one in BASE.items() if name != "pca"}
    before = revision("one", metrics=kept, unread=unread, summary=means)
    after = revision("two", summary={**means, "pca": {**means["pca"], "survival": 0.75}})
    result = compare_revisions(before, after)
    entry = result["scores"]["tasks"]["survival"]["encoders"]["pca"]
    assert entry["after"] == 0.75
    assert entry["difference"] == pytest.approx(0.75 - float(means["pca"]["survival"] or 0), abs=1e-6)
    assert entry["p_holm"] is None
    assert "metrics/summary.json" in entry["reason"]
    assert "pca in one: metrics/mutation/pca.json: not in DVC's cache." in said(result)


def test_nothing_in_common() -> None:
    result = compare_revisions(revision("one", metrics={}), revision("two"))
    assert result["sentence"] == "No encoder has scores in both one and two."
    said(result)


def test_changed_parameters_and_files() -> None:
    params = {**PARAMS, "probe_mutation": {"penalties": [1.0]}, "gene_sets": {"least": 3}}
    stages = locked(fit="a" * 16, pca="b" * 16)
    stages["probe_mutation@pca"]["cmd"] = "probe anew"
    result = compare_revisions(revision("one"), revision("two", params=params, stages=stages))
    assert result["sentence"] == "No score differs between one and two; files or settings do."
    assert result["parameters"] == [
        {"key": "probe_mutation.penalties", "before": [1.0, 0.00001], "after": [1.0], "only": None},
        {"key": "gene_sets", "before": None, "after": {"least": 3}, "only": "after"},
    ]
    found = result["stages"]
    assert [(row["path"], row["after"]) for row in found["source"]] == [("src/fit.py", "aaaaaaaa")]
    assert found["source"][0]["stages"] == ["probe_mutation@pca"]
    assert [row["path"] for row in found["outputs"]] == ["metrics/mutation/pca.json"]
    assert found["data"] == []
    assert "probe_mutation@pca runs `probe anew` instead of `probe`." in said(result)


def test_the_ten_largest_changes_come_in_order() -> None:
    values = np.linspace(-0.06, 0.06, 13)

    def many(steps: np.ndarray) -> dict[str, Any]:
        labels = {f"KIRC/G{n:02d}": {"cohort": "KIRC", **block(0.5 + NOISE[0] + step)} for n, step in enumerate(steps)}
        return {"mutation": {"absent": None, "labels": labels}, "survival": {"absent": None, "labels": {}}}

    one, two = revision("one", metrics={"pca": many(0 * values)}), revision("two", metrics={"pca": many(values)})
    found = [row["difference"] for row in compare_revisions(one, two)["scores"]["largest"]]
    assert np.abs(found) == pytest.approx([0.06, 0.06, 0.05, 0.05, 0.04, 0.04, 0.03, 0.03, 0.02, 0.02], abs=2e-6)


def test_lines_fit_a_terminal_and_markdown_tables_are_whole() -> None:
    names = {f"an_encoder_with_a_long_name_{n:02d}": metrics(n / 100 + NOISE[2]) for n in range(8)}
    entries = {name: {"model": "pca", "options": {}} for name in names}
    params = {**PARAMS, "encoders": entries}
    before = revision("a-branch-name", params=params, metrics={name: metrics(within=False) for name in names})
    result = compare_revisions(before, revision("another-name", params=params, metrics=names))
    assert max(map(len, said(result).splitlines())) <= 120
    tables = [line for line in said(result, markdown=True).splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in tables[:10]}) == 1
    assert "| --- | --- |" in said(result, markdown=True)


# ---------------------------------------------------------------- under git and DVC

PIPELINE = """
stages:
  splits: {cmd: "true", params: [splits], deps: [src/tool.py], outs: [data/splits.parquet]}
  probe:
    foreach: ${encoders}
    do:
      cmd: "true"
      deps: [data/splits.parquet]
      params: [probe_mutation]
      outs: ["metrics/mutation/${key}.json", "metrics/survival/${key}.json"]
"""


def test_names_do_nothing_in_markdown() -> None:
    hostile = "<script>alert(1)</script>|\n# x\x1b[2J"
    before, after = revision("a"), revision("b")
    changed = replace(after, params={**after.params, hostile: 1}, metrics={**after.metrics, hostile: metrics(0.1)})
    told = said(compare_revisions(before, changed), markdown=True)
    assert "&lt;script>alert(1)" in told
    assert "<script" not in told
    assert "\x1b" not in told
    assert "\n# x" not in told


def write(study: Copy, params: dict[str, Any], content: dict[str, Any], splits: str = "splits") -> None:
    """Write what a run would have made, and let DVC record it."""
    for path, text in (("params.yaml", yaml.safe_dump(params)), ("data/splits.parquet", splits)):
        replaced(study.folder / path, text)
    for name, one in content.items():
        for task, part in one.items():
            replaced(study.folder / f"metrics/{task}/{name}.json", json.dumps(part))
    means = summarise(*({name: one[task] for name, one in content.items()} for task in ("mutation", "survival")))
    replaced(study.folder / "metrics/summary.json", json.dumps(means))
    study.dvc("commit", "--force")


def replaced(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # may be a link into the cache
    path.write_text(text, encoding="utf-8")


@pytest.fixture(name="study", scope="module")
def fixture_study(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """Two experiments on one commit: `shifted` (pca better, another penalty) and `resplit` (other splits)."""
    top = tmp_path_factory.mktemp("diff")
    study = Copy(top / "study", top / "home")
    study.folder.mkdir()
    study.run("git", "init", "--quiet", "--initial-branch=main")
    study.dvc("init", "--quiet")
    replaced(study.folder / "src/tool.py", "")
    replaced(study.folder / "dvc.yaml", PIPELINE)
    replaced(study.folder / ".gitignore", "/data/splits.parquet\n/metrics/mutation\n/metrics/survival\n")
    write(study, PARAMS, BASE)
    study.commit("a run")
    write(study, {**PARAMS, "probe_mutation": {"penalties": [1.0]}}, {**BASE, "pca": metrics(0.05 + NOISE[2])})
    study.dvc("exp", "save", "--name", "shifted")
    write(study, PARAMS, {**BASE, "pca": metrics(0.01 + NOISE[3])}, splits="other splits")
    study.dvc("exp", "save", "--name", "resplit")
    write(study, PARAMS, BASE)
    return study


@pytest.fixture(name="here")
def fixture_here(study: Copy, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in the study."""
    monkeypatch.chdir(study.folder)
    for key, value in study.env.items():
        monkeypatch.setenv(key, value)
    return study.folder


def test_an_experiment_by_its_name(here: Path) -> None:
    result = diff("main", "shifted")
    assert result["notes"] == []
    assert [row["key"] for row in result["parameters"]] == ["probe_mutation.penalties"]
    assert set(moved(result["scores"])) == {"pca"}
    outputs = {row["path"] for row in result["stages"]["outputs"]}
    assert outputs == {"metrics/mutation/pca.json"}  # survival is the same
    assert result["scores"]["unchanged"] == ["cancer_type", "expression"]


def test_other_splits_of_an_experiment(here: Path) -> None:
    result = diff("shifted", "resplit")
    assert not result["scores"]["paired"]
    assert "the splits differ" in result["sentence"]
    assert [row["path"] for row in result["stages"]["data"]] == ["data/splits.parquet"]


def test_the_command(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["bulkprobe", "diff", "shifted", "--json", "diff.json", "--markdown"])
    try:
        with pytest.raises(SystemExit, match="0"):
            cli.main()
        content = json.loads(Path("diff.json").read_text())
    finally:
        Path("diff.json").unlink(missing_ok=True)
    assert (content["before"], content["after"]) == ("shifted", "workspace")
    assert content["scores"]["tasks"]["mutation_pan_cancer"]["encoders"]["pca"]["difference"] < -0.04
    out = capsys.readouterr().out
    assert out.startswith("**1 of 3 encoders moved by more than chance in some task: pca")
    assert "### Parameters" in out


def test_the_workspace_equals_its_commit(here: Path) -> None:
    assert diff("HEAD", "workspace")["sentence"] == "Nothing differs between HEAD and workspace."


def test_what_was_not_run_is_said(here: Path, study: Copy) -> None:
    replaced(here / "params.yaml", yaml.safe_dump({**PARAMS, "probe_mutation": {"penalties": [2.0]}}))
    replaced(here / "metrics/mutation/pca.json", json.dumps(metrics(0.2)["mutation"]))
    try:
        first, second = diff("HEAD", "workspace")["notes"]
    finally:
        study.run("git", "checkout", "--quiet", "params.yaml")
        study.dvc("checkout", "--force")
    assert first.startswith("workspace: metrics/mutation/pca.json on disk: not what dvc.lock says")
    assert second.startswith("workspace: params.yaml has other values than the run in dvc.lock (probe_mutation)")


def test_an_output_that_left_the_cache(here: Path) -> None:
    (entry,) = [o for o in read_revision("shifted").stages["probe@pca"]["outs"] if "mutation" in o["path"]]
    cached = here / ".dvc/cache/files/md5" / entry["md5"][:2] / entry["md5"][2:]
    aside = cached.rename(cached.with_suffix(".aside"))
    try:
        result = diff("HEAD", "shifted")
    finally:
        aside.rename(cached)
    why = "metrics/mutation/pca.json: not in DVC's cache; run `dvc pull`, or `dvc repro` in that revision"
    assert result["scores"]["unread"]["after"] == {"pca": why}
    pca = result["scores"]["tasks"]["mutation_pan_cancer"]["encoders"]["pca"]
    assert pca["difference"] == pytest.approx(0.05 + float(NOISE[2].mean()), abs=2e-6)
    assert why in pca["reason"]


def test_what_is_no_revision_is_refused(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"nonsense is no git revision and no experiment here .*unknown Git revision"):
        read_revision("nonsense")
    first = Copy(tmp_path / "new", tmp_path / "home")
    first.folder.mkdir()
    monkeypatch.chdir(first.folder)
    with pytest.raises(UserError, match="workspace: this folder is in no DVC project"):
        read_revision("workspace")
    first.dvc("init", "--quiet", "--no-scm")
    with pytest.raises(UserError, match="HEAD: the study is not under git"):
        read_revision("HEAD")
    with pytest.raises(UserError, match=r"workspace has no params\.yaml"):
        read_revision("workspace")
    replaced(first.folder / "params.yaml", yaml.safe_dump(PARAMS))
    plain = read_revision("workspace")
    assert plain.unread["pca"].endswith("never made")
    assert compare_revisions(plain, replace(plain, name="again"))["sentence"].startswith("No encoder has scores")


def test_before_the_first_commit(study: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = Copy(tmp_path / "fresh", tmp_path / "home")
    fresh.folder.mkdir()
    fresh.run("git", "init", "--quiet")
    fresh.dvc("init", "--quiet")
    replaced(fresh.folder / "params.yaml", yaml.safe_dump(PARAMS))
    monkeypatch.chdir(fresh.folder)
    with pytest.raises(UserError, match="HEAD is no git revision"):
        read_revision("HEAD")
    assert read_revision("workspace").stages == {}
