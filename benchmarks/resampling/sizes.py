"""Repeat a comparison over fresh cohorts, and count how often a test rejects."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import stats

from bulkprobe.statistics import variance_factor
from resampling import fast
from resampling.world import Draw, Floats, World, draw

LEVEL = 0.05
BOUND = 0.065  # what the size may be, its Monte-Carlo error included
Z = 1.96  # of the Monte-Carlo error
GRID = np.round(np.arange(0.0, 6.01, 0.25), 2)  # multiples that are tried
Procedure = Callable[[World, Draw, np.random.Generator], tuple[Floats, float]]


def simulate(world: World, replicates: int, seed: int, procedure: Procedure = fast.differences) -> tuple[Floats, float]:
    """Return the differences (replicates, n_splits) and the mean score of a; replicate r depends on (seed, r) alone."""
    found = np.empty((replicates, world.n_splits))
    level = np.empty(replicates)
    for row in range(replicates):
        rng = np.random.default_rng([seed, row])
        found[row], level[row] = procedure(world, draw(world, rng), rng)
    return found, float(level.mean())


def rejected(differences: Floats, test_fraction: float, multiple: float) -> Floats:
    """Whether each replicate is rejected two-sided at LEVEL, with its sign: -1, 0 or 1. No variance: not rejected."""
    n_splits = differences.shape[1]
    error = differences.std(axis=1, ddof=1) * np.sqrt(variance_factor(n_splits, test_fraction, multiple))
    mean = differences.mean(axis=1)
    bound = float(stats.t.isf(LEVEL / 2, n_splits - 1))
    return np.asarray(np.sign(mean) * ((np.abs(mean) > bound * error) & (error > 0)))


def size(differences: Floats, test_fraction: float, multiple: float) -> tuple[float, float]:
    """Return the share rejected and half the width of its 95 % Monte-Carlo interval."""
    share = float(np.abs(rejected(differences, test_fraction, multiple)).mean())
    return share, float(Z * np.sqrt(max(share * (1 - share), 1e-12) / len(differences)))


def moment_multiple(differences: Floats, test_fraction: float) -> float:
    """Return the multiple at which the variance of the mean over splits has the right expectation."""
    ratio = differences.mean(axis=1).var(ddof=1) / differences.var(axis=1, ddof=1).mean()
    return float((ratio - 1.0 / differences.shape[1]) * (1.0 - test_fraction) / test_fraction)


def least_multiple(differences: Floats, test_fraction: float) -> float:
    """Return the least multiple of GRID whose size plus its Monte-Carlo error is within BOUND."""
    for multiple in GRID:
        if sum(size(differences, test_fraction, float(multiple))) <= BOUND:
            return float(multiple)
    raise ValueError(f"no multiple up to {GRID[-1]:g} holds the size at {BOUND:.1%}")
