"""Both probe solvers against scikit-learn, lifelines and scikit-survival, and the default study against the clock.

Each side runs in a process of its own with the same number of threads, on the same float32 features, and both are
judged by the same objective in double precision. ours: median of three runs at the default tolerance; other: the best
of up to three runs of the peer. So that no peer does more than it must, it takes the loosest tolerance (of two a
decade) with which all of its objectives are within 1e-6 of ours; scikit-learn takes the faster of single and double
precision and starts each model at the one before on the path. Rows named _default take the peer's default tolerance.
gap: the relative difference of objectives that is largest in size, positive where ours is worse. ours_excess: the
largest by which ours is worse, also than the peer's answer at a hundredth of its tolerance. memory_ratio: extra memory
at the peak, ours / other. goal: at least this ratio, or at most so many seconds (goal_unit). At the quick size the
study mostly measures the start of processes.

    python benchmarks/probes.py [--quick] [--json FILE] [--only NAME]... [--threads N]

Exit status 1 if an answer is wrong (ours worse by more than 1e-6), never because of time.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]

from probe_bench.measure import Bench, Row, make_row, rounded, run_module, run_side, table, wrong  # noqa: E402
from probe_bench.problems import Problem, cox_problem, excess, gap, logistic_problem  # noqa: E402
from probe_bench.sides import Options  # noqa: E402

SEED = 20260421
# At least so many times as fast as the peer at the same optimum; 1 elsewhere. None at a peer's default tolerance, whose
# answers are worse: those rows show what the difference costs.
GOALS = {"logistic_lbfgs": 40.0, "cox_lifelines": 300.0, "cox_newton": 300.0, "cox_coxnet": 10.0}
STUDY_SECONDS = 60.0
LOGISTIC = np.logspace(1, -5, 10)
COX = np.logspace(1, -4, 10)


@dataclass(frozen=True)
class Sizes:
    """What is run. logistic: (n, d, labels). cox: (n, d). Growth: (n's, d's, labels) and (n's, d's) around a base.

    lifelines, newton: numbers of the penalties that the slow peers are timed on, None for all. study: patients, width,
    splits.
    """

    logistic: tuple[int, int, int]
    cox: tuple[int, int]
    logistic_base: tuple[int, int, int]
    logistic_growth: dict[str, tuple[int, ...]]
    cox_base: tuple[int, int]
    cox_growth: dict[str, tuple[int, ...]]
    lifelines: list[int] | None
    newton: list[int] | None
    study: tuple[int, int, int]


FULL = Sizes(
    logistic=(7_000, 512, 6),
    cox=(1_000, 768),
    logistic_base=(2_000, 128, 3),
    logistic_growth={"n": (2_000, 4_000, 8_000), "d": (128, 256, 512), "labels": (3, 6, 12)},
    cox_base=(500, 128),
    cox_growth={"n": (500, 1_000, 2_000), "d": (128, 256, 512)},
    lifelines=[5],
    newton=None,
    study=(10_000, 512, 10),
)
QUICK = Sizes(
    logistic=(400, 128, 3),
    cox=(400, 128),
    logistic_base=(300, 32, 2),
    logistic_growth={"n": (300, 1_200), "d": (32, 128), "labels": (2, 8)},
    cox_base=(200, 32),
    cox_growth={"n": (200, 800), "d": (32, 128)},
    lifelines=[5],
    newton=None,
    study=(600, 32, 1),
)


@dataclass(frozen=True)
class Comparison:
    """A row: the two sides on the problems of a group. package: the peer's."""

    name: str
    group: str
    ours: str
    peer: str
    title: str
    package: str
    options: Options


LBFGS, COXNET = "LogisticRegression lbfgs", "CoxnetSurvivalAnalysis path with Breslow's ties"
MATCHED, DEFAULT = ", matched to the same optimum", ", its default"


