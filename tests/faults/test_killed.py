"""kill -9 anywhere in any stage: nothing half-written under a final name, and another run gives the same bytes.

BULKPROBE_FAULT_TRIALS says how many are tried; `make faults` tries more.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from harness import STAGES, Stage, Study, Trial, drawn_kill, environment

from pipeline import TOP

TRIALS = int(os.environ.get("BULKPROBE_FAULT_TRIALS", "10"))
GROUPS = 1 if TRIALS <= 10 else os.cpu_count() or 1  # each makes an undisturbed study of its own
SEED = 20260421


def stages_of(trial: int) -> tuple[Stage, ...]:
    """All stages spread over the trials."""
    return STAGES[trial::TRIALS] or (STAGES[trial % len(STAGES)],)


def test_every_stage_is_killed_in_ten_trials() -> None:
    killed = {stage.name for trial in range(TRIALS) for stage in stages_of(trial)}
    assert killed == set(yaml.safe_load((TOP / "dvc.yaml").read_text(encoding="utf-8"))["stages"])


def test_dvc_does_not_see_what_a_killed_stage_leaves(tmp_path: Path) -> None:
    shutil.copyfile(TOP / ".dvcignore", tmp_path / ".dvcignore")
    store = tmp_path / "embeddings" / "a.zarr"
    store.mkdir(parents=True)
    (store / "zarr.json").write_text("{}")
    env = environment() | {"HOME": str(tmp_path), "DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(tmp_path / "site")}

    def dvc(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *arguments], cwd=tmp_path, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    dvc("init", "--no-scm", "--quiet")
    dvc("add", "--quiet", "embeddings")
    unfinished = (
        ".a.zarr.12.partial/c/0",
        ".a.zarr.12.job.partial/job.pickle",
        "b.zarr.partial/c/0",
        "a.zarr/.x.1.partial",
    )
    for name in unfinished:
        (store.parent / name).parent.mkdir(parents=True, exist_ok=True)
        (store.parent / name).write_text("half")
    (store.parent / "a.zarr.lock.partial").write_text("process 12")
    (store.parent / "b.zarr.partial.json").write_text("{}")
    assert "up to date" in dvc("status")
    (store / "zarr.json").write_text("[]")
    assert "up to date" not in dvc("status")


@pytest.mark.slow
@pytest.mark.parametrize(
    "trial", [pytest.param(n, marks=pytest.mark.xdist_group(f"faults{n % GROUPS}")) for n in range(TRIALS)]
)
def test_a_killed_stage_begins_again(trial: int, study: Study, tmp_path: Path) -> None:
    rng = np.random.default_rng([SEED, trial])
    for stage in stages_of(trial):
        copy = Trial(study, tmp_path / stage.name, stage, old=bool(rng.random() < 0.5))
        for _ in range(1 if rng.random() < 0.7 else 2):  # the second run may be killed too
            how, fault, seconds = drawn_kill(study, stage, rng)
            ended = copy.run(fault) if fault else copy.run_started(kill_after=seconds)
            assert ended.status in {"moment": (0, -signal.SIGKILL), "torn": (0, -signal.SIGXFSZ)}.get(
                how, (0, -signal.SIGKILL)
            ), ended.stderr
            copy.assert_nothing_is_half_written()
        copy.assert_another_run_makes_it_whole()
