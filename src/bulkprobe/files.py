"""Writing files so that nothing half-written is ever left behind, and hashing them."""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bulkprobe.errors import Damaged, UserError
from bulkprobe.foreign import MOST_JSON_BYTES, bytes_of

READ_BYTES = 1 << 20
UNLOCKABLE = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP}  # file systems without locks


@contextmanager
def atomic_path(final: Path) -> Iterator[Path]:
    """Give a path beside `final` to write to; it takes the final name only when the block ends well.

    An existing `final` is replaced, never opened: it may be a link into a read-only cache.
    """
    final = Path(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    sweep(final)
    aside = _aside(final)
    try:
        yield aside
        _flush(aside)
        os.replace(aside, final)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def atomic_folder(final: Path) -> Iterator[Path]:
    """Give an empty folder beside `final`; it replaces `final` only when the block ends well."""
    with scratch_folder(final) as aside:
        yield aside
        replace_folder(aside, final)


@contextmanager
def scratch_folder(final: Path, what: str = "") -> Iterator[Path]:
    """Give an empty folder beside `final`, which is removed afterwards; `what` tells several of one name apart."""
    final = Path(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    sweep(final)
    aside = _aside(final, what)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def replace_folder(aside: Path, final: Path) -> None:
    """Give a finished folder its final name; what stood there is moved away whole first, never removed in its place."""
    for path in aside.rglob("*"):
        if path.is_file():
            _flush(path)
    with scratch_folder(final, ".old") as old:
        _move_away(final, old)
        os.replace(aside, final)


def remove_folder(folder: Path) -> None:
    """Remove a folder, if it is there; at no moment does a part of it stand under its name."""
    if os.path.lexists(folder):
        with scratch_folder(folder, ".old") as old:
            _move_away(folder, old)


def _move_away(path: Path, old: Path) -> None:
    """Move what stands under a name to an empty folder; a link moves itself, what it points to may be a cache."""
    if path.is_symlink():
        os.replace(path, old / path.name)
    elif path.exists():
        os.replace(path, old)


def sweep(final: Path) -> None:
    """Remove what killed writers of `final` left beside it; a writer that lives on this machine keeps its own."""
    beside = f".{final.name}."
    for left in final.parent.glob(f"{glob.escape(beside)}*.partial*"):
        pid = left.name.removeprefix(beside).partition(".")[0]
        if pid.isdigit() and not _lives(int(pid)):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


@contextmanager
def only_writer(final: Path) -> Iterator[None]:
    """Hold `final` against other processes; UserError says who holds it. The lock of a process that died is free.

    The lock is a file beside `final` which is removed afterwards; where the file system knows no locks there is none.
    """
    final = Path(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    path = final.with_name(f"{final.name}.lock.partial")
    with path.open("a+", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            holder = handle.read().strip() or "another process"
            raise UserError(
                f"{final} is being written by {holder}: wait until it has finished, or end it, and run again"
            ) from None
        except OSError as problem:
            if problem.errno not in UNLOCKABLE:
                raise
        if not path.exists() or not os.path.samestat(os.fstat(handle.fileno()), path.stat()):
            raise UserError(f"{final} was being written until just now: run again")  # its holder removed the file
        try:
            handle.truncate(0)
            handle.write(f"process {os.getpid()} on {socket.gethostname()}")
            handle.flush()
            yield
        finally:
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _aside(final: Path, what: str = "") -> Path:
    return final.with_name(f".{final.name}.{os.getpid()}{what}.partial")


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def _flush(path: Path) -> None:
    """Have the disk hold a file before it gets its name: after a power cut a name must not stand on lost bytes."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON with sorted keys and no NaN, so that equal content gives equal bytes."""
    with atomic_path(Path(path)) as aside:
        text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
        aside.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; Damaged (a UserError and a ValueError) where a file holds anything else."""
    try:
        content = json.loads(bytes_of(path, MOST_JSON_BYTES).decode())
    except (ValueError, RecursionError) as problem:
        reason = "nested too deeply" if isinstance(problem, RecursionError) else str(problem)[:160]
        raise Damaged(f"{path} is not JSON ({reason}): make or fetch it again") from None
    if not isinstance(content, dict):
        raise Damaged(f"{path} holds no JSON object: make or fetch it again")
    return content


def file_hash(path: Path, algorithm: str = "sha256") -> str:
    """Return the hexadecimal digest of a file, read by blocks."""
    digest = hashlib.new(algorithm)
    with Path(path).open("rb") as handle:
        while block := handle.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def tree_hash(folder: Path) -> str:
    """Return one sha256 over the relative names and contents of every file below `folder`."""
    digest = hashlib.sha256()
    for path in sorted(p for p in Path(folder).rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{file_hash(path)}\n".encode())
    return digest.hexdigest()