def comparisons(sizes: Sizes) -> list[Comparison]:
    """The headline rows; one at the peer's default tolerance follows where `loose` asks for it."""
    newton, efron = "LogisticRegression newton-cholesky", "CoxPHSurvivalAnalysis with Efron's ties"
    life = Options(only=sizes.lifelines)
    both = Options(strict=True, loose=True)
    sklearn, sksurv = "scikit-learn", "scikit-survival"
    return [
        Comparison("logistic_lbfgs", "logistic", "ours_logistic", "sklearn_lbfgs", LBFGS, sklearn, Options(loose=True)),
        Comparison(
            "logistic_newton_cholesky",
            "logistic",
            "ours_logistic",
            "sklearn_newton",
            newton,
            sklearn,
            Options(strict=True),
        ),
        Comparison(
            "cox_lifelines", "cox", "ours_efron", "lifelines", "CoxPHFitter with Efron's ties", "lifelines", life
        ),
        Comparison("cox_newton", "cox", "ours_efron", "sksurv_newton", efron, sksurv, Options(only=sizes.newton)),
        Comparison("cox_coxnet", "cox", "ours_breslow", "sksurv_coxnet", COXNET, sksurv, both),
    ]


def headline_rows(sizes: Sizes, bench: Bench, wanted: Callable[[str], bool]) -> Iterator[Row]:
    """Compare with every peer at the sizes of a study."""
    make = {
        "logistic": lambda: [logistic_problem(*sizes.logistic, LOGISTIC, SEED)],
        "cox": lambda: [cox_problem(*sizes.cox, COX, SEED)],
    }
    for one in comparisons(sizes):
        names = [one.name, *([f"{one.name}_default"] if one.options.loose else [])]
        if not any(wanted(name) for name in names):
            continue
        (problem,) = bench.problems(one.group, make[one.group])
        (ours,), (other,) = bench.sides(one.group, one.ours, one.peer, one.options)
        goal = GOALS.get(one.name, 1.0)
        yield make_row(names[0], problem, ours, other, one.title + MATCHED, one.package, goal, one.options.only)
        if other.loose is not None:
            title = one.title + DEFAULT
            yield make_row(names[1], problem, ours, other.loose, title, one.package, None, one.options.only)


def growth_rows(sizes: Sizes, bench: Bench, wanted: Callable[[str], bool]) -> Iterator[Row]:
    """Vary one size at a time around a base; every second penalty of the headline rows."""
    logistic = {
        f"logistic_growth_{what}_{value}": partial(logistic_problem, shape[0], shape[1], shape[2], LOGISTIC[::2], SEED)
        for what, value, shape in around(sizes.logistic_base, sizes.logistic_growth)
    }
    cox = {
        f"cox_growth_{what}_{value}": partial(cox_problem, shape[0], shape[1], COX[::2], SEED)
        for what, value, shape in around(sizes.cox_base, sizes.cox_growth)
    }
    peers = (
        ("logistic_growth", logistic, "ours_logistic", "sklearn_lbfgs", LBFGS, "scikit-learn"),
        ("cox_growth", cox, "ours_breslow", "sksurv_coxnet", COXNET, "scikit-survival"),
    )
    for group, makers, ours_side, peer_side, title, package in peers:
        makers = {name: make for name, make in makers.items() if wanted(name)}
        if not makers:
            continue
        problems = bench.problems(group, lambda makers=makers: [make() for make in makers.values()])  # type: ignore[misc]
        ours, others = bench.sides(group, ours_side, peer_side, Options())
        for name, problem, mine, other in zip(makers, problems, ours, others, strict=True):
            yield make_row(name, problem, mine, other, title + MATCHED, package, 1.0, None)


def around(base: Sequence[int], growth: dict[str, tuple[int, ...]]) -> Iterator[tuple[str, int, list[int]]]:
    """Yield what is varied, its value, and the sizes; the keys of growth stand in the order of base."""
    for axis, (what, values) in enumerate(growth.items()):
        for value in values:
            yield what, value, [*base[:axis], value, *base[axis + 1 :]]


