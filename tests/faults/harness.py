"""A small study that was made without any fault, and copies of it in which a stage comes to harm and runs again."""

from __future__ import annotations

import importlib
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bulkprobe.files import file_hash
from forks import fork
from pipeline import TOP, small_params

HOOK = Path(__file__).parent / "hook"
PATH = os.pathsep.join(str(folder) for folder in (HOOK, TOP / "src", TOP / "tests"))
IMPORTS = 2.0  # seconds that a stage takes before it begins, roughly
MODEL = "scgpt"
Fault = Mapping[str, Any]
Tree = dict[str, str]  # path → hash


@dataclass(frozen=True)
class Stage:
    """A stage, its argument, and what it writes; `whole` are folders that must never be seen in part."""

    name: str
    arguments: tuple[str, ...]
    outputs: tuple[str, ...]
    whole: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The stage and its arguments in one text."""
        return " ".join([self.name, *self.arguments])


def _probe(task: str, encoder: str) -> Stage:
    outputs = (f"data/predictions/{encoder}.parquet/{task}.parquet", f"metrics/{task}/{encoder}.json")
    return Stage(f"probe_{task}", (encoder,), outputs)


def _embed(encoder: str) -> Stage:
    return Stage("embed", (encoder,), (store := (f"data/embeddings/{encoder}.zarr",)), store)


SHOWN = ("headline.json", "methods.md", "references.bib", "report.html", "summary.json", "plots", "figures", "tables")
# Every stage once, in the order in which they run; those that are harmed.
STAGES = (
    Stage("fetch", (), ("data/raw", "data/truth"), ("data/raw", "data/truth")),
    Stage("cohort", (), ("data/cohort",), ("data/cohort",)),
    Stage("splits", (), ("data/splits.parquet",)),
    Stage("gene_sets", (), ("data/gene_sets",), ("data/gene_sets",)),
    Stage("weights", (MODEL,), (f"models/{MODEL}",), (f"models/{MODEL}/untrained",)),
    _embed(MODEL),
    _probe("mutation", "pca"),
    _probe("survival", "pca"),
    Stage("shift", ("pca",), ("metrics/shift/pca.json",)),
    Stage("biology", ("pca",), ("metrics/biology/pca.json",)),
    Stage("compare", (), ("metrics/compare.json",)),
    Stage("summary", (), tuple(f"metrics/{name}" for name in SHOWN), ("metrics/figures", "metrics/tables")),
)
BY_NAME = {stage.name: stage for stage in STAGES}
# What they need beside each other.
EARLIER = {"probe_mutation": (Stage("weights", ("pca",), ()), _embed("pca"))}
LATER = {"probe_survival": (_probe("mutation", MODEL), _probe("survival", MODEL))}


def fault_params() -> dict[str, Any]:
    """The small study with one foundation model, its store in several shards."""
    params = small_params()
    params["encoders"] = {
        "pca": params["encoders"]["pca"],
        MODEL: {"model": MODEL, "release": "untrained", "enabled": True, "options": {"max_length": 64}},
    }
    params["embed"]["shard_size"] = 64
    params["compare"]["n_boot"] = 20
    return params


def is_partial(path: Path | str) -> bool:
    """Whether a path bears a name that says it is unfinished."""
    return any(".partial" in part for part in Path(path).parts)


def tree_of(folder: Path) -> Tree:
    """Hash of every file below a folder by its path, unfinished ones too."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_hash(path) for path in files}


def below(tree: Tree, place: str) -> Tree:
    """The part of a tree at or below a place."""
    return {path: sha for path, sha in tree.items() if path == place or path.startswith(f"{place}/")}


def environment(fault: Fault | None = None, **more: str) -> dict[str, str]:
    """The environment of a stage."""
    kept = {key: os.environ[key] for key in ("LANG", "LC_ALL", "PATH", "TMPDIR", "VIRTUAL_ENV") if key in os.environ}
    env = {**kept, "PYTHONPATH": PATH, "OMP_NUM_THREADS": "1", "HOME": os.environ.get("HOME", "/"), **more}
    return env | ({"BULKPROBE_FAULT": json.dumps(dict(fault))} if fault else {})


def command(stage: Stage) -> list[str]:
    """How a stage is started."""
    return [sys.executable, "-m", f"bulkprobe.stages.{stage.name}", *stage.arguments]


def _run_stage(stage: Stage, folder: str, fault: Fault | None) -> None:
    """In a process of its own: what `python -m bulkprobe.stages.<stage>` does, with the harm of the hook."""
    os.environ.clear()
    os.environ.update(environment(fault))
    os.chdir(folder)
    sys.argv = [stage.name, *stage.arguments]
    runpy.run_path(str(HOOK / "sitecustomize.py"))
    module = importlib.import_module(f"bulkprobe.stages.{stage.name}")
    importlib.import_module("bulkprobe.stages.running").run_stage(module.main)


@dataclass(frozen=True)
class Ended:
    """How a stage ended."""

    status: int
    stderr: str

    def sentence(self) -> str:
        """The error, which is one line and comes last; no traceback before it."""
        assert self.status == 1, self
        assert "Traceback" not in self.stderr, self.stderr
        last = self.stderr.strip().splitlines()[-1]
        assert last.startswith("error: "), self.stderr
        return last


