"""A paper plan: what a million samples through every encoder would cost on GPUs, from operations measured at full size.

Each encoder embeds one bulk-like sample with a random checkpoint of the default release's sizes, at full depth, on the
CPU of this machine; its floating-point operations are counted while it runs. What a GPU makes of them is an assumption
(`--peak`, `--share`), and so are prices and failures: no GPU was run.

    python benchmarks/plan.py [--quick] [--json FILE] [--measured FILE] [--only MODEL]... [--samples N]
        [--peak FLOPS] [--share F] [--price P] [--hours H] [--minutes M]
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bulkprobe.encoders import get_encoder
from embed import Row, prepare, run_side
from embed_bench.cases import FULL, QUICK, Case, made_counts

# What the cases of `embed.py` leave out of the default releases' depth.
DEPTH: dict[str, dict[str, Any]] = {
    "scfoundation": {"depth": 12},
    "scbert": {"depth": 6},
    "sclong": {"large": (42, 32, 64)},
    "bulkformer": {"depth": 12},
}
LEFT_OUT = "geneformer_v1"  # not the default release
KEPT = 0.93  # bytes of a stored vector over those of its float32 numbers, after Zstandard


def measure(case: Case, *, released: bool) -> Row:
    """Embed a sample; return what was counted and, at released sizes, what the encoder's card says."""
    case = replace(case, samples=1)
    with tempfile.TemporaryDirectory(prefix="bulkprobe-") as scratch:
        prepare(case, Path(scratch))
        found = run_side("count", case, Path(scratch), threads=1)
    expressed = int((made_counts(1, case.genes)[0] > 0).sum())
    estimate = get_encoder(case.model).card.flop
    if estimate is None:
        raise ValueError(f"the card of {case.model} has no estimate of its operations")
    counted, said = float(found["flop"]) / 1e12, estimate(expressed) / 1e12 if released else None
    return {
        "name": case.model,
        "ours": counted,
        "other": said,
        "unit": "TFLOP/sample",
        "ratio": None if said is None else said / counted,
        "goal": None,
        "peer": "the estimate of the encoder's card, which `check` shows",
        "peer_version": f"bulkprobe {version('bulkprobe')}",
        "n": f"1 sample, {case.genes} genes, {expressed} expressed, {json.dumps(case.sizes)}",
        "memory_ratio": None,
        "gap": None if said is None else said / counted - 1,
        "memory": float(found["peak"]),
        "width": int(found["vectors"].shape[1]),
    }


def plan(row: Row, options: argparse.Namespace) -> dict[str, float]:
    """Return hours, bytes and cost of all samples through one encoder.

    A worker that fails loses half a shard on average. Shards take `minutes`, in powers of two from 64 to 16,384
    samples, so that few files are lost to one failure and DVC has few files to hash.
    """
    seconds = row["ours"] * 1e12 / (options.peak * options.share)
    wanted = 60.0 * options.minutes / seconds
    shard = 2 ** min(max(math.floor(math.log2(wanted)), 6), 14)
    hours = options.samples * seconds / 3600.0
    lost = hours / options.hours * shard * seconds / 7200.0
    return {
        "seconds": seconds,
        "hours": hours,
        "shard": shard,
        "shard_minutes": shard * seconds / 60.0,
        "files": math.ceil(options.samples / shard),
        "failures": hours / options.hours,
        "lost_share": lost / hours,
        "bytes": KEPT * 4.0 * row["width"] * options.samples,
        "cost": (hours + lost) * options.price,
    }


def main() -> int:
    """Measure or take what was measured, print the plan, write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="narrow models, which show that it runs")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--measured", type=Path, help="take the operations from a file that --json wrote")
    parser.add_argument("--only", action="append", default=[], help="models whose name begins so; may be repeated")
    parser.add_argument("--samples", type=float, default=1e6, help="samples to embed (1e6)")
    parser.add_argument("--peak", type=float, default=19.5e12, help="FLOP/s of a GPU in float32 (19.5e12: A100)")
    parser.add_argument("--share", type=float, default=0.5, help="of them that is reached (0.5, assumed)")
    parser.add_argument("--price", type=float, default=2.0, help="of a GPU-hour (2 dollars, assumed)")
    parser.add_argument("--hours", type=float, default=24.0, help="between failures of one worker (24, assumed: spot)")
    parser.add_argument("--minutes", type=float, default=10.0, help="that a shard may take (10)")
    options = parser.parse_args()
    if options.measured:
        rows = json.loads(options.measured.read_text(encoding="utf-8"))
    else:
        deep = [replace(case, sizes=case.sizes | DEPTH.get(case.model, {})) for case in FULL if case.name != LEFT_OUT]
        rows = []
        for case in QUICK if options.quick else deep:
            if case.name.startswith(tuple(options.only) or ""):
                rows.append(measure(case, released=not options.quick))
                print(f"{case.model}: {rows[-1]['ours']:.3f} TFLOP", file=sys.stderr, flush=True)
    for row in rows:
        row["plan"] = plan(row, options)
    print(
        f"{options.samples:,.0f} samples; a GPU with {options.peak / 1e12:g} TFLOP/s, {options.share:.0%} of it; "
        f"one failure of a worker in {options.hours:g} h; {options.price:g} dollars an hour"
    )
    print(
        f"{'':<14}{'TFLOP':>8}{'card':>7}{'GPU s':>8}{'GPU-hours':>11}{'shard':>7}{'min':>6}{'files':>7}"
        f"{'GB':>7}{'failures':>10}{'lost':>7}{'cost':>9}"
    )
    for row in rows:
        made, card = row["plan"], "" if row["gap"] is None else f"{row['gap']:+.0%}"
        print(
            f"{row['name']:<14}{row['ours']:>8.3f}{card:>7}{made['seconds']:>8.3f}"
            f"{made['hours']:>11,.1f}{made['shard']:>7}{made['shard_minutes']:>6.1f}{made['files']:>7}"
            f"{made['bytes'] / 1e9:>7.1f}{made['failures']:>10.1f}{made['lost_share']:>7.2%}{made['cost']:>9,.0f}"
        )
    total = {key: sum(row["plan"][key] for row in rows) for key in ("hours", "bytes", "failures", "cost", "files")}
    print(
        f"{'together':<14}{'':>23}{total['hours']:>11,.1f}{'':>13}{total['files']:>7}{total['bytes'] / 1e9:>7.1f}"
        f"{total['failures']:>10.1f}{'':>7}{total['cost']:>9,.0f}"
    )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
