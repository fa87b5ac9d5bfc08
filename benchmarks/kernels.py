"""How far the numbers of a study move between machines: the same small study under other BLAS kernels and vector units.

    python benchmarks/kernels.py [--quick] [--json FILE]

Each setting makes this processor compute as another would (OpenBLAS's kernel, torch's and oneDNN's vector units, MKL's
reproducible code path, NumPy without AVX512 or AVX2) and runs every stage in a process of its own: simulated cohort,
PCA, scGPT and BulkFormer as untrained stand-ins, both probes, shift with a depth ladder, biology, compare, summary.
"gap" is the largest difference of any number in any metrics file to the plain run: absolute below 1, relative above.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import chdir
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[1]
GOAL = 1e-4
MEASURED = ("pca", "scgpt")  # shift and biology
SMALL: dict[str, Any] = {
    "embed": {"shard_size": 100},
    "splits": {"n_splits": 3, "inner_folds": 2},
    "probe_mutation": {
        "genes": ["TP53", "KRAS"],
        "hotspot_genes": ["KRAS"],
        "within_type": {"BRCA": ["TP53"], "RCC": ["TP53"]},
        "min_positives": 5,
    },
    "probe_survival": {"types": ["KIRC", "GBMLGG"], "endpoints": ["OS"], "min_events": 5},
    "gene_sets": {"least": 3},
    "shift": {
        "samples": 40,
        "depths": [100_000, 1000],
        "feeding_types": None,
        "encoders": {name: {"model": name, "ladder": True, "feeding": False} for name in MEASURED},
    },
    "biology": {
        "random_sets": 20,
        "contextual_samples": 10,
        "encoders": {name: {"model": name, "contextual": name != "pca"} for name in MEASURED},
    },
    "compare": {"n_boot": 50},
}
ENCODERS: dict[str, dict[str, Any]] = {
    "pca": {"model": "pca", "release": None, "enabled": True, "options": {"components": 8}},
    "scgpt": {"model": "scgpt", "release": "untrained", "enabled": True, "options": {"max_length": 200}},
    "bulkformer": {"model": "bulkformer", "release": "untrained", "enabled": True, "options": {}},
}


def settings() -> dict[str, dict[str, str]]:
    """Environment by name of the setting, the plain one left out."""
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

    here = [name for name in __cpu_dispatch__ if __cpu_features__.get(name)]
    wide = " ".join(name for name in here if name.startswith("AVX512") or name == "X86_V4")
    old = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"}
    no_avx512 = {"NPY_DISABLE_CPU_FEATURES": wide} if wide else {}
    newer = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2"}
    return {
        **{
            f"OpenBLAS {core}": {"OPENBLAS_CORETYPE": core}
            for core in ("SkylakeX", "Haswell", "Sandybridge", "Nehalem")
        },
        "torch AVX2": newer,
        "torch without AVX": old,
        "NumPy without AVX512": no_avx512,
        "NumPy baseline": {"NPY_DISABLE_CPU_FEATURES": " ".join(here)} if here else {},
        "all as before AVX512": {"OPENBLAS_CORETYPE": "Haswell", **newer, **no_avx512},
        "all as before AVX": {
            "OPENBLAS_CORETYPE": "Nehalem",
            **old,
            **({"NPY_DISABLE_CPU_FEATURES": " ".join(here)} if here else {}),
        },
    }


QUICK = ("all as before AVX512", "all as before AVX")


def run_study(
    folder: Path,
    environment: Mapping[str, str] | None = None,
    prefix: tuple[str, ...] = (),
    more: tuple[str, ...] = (),
) -> Path:
    """Run the small study in `folder`, in a process of its own with these variables set; returns `folder`.

    prefix: before the command, such as taskset; more: arguments of its own ("--unreported": without the report).
    """
    env = {**os.environ, "PYTHONPATH": str(TOP / "src"), **(environment or {})}
    command = [*prefix, sys.executable, str(Path(__file__)), "--child", str(folder), *more]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the study failed in {folder}:\n{done.stdout}\n{done.stderr}")
    return folder


def child(folder: Path, reported: bool = True) -> None:
    """Run every stage in this process, as DVC runs them one by one."""
    from bulkprobe.stages import one_thread

    one_thread()
    import yaml

    params = yaml.safe_load((TOP / "params.yaml").read_text(encoding="utf-8"))
    params["cohort"]["simulated"] = {"patients": 260, "genes": 320}
    params["encoders"] = ENCODERS
    for section, values in copy.deepcopy(SMALL).items():
        params[section] |= values
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    from importlib import import_module

    def stage(name: str, *arguments: str) -> None:
        sys.argv = ["stage", *arguments]
        import_module(f"bulkprobe.stages.{name}").main()

    with chdir(folder):
        for name in ("fetch", "cohort", "splits", "gene_sets"):
            stage(name)
        for encoder in ENCODERS:
            for name in ("weights", "embed", "probe_mutation", "probe_survival"):
                stage(name, encoder)
        for encoder in MEASURED:
            for name in ("shift", "biology"):
                stage(name, encoder)
        stage("compare")
        if reported:
            stage("summary")
    (folder / "kernels.json").write_text(json.dumps(kernels_here()))


def kernels_here() -> list[str]:
    """What this process computes with: kernels of OpenBLAS, vector units of torch, the widest that NumPy uses."""
    import torch
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__
    from threadpoolctl import threadpool_info

    blas = sorted({library["architecture"] for library in threadpool_info() if library["user_api"] == "blas"})
    used = [name for name in __cpu_dispatch__ if __cpu_features__.get(name)]
    return [*blas, torch.backends.cpu.get_cpu_capability(), used[-1] if used else "baseline"]


def leaves(content: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value of nested JSON with where it stands."""
    if isinstance(content, dict | list):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield from leaves(value, f"{place}/{key}")
    else:
        yield place, content


