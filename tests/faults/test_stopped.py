"""Stopped by a signal, two at once, and clocks that go wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from harness import BY_NAME, MODEL, Study, Trial, environment, is_partial, tree_of

from bulkprobe.errors import UserError
from bulkprobe.files import only_writer

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("faults0")]
EMBED = BY_NAME["embed"]
STORE = Path(EMBED.outputs[0])
UNFINISHED = STORE.with_name(f"{STORE.name}.partial")


def late(copy: Trial, do: str) -> dict[str, object]:
    """Harm at the moment at which the third shard is to be written."""
    return {"do": do, "at": 1, "top": str(copy.folder / UNFINISHED / "embedding" / "c" / "2")}


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_stopped_embedding_goes_on_where_it_was(name: str, status: int, study: Study, tmp_path: Path) -> None:
    copy = Trial(study, tmp_path / "copy", EMBED)
    ended = copy.run(late(copy, name))
    assert (ended.status, len(ended.stderr.splitlines())) == (status, 1), ended.stderr
    assert ended.stderr.startswith(f"stopped by {name}: run again to continue")
    copy.assert_nothing_is_half_written()
    shards = {path.parent.name: path.stat().st_ino for path in (copy.folder / UNFINISHED).glob("embedding/c/*/0")}
    assert set(shards) >= {"0", "1"}
    copy.assert_another_run_makes_it_whole()
    for number, inode in shards.items():  # moved with the store, not written again
        assert (copy.folder / STORE / "embedding" / "c" / number / "0").stat().st_ino == inode


def test_a_stopped_stage_removes_what_it_began(study: Study, tmp_path: Path) -> None:
    copy = Trial(study, tmp_path / "copy", BY_NAME["cohort"], old=True)
    ended = copy.run({"do": "SIGTERM", "at": study.changes(copy.stage) // 2})
    assert (ended.status, len(ended.stderr.splitlines())) == (143, 1), ended.stderr
    assert tree_of(copy.folder) == copy.before
    copy.assert_another_run_makes_it_whole()


def test_a_stage_stopped_while_it_is_imported_says_nothing(study: Study, tmp_path: Path) -> None:
    copy = Trial(study, tmp_path / "copy", EMBED)
    ended = copy.run_started({"do": "SIGINT", "at": "pandas"})
    assert (ended.status, ended.stderr) == (-signal.SIGINT, "")  # a shell shows 130


def test_a_stopped_command_says_so(study: Study, tmp_path: Path) -> None:
    store = tmp_path / "out" / "pca.zarr"
    started = [sys.executable, "-c", "from bulkprobe.cli import main; main()", "embed", "pca"]
    started += ["--input", str(study.folder / "data/cohort"), "--output", str(store), "--shard-size", "64"]
    fault = {"top": str(tmp_path.resolve()), "do": "SIGINT", "at": 30}
    ended = subprocess.run(started, cwd=tmp_path, env=environment(fault), capture_output=True, text=True, check=False)
    assert (ended.returncode, len(ended.stderr.splitlines())) == (130, 1), ended.stderr
    assert ended.stderr.startswith("stopped by SIGINT")
    assert [path for path in (tmp_path / "out").iterdir() if not is_partial(path)] == []
    again = subprocess.run(started, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["pca.zarr"]


UNDER_WAY = """
import asyncio, os, signal
from bulkprobe.stages.running import stoppable
with stoppable():
    loop = asyncio.new_event_loop()
    reading = loop.create_task(asyncio.sleep(600))
    loop.run_until_complete(asyncio.sleep(0))
    os.kill(os.getpid(), signal.SIGINT)
"""


def test_reads_of_zarr_that_were_under_way_add_nothing() -> None:
    ended = subprocess.run([sys.executable, "-c", UNDER_WAY], env=environment(), capture_output=True, text=True)
    assert (ended.returncode, len(ended.stderr.splitlines())) == (130, 1), ended.stderr


def test_two_embeddings_of_one_store(study: Study, tmp_path: Path) -> None:
    copy = Trial(study, tmp_path / "copy", EMBED)
    first = copy.start(late(copy, "SIGSTOP"))
    try:
        os.waitpid(first.pid, os.WUNTRACED)
        said = copy.run().sentence()
        assert f"{STORE} is being written by process {first.pid} on " in said
    finally:
        first.kill()
        first.wait()
    assert copy.folder.joinpath(f"{STORE}.lock.partial").is_file()  # of a process that is dead now
    copy.assert_another_run_makes_it_whole()


def test_a_lock_is_of_one_at_a_time(tmp_path: Path) -> None:
    final = tmp_path / "a.zarr"
    with only_writer(final):
        with pytest.raises(UserError, match=rf"a\.zarr is being written by process {os.getpid()} on "):
            with only_writer(final):
                pass
        with only_writer(tmp_path / "b.zarr"):
            pass
    with only_writer(final):
        pass
    assert list(tmp_path.iterdir()) == []


def test_clocks_change_nothing(study: Study, tmp_path: Path) -> None:
    copy = Trial(study, tmp_path / "copy", EMBED)
    assert copy.run(late(copy, "kill")).status == -signal.SIGKILL
    for path in copy.folder.rglob("*"):
        os.utime(path, (4_102_444_800, 4_102_444_800))  # the year 2100
    ended = copy.run({"do": "clock"})
    assert ended.status == 0, ended.stderr
    copy.assert_whole()


def test_weights_that_changed_after_they_were_checked(study: Study, tmp_path: Path) -> None:
    copy = Trial(study, tmp_path / "copy", EMBED)
    weights = max((copy.folder / "models" / MODEL / "untrained").iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    assert f"the files in models/{MODEL}/untrained have changed since they were checked" in copy.run().sentence()
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    copy.assert_another_run_makes_it_whole()
