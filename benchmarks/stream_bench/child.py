"""One embedding in a process of its own, as `bulkprobe embed` makes it; prints seconds and peak bytes as JSON.

python -m stream_bench.child MODEL INPUT CHECKPOINT OUTPUT SHARD_SIZE
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from bulkprobe.stages import few_heaps, one_thread

one_thread()
few_heaps()  # before NumPy and torch are imported, as the command does

from bulkprobe.stages.embed_input import embed_input  # noqa: E402
from probe_bench.memory import peak_bytes  # noqa: E402


def main(model: str, source: str, checkpoint: str, output: str, shard_size: str) -> None:
    """Embed one input; the seconds are those from opening the input until the store has its name."""
    begun = time.perf_counter()
    embed_input(model, Path(source), Path(output), checkpoint=Path(checkpoint), shard_size=int(shard_size))
    print(json.dumps({"seconds": time.perf_counter() - begun, "peak": peak_bytes()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
