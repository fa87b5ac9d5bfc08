"""Where the tasks of a run are computed: this process, processes of this machine, SLURM jobs, or a Dask scheduler.

A task names its input and output by path on a file system that all workers share, and returns a few numbers: no matrix
travels through the scheduler. A worker that dies costs the tasks it was at, and another one takes them.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import re
import shutil
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from bulkprobe.errors import UserError, some

ADDRESSES = "none, local, slurm or the address of a Dask scheduler, tcp://HOST:PORT"
PATTERN = re.compile(r"none|local|slurm|tcp://[^\s/]+:(?P<port>\d{1,5})")
LISTEN = 3.0  # seconds in which something must listen at an address: a scheduler may just be starting
GREETING = 1 << 20  # bytes in which a scheduler says who it is
CONNECT = 15.0  # seconds in which a scheduler must answer
AGAIN = 60.0  # seconds after which the lack of workers is told again
EXTRA = "it needs the extra `cluster`: pip install 'bulkprobe[cluster]'"
# Ctrl-C in a terminal goes to every process of the run: the client alone answers it, and ends the workers.
DEAF = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
PINS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MALLOC_TRIM_THRESHOLD_", "PYTHONHASHSEED")

Task = TypeVar("Task")
Result = TypeVar("Result")


def is_address(where: str) -> bool:
    """Whether `where` is one of the places that a plan knows."""
    found = PATTERN.fullmatch(where)
    return found is not None and 0 < int(found["port"] or 1) < 65536


@dataclass(frozen=True)
class Slurm:
    """What one SLURM job, which is one worker, asks for; `extra` goes to `dask_jobqueue.SLURMCluster` as it is."""

    queue: str | None = None
    account: str | None = None
    cores: int = 8
    memory: str = "32GB"
    walltime: str = "04:00:00"
    gpus: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """Where, on how many workers (those of an address join and leave by themselves), and how often a task may fail.

    adaptive: SLURM jobs are asked for while there are tasks, up to `workers`, and given back afterwards.
    """

    where: str = "none"
    workers: int = 1
    retries: int = 3
    adaptive: bool = False
    slurm: Slurm = field(default_factory=Slurm)

    def __post_init__(self) -> None:
        """Refuse an address that is none."""
        if not is_address(self.where):
            raise UserError(f"cluster is {self.where!r}, expected {ADDRESSES}")
        if self.workers < 1:
            raise UserError(f"the cluster was given {self.workers} workers: one at least was expected")

    def __bool__(self) -> bool:
        """Whether there is a cluster at all."""
        return self.where != "none"


HERE = Plan()


def check_plan(plan: Plan) -> None:
    """Refuse a cluster that is not to be had, in seconds, before anything long is done for it."""
    if not plan:
        return
    _module("distributed")
    if plan.where == "slurm":
        _module("dask_jobqueue")
        if shutil.which("sbatch") is None:
            raise UserError("cluster is slurm, but there is no `sbatch` here: run the command on a login node of SLURM")
    elif plan.where != "local":
        host, _, port = plan.where.removeprefix("tcp://").rpartition(":")
        _greeted(plan.where, host.strip("[]"), int(port))


def _greeted(where: str, host: str, port: int) -> None:
    """See that a Dask scheduler is there, which speaks first: for anybody else's answer Dask waits without end."""
    end = time.monotonic() + LISTEN
    while True:
        try:
            with socket.create_connection((host, port), timeout=CONNECT) as there:
                length = there.recv(8)  # of the message that follows
            if len(length) < 8 or int.from_bytes(length, "little") > GREETING:
                raise _no_scheduler(where, "something else listens there")
            return
        except TimeoutError:
            raise _no_scheduler(where, "nothing is said there") from None
        except OSError as problem:
            if time.monotonic() > end or isinstance(problem, socket.gaierror):
                raise _no_scheduler(where, _one_line(problem)) from None
        time.sleep(0.1)


def _no_scheduler(where: str, reason: str) -> UserError:
    return UserError(
        f"no Dask scheduler answers at {where} ({reason}): start one (`dask scheduler`) or correct the "
        f"address; expected {ADDRESSES}"
    )


