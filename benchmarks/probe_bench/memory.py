"""Peak of a process's own memory."""

from __future__ import annotations

import ctypes
import resource
import sys
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_bytes() -> int:
    """Return the largest resident size of this process since the start, or since `reset_peak` where that works.

    Linux hands ru_maxrss of the starting process on to the started one, so the process's own mark is read.
    """
    if STATUS.is_file():
        fields = dict(line.split(":", 1) for line in STATUS.read_text(encoding="utf-8").splitlines() if ":" in line)
        if "VmHWM" in fields:
            return int(fields["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def reset_peak() -> None:
    """Hand freed memory back and forget the peak so far; nothing happens where the system cannot."""
    if not CLEAR.exists():
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)
    try:
        CLEAR.write_text("5", encoding="ascii")
    except OSError:  # a sandbox may forbid it
        return