def numbers(folder: Path) -> dict[str, Any]:
    """Every value of every metrics file of a study."""
    found: dict[str, Any] = {}
    for path in sorted((folder / "metrics").rglob("*.json")):
        name = path.relative_to(folder).as_posix()
        found |= dict(leaves(json.loads(path.read_text(encoding="utf-8")), name))
    return found


def apart(one: Any, other: Any) -> float:
    """Return how far two values are apart: absolute below 1, relative above; infinite where they are of other kinds."""
    if (
        type(one) is bool
        or type(other) is bool
        or not (isinstance(one, int | float) and isinstance(other, int | float))
    ):
        return 0.0 if type(one) is type(other) and one == other else float("inf")
    return abs(one - other) / max(1.0, abs(one), abs(other))


def differences(one: Path, other: Path) -> list[tuple[float, str, Any, Any]]:
    """Values that differ between two studies, the furthest apart first."""
    first, second = numbers(one), numbers(other)
    found = [
        (apart(first.get(key), second.get(key)), key, first.get(key), second.get(key))
        for key in first.keys() | second.keys()
    ]
    return sorted((entry for entry in found if entry[0] > 0), key=lambda entry: (-entry[0], entry[1]))


def embedding_gap(one: Path, other: Path) -> float:
    """Return the largest difference of two studies' embeddings, relative to the largest number of each store."""
    import numpy as np

    from bulkprobe.store import read_store

    gaps = []
    for name in ENCODERS:
        a, b = (read_store(folder / f"data/embeddings/{name}.zarr").embedding for folder in (one, other))
        gaps.append(float(np.abs(a - b).max() / np.abs(a).max()))
    return max(gaps)


def main() -> None:
    """Print the table; status 1 where a number moves by more than GOAL."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the two furthest settings only")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", help="settings whose name contains this")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--unreported", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, not arguments.unreported)
        return
    chosen = {name: env for name, env in settings().items() if not arguments.quick or name in QUICK}
    chosen = {name: env for name, env in chosen.items() if (arguments.only or "") in name}
    rows = []
    with tempfile.TemporaryDirectory(prefix="bulkprobe-") as scratch:
        begun = time.monotonic()
        plain = run_study(Path(scratch) / "plain")
        seconds = time.monotonic() - begun
        n, peer = len(numbers(plain)), "/".join(json.loads((plain / "kernels.json").read_text()))
        print(f"{n} numbers; plain: {peer}\n")
        print(f"{'setting':<24}{'computed with':<30}{'differ':>7}{'largest':>11}{'vectors':>11}  where")
        for number, (name, env) in enumerate(chosen.items()):
            begun = time.monotonic()
            study = run_study(Path(scratch) / str(number), env)
            took = time.monotonic() - begun
            found, vectors = differences(plain, study), embedding_gap(plain, study)
            largest, where = (found[0][0], found[0][1]) if found else (0.0, "")
            kernels = "/".join(json.loads((study / "kernels.json").read_text()))
            print(f"{name:<24}{kernels:<30}{len(found):>7}{largest:>11.1e}{vectors:>11.1e}  {where}")
            rows.append(
                {
                    **{
                        "name": name,
                        "ours": took,
                        "other": seconds,
                        "unit": "s",
                        "ratio": seconds / took,
                        "goal": None,
                    },
                    **{"peer": f"this machine as it is ({peer})", "peer_version": kernels, "n": n},
                    **{"memory_ratio": None, "gap": largest},
                }
            )
            for gap, key, before, after in found:
                if gap > GOAL:
                    print(f"    {key}: {before} -> {after}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if any(row["gap"] > GOAL for row in rows):
        sys.exit(f"a number moved by more than {GOAL}")


if __name__ == "__main__":
    main()
