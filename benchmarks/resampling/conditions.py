"""Under what the test is calibrated: nulls of three kinds, other split designs, and true differences for the power."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from resampling import fast
from resampling.world import View, World, draw

VIEW = View(32, 1.0)
NARROW, WIDE = View(16, 1.0), View(128, 1.0)
MIDDLE = View(64, 1.0)
PILOT_PATIENTS = 1000  # test patients of the pilot
PILOT_NOISES = (0.45, 0.65, 0.85)  # of the wide view; the equal one lies between


@dataclass(frozen=True)
class Condition:
    """kind: equal, label-free or widths. design: whether it has other splits than ten of 80/20."""

    name: str
    kind: str
    world: World
    design: bool = False


def mutation(n: int, rate: float, strength: float, a: View = VIEW, b: View = VIEW) -> World:
    return World("mutation", n, rate, strength, a, b)


def survival(n: int, rate: float, strength: float, a: View = VIEW, b: View = VIEW) -> World:
    return World("survival", n, rate, strength, a, b)


EQUAL = [
    Condition("150 patients, 30 % mutated", "equal", mutation(150, 0.3, 1.5)),
    Condition("150 patients, 10 % mutated", "equal", mutation(150, 0.1, 1.5)),
    Condition("400 patients, 30 % mutated", "equal", mutation(400, 0.3, 1.5)),
    Condition("400 patients, 10 % mutated", "equal", mutation(400, 0.1, 1.5)),
    Condition("400 patients, 30 % mutated, weak signal", "equal", mutation(400, 0.3, 0.5)),
    Condition("400 patients, 30 % mutated, noise 90 % shared", "equal", replace(mutation(400, 0.3, 1.5), shared=0.9)),
    Condition("150 patients, 30 % mutated, width 64", "equal", mutation(150, 0.3, 1.5, MIDDLE, MIDDLE)),
    Condition("1000 patients, 30 % mutated", "equal", mutation(1000, 0.3, 1.5)),
    Condition("1000 patients, 5 % mutated, strong signal", "equal", mutation(1000, 0.05, 3.0)),
    Condition("1000 patients of 8 cancer types, 30 %", "equal", replace(mutation(1000, 0.3, 1.5), pan_cancer=True)),
    Condition("survival, 150 patients, 30 % events", "equal", survival(150, 0.3, 1.0)),
    Condition("survival, 400 patients, 40 % events", "equal", survival(400, 0.4, 1.0)),
    Condition("survival, 1000 patients, 20 % events", "equal", survival(1000, 0.2, 1.0)),
]
LABEL_FREE = [
    Condition("150 patients, 30 % mutated", "label-free", mutation(150, 0.3, 0.0)),
    Condition("150 patients, 10 % mutated", "label-free", mutation(150, 0.1, 0.0)),
    Condition("150 patients, 30 % mutated, width 16 against 64", "label-free", mutation(150, 0.3, 0.0, NARROW, MIDDLE)),
    Condition("400 patients, 10 % mutated", "label-free", mutation(400, 0.1, 0.0)),
    Condition("400 patients, 10 % mutated, width 8", "label-free", mutation(400, 0.1, 0.0, View(8, 1.0), View(8, 1.0))),
    Condition("400 patients, 50 % mutated", "label-free", mutation(400, 0.5, 0.0)),
    Condition("1000 patients, 5 % mutated", "label-free", mutation(1000, 0.05, 0.0)),
    Condition("survival, 150 patients, 40 % events", "label-free", survival(150, 0.4, 0.0)),
    Condition("survival, 400 patients, 30 % events", "label-free", survival(400, 0.3, 0.0)),
]
WIDTHS = [  # the noise of the wide view is matched by `matched` before use
    Condition("150 patients, 30 % mutated, width 16 against 128", "widths", mutation(150, 0.3, 1.5, NARROW, WIDE)),
    Condition("400 patients, 30 % mutated, width 16 against 128", "widths", mutation(400, 0.3, 1.5, NARROW, WIDE)),
    Condition("1000 patients, 30 % mutated, width 16 against 64", "widths", mutation(1000, 0.3, 1.5, NARROW, MIDDLE)),
    Condition(
        "survival, 400 patients, 40 % events, width 16 against 64", "widths", survival(400, 0.4, 1.0, NARROW, MIDDLE)
    ),
]
FREE = mutation(400, 0.2, 0.0)
DESIGNS = [
    Condition("400 patients, 20 % mutated; 5 splits", "label-free", replace(FREE, n_splits=5), design=True),
    Condition("400 patients, 20 % mutated; 20 splits", "label-free", replace(FREE, n_splits=20), design=True),
    Condition("400 patients, 20 % mutated; 10 splits 90/10", "label-free", replace(FREE, test_fraction=0.1), True),
    Condition("400 patients, 20 % mutated; 10 splits 70/30", "label-free", replace(FREE, test_fraction=0.3), True),
]
FEW = [  # positives, about as few as `min_positives` lets through: three or two in a test part
    Condition("100 patients, 11 % mutated", "label-free", mutation(100, 0.11, 0.0)),
    Condition("400 patients, 3 % mutated", "label-free", mutation(400, 0.03, 0.0)),
    Condition("400 patients, 3 % mutated", "equal", mutation(400, 0.03, 1.5)),
]
EVERY = [*EQUAL, *LABEL_FREE, *WIDTHS, *DESIGNS, *FEW]
QUICK = [EQUAL[0], LABEL_FREE[0], EQUAL[10], WIDTHS[3]]
# Also by the project's own procedure, with their shares of the replicates: most for the kind that decides.
REAL = [(LABEL_FREE[0], 8), (EQUAL[2], 2), (EQUAL[10], 2)]
POWER_NOISES = (1.0, 0.8, 0.6, 0.4, 0.2, 0.05)  # of view a; that of b stays 1
POWER_PATIENTS = (400, 1000)


def power_worlds(noises: tuple[float, ...] = POWER_NOISES) -> Iterator[World]:
    for n in POWER_PATIENTS:
        for noise in noises:
            yield mutation(n, 0.3, 1.5, View(32, noise))


def matched(world: World, replicates: int, seed: int) -> tuple[World, float]:
    """Find the noise of view b at which both views are worth the same; return the world and the pilot's error.

    Each replicate trains on as many patients as a split of `world` does and is scored on PILOT_PATIENTS others, with
    the same draws at every noise of PILOT_NOISES. A parabola through the mean differences gives the root. The error
    is the standard error of the difference of scores there.
    """
    n_train = round(world.n * (1.0 - world.test_fraction))
    test = np.arange(n_train + PILOT_PATIENTS)[None] >= n_train
    found = np.empty((replicates, len(PILOT_NOISES)))
    for column, noise in enumerate(PILOT_NOISES):
        pilot = replace(world, n=n_train + PILOT_PATIENTS, b=View(world.b.width, noise))
        for row in range(replicates):
            cohort = draw(pilot, np.random.default_rng([seed, row]))
            a, b = (
                fast.score(pilot, cohort, fast.predictions(view, cohort, pilot, test), test)
                for view in (cohort.a, cohort.b)
            )
            found[row, column] = a[0] - b[0]
    roots = np.roots(np.polyfit(PILOT_NOISES, found.mean(axis=0), 2))
    inside = [root.real for root in roots if abs(root.imag) < 1e-9 and PILOT_NOISES[0] < root.real < PILOT_NOISES[-1]]
    if len(inside) != 1:
        raise ValueError(f"no single noise within {PILOT_NOISES} makes the views equal: {found.mean(axis=0)}")
    noise = round(float(inside[0]), 4)
    return replace(world, b=View(world.b.width, noise)), float(found.std(axis=0).max() / np.sqrt(replicates))
