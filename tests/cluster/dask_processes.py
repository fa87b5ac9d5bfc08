"""A Dask scheduler and its workers as processes of their own, as they stand on a cluster."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from forks import fork

TOP = Path(__file__).resolve().parents[2]
PATIENCE = 120.0  # seconds, on a machine that does much else

# In a worker before it starts: writing its first shard it leaves half a file and is killed.
KILLED = """
import os, signal
from bulkprobe.stages import embed_cluster

def half(path, start, vectors):
    folder = path.with_name(f"{path.name}.partial") / "embedding" / "c" / "0"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "0.1234.partial").write_bytes(b"half a shard")
    os.kill(os.getpid(), signal.SIGKILL)

embed_cluster.write_shard = half
"""
# Waits after every shard until a file `go` stands beside the store.
GATED = """
import time
from bulkprobe.stages import embed_cluster
from bulkprobe.store import write_shard

def gated(path, start, vectors):
    write_shard(path, start, vectors)
    while not (path.parent / "go").exists():
        time.sleep(0.02)

embed_cluster.write_shard = gated
"""


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition; fail where it does not come."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            pytest.fail("what was waited for did not come")
        time.sleep(0.02)


def environment() -> dict[str, str]:
    """The environment of a process that runs this checkout."""
    return {**os.environ, "PYTHONPATH": str(TOP / "src"), "OMP_NUM_THREADS": "1"}


class Process:
    """A command of Dask that runs until it ends, is asked to leave, or is killed."""

    def __init__(self, log: Path, *arguments: str) -> None:
        """Start `dask` with these arguments."""
        self._process = fork(_dask, *arguments, said=log)

    @property
    def status(self) -> int | None:
        """The exit status, or less than 0 for a signal; None while it runs."""
        return self._process.exitcode

    def wait(self) -> int | None:
        """Wait for its end."""
        self._process.join()
        return self.status

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def leave(self) -> None:
        """Ask it to go."""
        self._process.terminate()


def _dask(*arguments: str) -> None:
    from dask.__main__ import main

    sys.argv = ["dask", *arguments]
    main()


class Processes:
    """A scheduler and workers that are started and ended one by one."""

    def __init__(self, folder: Path) -> None:
        """Start a scheduler that listens on a free port."""
        self.folder, self.workers = folder, list[Process]()
        file = folder / "scheduler.json"
        options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
        options += ["--scheduler-file", str(file), "--idle-timeout", f"{2 * PATIENCE:g}"]
        self.scheduler = self._start("scheduler", *options)
        until(lambda: file.is_file() and file.read_text().strip().endswith("}"))
        self.address = str(json.loads(file.read_text())["address"])

    def worker(self, preload: str = "") -> Process:
        """Start a worker; preload: source that it runs first."""
        script = self.folder / f"preload{len(self.workers)}.py"
        script.write_text(preload)
        options = ["--no-nanny", "--nthreads", "1", "--no-dashboard", "--preload", str(script)]
        found = self._start("worker", self.address, *options, "--local-directory", str(self.folder))
        self.workers.append(found)
        return found

    def some(self) -> list[Process]:
        """The workers that are there, one at least."""
        there = [worker for worker in self.workers if worker.status is None]
        return there or [self.worker()]

    def empty(self) -> None:
        """Ask all workers to go, and wait until they have gone."""
        there = [worker for worker in self.workers if worker.status is None]
        for worker in there:
            worker.leave()
        for worker in there:
            worker.wait()

    def end(self) -> None:
        """End all of them."""
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()

    def _start(self, *arguments: str) -> Process:
        return Process(self.folder / "log.txt", *arguments)


@contextmanager
def processes(folder: Path) -> Iterator[Processes]:
    """Give a scheduler and end everything afterwards."""
    folder.mkdir()
    running = Processes(folder)
    try:
        yield running
    finally:
        running.end()