@contextmanager
def connect(plan: Plan) -> Iterator[Any]:
    """Give a Dask client of the cluster; workers that were started for it end with the block, whatever ends it.

    Raises UserError where Dask is not installed, the scheduler does not answer, or SLURM is not here.
    """
    check_plan(plan)
    distributed = _module("distributed")
    config = {
        "distributed.scheduler.allowed-failures": plan.retries,
        "distributed.scheduler.unknown-task-duration": "10m",  # so that adaptive asks for a job each
        "distributed.scheduler.worker-saturation": 1.0,  # a task lies with no worker that is at another
        "distributed.comm.timeouts.connect": f"{CONNECT:g}s",
    }
    kept = {name: os.environ.get(name) for name in PINS}
    with ExitStack() as stack:
        stack.enter_context(_module("dask").config.set(config))
        if plan.where in ("local", "slurm"):
            stack.callback(_restore, kept)  # Dask sets them for its workers in this process too
            cluster = stack.enter_context(_local(plan) if plan.where == "local" else _started(plan))
            client = stack.enter_context(distributed.Client(cluster))
            # At the end, a worker that is slow to go is ended by force: all its shards are written.
            stack.callback(logging.getLogger("distributed.nanny").setLevel, logging.ERROR)
        else:
            try:
                client = stack.enter_context(distributed.Client(plan.where, timeout=CONNECT))
            except (OSError, ValueError) as problem:
                raise _no_scheduler(plan.where, _one_line(problem)) from None
        over = threading.Event()
        stack.callback(over.set)
        threading.Thread(target=_tell_of_no_worker, args=(client, plan.where, over), daemon=True).start()
        yield client


def _tell_of_no_worker(client: Any, where: str, over: threading.Event) -> None:
    """Say why nothing goes on: nobody has come yet, all have gone, or ended because they cannot load bulkprobe."""
    how = f"`dask worker {where}`, from this checkout" if where != "slurm" else "`squeue` shows the jobs"
    while not over.is_set() and client.status == "running":
        with suppress(OSError, RuntimeError):  # the scheduler goes
            if not client.nthreads() and not over.is_set():
                print(f"no worker at {where}: waiting for one ({how})", file=sys.stderr)
        over.wait(AGAIN)


def run_tasks(
    client: Any, work: Callable[[Task], Result], tasks: Sequence[Task], retries: int, what: str
) -> Iterator[tuple[Task, Result]]:
    """Yield every task with its result as they end, in any order.

    A UserError of a task ends the run at once: it would come again. Anything else is tried again, `retries` times, on
    whichever worker is free. what: the name of a task in messages.
    """
    distributed = _module("distributed")
    # One group of tasks with a name of its own: they wait at the scheduler for the next free worker, also one that
    # joins later, instead of lying with the first.
    group = f"{what}_{uuid.uuid4().hex}"
    futures = {
        client.submit(_attempt, work, task, key=(group, number), retries=retries): task
        for number, task in enumerate(tasks)
    }
    left = len(futures)
    try:
        for future in distributed.as_completed(list(futures)):
            task = futures.pop(future)
            if future.status == "cancelled":
                raise UserError(
                    f"the Dask scheduler is gone, with {left} of {len(tasks)} {what}s to do: the others are kept, run "
                    "the command again to go on"
                )
            if future.status == "error":
                raise UserError(
                    f"{what} {task} failed {retries + 1} times ({_reason(future.exception())}): the "
                    f"{len(tasks) - left} {what}s that are done are kept, run the command again to go on"
                )
            problem, result = future.result()
            if problem is not None:
                raise problem
            left -= 1
            future.release()
            yield task, result
    finally:
        if client.status == "running":
            client.cancel(list(futures))


@contextmanager
def joblib_on(plan: Plan) -> Iterator[None]:
    """Have joblib's parallel calls inside the block run on the cluster, where there is one."""
    if not plan:
        yield
        return
    joblib = _module("joblib")
    with connect(plan) as client, joblib.parallel_config("dask", client=client):
        yield


def worker_name() -> str:
    """The name of the Dask worker that computes this task."""
    return str(_module("distributed").get_worker().name)


