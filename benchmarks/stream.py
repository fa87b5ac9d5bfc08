"""Embedding ever more samples: is memory flat, and is time linear? And what does DVC's hashing of the store cost?

Simulated counts (every sample the same at each size) are embedded with a small checkpoint, from an .h5ad and from the
cohort folder built of it, each size in a process of its own. The smaller sizes are run several times, in turn, and the
fastest counts. Seconds are those of the whole run, from opening the input to the finished store; those of a further
sample are the difference between two sizes, without what every run begins with (torch, weights). DVC's cost is that of
`dvc add` of the store, less that of `dvc add` of an empty folder.

    python benchmarks/stream.py [--quick] [--json FILE] [--workdir FOLDER]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr

import bulkprobe
from embed_bench.cases import made_genes
from stream_bench.simulated import write_counts, write_samples

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "src"
FULL, QUICK = (2_000, 20_000, 200_000), (1_000, 2_000, 4_000)
REPEATS = (5, 2, 1)  # of the sizes
KINDS = ("h5ad", "cohort")  # an AnnData file, and the cohort folder built of it
GENES, SHARD = 400, 500
MODEL = "geneformer"
SIZES = {"version": "V2", "width": 64, "depth": 2, "heads": 4}
FLAT, LINEAR = 1.2, 1.1  # peak memory and seconds of a further sample, over those of the smallest


def write_inputs(folder: Path, genes: pd.DataFrame, n: int) -> None:
    """Write n samples as an .h5ad, and the cohort folder that is built of it."""
    write_counts(folder / f"{n}.h5ad", genes, n)
    write_samples(folder / f"{n}.csv", n)
    files = {"expression": f"{n}.h5ad", "samples": f"{n}.csv"}
    bulkprobe.build_cohort(files, folder / f"{n}.cohort", folder=folder)


def embed(folder: Path, n: int, kind: str) -> dict[str, float]:
    """Embed n samples anew in a process of its own; return its seconds and its peak bytes."""
    output = folder / f"{n}.{kind}.zarr"
    shutil.rmtree(output, ignore_errors=True)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(SOURCE), str(HERE)])}
    source = folder / f"{n}.{kind}"
    command = [sys.executable, "-m", "stream_bench.child", MODEL, str(source), str(folder / "checkpoint")]
    done = subprocess.run(
        [*command, str(output), str(SHARD)], check=True, env=env, capture_output=True, text=True, cwd=folder
    )
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def gap(folder: Path, n: int, kind: str, smallest: int) -> float:
    """Return how far the vectors of the samples that two sizes share differ at most."""
    paths = [folder / f"{smallest}.{KINDS[0]}.zarr", folder / f"{n}.{kind}.zarr"]
    first, second = (zarr.open_group(str(path), mode="r")["embedding"] for path in paths)
    if not isinstance(first, zarr.Array) or not isinstance(second, zarr.Array):
        raise TypeError("embedding is no array")
    return float(np.abs(np.asarray(first[:smallest]) - np.asarray(second[:smallest])).max())


def hashing(folder: Path, n: int) -> dict[str, float]:
    """Return the seconds of `dvc add` of a store in a repository of its own, and of a status after it."""
    repository = folder / f"dvc-{n}"
    (repository / "empty").mkdir(parents=True)
    store = repository / "store.zarr"
    (folder / f"{n}.{KINDS[0]}.zarr").rename(store)
    (repository / "empty" / "file").write_text("nothing")

    def dvc(*words: str) -> float:
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-m", "dvc", *words], check=True, cwd=repository, capture_output=True)
        return time.perf_counter() - begun

    dvc("init", "--no-scm", "--quiet")
    dvc("config", "cache.type", "hardlink,symlink")
    nothing = dvc("add", "--quiet", "empty")
    added = dvc("add", "--quiet", "store.zarr")
    found = [path for path in store.rglob("*") if path.is_file()]
    total = sum(path.stat().st_size for path in found)
    return {"seconds": max(0.0, added - nothing), "status": dvc("status"), "bytes": float(total), "files": len(found)}


def main() -> int:
    """Run every size, print the table, write the JSON file; status 1 where memory or time grows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="1,000 to 4,000 samples, which show that it runs")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--workdir", type=Path, help="where inputs and stores lie for the time being")
    arguments = parser.parse_args()
    sizes = QUICK if arguments.quick else FULL
    repeats = (1, 1, 1) if arguments.quick else REPEATS
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="bulkprobe-", dir=arguments.workdir) as scratch:
        folder = Path(scratch)
        genes = made_genes(GENES)
        (folder / "checkpoint").mkdir()
        import_module(f"bulkprobe.untrained.{MODEL}").write(folder / "checkpoint", genes, 1, **SIZES)
        measured: dict[tuple[str, int], list[dict[str, float]]] = {(kind, n): [] for kind in KINDS for n in sizes}
        for n in sizes:
            write_inputs(folder, genes, n)
        for turn in range(max(repeats)):
            for n, times in zip(sizes, repeats, strict=True):
                for kind in KINDS if turn < times else ():
                    measured[kind, n].append(embed(folder, n, kind))
        gaps = {(kind, n): gap(folder, n, kind, sizes[0]) for kind, n in measured}
        costs = {n: hashing(folder, n) for n in sizes}
    print(
        f"{'input':<8}{'samples':>9}{'s':>9}{'ms a further sample':>21}{'ratio':>7}{'peak MB':>9}{'ratio':>7}{'gap':>9}"
        f"{'store MB':>10}{'files':>7}{'dvc add s':>11}{'status s':>10}"
    )
    for (kind, n), runs in measured.items():
        seconds, peak, cost = min(run["seconds"] for run in runs), max(run["peak"] for run in runs), costs[n]
        before = [row for row in rows if row["input"] == kind]
        further = (seconds - before[-1]["seconds"]) / (n - before[-1]["samples"]) if before else None
        first = before[1]["ours"] if len(before) > 1 else further
        row = {
            "name": f"embed {n} samples of {'an .h5ad' if kind == 'h5ad' else 'a cohort folder'}",
            "ours": further,
            "other": first,
            "unit": "s a further sample",
            "ratio": None if first is None or further is None else first / further,
            "goal": 1 / LINEAR,
            "peer": f"from {sizes[0]} to {sizes[1]} samples",
            "peer_version": f"torch {version('torch')}",
            "n": f"{n} samples, {GENES} genes, {MODEL} {SIZES['width']} wide, shards of {SHARD}",
            "memory_ratio": peak / (before[0]["peak"] if before else peak),
            "gap": gaps[kind, n],
            "input": kind,
            "samples": n,
            "seconds": seconds,
            "peak": peak,
            "store_bytes": cost["bytes"],
            "files": cost["files"],
            "dvc_add_seconds": cost["seconds"],
            "dvc_status_seconds": cost["status"],
        }
        rows.append(row)
        print(
            f"{kind:<8}{n:>9}{seconds:>9.2f}{1e3 * further if further else math.nan:>21.3f}"
            f"{row['ratio'] or math.nan:>7.2f}{peak / 1e6:>9.0f}{row['memory_ratio']:>7.2f}{row['gap']:>9.1e}"
            f"{cost['bytes'] / 1e6:>10.1f}{cost['files']:>7.0f}{cost['seconds']:>11.2f}{cost['status']:>10.2f}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    steady = all(row["memory_ratio"] <= FLAT and (row["ratio"] or 1.0) >= 1 / LINEAR for row in rows)
    same = all(row["gap"] == 0 for row in rows)
    return 0 if same and (steady or arguments.quick) else 1


if __name__ == "__main__":
    sys.exit(main())
