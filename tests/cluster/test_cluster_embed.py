"""Embedding on a cluster: the bytes of one process, whoever joins, leaves, or is killed in the middle of a shard."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml
from dask_processes import GATED, KILLED, Processes, environment, processes, until

from bulkprobe import cli
from bulkprobe.errors import UserError
from bulkprobe.files import tree_hash
from bulkprobe.stages.embed_input import embed_input
from bulkprobe.store import read_attributes
from bulkprobe.untrained import write_untrained
from encoders.made import made_counts, made_genes
from workspace import inside

pytestmark = pytest.mark.xdist_group("cluster")

GENES, SAMPLES, SHARD = made_genes(250, seed=1), 22, 4
SHARDS = -(-SAMPLES // SHARD)
# scFoundation takes a number from the whole cohort, which workers get as an option; CellFM has draw noise; a table is
# read through a temporary file of the client's.
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "scfoundation": ("cohort.h5ad", {"checkpoint": "checkpoint/scfoundation"}),
    "cellfm": ("cohort.h5ad", {"checkpoint": "checkpoint/cellfm"}),
    "random_projection": ("table.tsv", {"options": {"width": 7}}),
}


@pytest.fixture(name="place", scope="module")
def fixture_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an input as .h5ad and as table, checkpoints, and every store as one process makes it."""
    place = tmp_path_factory.mktemp("place")
    counts, names = made_counts(SAMPLES, 250, seed=2), [f"S{i}" for i in range(SAMPLES)]
    var = GENES.set_index(GENES.ensembl_id.astype(str), drop=False).rename_axis(None)
    anndata.AnnData(counts, pd.DataFrame(index=names), var).write_h5ad(place / "cohort.h5ad")
    pd.DataFrame(counts.T.astype(int), index=GENES.ensembl_id, columns=names).to_csv(place / "table.tsv", sep="\t")
    for model in ("scfoundation", "cellfm"):
        (place / "checkpoint" / model).mkdir(parents=True)
        write_untrained(model, place / "checkpoint" / model, GENES, 0)
    for model in RUNS:
        assert embed(place, model, "none", f"none/{model}.zarr")
    return place


@pytest.fixture(name="dask", scope="module")
def fixture_dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """A scheduler, at first without workers."""
    with processes(tmp_path_factory.mktemp("dask") / "here") as running:
        yield running


def embed(place: Path, model: str, cluster: str, output: str, workers: int = 1) -> bool:
    source, options = RUNS[model]
    with inside(place):
        if "checkpoint" in options:
            options = {"checkpoint": Path(options["checkpoint"])}
        return embed_input(
            model, Path(source), Path(output), shard_size=SHARD, cluster=cluster, workers=workers, **options
        )


@contextmanager
def in_background(dask: Processes, place: Path, output: str) -> Iterator[Future[bool]]:
    """Embed by scFoundation while the block goes on; a run that waits for workers ends with a block that fails."""
    with ThreadPoolExecutor(1) as pool:
        try:
            yield pool.submit(embed, place, "scfoundation", dask.address, output)
        except BaseException:
            dask.scheduler.kill()
            raise


def done(place: Path, output: str) -> int:
    """Shards that stand under their final name in an unfinished store."""
    return len(list((place / f"{output}.partial" / "embedding" / "c").glob("*/0")))


def assert_equal(place: Path, model: str, output: str) -> None:
    assert tree_hash(place / output) == tree_hash(place / "none" / f"{model}.zarr")
    assert not list((place / output).parent.glob("*.partial*"))


def test_one_two_and_four_workers_write_the_bytes_of_one_process(place: Path, dask: Processes) -> None:
    told = read_attributes(place / "none" / "scfoundation.zarr")
    assert told["target_sum_from"] == "cohort_median"
    assert "draw_noise" in read_attributes(place / "none" / "cellfm.zarr")
    for workers, models in ((1, ["scfoundation"]), (2, ["scfoundation"]), (4, list(RUNS))):
        while len(dask.some()) < workers:
            dask.worker()
        for model in models:
            output = f"tcp{workers}/{model}.zarr"
            assert embed(place, model, dask.address, output)
            assert_equal(place, model, output)
    assert not embed(place, "cellfm", dask.address, "tcp4/cellfm.zarr")  # complete: nothing to do


def test_workers_join_leave_and_are_killed_in_the_middle_of_a_shard(
    place: Path, dask: Processes, capsys: pytest.CaptureFixture[str]
) -> None:
    dask.empty()
    output = "moving/scfoundation.zarr"
    said = list[str]()
    with in_background(dask, place, output) as run:
        until(lambda: said.append(capsys.readouterr().err) or f"no worker at {dask.address}: waiting" in "".join(said))
        killed = dask.worker(KILLED)
        killed.wait()
        assert killed.status == -signal.SIGKILL
        half = place / f"{output}.partial" / "embedding" / "c" / "0" / "0.1234.partial"
        assert half.is_file()
        assert done(place, output) == 0
        leaving = dask.worker(GATED)
        until(lambda: done(place, output) == 1)
        staying = dask.worker(GATED)
        until(lambda: done(place, output) == 2)
        leaving.leave()
        (place / "moving" / "go").touch()
        assert run.result()
        leaving.wait()
    assert_equal(place, "scfoundation", output)
    assert not half.exists()
    assert staying.status is None


