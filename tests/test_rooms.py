"""The layers: which room may import which, and whether DVC's `deps` name everything that a stage imports."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

TOP = Path(__file__).resolve().parents[1]
SOURCE = TOP / "src"
PACKAGE = "bulkprobe"

LEAVES = {"errors", "files", "foreign", "foreign_zarr"}  # import nothing of ours; every room may use them
ROOMS: dict[str, set[str]] = {
    "params": set(),
    "preprocess": set(),
    "nn": set(),
    "store": set(),
    "splits": set(),
    "statistics": set(),
    "cluster": set(),
    "sources": {"cohort.schema"},
    "cohort": {"sources.schema"},
    "encoders": {"preprocess", "nn"},
    "untrained": {"preprocess", "nn"},
    "probes": {"splits", "statistics"},
    "shift": {"preprocess", "store", "statistics", "probes.metrics"},
    "biology": {"preprocess", "store", "statistics", "probes.metrics"},
    "report": {"statistics"},
}
EVERYTHING = {"stages", "cli", "api", "notebook"}

# Modules a stage imports that its `deps` need not name, each with the reason.
NOT_A_DEP = {
    "bulkprobe": "the version",
    "bulkprobe.cluster": "where a shard is computed changes no byte (tests/cluster)",
    "bulkprobe.errors": "messages only",
    "bulkprobe.foreign": "refuses damaged files, changes no number",
    "bulkprobe.foreign_zarr": "the same",
    "bulkprobe.params": "DVC tracks the values themselves",
    "bulkprobe.stages": "one thread for linear algebra; Ctrl-C while a stage is imported",
    "bulkprobe.stages.embed_cluster": "the same: it runs the functions of stages/embed.py and store.py elsewhere",
    "bulkprobe.stages.shift_cluster": "the same for stages/shift_ladder.py",
    "bulkprobe.stages.paths": "a changed path changes the stage's own deps and outs",
    "bulkprobe.stages.running": "how a stage fails",
}
# These stages (`embed@x`) depend on their own encoder alone, so that a new encoder reruns none of the old.
REGISTRY = "bulkprobe.encoders"


def module_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in sorted((SOURCE / PACKAGE).rglob("*.py"))}


def imports_of(path: Path) -> Iterator[str]:
    """Every module of ours that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == PACKAGE)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written out in full"
            if node.module and node.module.split(".")[0] == PACKAGE:
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    yield whole if whole in MODULES else node.module


def room_of(module: str) -> str:
    return module.removeprefix(PACKAGE).lstrip(".").split(".")[0]


def allowed(importer: str, imported: str) -> bool:
    here, there = room_of(importer), room_of(imported)
    if here in EVERYTHING or here == there or there in LEAVES:
        return here not in LEAVES or there in LEAVES
    inside = imported.removeprefix(f"{PACKAGE}.")
    return any(inside == permitted or inside.startswith(f"{permitted}.") for permitted in ROOMS.get(here, set()))


@pytest.mark.parametrize("module", [m for m in MODULES if m != PACKAGE])
def test_a_room_imports_only_what_it_may(module: str) -> None:
    assert room_of(module) in {*ROOMS, *LEAVES, *EVERYTHING}, f"{module} belongs to no room of the design"
    wrong = sorted({name for name in imports_of(MODULES[module]) if not allowed(module, name)})
    assert not wrong, f"{module} imports {wrong}"


def test_the_check_itself_sees_a_forbidden_import() -> None:
    assert not allowed("bulkprobe.encoders.pca", "bulkprobe.store")
    assert not allowed("bulkprobe.sources.tcga", "bulkprobe.cohort.build")
    assert not allowed("bulkprobe.files", "bulkprobe.store")
    assert allowed("bulkprobe.cohort.build", "bulkprobe.sources.schema")


def closure(module: str) -> set[str]:
    """A module and everything of ours it imports, directly or not."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen or name not in MODULES:
            continue
        seen.add(name)
        if name == REGISTRY:  # its encoders are imported by name, as the one that is asked for
            continue
        waiting.extend(imports_of(MODULES[name]))
        parents = name.split(".")[:-1]
        waiting.extend(".".join(parents[:n]) for n in range(1, len(parents) + 1))
    return seen


def stages() -> dict[str, dict[str, object]]:
    content = yaml.safe_load((TOP / "dvc.yaml").read_text(encoding="utf-8"))
    return {name: stage.get("do", stage) for name, stage in content["stages"].items()}


@pytest.mark.parametrize("name", list(stages()))
def test_the_deps_of_a_stage_cover_what_it_imports(name: str) -> None:
    stage = stages()[name]
    deps = [str(dep) for dep in stage["deps"]]  # type: ignore[attr-defined]
    covered = [TOP / dep for dep in deps if dep.startswith("src/")]
    missing = []
    for module in sorted(closure(f"{PACKAGE}.stages.{name}")):
        path = MODULES[module]
        if module in NOT_A_DEP or (path.name == "__init__.py" and len(path.read_text().splitlines()) <= 12):
            continue
        if module == REGISTRY and name in ("biology", "embed", "shift", "weights"):
            continue
        if not any(path == dep or dep in path.parents for dep in covered):
            missing.append(str(path.relative_to(TOP)))
    assert not missing, f"stage {name} imports {missing} without a dep"


def test_embed_depends_on_its_own_encoder_alone() -> None:
    deps = stages()["embed"]["deps"]
    assert "src/bulkprobe/encoders/${item.model}.py" in deps  # type: ignore[operator]
    assert "src/bulkprobe/encoders/base.py" in deps  # type: ignore[operator]
    assert "src/bulkprobe/encoders" not in deps  # type: ignore[operator]
    for path in (SOURCE / PACKAGE / "encoders").glob("*.py"):
        if path.stem not in ("__init__", "base"):
            others = {m for m in imports_of(path) if room_of(m) == "encoders"} - {"bulkprobe.encoders.base"}
            assert not others, f"{path.name} imports {others}: an encoder never imports another"


def test_every_stage_runs_the_source_of_its_own_checkout() -> None:
    content = yaml.safe_load((TOP / "dvc.yaml").read_text(encoding="utf-8"))
    assert content["vars"] == [{"run": "env PYTHONPATH=src python -m bulkprobe.stages"}]
    assert all(str(stage["cmd"]).startswith("${run}.") for stage in stages().values())


def test_torch_is_not_imported_by_stages_that_need_none() -> None:
    for name in ("fetch", "cohort", "splits", "probe_mutation", "probe_survival", "compare", "summary"):
        for module in closure(f"{PACKAGE}.stages.{name}"):
            text = MODULES[module].read_text(encoding="utf-8")
            assert not re.search(r"^(import|from) torch\b", text, re.M), f"{name} imports torch through {module}"


def test_a_fit_on_the_cpu_imports_no_torch() -> None:
    """The solvers name torch for a GPU, inside functions; a stage starts without those seconds."""
    code = (
        "import sys, numpy as np\n"
        "import bulkprobe.stages.probe_mutation, bulkprobe.stages.probe_survival\n"
        "from bulkprobe.probes.logistic import fit_logistic_path\n"
        "X = np.random.default_rng(0).normal(size=(20, 3))\n"
        "fit_logistic_path(X, X[:, :1] > 0, [1.0])\n"
        "assert 'torch' not in sys.modules\n"
    )
    env = {**os.environ, "PYTHONPATH": str(SOURCE)}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)
