"""Python loads this first where it lies on PYTHONPATH: it does harm at the nth change of files below a folder.

BULKPROBE_FAULT holds JSON, {"top": folder, "do": what, "at": n}. Changes are counted by audit events: a file opened for
writing, a folder made, something renamed, linked or removed; not the writing of bytes itself.

count     nothing; `changes()` says how many there were
kill      SIGKILL before the nth change; every other name of a signal is sent likewise
full      from the nth change on, every file or folder that would be made meets a full disk (ENOSPC)
torn      a process that writes more than n bytes into one file is killed in the middle of that write
short     writing more than n bytes into one file fails (EFBIG)
clock     time.time() and time.time_ns() run backwards

With "at" the name of a module, a signal is sent when that module is imported.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import resource
import signal
import sys
import time
from typing import Any

MAKING = {"open", "os.mkdir"}
CHANGING = {"os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir", "os.truncate"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

_seen = itertools.count()


def changes() -> int:
    """Changes so far (asking counts as none)."""
    global _seen
    number = next(_seen)
    _seen = itertools.count(number)
    return number


def _is_change(event: str, args: tuple[Any, ...], top: str) -> bool:
    if event == "open":
        path, _, flags = args
        if isinstance(path, int) or path is None or not flags & WRITING:
            return False
    elif event in CHANGING:
        path = args[0]
        if event in ("os.remove", "os.rmdir") and args[1] != -1:
            return True  # by a descriptor of its folder: shutil.rmtree
    else:
        return False
    return not isinstance(path, int) and os.path.abspath(os.fsdecode(path)).startswith(top)


def _install(fault: dict[str, Any]) -> None:
    do, at = fault["do"], fault.get("at")
    if do in ("torn", "short"):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (at, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        if do == "torn":
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        return
    if do == "clock":
        ticks = itertools.count(4_102_444_800, -3600)  # from the year 2100, an hour back at every look
        time.time = lambda: float(next(ticks))
        time.time_ns = lambda: next(ticks) * 1_000_000_000
        return
    top = os.path.join(fault["top"], "")

    def harm(event: str, args: tuple[Any, ...]) -> None:
        if isinstance(at, str):
            if event == "import" and args[0] == at:
                os.kill(os.getpid(), signal.Signals[do])
            return
        if not _is_change(event, args, top):
            return
        number = next(_seen) + 1
        if do == "full" and number >= at and event in MAKING:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fsdecode(args[0]))
        if do not in ("full", "count") and number == at:
            os.kill(os.getpid(), signal.SIGKILL if do == "kill" else signal.Signals[do])

    sys.addaudithook(harm)


if "BULKPROBE_FAULT" in os.environ:
    _install(json.loads(os.environ.pop("BULKPROBE_FAULT")))  # the processes that this one starts come to no harm
