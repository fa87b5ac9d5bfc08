"""kill -9 anywhere in any stage: nothing half-written under a final name, and another run gives the same bytes.

BULKPROBE_FAULT_TRIALS says how many are tried; `make faults` tries more.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import yaml
from harness import STAGES, Stage, Study, Trial, drawn_kill

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
            ended = copy.run(fault, kill_after=seconds)
            assert ended.status in {"moment": (0, -signal.SIGKILL), "torn": (0, -signal.SIGXFSZ)}.get(
                how, (0, -signal.SIGKILL)
            ), ended.stderr
            copy.assert_nothing_is_half_written()
        copy.assert_another_run_makes_it_whole()
