"""Stage `embed@<encoder>`: one vector a sample, for every sample of the cohort."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
from tqdm import tqdm

from bulkprobe.cluster import HERE, Plan, Slurm, check_plan
from bulkprobe.cohort.given import cohort_input
from bulkprobe.encoders import get_encoder
from bulkprobe.encoders.base import CohortView, Session, Weights, embed_blocks
from bulkprobe.errors import Unfit, UserError
from bulkprobe.files import only_writer
from bulkprobe.params import Embed, load_params
from bulkprobe.preprocess.normalise import COUNTS_ALONE
from bulkprobe.stages import paths
from bulkprobe.stages.checkpoints import Checkpoint, Held, recorded
from bulkprobe.stages.draw_noise import measure_draw_noise
from bulkprobe.stages.running import encoder_argument, run_stage
from bulkprobe.store import is_finished, prepare_store, tidy, write_absent, write_store

READ_ROWS = 256  # samples whose expression is held at a time
LONG_RUN = 60.0  # seconds from which an estimate is given first


class Expression(Protocol):
    """Expression that can be read by blocks: the cohort's store, or a lab's own file."""

    @property
    def sample_ids(self) -> list[str]:
        """The samples, in order."""

    @property
    def var(self) -> pd.DataFrame:
        """The genes, one row a column."""

    @property
    def scale(self) -> str:
        """The scale of X."""

    @property
    def layers(self) -> list[str]:
        """Layers beside X."""

    def read(self, layer: str, rows: np.ndarray) -> np.ndarray:
        """Return rows of a layer: float32 (n_rows, n_genes)."""

    def blocks(self, *, layer: str) -> Iterator[np.ndarray]:
        """Yield all rows of a layer in order."""


def main() -> str:
    """Write `data/embeddings/<encoder>.zarr`."""
    params = load_params()
    name = encoder_argument()
    entry = params.encoders.get(name)
    if entry is None:
        raise UserError(f"params.yaml: encoders has no {name!r}; known: {', '.join(params.encoders)}")
    path = paths.store_path(name)
    about = {"encoder": name, "model": entry.model}
    if not entry.enabled:
        write_absent(path, "switched off in params.yaml (enabled: false)", about)
        return f"{name} is switched off; {path} says so"
    checkpoint = recorded(paths.weights_path(name))
    if isinstance(checkpoint, str):
        write_absent(path, checkpoint, about)
        return f"{name} is absent; {path} says why"
    options = params.embed
    try:
        written = embed_cohort(
            name,
            entry.model,
            paths.COHORT,
            path,
            entry.options,
            options.shard_size,
            checkpoint=checkpoint,
            device=options.device,
            precision=options.precision,
            plan=plan_of(options),
        )
    except Unfit as problem:
        write_absent(path, str(problem), about)
        print(f"warning: {name} will be absent: {problem}", file=sys.stderr)
        return f"{name} cannot read this cohort; {path} says why"
    return f"{path} {'is written' if written else 'was complete and is left as it is'}"


def plan_of(settings: Embed, where: str | None = None, workers: int | None = None) -> Plan:
    """Return where to compute: what params.yaml says, unless something else is asked for."""
    return Plan(
        where=where or settings.cluster,
        workers=workers or settings.workers,
        retries=settings.retries,
        adaptive=settings.adaptive,
        slurm=Slurm(**settings.slurm.model_dump()),
    )


def embed_cohort(
    name: str,
    model: str,
    cohort_folder: Path,
    path: Path,
    options: Mapping[str, Any],
    shard_size: int,
    **how: Any,
) -> bool:
    """Embed every sample of a cohort folder, unless another process is at it; see `embed_expression`."""
    if how.get("plan"):
        check_plan(how["plan"])
        cohort_folder = cohort_folder.absolute()
    given = cohort_input(cohort_folder)
    with only_writer(path):
        return embed_expression(name, model, given, given.obs, path, options, shard_size, lambda: given.sha256, **how)


def embed_expression(
    name: str,
    model: str,
    expression: Expression,
    obs: pd.DataFrame,
    path: Path,
    options: Mapping[str, Any],
    shard_size: int,
    sha256: Callable[[], str],
    *,
    checkpoint: Checkpoint | None = None,
    device: str = "cpu",
    precision: Literal["float32", "bfloat16"] = "float32",
    batch_size: int | None = None,
    plan: Plan = HERE,
) -> bool:
    """Embed every sample; False where a complete store of the same input was there already.

    obs: the sample table in the order of the expression. sha256: hash of the input, for the store. batch_size: samples
    handed over at a time, which on a CPU changes no number. plan: where the shards are computed; on a cluster, paths in
    `expression` and `checkpoint` are absolute. The caller sees to it that nobody else writes to `path`.
    """
    tidy(path)
    weights, held = None, Held(None, None)
    if checkpoint is not None:
        held = Held(checkpoint.folder, checkpoint.sha256)
        weights = Weights(checkpoint.folder.absolute() if plan else checkpoint.folder, device, precision)
        if not plan:
            check_device(device)
        elif not has_device(device):  # the workers have it
            weights = replace(weights, device="cpu")
    encoder, view = get_encoder(model), view_of(expression, obs)
    session = encoder.start(view, options, weights)
    origin = {"checkpoint_sha256": None, "release": None, "untrained": False}
    attributes = {
        **session.attributes,
        **(checkpoint.attributes() if checkpoint else origin),
        **(measure_draw_noise(encoder, view, options, weights, expression) if weights else {}),
        "encoder": name,
        "model": model,
        "options": dict(options),
        "precision": precision if checkpoint else "float32",
        "expression_scale": expression.scale,
        "cohort_sha256": sha256(),
    }
    samples = expression.sample_ids
    if is_finished(path, sample_ids=samples, width=session.width, attributes=attributes):
        return False
    starts = prepare_store(path, sample_ids=samples, width=session.width, attributes=attributes, shard_size=shard_size)
    if plan:
        from bulkprobe.stages.embed_cluster import Job, embed_on_cluster, frozen_options

        job = Job(
            name=name,
            model=model,
            expression=expression,
            obs=obs,
            options={**options, **frozen_options(session.attributes)},
            weights=weights and replace(weights, device=device),
            checkpoint_sha256=checkpoint.sha256 if checkpoint else None,
            width=session.width,
            path=path.absolute(),
            shard_size=shard_size,
            batch_size=batch_size,
        )
        del session
        embed_on_cluster(job, starts, plan)
        return True
    write_store(
        path,
        sample_ids=samples,
        width=session.width,
        attributes=attributes,
        shards=_shards(session, held, expression, obs, starts, shard_size, name, batch_size),
        shard_size=shard_size,
    )
    return True


def check_device(device: str) -> None:
    """Refuse a device that this machine does not have."""
    if not has_device(device):
        raise UserError(f"device {device!r} was asked for, but torch sees no GPU on this machine: use cpu")


def has_device(device: str) -> bool:
    """Whether this machine has a device."""
    if device == "cpu":
        return True
    import torch

    return bool(torch.cuda.is_available())


def view_of(expression: Expression, obs: pd.DataFrame) -> CohortView:
    """Return what an encoder is told about a cohort."""
    scale = expression.scale
    if scale == "counts" and "tpm" not in expression.layers:
        scale = COUNTS_ALONE  # too few gene lengths are known for TPM
    return CohortView(
        expression.var, obs, scale, tuple(expression.layers), lambda layer: expression.blocks(layer=layer)
    )


def _shards(
    session: Session,
    held: Held,
    expression: Expression,
    obs: pd.DataFrame,
    starts: Sequence[int],
    size: int,
    name: str,
    batch_size: int | None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the shards to write, each with its first row; a run over a minute begins with an estimate."""
    total = sum(min(size, len(obs) - start) for start in starts)
    begun, told = time.monotonic(), False
    with tqdm(total=total, desc=f"embed {name}", unit="sample", delay=2) as progress:
        for start in starts:
            rows = np.arange(start, min(start + size, len(obs)))
            parts = []
            for part in embed_rows(session, expression, obs, rows, name, batch_size):
                parts.append(part)
                progress.update(len(part))
                if not told:
                    told = True
                    tell_estimate(name, total, (time.monotonic() - begun) * total / len(part))
            held.check()
            yield start, np.concatenate(parts)