@dataclass(frozen=True)
class Study:
    """The undisturbed study: its folder, the hashes of its files, and what each stage took."""

    folder: Path
    tree: Tree
    figures: dict[str, dict[str, float]]

    def changes(self, stage: Stage) -> int:
        """How often a stage changes the file system."""
        return int(self.figures[stage.key]["changes"])

    def seconds(self, stage: Stage) -> float:
        """How long a stage takes, its imports included."""
        return self.figures[stage.key]["seconds"] + IMPORTS

    def largest(self, stage: Stage) -> int:
        """Bytes of the largest file that a stage writes."""
        return max((self.folder / path).stat().st_size for place in stage.outputs for path in below(self.tree, place))


def make_study(folder: Path) -> Study:
    """Run every stage once."""
    stages = [each for stage in STAGES for each in (*EARLIER.get(stage.name, ()), stage, *LATER.get(stage.name, ()))]
    params, figures = folder.with_name(f"{folder.name}.params.json"), folder.with_name(f"{folder.name}.figures.json")
    params.write_text(json.dumps(fault_params()), encoding="utf-8")
    started = [sys.executable, str(Path(__file__).with_name("undisturbed.py")), str(folder)]
    listed = json.dumps([(stage.name, stage.arguments) for stage in stages])
    env = environment({"top": str(folder.resolve()), "do": "count"})
    done = subprocess.run([*started, listed, str(params), str(figures)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return Study(folder, tree_of(folder), json.loads(figures.read_text(encoding="utf-8")))


class Trial:
    """A copy of the study in which one stage has yet to run: with nothing in its place, or with old results there."""

    def __init__(self, study: Study, folder: Path, stage: Stage, *, old: bool = False) -> None:
        self.study, self.stage = study, stage
        self.folder = folder.resolve()
        self.said = self.folder.with_name(f"{self.folder.name}.stderr")
        shutil.copytree(study.folder, self.folder)
        written = [path for place in stage.outputs for path in below(study.tree, place)]
        for path in written:
            with (self.folder / path).open("ab") as file:
                file.write(b"old")
        if not old:
            for place in stage.outputs:
                target = self.folder / place
                shutil.rmtree(target) if target.is_dir() else target.unlink()
        self.before = tree_of(self.folder)

    def start(self, fault: Fault | None = None) -> subprocess.Popen[bytes]:
        """Start the stage, to come to harm."""
        known = {"top": str(self.folder), **fault} if fault else None
        with self.said.open("w", encoding="utf-8") as said:  # a file: workers that outlive the stage would hold a pipe
            return subprocess.Popen(
                command(self.stage),
                cwd=self.folder,
                env=environment(known),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,
            )

    def run_started(self, fault: Fault | None = None, *, kill_after: float | None = None) -> Ended:
        """Start the stage as DVC does and wait for its end; `kill_after`: or for that many seconds."""
        process = self.start(fault)
        with suppress(subprocess.TimeoutExpired):
            process.wait(kill_after)
        process.kill()
        return self._ended(process.pid, process.wait())

    def run(self, fault: Fault | None = None) -> Ended:
        """Run the stage to its end."""
        self.said.unlink(missing_ok=True)
        process = fork(
            _run_stage, self.stage, str(self.folder), fault and {"top": str(self.folder), **fault}, said=self.said
        )
        process.join()
        assert process.pid is not None
        assert process.exitcode is not None
        return self._ended(process.pid, process.exitcode)

    def _ended(self, group: int, status: int) -> Ended:
        with suppress(ProcessLookupError):  # what a killed stage leaves running
            os.killpg(group, signal.SIGKILL)
        return Ended(status, self.said.read_text(encoding="utf-8"))

    def assert_nothing_is_half_written(self) -> None:
        """Under a final name stands what stood there before, or what an undisturbed run writes, or nothing."""
        now = {path: sha for path, sha in tree_of(self.folder).items() if not is_partial(path)}
        strange = [path for path, sha in now.items() if sha not in (self.before.get(path), self.study.tree.get(path))]
        assert not strange, strange
        for place in self.stage.whole:
            found = below(now, place)
            assert found in ({}, below(self.before, place), below(self.study.tree, place)), (place, sorted(found))

    def assert_another_run_makes_it_whole(self) -> None:
        """Run again: every byte as in the undisturbed study, and nothing beside it."""
        done = self.run()
        assert done.status == 0, done.stderr
        self.assert_whole()

    def assert_whole(self) -> None:
        """Every file as in the undisturbed study, and no other."""
        now, expected = tree_of(self.folder), self.study.tree
        wrong = sorted(path for path in now.keys() | expected.keys() if now.get(path) != expected.get(path))
        assert not wrong, wrong


def drawn_kill(study: Study, stage: Stage, rng: np.random.Generator) -> tuple[str, Fault | None, float | None]:
    """Draw a way to be killed: what it is, for the hook, and after how many seconds."""
    how = str(rng.choice(["change", "change", "change", "torn", "moment"]))
    if how == "moment":
        return how, None, float(rng.uniform(0, study.seconds(stage)))
    if how == "torn":
        return how, {"do": "torn", "at": int(rng.integers(1, study.largest(stage)))}, None
    return how, {"do": "kill", "at": int(rng.integers(1, study.changes(stage) + 1))}, None