def test_a_lost_scheduler_is_one_sentence_and_the_run_goes_on_later(place: Path, tmp_path: Path) -> None:
    output = "lost/scfoundation.zarr"
    with processes(tmp_path / "dask") as dask, in_background(dask, place, output) as run:
        dask.worker(GATED)
        until(lambda: done(place, output) == 1)
        dask.scheduler.kill()
        with pytest.raises(UserError, match=rf"scheduler is gone, with {SHARDS} of {SHARDS} shards to do"):
            run.result()
    written = next((place / f"{output}.partial" / "embedding" / "c").glob("*/0"))
    before = written.stat().st_mtime_ns, written.stat().st_ino
    assert embed(place, "scfoundation", "none", output)
    kept = place / output / written.relative_to(place / f"{output}.partial")
    assert (kept.stat().st_mtime_ns, kept.stat().st_ino) == before
    assert_equal(place, "scfoundation", output)


def test_a_worker_of_other_source_says_so_before_it_reads_the_job(place: Path, dask: Processes) -> None:
    dask.empty()
    other = dask.worker(OTHER)
    with pytest.raises(
        UserError, match=r"^the worker tcp://\S+ has zarr 1 instead of 3\S+: start workers from the same"
    ):
        embed(place, "random_projection", dask.address, "other/random_projection.zarr")
    other.leave()
    other.wait()


def test_a_sample_that_cannot_be_embedded_stops_the_run_with_its_name(place: Path, dask: Processes) -> None:
    counts = made_counts(6, 251, seed=3)
    counts[4, :-1], counts[4, -1] = 0, 9  # what it has lies in a gene that the model does not know
    genes = [*GENES.ensembl_id, "ENSG99999999999"]
    symbols = pd.DataFrame({"symbol": [*GENES.symbol, "NONE"]}, index=genes)
    obs = pd.DataFrame(index=[f"S{i}" for i in range(6)])
    anndata.AnnData(counts, obs, symbols).write_h5ad(place / "empty.h5ad")
    dask.some()
    for cluster in ("none", dask.address):
        with inside(place), pytest.raises(UserError, match="sample S4"):
            embed_input(
                "scfoundation",
                Path("empty.h5ad"),
                Path("empty.zarr"),
                checkpoint=Path("checkpoint/scfoundation"),
                shard_size=2,
                cluster=cluster,
            )
    assert done(place, "empty.zarr") == 2


def test_the_command_runs_processes_of_this_machine(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = os.environ.get("OMP_NUM_THREADS")
    command = ["bulkprobe", "embed", "random_projection", "--input", "table.tsv", "--output"]
    command += ["local/random_projection.zarr"]
    options = ["--set", "width=7", "--shard-size", str(SHARD), "--cluster", "local"]
    with inside(place):
        monkeypatch.setattr(sys, "argv", [*command, *options, "--workers", "2"])
        with pytest.raises(SystemExit) as end:
            cli.main()
    assert not end.value.code
    assert "local/random_projection.zarr is written" in capsys.readouterr().out
    assert_equal(place, "random_projection", "local/random_projection.zarr")
    assert os.environ.get("OMP_NUM_THREADS") == threads


OTHER = """
from bulkprobe.stages import embed_cluster

own = {**embed_cluster.software(), "zarr": "1"}
embed_cluster.software = lambda: own
"""
INTERRUPTED = """
import sys, time
from pathlib import Path
from bulkprobe.stages import embed_cluster
from bulkprobe.stages.embed_input import embed_input
from bulkprobe.store import write_shard

def once(path, start, vectors):  # in the workers too, which import this file
    write_shard(path, start, vectors)
    time.sleep(600)

embed_cluster.write_shard = once
if __name__ == "__main__":
    embed_input(
        "random_projection", Path("table.tsv"), Path("OUTPUT"),
        options={"width": 7}, shard_size=4, cluster="local", workers=1,
    )
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_ending_the_client_ends_the_workers_and_the_run_goes_on_later(
    place: Path, tmp_path: Path, how: signal.Signals
) -> None:
    output, script = f"{how.name}/random_projection.zarr", tmp_path / "interrupted.py"
    script.write_text(INTERRUPTED.replace("OUTPUT", output))
    with (tmp_path / "log.txt").open("wb") as log:
        run = subprocess.Popen(
            [sys.executable, str(script)], cwd=place, env=environment(), stdout=log, stderr=log, start_new_session=True
        )
        try:
            until(lambda: done(place, output) == 1)
            if how == signal.SIGINT:
                os.killpg(run.pid, how)  # a terminal sends it to the workers too
            else:
                run.kill()
            assert run.wait(120) == -how
            until(lambda: not _alive(run.pid))
        finally:
            if _alive(run.pid):
                os.killpg(run.pid, signal.SIGKILL)
    if how == signal.SIGINT:
        assert (tmp_path / "log.txt").read_text().count("Traceback") == 1  # the client's own
    jobs = list((place / how.name).glob(".*.job.partial"))
    assert len(jobs) == (how == signal.SIGKILL)  # which the next run removes
    assert embed(place, "random_projection", "none", output)
    assert_equal(place, "random_projection", output)


def _alive(group: int) -> bool:
    """Whether a process of this group is there."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_what_dvc_watches_of_the_section_changes_numbers() -> None:
    stages = yaml.safe_load((Path(__file__).resolve().parents[2] / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    for name, stage in stages.items():
        watched = {key for key in stage.get("do", stage).get("params", []) if key.split(".")[0] == "embed"}
        assert watched <= {"embed.device", "embed.precision", "embed.shard_size"}, name
    assert np.all(["embed.shard_size" in stages[name]["do"]["params"] for name in ("embed", "shift", "biology")])
