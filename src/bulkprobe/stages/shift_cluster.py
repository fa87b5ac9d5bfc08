"""The depth ladder's blocks computed by the workers of a Dask cluster, by the functions of `stages/shift_ladder.py`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import chdir
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from bulkprobe.cluster import Plan, connect, run_tasks
from bulkprobe.files import atomic_path, scratch_folder
from bulkprobe.params import Params
from bulkprobe.stages import paths
from bulkprobe.stages.embed_cluster import JobFile, frozen_options, own_device, read_job, write_job
from bulkprobe.stages.shift_ladder import Rung, Tested, thin_block
from bulkprobe.stages.shift_subject import Subject, open_subject


@dataclass(frozen=True)
class LadderJob:
    """What a worker needs for any block: the project's top folder, the encoder, its parameters, and the tumours."""

    top: Path
    name: str
    params: Params
    tested: Tested


@dataclass(frozen=True)
class Block:
    """A task: a block of tumours at one depth."""

    job: JobFile
    start: int
    depth: int

    def __str__(self) -> str:
        return f"at tumour {self.start}, depth {self.depth}"


def rungs_on_cluster(
    subject: Subject, tested: Tested, wanted: Sequence[tuple[int, int]], plan: Plan
) -> Iterator[tuple[int, int, Rung]]:
    """Yield the rungs of the wanted (first tumour, depth), in any order; vectors come through files."""
    name = subject.name
    frozen = {**subject.entry.options, **frozen_options(subject.session.attributes)}
    entries = {**subject.params.encoders, name: subject.entry.model_copy(update={"options": frozen})}
    params = subject.params.model_copy(update={"encoders": entries})
    beside = paths.metrics_path("shift", name).absolute()
    with scratch_folder(beside, ".job") as folder, connect(plan) as client:
        file = write_job(folder, LadderJob(Path.cwd(), name, params, tested))
        blocks = [Block(file, start, depth) for start, depth in wanted]
        for block, path in run_tasks(client, thin_on_worker, blocks, plan.retries, "block"):
            yield block.start, block.depth, _read(Path(path))
            Path(path).unlink()


def thin_on_worker(block: Block) -> str:
    """On a worker: thin and embed a block; return the file that holds its rung."""
    job, subject = _opened(block.job)
    with chdir(job.top):
        rung = next(rung for _, rung in thin_block(subject, job.tested, block.start, [block.depth]))
    path = Path(block.job.path).with_name(f"{block.start}-{block.depth}.npz")
    with atomic_path(path) as aside, aside.open("wb") as file:
        np.savez(file, above=rung.above, vectors=rung.vectors, expressed=rung.expressed, fractions=rung.fractions)
    return str(path)


@lru_cache(maxsize=1)
def _opened(file: JobFile) -> tuple[LadderJob, Subject]:
    """Read a job and make its encoder ready, once a process."""
    job: LadderJob = read_job(file)
    embed = job.params.embed.model_copy(update={"device": own_device(job.params.embed.device)})
    with chdir(job.top):
        subject = open_subject(job.name, job.params.model_copy(update={"embed": embed}))
    assert isinstance(subject, Subject)  # the client has opened it
    return job, subject


def _read(path: Path) -> Rung:
    with np.load(path) as found:
        return Rung(found["above"], found["vectors"], found["expressed"], bool(found["fractions"]))
