"""One thin entry point per DVC stage; with the command line the only readers of params.yaml and fixed paths."""

import signal
import sys

# `python -m bulkprobe.stages.x` comes by here first. Until it is through with its imports there is nothing to clean up,
# and Ctrl-C needs no traceback.
if sys.argv[0] == "-m" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
