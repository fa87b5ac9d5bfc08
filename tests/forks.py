"""Processes of their own that need not load everything anew: forked from one that has, and that does nothing else.

They are killed, fail and write like any other. What is tested is not how Python starts: tests of that start it.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

SRC = Path(__file__).resolve().parents[1] / "src"
# No module here is a stage, so that a stage is still read by the process that runs it.
LOADED = ["torch", "pandas", "anndata", "zarr", "sklearn.linear_model", "pyarrow.parquet", "joblib", "scipy.stats"]
LOADED += ["distributed.cli.dask_scheduler", "distributed.cli.dask_worker", "pydantic", "matplotlib.figure", "yaml"]
PINNED = dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"), "1")


def fork(target: Callable[..., None], *arguments: object, said: Path) -> ForkServerProcess:
    """Start a process that leads a group of its own and calls `target`; what it says goes to the end of a file."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    before = dict(os.environ)
    try:  # the first one starts the process that the others are forked from
        os.environ.update({**PINNED, "PYTHONPATH": str(SRC)})
        process = context.Process(target=_run, args=(target, arguments, str(said)))
        process.start()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return process


def _run(target: Callable[..., None], arguments: tuple[object, ...], said: str) -> None:
    os.setsid()
    sys.stdout.flush()
    number = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(number, 1)
    os.dup2(number, 2)
    os.close(number)
    try:
        target(*arguments)
    finally:  # as an interpreter ends; multiprocessing would wait for what joblib has started
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
