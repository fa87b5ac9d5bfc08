"""How often do paired tests over splits reject when neither encoder is better? Calibrates `bulkprobe.statistics`.

For each null, cohorts are drawn anew, both embeddings are probed over the same splits, and the difference is tested by
the plain paired t-test, by Nadeau and Bengio's, and with the calibrated multiple of n_test / n_train. The multiple is
the least of a grid that holds the size, Monte-Carlo error included, under every null, the worst of which get twice the
replicates. Without --quick it writes docs/calibration.json and docs/calibration.svg, which takes about half
an hour of one core.

    python benchmarks/calibration.py [--quick] [--json FILE] [--docs FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # matrices are small: one thread is faster
    os.environ.setdefault(threads, "1")
TOP = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOP / "src"))

import numpy as np  # noqa: E402

from bulkprobe.statistics import CALIBRATED_MULTIPLE  # noqa: E402
from resampling import conditions, fast, real, sizes  # noqa: E402
from resampling.figure import draw_figure  # noqa: E402
from resampling.world import Draw, Floats, World  # noqa: E402

SEED = 2026
Row = dict[str, Any]


@dataclass(frozen=True)
class Effort:
    """Replicates of each part."""

    null: int
    again: int  # more of them for the worst nulls
    pilot: int
    real: int  # times the share of each null
    power: int


FULL = Effort(null=2000, again=2000, pilot=1200, real=50, power=500)
BRIEF = Effort(null=200, again=0, pilot=100, real=4, power=60)
WORST = 7  # nulls that go through the second stage


@dataclass
class Null:
    """A null with its differences so far, (replicates, n_splits). pilot_error: of the match of unequal widths."""

    condition: conditions.Condition
    world: World
    pilot_error: float | None
    score: float
    found: Floats

    def size(self, multiple: float) -> tuple[float, float]:
        return sizes.size(self.found, self.world.test_fraction, multiple)

    def least(self) -> float:
        return sizes.least_multiple(self.found, self.world.test_fraction)


def first_stage(chosen: list[conditions.Condition], effort: Effort) -> Iterator[Null]:
    """Simulate every null."""
    for number, condition in enumerate(chosen):
        world, error = condition.world, None
        if condition.kind == "widths":
            world, error = conditions.matched(world, effort.pilot, SEED + 1000 + number)
        found, score = sizes.simulate(world, effort.null, SEED + number)
        yield Null(condition, world, error, score, found)


def second_stage(kept: list[Null], replicates: int) -> None:
    """Give the WORST nulls more replicates: the largest of many least multiples is large by luck, too."""
    first = max(null.least() for null in kept)
    for number, null in enumerate(sorted(kept, key=lambda null: -null.size(first)[0])[:WORST]):
        more, _ = sizes.simulate(null.world, replicates, SEED + 4000 + number)
        null.found = np.concatenate([null.found, more])


def describe(null: Null, multiple: float) -> Row:
    """What is recorded of a null; sizes are those of the three tests at LEVEL."""
    found, fraction = null.found, null.world.test_fraction
    mean = found.mean(axis=1)
    row: Row = {
        "name": null.condition.name,
        "kind": null.condition.kind,
        "design": null.condition.design,
        "world": asdict(null.world),
        "replicates": len(found),
        "score": round(null.score, 4),
        "mean_difference": round(float(mean.mean()), 5),
        "z": round(float(mean.mean() / mean.std(ddof=1) * np.sqrt(len(mean))), 2),
        "pilot_error": None if null.pilot_error is None else round(null.pilot_error, 5),
        "moment_multiple": round(sizes.moment_multiple(found, fraction), 2),
        "least_multiple": null.least(),
    }
    for test, value in (("plain", 0.0), ("nadeau_bengio", 1.0), ("calibrated", multiple)):
        share, error = null.size(value)
        row[test], row[f"{test}_error"] = round(share, 4), round(error, 4)
    signs = sizes.rejected(found, fraction, multiple)
    row["calibrated_a_better"] = round(float((signs > 0).mean()), 4)
    row["calibrated_b_better"] = round(float((signs < 0).mean()), 4)
    row["size_by_multiple"] = [round(null.size(float(value))[0], 4) for value in sizes.GRID]
    return row


def beside_real(chosen: list[tuple[conditions.Condition, int]], unit: int, multiple: float) -> Iterator[Row]:
    """Run the project's own nested procedure and the fast one on the same cohorts."""
    for number, (condition, share) in enumerate(chosen):
        seed, replicates = SEED + 2000 + number, unit * share

        def nested(world: World, cohort: Draw, rng: np.random.Generator) -> tuple[Floats, float]:
            return real.differences(world, cohort, int(rng.integers(2**31)))

        own, level = sizes.simulate(condition.world, replicates, seed, nested)
        quick, quick_level = sizes.simulate(condition.world, replicates, seed, fast.differences)
        row: Row = {"name": condition.name, "kind": condition.kind, "replicates": replicates}
        row |= {"score_real": round(level, 4), "score_fast": round(quick_level, 4)}
        for procedure, found in (("real", own), ("fast", quick)):
            fraction = condition.world.test_fraction
            row[f"moment_multiple_{procedure}"] = round(sizes.moment_multiple(found, fraction), 2)
            for test, value in (("plain", 0.0), ("nadeau_bengio", 1.0), ("calibrated", multiple)):
                size, error = sizes.size(found, fraction, value)
                row[f"{test}_{procedure}"], row[f"{test}_{procedure}_error"] = round(size, 4), round(error, 4)
        yield row


