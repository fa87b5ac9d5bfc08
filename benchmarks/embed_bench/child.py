"""One side of the comparison in a process of its own: load, embed one sample to warm up, then embed the others.

    python -m embed_bench.child ours|plain|count MODEL FOLDER OPTIONS_JSON

FOLDER holds checkpoint/, genes.parquet and counts.npy; the result goes to <side>.npz: vectors, seconds a sample, extra
bytes at the peak, FLOP that one sample needs (ours). count: ours, the first sample alone, for its operations.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from probe_bench.memory import peak_bytes, reset_peak

Embed = Callable[[np.ndarray, list[str]], np.ndarray]


def ours(model: str, folder: Path, genes: pd.DataFrame, options: dict[str, Any], threads: int) -> tuple[Embed, Any]:
    """Our encoder through the door that the pipeline uses."""
    from bulkprobe.encoders import get_encoder
    from bulkprobe.encoders.base import CohortView, Weights

    counts = np.load(folder / "counts.npy", mmap_mode="r")
    obs = pd.DataFrame({"sample_id": [f"S{i}" for i in range(len(counts))]})
    view = CohortView(genes, obs, "counts", (), lambda layer: iter([np.asarray(counts)]))
    precision = options.pop("precision", "float32")
    weights = Weights(folder / "checkpoint", precision=precision, threads=threads)
    session = get_encoder(model).start(view, options, weights)
    return lambda values, ids: session.embed(values, obs[obs.sample_id.isin(ids)]), session


def plain(model: str, folder: Path, genes: pd.DataFrame, options: dict[str, Any], threads: int) -> tuple[Embed, Any]:
    """The plain reading of upstream's procedure."""
    torch.set_num_threads(threads)
    embed: Embed = import_module(f"plain.{model}").prepare(folder / "checkpoint", genes)
    return embed, None


def flop_of(session: Any, values: np.ndarray) -> float:
    """FLOP of the matrix products and the attention of one sample."""
    from bulkprobe.nn.samples import Sample

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_flop_count(query, key, value))

    cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    counter = FlopCounterMode(display=False, custom_mapping={cpu: attention})
    with torch.no_grad(), counter:
        session.encode(values, Sample("S0", 0))
    return float(counter.get_total_flops())


def main() -> None:
    """Do as the arguments say."""
    side, model, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    options = json.loads(sys.argv[4])
    threads = int(options.pop("threads"))
    warnings.simplefilter("ignore")
    genes = pd.read_parquet(folder / "genes.parquet")
    counts = np.load(folder / "counts.npy")
    ids = [f"S{i}" for i in range(len(counts))]
    reset_peak()
    before = peak_bytes()
    embed, session = (plain if side == "plain" else ours)(model, folder, genes, options, threads)
    if side == "count":
        seconds, flop, vectors = 0.0, flop_of(session, counts[0]), np.zeros((1, session.width))
        peak = peak_bytes() - before
    else:
        embed(counts[:1], ids[:1])
        begun = time.perf_counter()
        vectors = embed(counts, ids)
        seconds = (time.perf_counter() - begun) / len(counts)
        peak = peak_bytes() - before
        flop = flop_of(session, counts[0]) if session is not None else 0.0
    np.savez(folder / f"{side}.npz", vectors=vectors, seconds=seconds, peak=peak, flop=flop)


if __name__ == "__main__":
    main()
