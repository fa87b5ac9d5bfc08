"""Tasks on processes of this machine: results, retries, refusals, dead workers; addresses, GPUs, SLURM."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from bulkprobe import cluster, params
from bulkprobe.cluster import Plan, Slurm, check_plan, connect, pinned_device, run_tasks, slurm_cluster, worker_name
from bulkprobe.errors import Unfit, UserError, printable
from bulkprobe.stages import embed_cluster
from bulkprobe.stages.embed import embed_cohort, plan_of
from bulkprobe.stages.embed_input import embed_input

pytestmark = pytest.mark.xdist_group("cluster")


@pytest.fixture(name="client", scope="module")
def fixture_client() -> Iterator[Any]:
    with connect(Plan("local", workers=2, retries=1)) as client:
        yield client


def tried(task: str) -> int:
    """Count the attempts at a task in the file it is named by."""
    with Path(task).open("a") as file:
        file.write("x")
    return len(Path(task).read_text())


def at_the_second_time(task: str) -> int:
    if tried(task) == 1:
        raise OSError("the disk was away")
    return tried(task)


def never(task: str) -> int:
    tried(task)
    raise OSError("no space\nleft")


def refuses(task: str) -> int:
    tried(task)
    raise Unfit("this sample cannot be read")


def dies(task: str) -> int:
    tried(task)
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def job_surroundings(task: int) -> str:
    return os.environ["OMP_NUM_THREADS"]


def surroundings(task: int) -> tuple[str, str, bool]:
    return worker_name(), os.environ["OMP_NUM_THREADS"], signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_a_worker_has_its_share_of_cores_and_leaves_ctrl_c_to_the_client(client: Any) -> None:
    found = dict(run_tasks(client, surroundings, list(range(12)), 0, "task"))
    assert set(found) == set(range(12))
    share = str(max(1, len(os.sched_getaffinity(0)) // 2))
    assert set(found.values()) <= {("0", share, True), ("1", share, True)}


def test_a_task_that_fails_is_tried_again(client: Any, tmp_path: Path) -> None:
    task = str(tmp_path / "task")
    assert list(run_tasks(client, at_the_second_time, [task], 1, "shard")) == [(task, 3)]


def test_a_task_that_fails_too_often_ends_the_run(client: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"shard .*task failed 2 times \(no space left\): the 0 shards that are done"):
        list(run_tasks(client, never, [str(tmp_path / "task")], 1, "shard"))
    assert (tmp_path / "task").read_text() == "xx"


def test_a_users_error_is_said_as_it_is_and_not_tried_again(client: Any, tmp_path: Path) -> None:
    with pytest.raises(Unfit, match=r"^this sample cannot be read$"):
        list(run_tasks(client, refuses, [str(tmp_path / "task")], 1, "shard"))
    assert (tmp_path / "task").read_text() == "x"


def test_a_task_whose_worker_always_dies_ends_the_run(client: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="each time its worker died: out of memory"):
        list(run_tasks(client, dies, [str(tmp_path / "task")], 1, "shard"))
    assert (tmp_path / "task").read_text() == "xx"
    assert dict(run_tasks(client, surroundings, [1], 1, "shard"))  # the workers are back


def test_an_address_where_no_scheduler_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "LISTEN", 0.3)
    with pytest.raises(UserError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9 .*`dask scheduler`"):
        connect(Plan("tcp://127.0.0.1:9")).__enter__()
    with pytest.raises(UserError, match=r"answers at tcp://no\.such\.host\.invalid:8786 "):
        check_plan(Plan("tcp://no.such.host.invalid:8786"))


@pytest.mark.parametrize("said", [b"SSH-2.0-OpenSSH_9.6\r\n", b"220 \r\n", b""])
def test_an_address_where_something_else_listens(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask itself would wait for ever."""
    monkeypatch.setattr(cluster, "CONNECT", 0.3)

    def serve(server: socket.socket) -> None:
        there, _ = server.accept()
        with there, suppress(ConnectionResetError):
            there.sendall(said)
            there.recv(1)  # until the client goes

    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        served = pool.submit(serve, server)
        reason = "something else listens there" if said else "nothing is said there"
        with pytest.raises(UserError, match=f"no Dask scheduler answers at .* \\({reason}"):
            connect(Plan(f"tcp://127.0.0.1:{server.getsockname()[1]}")).__enter__()
        served.result()


