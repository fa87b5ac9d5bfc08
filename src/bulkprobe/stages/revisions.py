"""What one revision of the study holds: its parameters, hashes and metrics, read from git and from DVC's cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bulkprobe.errors import UserError, some
from bulkprobe.foreign import flat
from bulkprobe.stages import paths

WORKSPACE = "workspace"
MISSING = object()
GET_IT = "run `dvc pull`, or `dvc repro` in that revision"


@dataclass(frozen=True)
class Revision:
    """A revision as it was read.

    params: content of params.yaml. stages: those of dvc.lock, empty before the first run. metrics: encoder ->
    {"mutation": ..., "survival": ...}, only where both could be read; unread: encoder -> why not. summary: the means of
    metrics/summary.json, empty where there is none. notes: what makes the revision less than a finished run.
    """

    name: str
    params: Mapping[str, Any]
    stages: Mapping[str, Mapping[str, Any]]
    metrics: Mapping[str, Mapping[str, Mapping[str, Any]]]
    unread: Mapping[str, str] = field(default_factory=dict)
    summary: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def setting(self, key: str, default: Any = None) -> Any:
        """Return the value of a flat key of params.yaml."""
        found = value_at(self.params, key)
        return default if found is MISSING else found


def read_revision(name: str) -> Revision:
    """Read a git revision, an experiment by its name, or `workspace`; UserError where there is no such thing."""
    files = _open(name)
    params = _parsed(files, name, "params.yaml")
    if not isinstance(params, dict):
        raise UserError(f"{name} has no params.yaml, so it is no revision of a study: give another (`dvc exp show`)")
    stages: dict[str, Any] = (_parsed(files, name, "dvc.lock") or {}).get("stages", {})
    metrics, unread, changed = {}, {}, []
    for encoder in params.get("encoders") or {}:
        found, lacking = {}, []
        for task in ("mutation", "survival"):
            path = paths.metrics_path(task, encoder).as_posix()
            raw, locked = _bytes(files, path), out_hash(stages, path)
            if raw is None:
                lacking.append(path)
                continue
            found[task] = _metrics(raw, path, name)
            if locked and hashlib.md5(raw, usedforsecurity=False).hexdigest() != locked:
                changed.append(path)
        if lacking:
            known = any(out_hash(stages, path) for path in lacking)
            unread[encoder] = f"{some(lacking)}: " + (f"not in DVC's cache; {GET_IT}" if known else "never made")
        else:
            metrics[encoder] = found
    notes = [f"{some(changed, 3)} on disk: not what dvc.lock says; run `dvc repro` or `dvc commit`"] if changed else []
    notes += _stale(params, stages)
    summary = _parsed(files, name, paths.SUMMARY.as_posix()) or {}
    return Revision(name, params, stages, metrics, unread, summary, tuple(notes))


def _open(name: str) -> Any:
    """Open a revision as a file system of git's and DVC's files."""
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo
    from scmrepo.exceptions import SCMError

    try:
        top = Repo.find_root()
    except NotDvcRepoError:
        raise UserError(f"{name}: this folder is in no DVC project; run the command in the study's folder") from None
    try:
        files = DVCFileSystem(top, rev=None if name == WORKSPACE else name)
        files.ls("/", detail=False)  # opens it
    except (DvcException, SCMError) as problem:
        if "not a git repository" in str(problem):
            raise UserError(f"{name}: the study is not under git, so it has no revisions; run `git init`") from None
        raise UserError(
            f"{name} is no git revision and no experiment here ({' '.join(str(problem).split())}): `git log --oneline` "
            f"and `dvc exp list --all-commits` name them, {WORKSPACE!r} is the folder as it is"
        ) from None
    return files


def _bytes(files: Any, path: str) -> bytes | None:
    """Read a file of git's or DVC's; None where neither has it."""
    from dvc.exceptions import DvcException

    try:
        content: bytes = files.read_bytes(f"/{path}")
    except (OSError, DvcException):  # not there; in no cache; a remote that does not answer
        return None
    return content


def _metrics(raw: bytes, path: str, name: str) -> Mapping[str, Any]:
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as problem:
        raise UserError(f"{path} of {name} is not JSON ({flat(problem)}): {GET_IT}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} of {name} holds no JSON object: {GET_IT}")
    return content


def _parsed(files: Any, name: str, path: str) -> Any:
    """Read a YAML or JSON file (JSON is YAML) as DVC does, to whom 1e-05 is a number; None where there is none."""
    from dvc.utils.serialize import ParseError, parse_yaml

    raw = _bytes(files, path)
    try:
        return None if raw is None else parse_yaml(raw.decode(), path)
    except (ParseError, UnicodeDecodeError) as problem:
        raise UserError(f"{path} of {name} cannot be read: {' '.join(str(problem).split())}") from None


def value_at(params: Any, key: str) -> Any:
    """Return the value of a flat key, MISSING where there is none."""
    for part in key.split("."):
        if not isinstance(params, Mapping) or part not in params:
            return MISSING
        params = params[part]
    return params


def entry_hash(entry: Mapping[str, Any]) -> str:
    """Return the hash of a dependency or output as dvc.lock holds it."""
    return str(entry.get(str(entry.get("hash", "md5"))) or entry.get("md5") or "")


def out_hash(stages: Mapping[str, Mapping[str, Any]], path: str) -> str | None:
    """Return the hash of an output by its path, None where no stage has made it."""
    found = (entry for stage in stages.values() for entry in stage.get("outs", ()) if entry["path"] == path)
    return next((entry_hash(entry) for entry in found), None)


def _stale(params: Mapping[str, Any], stages: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say which parameters are others than those of the run that dvc.lock records."""
    keys: dict[str, None] = {}
    for name, stage in stages.items():
        encoder = name.partition("@")[2]
        if encoder and encoder not in (params.get("encoders") or {}):
            continue  # DVC keeps the entries of encoders that have left params.yaml
        used = stage.get("params", {}).get("params.yaml", {})
        keys |= dict.fromkeys(key for key, value in used.items() if value_at(params, key) != value)
    if not keys:
        return []
    return [f"params.yaml has other values than the run in dvc.lock ({some(keys, 5)}); run `dvc repro`"]
