"""No room, and nowhere to write: one sentence, nothing half-written, and with room again the same bytes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from harness import BY_NAME, STAGES, Study, Trial, command, environment, is_partial, tree_of

TRIALS = int(os.environ.get("BULKPROBE_FAULT_TRIALS", "10")) * 2 // 5
# First those with writers of their own: text and spools, Zarr, torch, Zarr by shards.
ORDER = ("embed", "weights", "cohort", "probe_mutation", *(stage.name for stage in STAGES))
SEED = 20260422
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("faults0")]


@pytest.mark.parametrize("trial", range(TRIALS))
def test_a_full_disk_is_one_sentence(trial: int, study: Study, tmp_path: Path) -> None:
    rng = np.random.default_rng([SEED, trial])
    stage = BY_NAME[ORDER[trial % len(ORDER)]]
    copy = Trial(study, tmp_path / "copy", stage, old=bool(rng.random() < 0.5))
    if rng.random() < 0.5:
        ended = copy.run({"do": "full", "at": int(rng.integers(1, study.changes(stage) // 2 + 1))})
    else:
        ended = copy.run({"do": "short", "at": int(rng.integers(1, study.largest(stage)))})
    ended.sentence()
    copy.assert_nothing_is_half_written()
    assert copy.stage.name == "embed" or not [path for path in tree_of(copy.folder) if is_partial(path)]
    copy.assert_another_run_makes_it_whole()


def mounting() -> list[str] | None:
    """How to run a shell that may mount, where this machine permits it."""
    for how in (["unshare", "-m"], ["unshare", "-rm"]):
        tried = [*how, "sh", "-c", "mount -t tmpfs -o size=64k none /mnt"]
        if shutil.which("unshare") and subprocess.run(tried, capture_output=True).returncode == 0:
            return how
    return None


MOUNTING = mounting()
needs_mount = pytest.mark.skipif(MOUNTING is None, reason="this machine does not permit mounting")


def run_mounted(script: str, copy: Trial, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script with mounts of its own; "$@" are the command of the stage and what is given here."""
    assert MOUNTING is not None
    return subprocess.run(
        [*MOUNTING, "sh", "-euc", script, "sh", *command(copy.stage), *arguments],
        cwd=copy.folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )


@needs_mount
def test_a_disk_that_is_really_full(study: Study, tmp_path: Path) -> None:
    copy = Trial(study, tmp_path / "copy", BY_NAME["embed"])
    script = """
        mkdir -p data/embeddings kept
        cp -a data/embeddings/. kept/
        mount -t tmpfs -o size=$ROOM none data/embeddings
        cp -a kept/. data/embeddings/
        status=0
        "$@" || status=$?
        cp -a data/embeddings/. kept/
        exit $status
    """
    pages = {
        place: sum(-(-path.stat().st_size // 4096) for path in (study.folder / place).rglob("*") if path.is_file())
        for place in ("data/embeddings/pca.zarr", copy.stage.outputs[0])
    }
    there, wanted = pages.values()
    done = run_mounted(script.replace("$ROOM", f"{4 * (there + wanted // 2)}k"), copy)
    assert done.returncode == 1, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: [Errno 28] No space left on device")
    assert "Traceback" not in done.stderr
    shutil.rmtree(copy.folder / "data" / "embeddings")
    (copy.folder / "kept").rename(copy.folder / "data" / "embeddings")
    copy.assert_nothing_is_half_written()
    copy.assert_another_run_makes_it_whole()


@needs_mount
@pytest.mark.parametrize(("name", "place"), [("embed", "data/embeddings"), ("splits", "data")])
def test_a_folder_that_may_not_be_written(name: str, place: str, study: Study, tmp_path: Path) -> None:
    copy = Trial(study, tmp_path / "copy", BY_NAME[name], old=True)
    script = f'mount --bind {place} {place}; mount -o remount,bind,ro {place}; "$@"'
    done = run_mounted(script, copy)
    assert done.returncode == 1, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: [Errno 30] Read-only file system")
    assert "Traceback" not in done.stderr
    assert tree_of(copy.folder) == copy.before
    copy.assert_another_run_makes_it_whole()
