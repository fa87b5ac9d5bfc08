"""Every file of the study hashed again and held against dvc.lock, by DVC's own hashing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bulkprobe.errors import Damaged, UserError, some
from bulkprobe.foreign import refuse_odd_lock, refusing
from bulkprobe.stages.revisions import MISSING, value_at

Kind = Literal["changed", "missing", "not locked", "stale", "wrong"]
LISTED = 3  # files of one folder that a line names


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    kind: `changed`: other bytes than dvc.lock records; `missing`: recorded and not here; `not locked`: dvc.lock records
    nothing; `stale`: a stage ran on other inputs, settings or code than those here; `wrong`: what two files say does
    not fit together.
    """

    kind: Kind
    stage: str
    what: str

    def __str__(self) -> str:
        return f"{self.kind:<10}  {self.stage}: {self.what}"


@dataclass
class Hashed:
    """What was hashed, and what differs."""

    stages: int = 0
    outputs: int = 0
    files: int = 0
    size: int = 0  # bytes
    missing: int = 0
    findings: list[Finding] = field(default_factory=list)


class _Hasher:
    """Hashes of files and folders as DVC computes them, every byte read, each path once.

    DVC's own commands believe a file whose size and time of change are those of its record; a flipped bit has both.
    """

    def __init__(self, repo: Any) -> None:
        self._repo = repo
        self._known: dict[tuple[str, str], Any] = {}
        self._parsed: dict[str, Any] = {}

    def __call__(self, entry: Any) -> Any:
        """Return size and object of a dependency or output; None where it is not here, OSError where unreadable."""
        key = str(entry.fs_path), str(entry.hash_name)
        if key not in self._known:
            try:
                self._known[key] = self._hash(entry, *key)
            except OSError as problem:  # also of one file in a folder
                self._known[key] = problem
        if isinstance(self._known[key], OSError):
            raise self._known[key]
        return self._known[key]

    def _hash(self, entry: Any, path: str, name: str) -> Any:
        from dvc_data.hashfile.build import build
        from dvc_data.hashfile.db import HashFileDB

        if not os.path.exists(path):  # a link to nothing is not here either
            return None
        cache = HashFileDB(self._repo.fs, self._repo.cache.local.path, hash_name=name)  # remembers no earlier hashes
        _, meta, content = build(cache, path, entry.fs, name, ignore=self._repo.dvcignore, dry_run=True)
        return meta, content

    def parsed(self, path: str) -> Any:
        """Return the content of a file of parameters, which DVC itself would parse once a stage."""
        from dvc.utils.serialize import load_path

        if path not in self._parsed:
            self._parsed[path] = load_path(path, self._repo.fs) if os.path.exists(path) else {}
        return self._parsed[path]


def check_lock() -> Hashed:
    """Hash all outputs and dependencies of the stages in dvc.yaml; UserError where this is no DVC project."""
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo

    if (lock := Path("dvc.lock")).is_file():
        refuse_odd_lock(lock)
    try:
        with refusing("DVC cannot read this study", "see `dvc status`"), Repo() as repo:
            found = Hashed()
            hasher, stages = _Hasher(repo), sorted(repo.index.stages, key=lambda stage: str(stage.addressing))
            bad = [path for stage in stages for path in _check_outputs(stage, hasher, found)]
            for stage in stages:
                found.findings += _check_inputs(stage, hasher, bad)
            return found
    except Damaged as problem:
        if isinstance(problem.__cause__, NotDvcRepoError):
            raise UserError(
                "this folder is in no DVC project, so nothing is recorded to verify against: run it in the study's "
                "folder"
            ) from None
        raise


