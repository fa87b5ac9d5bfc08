"""Bytes on one machine, numbers between machines: the promises of the README's section on reproducibility.

The same for single encoders: tests/encoders/test_foundation.py; for n_jobs and the order of patients: tests/probes.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from threadpoolctl import threadpool_limits

import kernels
from bulkprobe.encoders import get_encoder
from bulkprobe.encoders.base import CohortView
from bulkprobe.files import tree_hash
from bulkprobe.stages import THREADS, embed, probe_mutation, probe_survival, probing, shift
from workspace import inside

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("exact")]
ONE_CORE = ("taskset", "-c", "0")
HAS_CORES = shutil.which("taskset") is not None
RESULTS = ("data/embeddings", "data/predictions", "metrics", "models", "data/cohort", "data/gene_sets", "data/truth")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small study with two foundation models, as this machine computes it."""
    return kernels.run_study(tmp_path_factory.mktemp("exact") / "plain")


@pytest.fixture
def study(plain: Path, tmp_path: Path) -> Path:
    """A copy in which stages run again."""
    return Path(shutil.copytree(plain, tmp_path / "study", ignore=shutil.ignore_patterns("raw")))


def files_of(folder: Path) -> dict[str, bytes]:
    """Every result of a study: stores, predictions, metrics, weights, and the report with its figures and tables."""
    found = [path for part in RESULTS for path in (folder / part).rglob("*") if path.is_file()]
    content = {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in [*found, folder / "data/splits.parquet"]
    }
    assert {Path(name).suffix for name in content} >= {
        ".json",
        ".html",
        ".png",
        ".svg",
        ".csv",
        ".parquet",
        ".md",
        ".bib",
    }
    return content


def changed(one: Path, other: Path) -> list[str]:
    first, second = files_of(one), files_of(other)
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))


# ------------------------------------------------ one machine: the same bytes


@pytest.mark.skipif(not HAS_CORES, reason="taskset gives a process one core, on Linux alone")
def test_one_core_gives_the_bytes_of_all_cores(plain: Path, tmp_path: Path) -> None:
    alone = kernels.run_study(tmp_path / "alone", {"OMP_NUM_THREADS": "1"}, ONE_CORE)
    assert changed(plain, alone) == []


