"""What random draws of genes and bfloat16 do to vectors and scores, on the cohort and weights of the pipeline.

    dvc repro && PYTHONPATH=src:benchmarks python -m embed_bench.variants [--json FILE] [--only MODEL]...

Draws: scGPT and CellFM read a random part of a sample's genes; here with five seeds, and with the mean of five draws.
bfloat16: every model in half precision. For each variant: drift (mean of 1 - cosine to the default vector, and in units
of the distance between patients), samples a second, AUROC (within types, mean over genes) and C-index (mean over
types). The weights are those of `models/`: untrained stand-ins unless params.yaml says otherwise.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bulkprobe.cohort.read import read_cohort
from bulkprobe.params import load_params
from bulkprobe.report.tables import summarise
from bulkprobe.stages import paths, probe_mutation, probe_survival
from bulkprobe.stages.checkpoints import Checkpoint, recorded
from bulkprobe.stages.embed import embed_cohort
from bulkprobe.store import Store, read_store

SEEDS = 5


def embedded(name: str, folder: Path, precision: str, **options: Any) -> tuple[Store, float]:
    """Embed the cohort with these options; returns the store and samples a second."""
    params = load_params()
    entry = params.encoders[name]
    checkpoint = recorded(paths.weights_path(name))
    if not isinstance(checkpoint, Checkpoint):
        raise SystemExit(f"{name} has no weights here: run `dvc repro weights@{name}`")
    path = folder / f"{name}.zarr"
    begun = time.perf_counter()
    how = {"checkpoint": checkpoint, "precision": precision}
    embed_cohort(name, entry.model, paths.COHORT, path, {**entry.options, **options}, params.embed.shard_size, **how)
    seconds = time.perf_counter() - begun
    store = read_store(path)
    return store, len(store.sample_id) / seconds


def scores(name: str, store: Store) -> dict[str, float | None]:
    """Probe a store as the pipeline does and return the two headline means."""
    params, cohort = load_params(), read_cohort(paths.COHORT)
    table = pd.read_parquet(paths.SPLITS)
    mutation, _ = probe_mutation.run(store, name, cohort, table, params)
    survival, _ = probe_survival.run(store, name, cohort, table, params)
    found = summarise({name: mutation}, {name: survival})[name]
    return {"auroc": found["mutation_within_type"], "c_index": found["survival"]}


def drift(store: Store, default: Store) -> dict[str, float]:
    """How far the vectors of a variant are from the default's."""
    ours, theirs = store.embedding.astype(np.float64), default.embedding.astype(np.float64)
    cosine = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    apart = np.linalg.norm(theirs - np.roll(theirs, 1, axis=0), axis=1).mean()
    return {
        "one_minus_cosine": float((1 - cosine).mean()),
        "relative": float(np.linalg.norm(ours - theirs, axis=1).mean() / apart),
    }


def main() -> int:
    """Run every variant, print the table, write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--only", action="append", default=[], help="encoders; may be repeated")
    arguments = parser.parse_args()
    names = ["cellfm", "geneformer", "scbert", "scfoundation", "scgpt", "sclong", "bulkformer"]
    rows: list[dict[str, Any]] = []
    print(f"{'':<14}{'variant':<12}{'samples/s':>10}{'1 - cosine':>12}{'relative':>10}{'AUROC':>8}{'C-index':>9}")
    for name in [n for n in names if not arguments.only or n in arguments.only]:
        with tempfile.TemporaryDirectory(prefix="bulkprobe-") as scratch:
            variants: dict[str, tuple[str, dict[str, Any]]] = {"default": ("float32", {})}
            if name in ("scgpt", "cellfm"):
                variants |= {f"seed {k}": ("float32", {"draw_seed": k}) for k in range(1, SEEDS)}
                variants["5 draws"] = ("float32", {"draws": 5})
            variants["bfloat16"] = ("bfloat16", {})
            default: Store | None = None
            for variant, (precision, options) in variants.items():
                folder = Path(scratch) / variant.replace(" ", "_")
                store, rate = embedded(name, folder, precision, **options)
                default = default or store
                row = {"encoder": name, "variant": variant, "samples_per_second": rate, **drift(store, default)}
                row |= scores(name, store)
                row["untrained"] = bool(store.attributes["untrained"])
                row["draw_noise"] = store.attributes.get("draw_noise")
                rows.append(row)
                values = [row["auroc"], row["c_index"]]
                said = "".join(f"{'-' if v is None else f'{v:.4f}':>9}" for v in values)
                print(
                    f"{name:<14}{variant:<12}{rate:>10.0f}{row['one_minus_cosine']:>12.1e}{row['relative']:>10.3f}{said}",
                    flush=True,
                )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