def tell_estimate(name: str, samples: int, seconds: float, where: str = "on this machine") -> None:
    """Say how long a run over a minute will take."""
    if seconds > LONG_RUN:
        minutes = seconds / 60
        said = f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"
        print(f"{name}: {samples} samples will take about {said} {where}", file=sys.stderr)


def embed_rows(
    session: Session, expression: Expression, obs: pd.DataFrame, rows: np.ndarray, name: str, batch_size: int | None
) -> Iterator[np.ndarray]:
    """Embed the samples with these numbers; yield their vectors by blocks, (n, width) float32."""
    step = batch_size or (16 if hasattr(session, "encode") else READ_ROWS)
    yield from embed_blocks(session, _blocks(session, expression, obs, rows, step), name)


def _blocks(
    session: Session, expression: Expression, obs: pd.DataFrame, rows: np.ndarray, step: int
) -> Iterator[tuple[np.ndarray | None, pd.DataFrame]]:
    for start in range(0, len(rows), READ_ROWS):
        part = rows[start : start + READ_ROWS]
        values = None if session.layer is None else expression.read(session.layer, part)
        for first in range(0, len(part), step):
            chosen = slice(first, first + step)
            yield None if values is None else values[chosen], obs.iloc[part[chosen]]


if __name__ == "__main__":
    run_stage(main)