def test_nobody_computes_before_the_cluster_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "LISTEN", 0.1)
    for source in ("cohort.h5ad", "cohort"):  # neither is there: the address is looked at first
        with pytest.raises(UserError, match="no Dask scheduler answers"):
            embed_input("pca", tmp_path / source, tmp_path / "out.zarr", cluster="tcp://127.0.0.1:9")
    with pytest.raises(UserError, match="no Dask scheduler answers"):
        embed_cohort("pca", "pca", tmp_path, tmp_path / "out.zarr", {}, 4, plan=Plan("tcp://127.0.0.1:9"))


@pytest.mark.parametrize(
    "where",
    [
        "dask",
        "tcp://",
        "tcp://host",
        "http://host:80",
        "tcp://host:80/x",
        "Local",
        "tcp://h:99999",
        "tcp://h:0",
        "none\n",
    ],
)
def test_what_is_no_address_is_refused(where: str) -> None:
    with pytest.raises(
        UserError, match=re.escape(f"cluster is {printable(repr(where))}, expected none, local, slurm or")
    ):
        Plan(where)
    with pytest.raises(ValueError, match=r"none, local, slurm or tcp://HOST:PORT was expected"):
        params.Embed(shard_size=1, device="cpu", precision="float32", cluster=where)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("workers", 0),
        ("retries", -1),
        ("adaptive", "perhaps"),
        ("slurm", {"memory": "lots"}),
        ("slurm", {"memory": "32"}),
        ("slurm", {"memory": "0GB"}),
        ("slurm", {"walltime": "4 hours"}),
        ("slurm", {"walltime": 14400}),  # 04:00:00 without quotes
        ("slurm", {"queue": "gpu\n#SBATCH --exclusive"}),
        ("slurm", {"cores": 0}),
        ("slurm", {"gpus": -1}),
        ("slurm", {"extra": "interface"}),
        ("slurm", {"partition": "gpu"}),
    ],
)
def test_what_slurm_cannot_be_asked_is_refused(key: str, value: Any) -> None:
    sound = {"shard_size": 1, "device": "cpu", "precision": "float32"}
    with pytest.raises(ValueError, match=rf"{key}"):
        params.Embed.model_validate({**sound, key: value})


@pytest.mark.parametrize("walltime", ["30", "04:00:00", "2-00", "1-12:30:00"])
@pytest.mark.parametrize("memory", ["32GB", "1.5 TB", "64GiB", "500MB"])
def test_what_slurm_can_be_asked(walltime: str, memory: str) -> None:
    assert params.Slurm(walltime=walltime, memory=memory).memory == memory


def test_a_plan_is_what_params_say_unless_asked_otherwise() -> None:
    settings = params.Embed(
        shard_size=1, device="cpu", precision="float32", cluster="slurm", workers=3, slurm=params.Slurm(gpus=2)
    )
    assert plan_of(settings) == Plan("slurm", workers=3, slurm=Slurm(gpus=2))
    assert plan_of(settings, "tcp://host:80", 5).where == "tcp://host:80"
    assert not plan_of(settings, "none")


def test_dask_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match=r"distributed is not installed: it needs the extra `cluster`"):
        connect(Plan("local")).__enter__()


# ---------------------------------------------------------------- GPUs


@pytest.mark.parametrize(
    ("device", "worker", "visible", "expected"),
    [
        ("cuda", "0", 2, "cuda:0"),
        ("cuda", "3", 2, "cuda:1"),
        ("cuda", "SLURMCluster-0-3", 4, "cuda:3"),
        ("cuda", "3", 1, "cuda"),  # a SLURM job sees its own GPU alone
        ("cuda", "tcp://10.0.0.1:40000", 1, "cuda"),
        ("cuda:1", "0", 4, "cuda:1"),
        ("cpu", "1", 4, "cpu"),
    ],
)
def test_each_worker_has_a_gpu(device: str, worker: str, visible: int, expected: str) -> None:
    assert pinned_device(device, worker, visible) == expected