def power(replicates: int, multiple: float, noises: tuple[float, ...]) -> Iterator[Row]:
    """Share rejected against the true difference of AUROC, that is the mean difference over all replicates."""
    for number, world in enumerate(conditions.power_worlds(noises)):
        found, level = sizes.simulate(world, replicates, SEED + 3000 + number)
        row: Row = {"n": world.n, "noise_a": world.a.noise, "score": round(level, 4), "replicates": replicates}
        row["difference"] = round(float(found.mean()), 4)
        for test, value in (("plain", 0.0), ("nadeau_bengio", 1.0), ("calibrated", multiple)):
            row[test] = round(sizes.size(found, world.test_fraction, value)[0], 4)
        yield row


def print_null(row: Row) -> None:
    tests = "".join(f"{row[test]:8.1%}" for test in ("plain", "nadeau_bengio", "calibrated"))
    print(
        f"{row['kind']:11s}{row['name']:53s}{row['score']:6.3f}{row['mean_difference']:+9.4f}{row['z']:+6.1f}{tests}"
        f"{row['calibrated_error']:7.1%}{row['moment_multiple']:7.2f}{row['least_multiple']:7.2f}",
        flush=True,
    )


def contract(rows: list[Row]) -> list[Row]:
    """The rows in the form that all benchmarks write."""
    return [
        {
            "name": f"size of the calibrated test: {row['kind']}, {row['name']}",
            "ours": row["calibrated"],
            "other": row["nadeau_bengio"],
            "unit": "share rejected at 5 %, neither encoder better; lower is better",
            "ratio": round(row["nadeau_bengio"] / row["calibrated"], 3) if row["calibrated"] else None,
            "goal": sizes.BOUND,
            "peer": "corrected resampled t (Nadeau and Bengio 2003)",
            "peer_version": "multiple 1",
            "n": row["replicates"],
            "memory_ratio": None,
            "gap": row["calibrated_error"],
        }
        for row in rows
    ]


def main() -> int:
    """Simulate, choose, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few nulls and replicates; writes nothing into docs")
    parser.add_argument("--json", type=Path, help="write the sizes here")
    parser.add_argument("--docs", type=Path, default=TOP / "docs", help="where the full run puts its results")
    arguments = parser.parse_args()
    effort = BRIEF if arguments.quick else FULL
    kept = []
    for null in first_stage(conditions.QUICK if arguments.quick else conditions.EVERY, effort):
        kept.append(null)
        if not arguments.quick:
            print(f"simulated {null.condition.kind}: {null.condition.name}", file=sys.stderr, flush=True)
    first = max(null.least() for null in kept)
    if not arguments.quick:
        second_stage(kept, effort.again)
    least = max(null.least() for null in kept)
    multiple = CALIBRATED_MULTIPLE if arguments.quick else least
    rows = [describe(null, multiple) for null in kept]
    head = ("score", "a - b", "z", "plain", "NB", "calibr.", "±", "moment", "least")
    print(f"{'null':64s}" + "".join(f"{word:>{w}s}" for word, w in zip(head, (6, 9, 6, 8, 8, 8, 7, 7, 7), strict=True)))
    for row in rows:
        print_null(row)
    print(
        f"multiple of n_test / n_train: {multiple:g} (in statistics.py {CALIBRATED_MULTIPLE:g}; least here {least:g})"
    )
    print("\nthe project's nested procedure on the same cohorts (real / fast):")
    checks = []
    for row in beside_real(conditions.REAL[-1:] if arguments.quick else conditions.REAL, effort.real, multiple):
        checks.append(row)
        shares = "; ".join(
            f"{test} {row[f'{test}_real']:.1%} / {row[f'{test}_fast']:.1%}"
            for test in ("plain", "nadeau_bengio", "calibrated")
        )
        moments = f"moment {row['moment_multiple_real']:.2f} / {row['moment_multiple_fast']:.2f}"
        print(f"{row['kind']:11s}{row['name']:40s}n {row['replicates']}: {shares}; {moments}", flush=True)
    print("\npower, patients and true difference of AUROC:")
    curve = []
    for row in power(effort.power, multiple, (1.0, 0.1) if arguments.quick else conditions.POWER_NOISES):
        curve.append(row)
        tests = "  ".join(f"{test} {row[test]:.1%}" for test in ("plain", "nadeau_bengio", "calibrated"))
        print(f"{row['n']:5d}{row['difference']:+8.3f}  {tests}", flush=True)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(contract(rows), indent=1) + "\n", encoding="utf-8")
    if arguments.quick:
        return 0
    result = {
        "multiple": multiple,
        "multiple_after_first_stage": first,
        "level": sizes.LEVEL,
        "bound": sizes.BOUND,
        "grid": sizes.GRID.tolist(),
        "nulls": rows,
        "real": checks,
        "power": curve,
    }
    arguments.docs.mkdir(exist_ok=True)
    (arguments.docs / "calibration.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (arguments.docs / "calibration.svg").write_text(draw_figure(result), encoding="utf-8")
    return 0 if all(row["calibrated"] + row["calibrated_error"] <= sizes.BOUND for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
