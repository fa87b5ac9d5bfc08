"""One thin entry point per DVC stage; with the command line the only readers of params.yaml and fixed paths."""

import ctypes
import os
import signal
import sys

FEW, ARENA_MAX = 2, -8  # heaps; glibc's name for their number (malloc.h)
THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def one_thread() -> None:
    """Give linear algebra one thread in this process and those that it starts; before NumPy and torch are imported.

    Sums that several threads share are rounded in another order, so bytes would depend on the number of cores. What
    runs side by side (samples, splits) does so on one thread each; OMP_NUM_THREADS says how many samples.
    """
    os.environ.update(dict.fromkeys(THREADS, "1"))


def few_heaps() -> None:
    """Keep freed memory where it is used again: otherwise Arrow and each thread hold on to a heap of their own.

    For a cohort of 200,000 samples that is 60 MB.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    if sys.platform == "linux" and (limit := getattr(ctypes.CDLL(None), "mallopt", None)):  # not in every C library
        limit(ARENA_MAX, FEW)


# `python -m bulkprobe.stages.x` comes by here first, while Python is still looking for that module; somebody else's
# program that imports this one while Python looks for it is left alone. Until a stage is through with its imports there
# is nothing to clean up, and Ctrl-C needs no traceback.
if sys.argv[:1] == ["-m"] and any(part.startswith(("bulkprobe.", "-mbulkprobe.")) for part in sys.orig_argv):
    one_thread()
    few_heaps()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