@pytest.mark.parametrize("worker", ["tcp://10.0.0.1:40000", "gpu"])
def test_a_worker_that_could_take_any_gpu_is_refused(worker: str) -> None:
    with pytest.raises(UserError, match=rf"^the worker {worker} sees 4 GPUs, .* --name gpu-0, gpu-1, "):
        pinned_device("cuda", worker, 4)


def test_a_worker_asks_torch_what_it_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(embed_cluster, "worker_name", lambda: "gpu-2")
    assert embed_cluster.own_device("cuda") == "cuda:2"
    assert embed_cluster.own_device("cpu") == "cpu"


# ---------------------------------------------------------------- SLURM


def test_the_job_that_slurm_gets() -> None:
    asked = Slurm("gpu", "lab", 6, "40GB", "08:00:00", 1, {"job_extra_directives": ["--constraint=a100"]})
    with slurm_cluster(Plan("slurm", workers=3, slurm=asked)) as jobs:
        script = jobs.job_script()
    lines = script.splitlines()
    assert lines[0].startswith("#!")
    asked_of_slurm = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")}
    assert {
        "-p gpu",
        "-A lab",
        "-n 1",
        "--cpus-per-task=6",
        "--mem=38G",  # GB are decimal here, SLURM's G are not
        "-t 08:00:00",
        "--gres=gpu:1",
        "--constraint=a100",
    } <= asked_of_slurm
    assert "export OMP_NUM_THREADS=6" in lines
    assert any(line.startswith('export PYTHONPATH="') and "/src" in line for line in lines)
    command = lines[-1]
    assert command.startswith(f"{sys.executable} -m distributed.cli.dask_worker tcp://")
    assert "--nthreads 1 " in command
    assert "--name dummy-name" in command


SBATCH = """#!/bin/sh
n=$$
cp "$1" {folder}/job$n.sh
setsid sh {folder}/job$n.sh >/dev/null 2>&1 &
echo $! > {folder}/pid$n
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/sh
echo "$1" >> {folder}/cancelled
kill -TERM -- "-$1"
"""


def test_adaptive_jobs_are_asked_for_and_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through jobqueue to workers, with a stand-in for sbatch that runs the script."""
    folder, commands = tmp_path / "jobs", tmp_path / "bin"
    folder.mkdir()
    commands.mkdir()
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (commands / name).write_text(text.format(folder=folder))
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    here = {"scheduler_options": {"host": "127.0.0.1"}, "local_directory": str(tmp_path)}
    asked = Slurm(cores=3, memory="1GB", extra=here)
    with connect(Plan("slurm", workers=2, adaptive=True, slurm=asked)) as client:
        assert not client.scheduler_info()["workers"]
        found = dict(run_tasks(client, job_surroundings, [1, 2, 3, 4], 1, "task"))
    assert set(found) == {1, 2, 3, 4}
    assert set(found.values()) == {"3"}
    started = {path.read_text().strip() for path in folder.glob("pid*")}
    assert 1 <= len(started) <= 2
    assert set((folder / "cancelled").read_text().split()) == started


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"cores": 3}, "multiple values for keyword argument 'cores'"),
        ({"nonsense": 1}, "has nonsense, which dask_jobqueue"),
        ({"interface": "none0"}, "'none0' is not a valid network interface"),
        ({"scheduler_options": 5}, "'int' object is not a mapping"),
        ({"job_script_prologue": "module load cuda"}, r"job_script_prologue is 'module load cuda', expected a list"),
        ({"job_extra_directives": None}, r"job_extra_directives is None, expected a list"),
    ],
)
def test_what_jobqueue_does_not_take_is_one_sentence(extra: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=rf"^embed\.slurm.*{message}"):
        slurm_cluster(Plan("slurm", slurm=Slurm(extra=extra)))


def test_no_slurm_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="there is no `sbatch` here"):
        connect(Plan("slurm")).__enter__()
