"""Which checkpoint an encoder computes with: made, downloaded and checked, or a folder that somebody gives."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bulkprobe.encoders.base import Card, Release
from bulkprobe.errors import UserError, some
from bulkprobe.files import file_hash, read_json, write_json
from bulkprobe.foreign import plain_name

RECORD = "release.json"
UNTRAINED = "untrained"
AGAIN = "leave them alone, or fetch them again, and run again"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder and what is known of it.

    release: the name of the authors' release, "untrained" for a random stand-in, None for an unknown folder. verified:
    whether every file has the hash that is known of the release (None: nothing to verify, it was made here).
    """

    folder: Path
    sha256: str
    release: str | None
    untrained: bool = False
    twin: bool = False
    verified: bool | None = False

    def attributes(self) -> dict[str, Any]:
        """What an embedding store records of it."""
        found = asdict(self)
        found["checkpoint_sha256"] = found.pop("sha256")
        del found["folder"], found["twin"]
        return {**found, "untrained_twin": self.twin}


def hashes_of(folder: Path) -> dict[str, str]:
    """Return sha256 by relative path of every file of a checkpoint."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: give the folder that holds the files exactly as released")
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.endswith((".partial", ".partial.json")))
    if not files:
        raise UserError(f"{folder} is empty: a checkpoint folder must hold the files exactly as released")
    return {path.relative_to(folder).as_posix(): file_hash(path) for path in files}


def folder_hash(hashes: Mapping[str, str]) -> str:
    """Return one sha256 over the names and contents of a checkpoint's files."""
    listed = "".join(f"{path}\0{sha256}\n" for path, sha256 in sorted(hashes.items()))
    return hashlib.sha256(listed.encode()).hexdigest()


class Held:
    """Weights that are in use: they are mapped, not copied, so whoever writes into their files changes numbers.

    Raises UserError where the files are not those of the hash, at first and whenever they have been touched since.
    """

    def __init__(self, folder: Path | None, sha256: str | None) -> None:
        self._folder = folder
        self._seen = _stamps(folder)  # before they are hashed
        if folder is not None and folder_hash(hashes_of(folder)) != sha256:
            raise UserError(f"the files in {folder} have changed since they were checked: {AGAIN}")

    def check(self) -> None:
        """To be called after computing and before the results are kept."""
        if _stamps(self._folder) != self._seen:
            raise UserError(f"the files in {self._folder} were changed while they were in use: {AGAIN}")


def _stamps(folder: Path | None) -> dict[str, tuple[int, int]]:
    """What changes when a file is written; not its last access, links, or number, which some file systems change."""
    if folder is None:
        return {}
    found = {path.relative_to(folder).as_posix(): path.stat() for path in folder.rglob("*") if path.is_file()}
    return {name: (of.st_size, of.st_mtime_ns) for name, of in found.items()}


def identify(card: Card, folder: Path) -> Checkpoint:
    """Say what a folder is: a known release by its hashes, what a record beside it says, or unverified."""
    hashes = hashes_of(folder)
    whole = folder_hash(hashes)
    for release in card.releases:
        if is_release(release, hashes):
            return Checkpoint(folder, whole, release.name, verified=all(f.sha256 or f.md5 for f in release.files))
    record = read_record(folder.parent)
    if record.get("sha256") == whole and record.get("model") == card.name:
        return checkpoint_of(record, folder)
    return Checkpoint(folder, whole, None)


def is_release(release: Release, hashes: Mapping[str, str]) -> bool:
    """Whether the files are those of a release: all there, and every known hash equal (at least one is known)."""
    known = [file for file in release.files if file.sha256]
    there = all(file.path in hashes for file in release.files)
    return there and bool(known) and all(hashes[file.path] == file.sha256 for file in known)


def read_record(folder: Path) -> dict[str, Any]:
    """Read what the weights stage recorded of an encoder's checkpoint; empty where it has not run."""
    path = folder / RECORD
    if not path.is_file():
        return {}
    try:
        return read_json(path)
    except ValueError:
        raise UserError(f"{path} is damaged: run `dvc repro -f weights@{folder.name}`") from None


def checkpoint_of(record: Mapping[str, Any], folder: Path) -> Checkpoint:
    """Return the checkpoint that a record describes; UserError where it does not say all of it."""
    keys = ("sha256", "release", "untrained", "twin", "verified")
    if lacking := [key for key in keys if key not in record]:
        raise UserError(f"{folder.parent / RECORD} does not say {some(lacking)}: make the record again (`dvc repro`)")
    return Checkpoint(folder, *(record[key] for key in keys))


def recorded(folder: Path) -> Checkpoint | str | None:
    """Return the checkpoint that the weights stage left in `folder`; a text says why it is absent; None: a baseline.

    Files that changed since they were verified are a UserError.
    """
    record = read_record(folder)
    if not record:
        raise UserError(f"{folder / RECORD} is not there: run `dvc repro weights@{folder.name}` first")
    if record.get("absent"):
        return str(record["absent"])
    if record.get("release") is None:
        return None
    flags = [record.get(key) for key in ("untrained", "twin", "verified")]
    if not plain_name(record["release"]) or not all(flag in (True, False, None) for flag in flags):
        raise UserError(f"{folder / RECORD} is damaged: run `dvc repro -f weights@{folder.name}`")
    place = folder / str(record["release"])
    if folder_hash(hashes_of(place)) != record.get("sha256"):
        raise UserError(
            f"the files in {place} have changed since they were checked: fetch them again "
            f"(`dvc repro -f weights@{folder.name}`)"
        )
    return checkpoint_of(record, place)


def write_record(folder: Path, model: str, checkpoint: Checkpoint, hashes: Mapping[str, str]) -> None:
    """Record a checkpoint beside its folder, and remove what other releases left there."""
    for path in folder.iterdir():
        if path.is_dir() and path.name != checkpoint.folder.name:
            shutil.rmtree(path)
    content = {key: value for key, value in asdict(checkpoint).items() if key != "folder"}
    write_json(folder / RECORD, {**content, "model": model, "files": dict(hashes)})


def write_absence(folder: Path, model: str, reason: str | None) -> None:
    """Record that there are no weights: why, or (None) that a baseline needs none."""
    content: dict[str, Any] = {"model": model, "release": None}
    write_json(folder / RECORD, content if reason is None else {**content, "absent": reason})