def _check_outputs(stage: Any, hasher: _Hasher, found: Hashed) -> Iterator[Path]:
    """Add what is wrong with the outputs of a stage to `found`; yields their paths."""
    name = str(stage.addressing)
    lines: dict[Kind, list[str]] = {"changed": [], "missing": [], "not locked": []}
    found.stages += 1
    for out in stage.outs:
        if not out.hash_info:
            lines["not locked"].append(str(out))
            yield Path(out.fs_path)
            continue
        try:
            now = hasher(out)
        except OSError as problem:
            lines["changed"].append(f"{out}{_why(problem)}")
            yield Path(out.fs_path)
            continue
        if now is None:
            lines["missing"].append(str(out))
            found.missing += 1
            yield Path(out.fs_path)
            continue
        meta, content = now
        found.outputs += 1
        found.files += meta.nfiles or 1
        found.size += meta.size or 0
        if content.hash_info != out.hash_info:
            lines["changed"].append(f"{out}{_inside(out, content)}")
            yield Path(out.fs_path)
    found.findings += [Finding(kind, name, some(of_kind)) for kind, of_kind in lines.items() if of_kind]


def _inside(out: Any, content: Any) -> str:
    """Say which files of a folder differ, as far as DVC's cache still has the list of what was in it."""
    locked = out.get_obj() if out.hash_info.isdir else None
    if not out.hash_info.isdir or not content.hash_info.isdir:
        return ""
    if locked is None and not out.use_cache:
        return " (kept in git: `git diff` shows what of it)"
    if locked is None:
        return " (which file of it, DVC's cache cannot tell: it has no list of this folder)"
    before, now = (
        {"/".join(key): info.value for key, (_, info) in tree.items()} for tree in map(_entries, (locked, content))
    )
    said = [
        f"{verb} {some(sorted(names), LISTED)}"
        for verb, names in (
            ("changed", {key for key in before.keys() & now.keys() if before[key] != now[key]}),
            ("missing", before.keys() - now.keys()),
            ("added", now.keys() - before.keys()),
        )
        if names
    ]
    return f" ({'; '.join(said)})"


def _entries(tree: Any) -> dict[tuple[str, ...], Any]:
    return {key: (meta, info) for key, meta, info in tree}


def _check_inputs(stage: Any, hasher: _Hasher, bad: Iterable[Path]) -> Iterator[Finding]:
    """Find what a stage that has run would run with today, where it is something else.

    A dependency on an output that is itself changed or missing says nothing new and is left out. What lies on a server
    is left out as well, and so are the sources of imports (`dvc import-url`): DVC asks for them in `dvc update` alone.
    """
    from dvc.dependency.param import ParamsDependency

    deps = [] if stage.frozen else [dep for dep in stage.deps if dep.fs.protocol == "local"]
    if any(not out.hash_info for out in stage.outs):
        return
    if deps and not any(dep.hash_info for dep in deps):
        yield Finding("not locked", str(stage.addressing), "it has never run")
        return
    other, gone = [], []
    for dep in deps:
        if isinstance(dep, ParamsDependency):
            used, today = dep.hash_info.value or {}, hasher.parsed(str(dep.fs_path))
            keys = [key for key in dep.params or used if value_at(today, key) != used.get(key, MISSING)]
            other += [f"{dep}: {some(keys, LISTED)}"] if keys else []
            continue
        here = Path(dep.fs_path)
        if any(here == path or here in path.parents or path in here.parents for path in bad):
            continue
        try:
            now = hasher(dep)
        except OSError as problem:
            other.append(f"{dep}{_why(problem)}")
            continue
        if now is None:
            gone.append(str(dep))
        elif now[1].hash_info != dep.hash_info:
            other.append(str(dep))
    said = ["was run with another command"] if getattr(stage, "cmd_changed", False) else []
    said += [f"was run with other {some(other, 5)} than is here"] if other else []
    said += [f"was run with {some(gone, 5)}, not here now"] if gone else []
    if said:
        yield Finding("stale", str(stage.addressing), "; ".join(said))


def _why(problem: OSError) -> str:
    where = f": {os.path.relpath(problem.filename)}" if isinstance(problem.filename, str) else ""
    return f" (cannot be read: {problem.strerror or problem}{where})"
