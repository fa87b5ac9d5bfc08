"""`dvc exp run` in a copy of the checkout; a queued experiment runs its own source, whatever is installed."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import Copy, stages_named

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("pipeline")]
LINE = "write_json(paths.HEADLINE, values)"
OTHER_LINE = 'write_json(paths.HEADLINE, {**values, "own_source": {"pca": 0.25}})'
QUEUE_SECONDS = 240


@pytest.fixture(name="study")
def fixture_study(reproduced: Copy) -> Iterator[Copy]:
    yield reproduced
    reproduced.dvc("queue", "stop", "--kill", check=False)
    reproduced.dvc("queue", "remove", "--all", check=False)
    reproduced.dvc("exp", "remove", "--all-commits", check=False)
    reproduced.run("git", "checkout", "--quiet", "--force", "HEAD")
    reproduced.dvc("checkout", "--force")


def interpreter_with(package: Path, folder: Path) -> Path:
    """An interpreter that sees what this one sees, with `package` installed in editable fashion; its bin folder."""
    libraries = folder / "lib"
    libraries.mkdir(parents=True)
    (libraries / "editable.pth").write_text(f"{package}\n")
    seen = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    start = f"import site, sys\nfor path in {[str(libraries), *seen]!r}:\n    site.addsitedir(path)\n"
    (folder / "start").mkdir()
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    # A `python` in front of the search path that loads the .pth files as an installed package would be loaded, and
    # none of its own (-S): the checkout under test may itself be installed in editable fashion.
    (folder / "start" / "run.py").write_text(
        f"{start}import runpy\nsys.argv = sys.argv[1:]\nmodule = sys.argv[0]\n"
        "runpy.run_module(module, run_name='__main__', alter_sys=True)\n"
    )
    script = bin_folder / "python"
    script.write_text(
        f'#!/bin/sh\n[ "$1" = -m ] && shift && exec "{sys.executable}" -P -S "{folder / "start" / "run.py"}" "$@"\n'
        f'exec "{sys.executable}" "$@"\n'
    )
    script.chmod(0o755)
    return bin_folder


def test_an_experiment_with_another_parameter_runs(study: Copy) -> None:
    output = study.dvc("exp", "run", "--name", "eleven", "--set-param", "probe_survival.min_events=11").stdout
    assert stages_named(output) == {"probe_survival@pca", "probe_survival@expression", "probe_survival@cancer_type",
                                    "shift@pca", "compare", "summary"}  # fmt: skip
    labels = json.loads((study.folder / "metrics/survival/pca.json").read_text())["labels"]
    assert labels["KIRC/OS"]["reason"] == "too few events: 9 of 27 patients, at least 11 are needed"
    assert labels["GBMLGG/OS"]["mean"] is not None
    shown = study.dvc("exp", "show", "--csv").stdout
    assert "eleven" in shown
    assert "min_events" in shown


def test_a_queued_experiment_runs_its_own_source(study: Copy, tmp_path: Path) -> None:
    bin_folder = interpreter_with(study.folder / "src", tmp_path / "installed")
    env = {"PATH": os.pathsep.join([str(bin_folder), study.env["PATH"]])}
    summary = study.folder / "src/bulkprobe/stages/summary.py"
    before = summary.read_text()
    assert before.count(LINE) == 1
    # What the interpreter takes when nobody says otherwise is the workspace: an editable install.
    probe = tmp_path / "lookup" / "where.py"
    probe.parent.mkdir()
    probe.write_text("import bulkprobe\nprint(bulkprobe.__file__)\n")
    where = study.run("python", "-m", "where", PYTHONPATH=str(probe.parent), **env).stdout
    assert where.strip() == str(study.folder / "src/bulkprobe/__init__.py")

    summary.write_text(before.replace(LINE, OTHER_LINE))
    study.dvc("exp", "run", "--queue", "--name", "changed-source", **env)
    summary.write_text(before)
    assert study.run("git", "status", "--short", "src").stdout == ""
    study.dvc("queue", "start", **env)
    end = time.monotonic() + QUEUE_SECONDS
    while True:
        status = study.dvc("queue", "status").stdout
        if "Success" in status or "Failed" in status:
            break
        assert time.monotonic() < end, status
        time.sleep(1)
    logs = study.dvc("queue", "logs", "changed-source", check=False)
    assert "Success" in status, logs.stdout + logs.stderr
    assert stages_named(logs.stdout) == {"summary"}
    result = json.loads(study.run("git", "show", "changed-source:metrics/headline.json", check=False).stdout or "{}")
    if not result:  # experiments live outside of refs/heads
        reference = study.run("git", "for-each-ref", "--format=%(refname)", "refs/exps").stdout.split()
        (reference,) = [name for name in reference if name.endswith("/changed-source")]
        result = json.loads(study.run("git", "show", f"{reference}:metrics/headline.json").stdout)
    workspace = json.loads((study.folder / "metrics/headline.json").read_text())
    assert result == {**workspace, "own_source": {"pca": 0.25}}
    assert "own_source" not in workspace
    assert summary.read_text() == before
