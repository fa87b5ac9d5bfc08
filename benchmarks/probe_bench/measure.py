"""Runs both sides in processes of their own and makes the rows of the table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from bulkprobe.probes.cox import Ties
from probe_bench.problems import Floats, Problem, excess, gap, objectives
from probe_bench.sides import SAME, SIDES, Options

HERE = Path(__file__).resolve().parents[1]
KEYS = ("name", "ours", "other", "unit", "ratio", "goal", "peer", "peer_version", "n", "memory_ratio", "gap")
LEAST_BYTES = 4e6  # a peak below this is noise, and no ratio of it is given
Row = dict[str, Any]


@dataclass(frozen=True)
class Result:
    """What one side found for one problem: seconds of the timed runs, extra bytes at the peak, objectives.

    strict: objectives at a hundredth of the peer's tolerance. loose: the result at its default. setting: of the peer.
    """

    seconds: list[float]
    memory: float
    objectives: Floats
    setting: str
    strict: Floats | None = None
    loose: Result | None = None


def environment(threads: int) -> dict[str, str]:
    """Return the environment of a side: this checkout's source and so many threads."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
    found = os.pathsep.join([str(HERE.parent / "src"), str(HERE)])
    return os.environ | dict.fromkeys(names, str(threads)) | {"PYTHONPATH": found}


def run_module(module: str, arguments: Sequence[str], threads: int) -> None:
    """Run a module of this folder in a process of its own."""
    subprocess.run([sys.executable, "-m", module, *arguments], check=True, env=environment(threads))


def run_side(side: str, problems: Sequence[Problem], folder: Path, options: Options, threads: int) -> list[Result]:
    """Solve all problems of a folder (they lie there already) on one side, in one process."""
    run_module("probe_bench.child", [side, str(folder), json.dumps(asdict(options))], threads)
    results = []
    for number, problem in enumerate(problems):
        with np.load(folder / f"{side}-{number}.npz") as file:
            found = dict(file)
        parts = {
            prefix: _result(found, prefix, problem.only(options.only), SIDES[side].ties)
            for prefix in ("", "strict_", "loose_")
            if f"{prefix}coef" in found
        }
        strict = parts["strict_"].objectives if "strict_" in parts else None
        results.append(replace(parts[""], strict=strict, loose=parts.get("loose_")))
    return results


def _result(found: dict[str, Any], prefix: str, problem: Problem, ties: Ties | None) -> Result:
    reached = objectives(problem, found[f"{prefix}coef"], found.get(f"{prefix}intercept"), ties)
    setting = f"tol {float(found[prefix + 'tol']):g}, {found[prefix + 'precision']}"
    return Result(found[f"{prefix}seconds"].tolist(), float(found[f"{prefix}memory"]), reached, setting)


class Bench:
    """Keeps problems and our answers, so that each is made once and serves every peer."""

    def __init__(self, folder: Path, threads: int) -> None:
        self._folder = folder
        self.threads = threads
        self._problems: dict[str, list[Problem]] = {}
        self._ours: dict[tuple[str, str], list[Result]] = {}

    def problems(self, name: str, make: Callable[[], list[Problem]]) -> list[Problem]:
        """Make the problems of a name, or take them from before."""
        if name not in self._problems:
            folder = self._folder / name
            folder.mkdir(parents=True)
            self._problems[name] = make()
            for number, problem in enumerate(self._problems[name]):
                problem.save(folder / f"problem-{number}.npz")
        return self._problems[name]

    def sides(self, name: str, ours: str, peer: str, options: Options) -> tuple[list[Result], list[Result]]:
        """Run ours, once for all peers, and the peer on the problems of a name."""
        problems, folder = self._problems[name], self._folder / name
        if (name, ours) not in self._ours:
            self._ours[name, ours] = run_side(ours, problems, folder, Options(), self.threads)
        mine = self._ours[name, ours]
        for number, result in enumerate(mine):
            np.save(folder / f"reference-{number}.npy", result.objectives)
        return mine, run_side(peer, problems, folder, options, self.threads)


def make_row(
    name: str,
    problem: Problem,
    ours: Result,
    other: Result,
    peer: str,
    package: str,
    goal: float | None,
    only: list[int] | None,
) -> Row:
    """Compare the sides on one problem. ours: median of the runs; other: the peer's best run, on `only` the penalties.

    A peer that was timed on some penalties only is scaled up to all; "extrapolated_from" says from how many.
    ours_excess: the largest share by which we lie above the better of the peer's two answers.
    """
    here = ours.objectives if only is None else ours.objectives[..., only]
    best = other.objectives if other.strict is None else np.fmin(other.objectives, other.strict)
    scale = 1.0 if only is None else len(problem.penalties) / len(only)
    seconds, peers = float(np.median(ours.seconds)), min(other.seconds) * scale
    clear = min(ours.memory, other.memory) >= LEAST_BYTES
    row: Row = {
        "name": name,
        "ours": rounded(seconds),
        "other": None if np.isnan(peers) else rounded(peers),
        "unit": "s",
        "ratio": None if np.isnan(peers) else rounded(peers / seconds),
        "goal": goal,
        "goal_unit": "ratio",
        "peer": f"{peer} ({other.setting})",
        "peer_version": version(package),
        "n": problem.describe(),
        "memory_ratio": rounded(ours.memory / other.memory) if clear else None,
        "gap": gap(here, other.objectives),
        "ours_excess": excess(here, best),
        "ours_mb": round(ours.memory / 1e6, 1),
        "other_mb": round(other.memory / 1e6, 1),
    }
    return row if only is None else row | {"extrapolated_from": len(only)}


def rounded(number: float) -> float:
    """Round to four significant digits."""
    return float(f"{number:.4g}")


def wrong(row: Row) -> bool:
    """Tell whether our answer is worse than a peer's by more than SAME; NaN of ours is wrong too."""
    return any(row[key] is not None and not row[key] <= SAME for key in ("gap", "ours_excess"))


def table(rows: Sequence[Row], *, head: bool = True) -> str:
    """Return the rows as text, two lines each."""
    titles = f"{'ours s':>9s}{'peer s':>10s}{'times':>8s}{'goal':>8s}{'memory':>8s}{'gap':>10s}  peer"
    lines = [f"{'':28s}{titles}"] if head else []
    for row in rows:
        note = f"{row['peer']} {row['peer_version']}" if row["peer_version"] else row["peer"]
        if "extrapolated_from" in row:
            note += f", extrapolated from {row['extrapolated_from']}"
        goal = "" if row["goal"] is None else f"{'<=' if row['goal_unit'] == 's' else '>='} {row['goal']:g}"
        cells = [
            _cell(row["ours"], 9, ".3g"),
            _cell(row["other"], 10, ".3g"),
            _cell(row["ratio"], 8, ".1f"),
            f"{goal:>8s}",
        ]
        cells += [_cell(row["memory_ratio"], 8, ".2f"), _cell(row["gap"], 10, ".0e")]
        lines.append(f"{row['name']:28s}{''.join(cells)}  {note}")
        lines.append(f"{'':28s}  {row['n']}")
    return "\n".join(lines)


def _cell(value: float | None, width: int, digits: str) -> str:
    return f"{'-' if value is None else format(value, digits):>{width}s}"