def test_threads_shards_and_processes_change_no_byte(study: Path, plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a caller who pins nothing gets: three threads, samples one by one, shards from the last to the first."""
    backwards = embed.prepare_store
    monkeypatch.setattr(embed, "prepare_store", lambda path, **about: backwards(path, **about)[::-1])
    monkeypatch.setattr(probing, "CORES", 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert len(list((plain / "data/embeddings/scgpt.zarr/embedding/c").glob("*/0"))) > 1
    with threadpool_limits(3):
        for name in kernels.ENCODERS:
            shutil.rmtree(study / f"data/embeddings/{name}.zarr")
            with inside(study, name):
                embed.main()
                probe_mutation.main()
                probe_survival.main()
        with inside(study, "scgpt"):
            shift.main()
    assert changed(plain, study) == []


@pytest.mark.parametrize("kept", [(1,), (0, 2)])
@pytest.mark.parametrize("name", ["pca", "scgpt"])
def test_resuming_from_any_shards_gives_the_same_store(
    study: Path, plain: Path, name: str, kept: tuple[int, ...]
) -> None:
    store = study / f"data/embeddings/{name}.zarr"
    begin_again(study, store, name, kept)
    with inside(study, name):
        embed.main()
    assert tree_hash(store) == tree_hash(plain / store.relative_to(study))
    assert [path.name for path in store.parent.iterdir() if "partial" in path.name] == []


def begin_again(study: Path, store: Path, name: str, kept: tuple[int, ...]) -> None:
    """Leave what a killed run leaves: an unfinished store with some shards, and half a file of another."""
    whole = store.with_name("whole")
    store.rename(whole)

    class Killed(Exception):
        pass

    def killed(*args: Any, **about: Any) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch, inside(study, name):
        patch.setattr(embed, "write_store", killed)
        with pytest.raises(Killed):
            embed.main()
    aside = store.with_name(f"{store.name}.partial") / "embedding/c"
    for shard in kept:
        shutil.copytree(whole / f"embedding/c/{shard}", aside / str(shard))
    aside.mkdir(parents=True, exist_ok=True)
    (aside / "0.123.partial").write_bytes(b"half")
    shutil.rmtree(whole)


def test_batches_of_any_size_give_the_same_store(study: Path, plain: Path) -> None:
    for name in kernels.MEASURED:
        store = study / f"data/embeddings/{name}.zarr"
        for size in (1, 7):
            shutil.rmtree(store)
            with inside(study, name), pytest.MonkeyPatch.context() as patch:
                whole = embed.embed_cohort
                patch.setattr(embed, "embed_cohort", _with_batches(whole, size))
                embed.main()
            assert tree_hash(store) == tree_hash(plain / f"data/embeddings/{name}.zarr"), (name, size)


def _with_batches(run: Callable[..., bool], size: int) -> Callable[..., bool]:
    return lambda *args, **how: run(*args, **how, batch_size=size)


def test_a_random_projection_of_the_true_number_of_genes_does_not_depend_on_threads() -> None:
    """OpenBLAS shares the sum over 60,498 genes between threads, which moved a vector by 1e-3 of it."""
    n = 60_498
    genes = pd.DataFrame({"ensembl_id": [f"ENSG{i:011d}" for i in range(n)], "symbol": "", "length": 1000.0})
    obs = pd.DataFrame({"sample_id": ["S0", "S1", "S2"]})
    tpm = np.random.default_rng(0).gamma(0.5, 30.0, (3, n)).astype(np.float32)
    session = get_encoder("random_projection").start(CohortView(genes, obs, "tpm"), {"width": 16})
    found = []
    for threads in (1, 2, 3):
        with threadpool_limits(threads):
            found.append(session.embed(tpm, obs))
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])


LIBRARIES = {f"import {name} 1 1" for name in ("numpy", "scipy", "torch")}
WATCH = """
import atexit, os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name in ("numpy", "scipy", "torch"):
            print("import", name, os.environ.get("OPENBLAS_NUM_THREADS"), os.environ.get("MKL_NUM_THREADS"))

def pools():
    import threadpoolctl
    print("used", *{found["num_threads"] for found in threadpoolctl.threadpool_info() if found["user_api"] == "blas"})

sys.meta_path.insert(0, Watch())
atexit.register(pools)
"""


def unpinned(**more: str) -> dict[str, str]:
    """The environment of somebody who says nothing about threads."""
    told = {key: value for key, value in os.environ.items() if key not in (*THREADS, "OMP_NUM_THREADS")}
    return told | {"PYTHONPATH": str(kernels.TOP / "src")} | more


@pytest.mark.parametrize("command", ["bulkprobe.stages.embed", "bulkprobe.cli encoders"])
def test_a_stage_and_the_command_pin_threads_before_numerical_libraries(command: str, tmp_path: Path) -> None:
    """Seen from within: a hook that Python loads first says what the variables are when a library is looked for."""
    (tmp_path / "sitecustomize.py").write_text(WATCH)
    env = unpinned(PYTHONPATH=os.pathsep.join([str(tmp_path), str(kernels.TOP / "src")]))
    done = subprocess.run(
        [sys.executable, "-m", *command.split()], env=env, cwd=tmp_path, capture_output=True, text=True
    )
    told = [line for line in done.stdout.splitlines() if line.startswith(("import ", "used "))]
    assert {"import numpy 1 1"} <= set(told[:-1]) <= LIBRARIES, done.stderr
    assert told[-1] == "used 1"
    assert done.returncode == (0 if command.endswith("encoders") else 1)  # a stage finds no params.yaml here


def test_importing_the_library_sets_no_variables_and_no_signals(tmp_path: Path) -> None:
    """A notebook keeps its threads, as does a package that imports ours; what must be pinned is where it computes."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/program.py").write_text("")
    (tmp_path / "mine/__init__.py").write_text(
        "import os, signal\n"
        "import bulkprobe.api, bulkprobe.notebook\n"
        "from bulkprobe.stages import THREADS\n"
        "assert not set(THREADS) & set(os.environ)\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
    )
    env = unpinned(PYTHONPATH=os.pathsep.join([str(tmp_path), str(kernels.TOP / "src")]))
    done = subprocess.run([sys.executable, "-m", "mine.program"], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ------------------------------------------------ other machines: the same numbers


def test_other_kernels_move_no_number_by_more_than_promised(plain: Path, tmp_path: Path) -> None:
    """The furthest setting, without the report, which says the same; `benchmarks/kernels.py` goes through all."""
    setting = kernels.settings()[kernels.QUICK[-1]]
    other = kernels.run_study(tmp_path / "other", setting, ONE_CORE if HAS_CORES else (), ("--unreported",))
    used = [json.loads((folder / "kernels.json").read_text()) for folder in (plain, other)]
    if platform.machine() == "x86_64":  # elsewhere these settings may do nothing
        assert used[1] == ["Nehalem", "DEFAULT", "baseline"]
        assert used[0] != used[1]
        assert kernels.embedding_gap(plain, other) > 0  # what was computed otherwise came out otherwise
    of_report = ("metrics/summary.json", "metrics/headline.json")
    found = [entry for entry in kernels.differences(plain, other) if not entry[1].startswith(of_report)]
    assert [entry for entry in found if entry[0] > kernels.GOAL] == [], used
    assert len(kernels.numbers(other)) > 5000


def test_what_is_compared_between_machines() -> None:
    assert kernels.apart(0.5, 0.50002) == pytest.approx(2e-5)
    assert kernels.apart(1000.0, 1000.1) == pytest.approx(1e-4, rel=1e-3)
    assert kernels.apart(None, None) == kernels.apart("a", "a") == kernels.apart(True, True) == 0
    assert kernels.apart(None, 0.1) == kernels.apart(True, 1) == kernels.apart("a", "b") == float("inf")
    assert dict(kernels.leaves({"a": [1, {"b": None}]})) == {"/a/0": 1, "/a/1/b": None}
