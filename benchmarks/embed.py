"""Every encoder against a plain reading of its authors' procedure: seconds a sample, and memory.

The plain reading (`plain/<model>.py`) does what upstream's script does with the same layers from standard torch and
transformers modules: the same padding, masks, heads and batches. Both sides read one checkpoint in the released layout
(random, since a time does not depend on the values) and the same bulk-like samples, with two threads, a process each.

Widths are those of the release. Depth is at most two layers where a sample would take long: a layer's share of the time
is then larger than at the full depth, for either side.

    python benchmarks/embed.py [--quick] [--json FILE] [--only MODEL]... [--threads N]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from embed_bench.cases import FULL, QUICK, Case, made_counts, made_genes

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "src"
Row = dict[str, Any]


def gemm_rate(threads: int) -> float:
    """FLOP a second of this machine's float32 matrix products."""
    import torch

    torch.set_num_threads(threads)
    a, b = torch.randn(2048, 1024), torch.randn(1024, 2048)
    best = 0.0
    for _ in range(8):
        begun = time.perf_counter()
        for _ in range(4):
            a @ b
        best = max(best, 4 * 2 * 2048 * 1024 * 2048 / (time.perf_counter() - begun))
    return best


def run_side(side: str, case: Case, folder: Path, threads: int, **extra: Any) -> dict[str, Any]:
    """Run one side in a process of its own and return what it measured."""
    options = {**({} if side == "plain" else case.options), **extra, "threads": threads}
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(SOURCE), str(HERE)]), "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
    }  # fmt: skip
    command = [sys.executable, "-m", "embed_bench.child", side, case.model, str(folder), json.dumps(options)]
    subprocess.run(command, check=True, env=env)
    with np.load(folder / f"{side}.npz") as found:
        return {key: found[key] for key in found.files}


def prepare(case: Case, folder: Path) -> None:
    """Write the checkpoint and the samples that both sides read."""
    genes = made_genes(case.genes)
    genes.to_parquet(folder / "genes.parquet")
    np.save(folder / "counts.npy", made_counts(case.samples, case.genes))
    (folder / "checkpoint").mkdir()
    import_module(f"bulkprobe.untrained.{case.model}").write(folder / "checkpoint", genes, 1, **case.sizes)


def measure(case: Case, threads: int, rate: float) -> Row:
    """Return the row of one case."""
    with tempfile.TemporaryDirectory(prefix="bulkprobe-") as scratch:
        folder = Path(scratch)
        prepare(case, folder)
        other = run_side("plain", case, folder, threads)
        mine = run_side("ours", case, folder, threads)
    scale = float(np.abs(other["vectors"]).max())
    gap = float(np.abs(mine["vectors"] - other["vectors"]).max()) / scale
    seconds, peer = float(mine["seconds"]), float(other["seconds"])
    return {
        "name": case.name,
        "ours": seconds,
        "other": peer,
        "unit": "s/sample",
        "ratio": peer / seconds,
        "goal": case.goal,
        "peer": f"plain reading of upstream, batches of {import_module(f'plain.{case.model}').BATCH}",
        "peer_version": f"torch {version('torch')}",
        "n": f"{case.samples} samples, {case.genes} genes, {case.title}",
        "memory_ratio": float(mine["peak"]) / float(other["peak"]),
        "gap": gap,
        "memory": float(mine["peak"]),
        "tflop": float(mine["flop"]) / 1e12,
        "of_gemm": seconds / (float(mine["flop"]) / rate),
    }


def main() -> int:
    """Run the cases, print the table, write the JSON file; status 1 where answers differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, under 50 s in all")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--only", action="append", default=[], help="models whose name begins so; may be repeated")
    parser.add_argument("--threads", type=int, default=2, help="threads of either side (2)")
    arguments = parser.parse_args()
    only = tuple(arguments.only)
    rate = gemm_rate(arguments.threads)
    print(f"matrix products: {rate / 1e9:.0f} GFLOP/s with {arguments.threads} threads")
    head = f"{'':<22}{'ours s':>9}{'plain s':>9}{'times':>7}{'goal':>7}{'memory':>9}{'ratio':>7}{'gap':>9}{'x GEMM':>8}"
    print(head)
    rows: list[Row] = []
    for case in QUICK if arguments.quick else FULL:
        if not case.name.startswith(only or ""):
            continue
        row = measure(case, arguments.threads, rate)
        rows.append(row)
        print(
            f"{row['name']:<22}{row['ours']:>9.3f}{row['other']:>9.3f}{row['ratio']:>7.2f}{row['goal']:>7.1f}"
            f"{row['memory'] / 1e9:>7.2f}GB{row['memory_ratio']:>7.2f}{row['gap']:>9.0e}{row['of_gemm']:>8.2f}  "
            f"{row['n']}; {row['tflop']:.3f} TFLOP",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    wrong = [row["name"] for row in rows if row["gap"] > 1e-3]
    if wrong:
        print(f"answers differ: {', '.join(wrong)}", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
