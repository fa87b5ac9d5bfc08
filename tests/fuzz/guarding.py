"""What a reader of foreign bytes may do: return, or raise one sentence. Nothing else, and nothing on the way there."""

from __future__ import annotations

import gc
import os
import re
import resource
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

from bulkprobe.errors import UserError

EXAMPLES = int(os.environ.get("BULKPROBE_FUZZ_EXAMPLES", "10"))
# CI draws the same examples every time; a long run draws new ones and keeps what failed.
FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="BULKPROBE_FUZZ_EXAMPLES" not in os.environ,
    database=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
# Bytes of address space that a reader of a file of some kB may take on top. Threads reserve some for themselves.
HEADROOM = 4 << 30
LONGEST = 2_000  # characters of a sentence
RUNS_SOMETHING = (
    *("os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pty.spawn"),
    *("socket.connect", "socket.bind", "webbrowser.open", "os.kill", "os.putenv", "ctypes.dlopen"),
)
WRITES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "shutil.rmtree", "os.truncate")
# HDF5's own tables are reserved and not used (`test_hdf5_uses_no_memory_on_the_word_of_its_own_tables`).
NO_MEMORY = re.compile(
    r"(can't|cannot|unable to|failed to|could not) (re)?alloc|memory allocation(?! failed for on disk image buffer)|"
    r"out of memory|unable to mmap|bad_alloc",
    re.IGNORECASE,
)

_allowed: Path | None = None  # the one folder that may change, while a reader is watched
_seen: list[str] = []


def _spy(event: str, args: tuple[Any, ...]) -> None:
    if _allowed is None:
        return
    if event in RUNS_SOMETHING:
        _seen.append(f"{event}{args!r}"[:300])
    elif event in WRITES or (event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")):
        path = args[0]
        if event in ("os.remove", "os.rmdir") and args[1] != -1:  # below a folder that was judged when it was opened
            return
        if isinstance(path, str | bytes | os.PathLike):
            place = Path(os.fsdecode(path)).absolute()
            if ".." in place.parts or not place.is_relative_to(_allowed):
                _seen.append(f"{event} {place}")


sys.addaudithook(_spy)


@contextmanager
def watched(folder: Path) -> Iterator[None]:
    """Fail where a program is started, a connection opened, or anything outside `folder` written."""
    global _allowed
    _seen.clear()
    _allowed = folder.absolute()
    try:
        yield
    finally:
        _allowed = None
    assert not _seen, f"a file made its reader do: {_seen}"


@contextmanager
def little_memory(headroom: int = HEADROOM) -> Iterator[None]:
    """Let the process take no more than `headroom` bytes of address space (Linux)."""
    if not Path("/proc/self/statm").exists():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + headroom, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def outcome(read: Callable[[], object], folder: Path, *, reserves: bool = False) -> str | None:
    """Run a reader under watch; return its sentence, or None where it returned.

    Anything else fails: another exception, more than one line, memory beyond what the file can hold. reserves: the
    reader may ask for address space (`test_reserved_memory_is_never_touched` looks at that it is not used).
    """
    try:
        # What libraries warn of is no failure here: a reader judges what it gets.
        with warnings.catch_warnings(action="ignore"), watched(folder), little_memory():
            read()
    except UserError as refusal:
        sentence = str(refusal)
        assert sentence.isprintable(), f"a message of several lines or with control characters: {sentence!r}"
        assert 10 < len(sentence) <= LONGEST, f"a message of {len(sentence)} characters: {sentence[:300]}"
        cause: BaseException | None = refusal
        while cause is not None:
            told = isinstance(cause, MemoryError) or (cause is not refusal and NO_MEMORY.search(str(cause)))
            if told and not reserves:
                pytest.fail(f"memory was asked for on the word of a file: {cause!r}")
            cause = cause.__cause__ or cause.__context__
        return sentence
    finally:
        gc.collect(0)
    return None
