"""One side of a comparison in a process of its own: solve, time, take the peak of memory.

    python -m probe_bench.child SIDE FOLDER OPTIONS_JSON

FOLDER holds problem-0.npz, problem-1.npz, … and, for a peer, the objectives reference-0.npy, … that it has to reach.
The answers go to SIDE-0.npz, SIDE-1.npz, ….
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import numpy as np

from probe_bench.memory import peak_bytes, reset_peak
from probe_bench.problems import Problem, cox_problem, logistic_problem
from probe_bench.sides import SIDES, Options


def main() -> None:
    """Warm up on a tiny problem, which imports all that is needed, then solve the problems of the folder."""
    name, folder, options = sys.argv[1], Path(sys.argv[2]), Options(**json.loads(sys.argv[3]))
    side = SIDES[name]
    warnings.simplefilter("ignore")  # tolerances that are too loose or too tight are tried on purpose
    side.solve(
        logistic_problem(60, 4, 1, [0.1], 0) if side.ties is None else cox_problem(60, 4, [0.1], 0), Options(), None
    )
    reset_peak()
    baseline = peak_bytes()
    for number in range(len(list(folder.glob("problem-*.npz")))):
        problem = Problem.load(folder / f"problem-{number}.npz")
        reference = folder / f"reference-{number}.npy"
        answer = side.solve(problem, options, np.load(reference) if side.peer and reference.is_file() else None)
        np.savez(folder / f"{name}-{number}.npz", **answer.arrays(baseline))


if __name__ == "__main__":
    main()