def pinned_device(device: str, worker: str, visible: int) -> str:
    """Return the GPU of a worker where `cuda` was asked for: by the number at the end of its name, in turn.

    visible: GPUs that its process sees. A SLURM job sees those it was given. UserError where there are several and the
    name has no number: Dask names a worker by its address, and any two of them would take the same GPU.
    """
    digits = worker[len(worker.rstrip("0123456789")) :]
    if device != "cuda" or visible < 2:
        return device
    if "://" in worker or not digits:
        raise UserError(
            f"the worker {worker} sees {visible} GPUs, and nothing says which is its own: start one a GPU with --name "
            "gpu-0, gpu-1, … or set CUDA_VISIBLE_DEVICES"
        )
    return f"cuda:{int(digits) % visible}"


def slurm_cluster(plan: Plan) -> Any:
    """Return a cluster whose workers are SLURM jobs; it asks for none before it is scaled.

    A worker computes one task at a time with all its cores. UserError where jobqueue does not take what is asked for.
    """
    jobqueue, asked = _module("dask_jobqueue"), plan.slurm
    extra = dict(asked.extra)
    added = {key: extra.pop(key, []) for key in ("job_extra_directives", "job_script_prologue")}
    for key, lines in added.items():
        if not isinstance(lines, list):
            raise UserError(f"embed.slurm.extra.{key} is {lines!r}, expected a list of lines")
    kinds = (*jobqueue.SLURMCluster.__mro__, *jobqueue.SLURMCluster.job_cls.__mro__)
    known = {name for kind in kinds for name in inspect.signature(kind.__init__).parameters}
    if unknown := sorted(set(extra) - known):
        raise UserError(f"embed.slurm.extra has {some(unknown)}, which dask_jobqueue.SLURMCluster does not know")
    threads = f"export OMP_NUM_THREADS={asked.cores}"
    source = f'export PYTHONPATH="{Path(__file__).resolve().parents[1]}${{PYTHONPATH:+:$PYTHONPATH}}"'
    gpus = [f"--gres=gpu:{asked.gpus}"] if asked.gpus else []
    try:
        return jobqueue.SLURMCluster(
            queue=asked.queue,
            account=asked.account,
            cores=1,
            processes=1,
            job_cpu=asked.cores,
            memory=asked.memory,
            walltime=asked.walltime,
            python=extra.pop("python", sys.executable),
            job_extra_directives=[*gpus, *added["job_extra_directives"]],
            job_script_prologue=[threads, source, *added["job_script_prologue"]],
            scheduler_options={
                "dashboard": False,
                "dashboard_address": "127.0.0.1:0",
                **extra.pop("scheduler_options", {}),
            },
            **extra,
        )
    except (TypeError, ValueError, RuntimeError) as problem:
        raise UserError(
            f"embed.slurm cannot be used ({_one_line(problem)}): correct it, or its `extra`, which takes what "
            "dask_jobqueue.SLURMCluster knows and embed.slurm does not name"
        ) from None


@contextmanager
def _started(plan: Plan) -> Iterator[Any]:
    with slurm_cluster(plan) as cluster:
        if plan.adaptive:
            cluster.adapt(minimum_jobs=0, maximum_jobs=plan.workers)
        else:
            cluster.scale(jobs=plan.workers)
        yield cluster


def _local(plan: Plan) -> Any:
    """Processes of this machine, which share its cores evenly."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return _module("distributed").LocalCluster(
        n_workers=plan.workers,
        threads_per_worker=1,
        processes=True,
        memory_limit=0,  # as without a cluster: the system's own limit holds
        scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
        preload=[DEAF],
        env={"OMP_NUM_THREADS": max(1, cores // plan.workers)},
    )


def _attempt(work: Callable[[Task], Result], task: Task) -> tuple[UserError | None, Result | None]:
    """Hand a user's error back as a value: Dask would try it again."""
    try:
        return None, work(task)
    except UserError as problem:
        return problem, None


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise UserError(f"a cluster was asked for, but {name} is not installed: {EXTRA}") from None


def _restore(environment: Mapping[str, str | None]) -> None:
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _reason(problem: BaseException | None) -> str:
    if "No module named" in str(problem) or "deserialization" in str(problem):
        return "the scheduler or a worker cannot load bulkprobe: start both from the same checkout and environment"
    if type(problem).__name__ == "KilledWorker":
        return "each time its worker died: out of memory, a time limit, or a machine that went down"
    return _one_line(problem)


def _one_line(problem: BaseException | None) -> str:
    return " ".join(str(problem).split())[:200] or type(problem).__name__