def study_row(sizes: Sizes, folder: Path, threads: int) -> Row:
    """Time the probing of the default study; extrapolate the peers from one inner fold of one split.

    The peers' time is the sum over that fold's paths (every eighth survival label, times eight), on one thread, times
    splits x folds, halved as if two processes shared them perfectly. Refits on whole training parts, scaling,
    scoring, labels that lack events in that fold and those that a peer breaks down on ("peer_broke_down") are not
    counted, so the true time is longer.
    """
    folder.mkdir()
    _, width, n_splits = sizes.study
    run_module("probe_bench.study", [str(folder), *map(str, sizes.study)], threads)
    study = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    total, broken = 0.0, 0
    gaps: list[float] = []
    above: list[float] = []
    for task, peer_side in (("mutation", "sklearn_newton"), ("survival", "sksurv_coxnet")):
        problems = load_problems(folder / task)
        times = int((folder / task / "count.txt").read_text(encoding="utf-8")) / len(problems)
        for number, peer in enumerate(run_side(peer_side, problems, folder / task, Options(repeats=1), threads=1)):
            ours = np.load(folder / task / f"reference-{number}.npy")
            difference, worse = gap(ours, peer.objectives), excess(ours, peer.objectives)
            if difference is None or worse is None:
                broken += 1
                continue
            total += times * peer.seconds[0]
            gaps.append(difference)
            above.append(worse)
    other = total * n_splits * study["folds"] / 2
    counts = f"{study['labels']['mutation']} mutation and {study['labels']['survival']} survival labels"
    return {
        "name": "study",
        "ours": rounded(study["seconds"]),
        "other": rounded(other),
        "unit": "s",
        "ratio": rounded(other / study["seconds"]),
        "goal": STUDY_SECONDS,
        "goal_unit": "s",
        "peer": "LogisticRegression newton-cholesky and CoxnetSurvivalAnalysis, EXTRAPOLATED",
        "peer_version": f"{version('scikit-learn')} and {version('scikit-survival')}",
        "n": f"{study['patients']:,} patients, width {width}, {counts}, {n_splits} splits x {study['folds']} folds",
        "memory_ratio": None,
        "gap": max(gaps, key=abs),
        "ours_excess": max(above),
        "peer_broke_down": broken,
        "ours_mutation_s": rounded(study["mutation_seconds"]),
        "extrapolated_from": "one inner fold of one split, every eighth survival label, refits not counted",
    }


def load_problems(folder: Path) -> list[Problem]:
    """Read the problems that lie in a folder, in order."""
    return [Problem.load(folder / f"problem-{number}.npz") for number in range(len(list(folder.glob("problem-*.npz"))))]


def run(sizes: Sizes, threads: int, wanted: Callable[[str], bool]) -> Iterator[Row]:
    """Yield the rows as they are measured."""
    with tempfile.TemporaryDirectory(prefix="bulkprobe-") as name:
        bench = Bench(Path(name), threads)
        yield from headline_rows(sizes, bench, wanted)
        yield from growth_rows(sizes, bench, wanted)
        if wanted("study"):
            yield study_row(sizes, Path(name) / "study", threads)


def main() -> int:
    """Measure, print the table, write the JSON file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, under 50 s in all")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--only", action="append", default=[], help="rows whose name begins so; may be repeated")
    parser.add_argument("--threads", type=int, default=2, help="BLAS threads of either side (2)")
    arguments = parser.parse_args()
    only = tuple(arguments.only)
    rows: list[Row] = []
    for row in run(QUICK if arguments.quick else FULL, arguments.threads, lambda name: name.startswith(only or "")):
        print(table([row], head=not rows), flush=True)
        rows.append(row)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        if wrong(row):
            print(f"{row['name']}: our answer is worse than the peer's, gap {row['gap']:.1e}", file=sys.stderr)
    return 1 if not rows or any(wrong(row) for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
