"""The session of every encoder that computes with torch: one sample is one forward pass.

A bulk sample is thousands of tokens, which fills a machine by itself; batching would only add padding, whose rounding
makes a sample's vector depend on its neighbours. On the CPU several samples run side by side, each on one thread, so
bytes do not depend on the number of threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch

from bulkprobe.errors import UserError


@dataclass(frozen=True)
class Sample:
    """Which sample is being embedded: its id, and its row number in the cohort."""

    id: str
    row: int


@dataclass(frozen=True)
class Tokens:
    """What a model reads of one sample: columns of the cohort's genes, and its own value for each (bin, rank, log)."""

    columns: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Samples:
    """An encoder made ready for one cohort.

    encode: from one sample's values (n_genes,) to its vector (width,); called without gradients. A UserError that it
    raises gets the sample's name in front. tokens: what it reads of that sample. `attributes` go into the store.
    known: columns (ascending) of the cohort's genes that the model's vocabulary has, by its own matching. states:
    columns (n,) and the model's own final states (n, width of a state) of the measured genes that are tokens of a
    sample, before pooling and without special tokens, of several draws the first; where columns add up to one gene,
    the first of them. Call it inside `torch.inference_mode()`. None: this model has no such states.
    """

    width: int
    layer: str
    attributes: Mapping[str, Any]
    encode: Callable[[np.ndarray, Sample], torch.Tensor]
    tokens: Callable[[np.ndarray, Sample], Tokens]
    device: str = "cpu"
    precision: str = "float32"
    threads: int | None = None
    known: np.ndarray = field(kw_only=True)
    states: Callable[[np.ndarray, Sample], tuple[np.ndarray, torch.Tensor]] | None = field(default=None, kw_only=True)

    def embed(self, values: np.ndarray | None, obs: pd.DataFrame) -> np.ndarray:
        """Return (n_samples, width) float32 from `values` (n_samples, n_genes) in the cohort's order of genes."""
        if values is None:
            raise ValueError("this encoder reads expression")
        samples = [Sample(str(name), int(row)) for name, row in zip(obs.sample_id, obs.index, strict=True)]
        if self.device != "cpu":
            return np.stack([self._one(row, sample) for row, sample in zip(values, samples, strict=True)])
        with ThreadPoolExecutor(self.threads or cores(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return np.stack(list(pool.map(self._one, values, samples)))

    def _one(self, values: np.ndarray, sample: Sample) -> np.ndarray:
        half, kind = self.precision == "bfloat16", torch.device(self.device).type
        try:
            lowest = values.min(initial=0.0)
            if not lowest >= 0 or not np.isfinite(values.max(initial=0.0)):
                raise UserError("its expression has negative, missing or infinite values: counts or TPM were expected")
            with torch.inference_mode(), torch.autocast(kind, torch.bfloat16) if half else nullcontext():
                vector = self.encode(values, sample)
        except UserError as problem:
            raise UserError(f"sample {sample.id}: {problem}") from None
        found: np.ndarray = vector.float().cpu().numpy()
        return found


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread, as samples are computed; also a decorator. For what no sample changes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def cores() -> int:
    """Samples to compute at once: OMP_NUM_THREADS where it is set, else the cores this process may use."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked):
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
