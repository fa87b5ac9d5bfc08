"""The shards of an embedding store computed by the workers of a Dask cluster, into the store that is being made.

A worker runs the functions of `stages/embed.py` and `store.py` that the single process runs, so the bytes are the same.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import pickle
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from bulkprobe.cluster import Plan, connect, pinned_device, run_tasks, worker_name
from bulkprobe.encoders import get_encoder
from bulkprobe.encoders.base import Session, Weights
from bulkprobe.errors import UserError, some
from bulkprobe.files import file_hash, scratch_folder
from bulkprobe.stages.checkpoints import Held
from bulkprobe.stages.embed import Expression, check_device, embed_rows, tell_estimate, view_of
from bulkprobe.store import finish_store, missing_shards, write_shard

NUMERICAL = ("numpy", "torch", "zarr")  # whose versions must be the same everywhere

_STARTING = threading.Lock()  # a worker with several threads makes one session


@dataclass(frozen=True)
class Job:
    """All that a worker needs for any shard of one run; paths are absolute.

    options: with what the client took from the whole cohort as numbers.
    """

    name: str
    model: str
    expression: Expression
    obs: pd.DataFrame
    options: Mapping[str, Any]
    weights: Weights | None
    checkpoint_sha256: str | None
    width: int
    path: Path
    shard_size: int
    batch_size: int | None


@dataclass(frozen=True)
class JobFile:
    """Where a job lies, and the hash of the file: what is read is what the client wrote."""

    path: str
    sha256: str


@dataclass(frozen=True)
class Shard:
    """A task: the shard of a job that begins at a row."""

    job: JobFile
    start: int

    def __str__(self) -> str:
        return f"at row {self.start}"


def frozen_options(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that an encoder took from the cohort, as numbers: no worker need read the cohort again."""
    return {
        key.removesuffix("_from"): attributes[key.removesuffix("_from")]
        for key, said in attributes.items()
        if key.endswith("_from") and said == "cohort_median"
    }


def embed_on_cluster(job: Job, starts: Sequence[int], plan: Plan) -> None:
    """Have the shards at rows `starts` written, and finish the store; what was written stays whatever ends the run."""
    total = sum(min(job.shard_size, len(job.obs) - start) for start in starts)
    told = False
    with scratch_folder(job.path, ".job") as folder:
        file = write_job(folder, job)
        with (
            connect(plan) as client,
            tqdm(total=total, desc=f"embed {job.name}", unit="sample", delay=2) as progress,
        ):
            shards = [Shard(file, start) for start in starts]
            for _, (n, seconds) in run_tasks(client, embed_shard, shards, plan.retries, "shard"):
                progress.update(n)
                if not told:
                    told = True
                    workers = max(1, len(client.nthreads()))
                    tell_estimate(job.name, total, seconds * total / n / min(workers, len(starts)), "on this cluster")
    unseen = missing_shards(job.path, len(job.obs), job.shard_size)
    if unseen:
        raise UserError(
            f"workers wrote shards at rows {some(unseen)} of {job.path.name} that are not to be seen here: client and "
            "workers must share the file system"
        )
    finish_store(job.path)


def embed_shard(shard: Shard) -> tuple[int, float]:
    """On a worker: embed one shard and write it; return its samples and the seconds it took."""
    with _STARTING:
        job, session, held = _opened(shard.job)
    begun = time.monotonic()
    rows = np.arange(shard.start, min(shard.start + job.shard_size, len(job.obs)))
    parts = list(embed_rows(session, job.expression, job.obs, rows, job.name, job.batch_size))
    held.check()
    write_shard(job.path, shard.start, np.concatenate(parts))
    return len(rows), time.monotonic() - begun


@lru_cache(maxsize=1)
def _opened(file: JobFile) -> tuple[Job, Session, Held]:
    """Read a job and make its encoder ready, once a process; UserError where this worker would compute otherwise."""
    job: Job = read_job(file)
    weights = job.weights
    held = Held(None if weights is None else weights.folder, job.checkpoint_sha256)
    if weights is not None:
        weights = replace(weights, device=own_device(weights.device))
        check_device(weights.device)
    session = get_encoder(job.model).start(view_of(job.expression, job.obs), job.options, weights)
    if session.width != job.width:
        raise UserError(f"the worker {worker_name()} makes vectors of {session.width} numbers, not of {job.width}")
    return job, session, held


def own_device(device: str) -> str:
    """Return the device of this worker: one GPU each where the machine has several."""
    if device == "cpu":
        return device
    import torch

    return pinned_device(device, worker_name(), torch.cuda.device_count())


@lru_cache(maxsize=1)  # a worker that was started before an edit keeps what it runs
def software() -> dict[str, str]:
    """Return what numbers depend on: versions of the numerical libraries, and a hash of this package's own source."""
    source, digest = Path(__file__).resolve().parents[1], hashlib.sha256()
    for path in sorted(source.rglob("*.py")):
        digest.update(f"{path.relative_to(source).as_posix()}\0{file_hash(path)}\n".encode())
    versions = {name: importlib.metadata.version(name) for name in NUMERICAL}
    return {"bulkprobe's source": digest.hexdigest()[:12], **versions}


def write_job(folder: Path, job: Any) -> JobFile:
    """On the client: write a job for the workers."""
    file = folder / "job.pickle"
    # The software in a pickle of its own: other source may not be able to read the job.
    file.write_bytes(pickle.dumps(software()) + pickle.dumps(job))
    return JobFile(str(file), file_hash(file))


def read_job(file: JobFile) -> Any:
    """On a worker: read a job; UserError where it is not to be seen here, or this is not the client's software."""
    path = Path(file.path)
    if not path.is_file():
        raise UserError(
            f"the worker {worker_name()} does not see {path}: client and workers must share the file system"
        )
    content = io.BytesIO(path.read_bytes())
    if hashlib.sha256(content.getbuffer()).hexdigest() != file.sha256:
        raise UserError(f"{path} is not what the client wrote: run the command again")
    asked, own = pickle.load(content), software()
    unlike = [f"{name} {own[name]} instead of {asked.get(name)}" for name in own if own[name] != asked.get(name)]
    if unlike:
        raise UserError(
            f"the worker {worker_name()} has {some(unlike)}: start workers from the same checkout and environment"
        )
    return pickle.load(content)
