"""Writing files so that nothing half-written is ever left behind, and hashing them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bulkprobe.errors import Damaged

READ_BYTES = 1 << 20


@contextmanager
def atomic_path(final: Path) -> Iterator[Path]:
    """Give a path beside `final` to write to; it takes the final name only when the block ends well.

    An existing `final` is replaced, never opened: it may be a link into a read-only cache.
    """
    final = Path(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    aside = final.with_name(f".{final.name}.{os.getpid()}.partial")
    try:
        yield aside
        os.replace(aside, final)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def atomic_folder(final: Path) -> Iterator[Path]:
    """Give an empty folder beside `final`; it replaces `final` only when the block ends well."""
    final = Path(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    aside = final.with_name(f".{final.name}.{os.getpid()}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        yield aside
        if final.exists():
            shutil.rmtree(final)
        os.replace(aside, final)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON with sorted keys and no NaN, so that equal content gives equal bytes."""
    with atomic_path(Path(path)) as aside:
        text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
        aside.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; Damaged (a UserError and a ValueError) where a file holds anything else."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
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
