"""Building expression.zarr from a Xena matrix of the true size, against plain `gunzip -c`.

Decompression alone is the floor for any reader of these files. Both sides run in one session on the same
file, each in its own process; peak memory is that of the building process. The file is synthetic: a block of
genes with the values, zeros and digits of bulk TPM, repeated under new gene ids.

    python benchmarks/cohort.py [--quick] [--json FILE] [--workdir FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from isal import igzip

SOURCE = Path(__file__).resolve().parents[1] / "src"
FULL = (60_498, 10_535)  # genes, samples of tcga_RSEM_gene_tpm.gz
QUICK = (6_000, 10_535)  # smaller ones measure the start of Python
BLOCK_GENES = 600  # genes with values of their own
UNEXPRESSED = (
    0.65  # share of GENCODE genes that bulk tumours hardly express: gives the 1.2 bytes a value of the real file
)
GOAL = 3.0  # times the time of gunzip
GOAL_BYTES = 4e9

BUILD = """
import sys
from pathlib import Path
from typing import Any, cast
import pandas as pd
from bulkprobe.cohort.expression import XenaMatrix
from bulkprobe.cohort.store import write_expression
source = XenaMatrix(Path(sys.argv[1]), "log2_tpm_plus_0.001")
genes = [f"ENSG{number:011d}" for number in range(int(sys.argv[3]))]
var = pd.DataFrame({"ensembl_id": genes, "symbol": "", "length": 1000.0})
write_expression(Path(sys.argv[2]), sample_ids=source.sample_ids, var=var, layers={"X": source}, scale="tpm")
"""


def block_of_tpm(n_genes: int, n_samples: int, seed: int = 0) -> npt.NDArray[np.float64]:
    """Draw log2(TPM + 0.001) of BLOCK_GENES genes to four decimals: shape (BLOCK_GENES, n_samples)."""
    rng = np.random.default_rng(seed)
    level = np.where(
        rng.random(BLOCK_GENES) < UNEXPRESSED, rng.normal(-16, 3, BLOCK_GENES), rng.normal(2, 2.5, BLOCK_GENES)
    )
    tpm = np.exp2(level[:, None] + rng.normal(0, 1, (BLOCK_GENES, n_samples)))
    tpm *= 1e6 * BLOCK_GENES / n_genes / tpm.sum(axis=0)
    values: npt.NDArray[np.float64] = np.round(np.log2(np.round(tpm, 2) + 0.001), 4)  # RSEM prints two decimals
    return values


def write_matrix(path: Path, n_genes: int, n_samples: int) -> None:
    """Write the gzipped matrix; a finished one is kept."""
    if path.is_file():
        return
    lines = ["\t".join(row) for row in np.char.mod("%.4f", block_of_tpm(n_genes, n_samples))]
    encoded = [f"\t{line}\n".encode() for line in lines]
    aside = path.with_suffix(".partial")
    with cast(Any, igzip).open(aside, "wb", compresslevel=3) as handle:
        handle.write(
            ("sample\t" + "\t".join(f"TCGA-{i // 9999:02d}-{i:04d}-01" for i in range(n_samples)) + "\n").encode()
        )
        for gene in range(n_genes):
            handle.write(f"ENSG{gene:011d}.1".encode() + encoded[gene % BLOCK_GENES])
    os.replace(aside, path)


def run(command: list[str]) -> tuple[float, float]:
    """Return seconds and the peak resident bytes of the largest child so far."""
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    seconds = time.perf_counter() - start
    unit = 1 if sys.platform == "darwin" else 1024
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit


def largest_gap(store: Path, n_genes: int, n_samples: int) -> float:
    """Return the largest difference of the store from the values written, relative to TPM + 1."""
    sys.path.insert(0, str(SOURCE))
    from bulkprobe.cohort.store import open_expression

    rows = np.unique(np.linspace(0, n_samples - 1, 25).astype(int))
    found = open_expression(store).read("X", rows)
    block = np.exp2(block_of_tpm(n_genes, n_samples)[:, rows]) - 0.001
    expected = block[np.arange(n_genes) % BLOCK_GENES].T
    return float((np.abs(found - expected) / (expected + 1)).max())


def main() -> int:
    """Run both sides, print the table, write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="6,000 genes instead of the true size")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--workdir", type=Path, help="keep the input here (4 GB at the true size)")
    arguments = parser.parse_args()
    n_genes, n_samples = QUICK if arguments.quick else FULL
    folder = Path(tempfile.mkdtemp(prefix="bulkprobe-")) if arguments.workdir is None else arguments.workdir
    folder.mkdir(parents=True, exist_ok=True)
    matrix, store = folder / f"xena-{n_genes}x{n_samples}.gz", folder / "benchmark.zarr"
    try:
        write_matrix(matrix, n_genes, n_samples)
        repeats = 2 if arguments.quick else 1
        build = [sys.executable, "-c", BUILD, str(matrix), str(store), str(n_genes)]
        other, ours, peak = np.inf, np.inf, 0.0
        for _ in range(repeats):
            other = min(other, run(["gunzip", "-c", str(matrix)])[0])
            seconds, peak = run(build)
            ours = min(ours, seconds)
        gap = largest_gap(store, n_genes, n_samples)
        version = subprocess.run(["gunzip", "--version"], capture_output=True, text=True, check=True).stdout
        row = {
            "name": "expression.zarr from a Xena matrix",
            "ours": round(ours, 2),
            "other": round(other, 2),
            "unit": "s",
            "ratio": round(other / ours, 3),
            "goal": round(1 / GOAL, 3),
            "peer": "gunzip -c (decompression alone)",
            "peer_version": version.splitlines()[0].split()[-1],
            "n": f"{n_genes} genes x {n_samples} samples, {matrix.stat().st_size / 1e6:.0f} MB gzip",
            # the matrix as float32 in memory, which a reader of the whole needs at least once, over our peak
            "memory_ratio": round(4 * n_genes * n_samples / peak, 2),
            "peak_memory_gb": round(peak / 1e9, 2),
            "gap": gap,
        }
    finally:
        shutil.rmtree(store, ignore_errors=True)
        if arguments.workdir is None:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{'':36s}{'ours':>10s}{'gunzip':>10s}{'times':>8s}{'goal':>8s}{'peak GB':>9s}")
    print(f"{row['name']:36s}{ours:9.1f}s{other:9.1f}s{ours / other:8.2f}{f'<= {GOAL:g}':>8s}{peak / 1e9:9.2f}")
    print(f"n: {row['n']}; largest relative difference {gap:.1e}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([row], indent=1) + "\n", encoding="utf-8")
    return 0 if arguments.quick or (ours <= GOAL * other and peak < GOAL_BYTES) else 1


if __name__ == "__main__":
    sys.exit(main())
