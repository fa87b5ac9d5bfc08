"""A probe that is fast enough for thousands of cohorts: ridge regression, penalty by generalised cross-validation.

Scaling, grid and test metric are those of the project's probes. The target is the label, or for survival the null
martingale residual, to which a Cox model's first step is fitted. `calibration.py` compares it with the real procedure.
"""

from __future__ import annotations

import numpy as np

from resampling.world import Bools, Draw, Floats, Ints, World

PENALTIES = np.logspace(1.0, -5.0, 13)  # of the mean squared error, features scaled to total variance 1
CANDIDATES = 8  # random pan-cancer splits of which the best balanced one is taken


def differences(world: World, cohort: Draw, rng: np.random.Generator) -> tuple[Floats, float]:
    """Return score of a minus score of b in each split, and the mean score of a."""
    test = splits(world, cohort, rng)
    scores = [score(world, cohort, predictions(view, cohort, world, test), test) for view in (cohort.a, cohort.b)]
    return scores[0] - scores[1], float(scores[0].mean())


def splits(world: World, cohort: Draw, rng: np.random.Generator) -> Bools:
    """Who is tested, (n_splits, n), by the rule of `bulkprobe.splits`.

    Within a type the strata are the two statuses; in a pan-cancer cohort they are the types, and of CANDIDATES
    splits the one is taken whose share of positives is nearest.
    """
    stratum = cohort.types if world.pan_cancer else cohort.truth.astype(np.int64)
    drawn = np.zeros((world.n_splits, world.n), dtype=bool)
    for split in range(world.n_splits):
        tries = [_draw(stratum, world.test_fraction, rng) for _ in range(CANDIDATES if world.pan_cancer else 1)]
        target = world.test_fraction * cohort.truth.sum()
        drawn[split] = min(tries, key=lambda test: abs(cohort.truth[test].sum() - target))
    return drawn


def _draw(stratum: Ints, test_fraction: float, rng: np.random.Generator) -> Bools:
    order = np.lexsort((rng.random(len(stratum)), rng.permutation(int(stratum.max()) + 1)[stratum]))
    steps = np.floor(np.arange(len(stratum) + 1) * test_fraction + rng.random())
    test = np.empty(len(stratum), dtype=bool)
    test[order] = np.diff(steps) > 0
    return test


def predictions(view: Floats, cohort: Draw, world: World, test: Bools) -> Floats:
    """Linear predictors of every patient by the model of each split, (n_splits, n)."""
    width = view.shape[1]
    gram = np.empty((len(test), width, width))
    slope = np.empty((len(test), width))
    scale = np.empty((len(test), width))
    total = np.empty(len(test))
    size = (~test).sum(axis=1)
    for split, train in enumerate(~test):
        rows = view[train]
        rows -= rows.mean(axis=0)
        target = _target(world, cohort, train)
        scale[split] = np.sqrt(np.einsum("nd,nd->d", rows, rows) / len(rows) * width)
        rows /= scale[split]
        gram[split] = rows.T @ rows / len(rows)
        slope[split] = target @ rows / len(rows)
        total[split] = target @ target / len(rows)
    values, axes = np.linalg.eigh(gram)
    values = np.maximum(values, 0.0)[:, None, :]
    along = np.einsum("jde,jd->je", axes, slope)[:, None, :]
    ridge = values + PENALTIES[:, None]
    left = total[:, None] - (along**2 * (values + 2.0 * PENALTIES[:, None]) / ridge**2).sum(axis=2)
    freedom = (values / ridge).sum(axis=2) + 1.0
    best = np.argmin(left / (1.0 - freedom / size[:, None]) ** 2, axis=1)
    weights = np.einsum("jde,je->jd", axes, (along / ridge)[np.arange(len(test)), best])
    return np.asarray((weights / scale) @ view.T)


def _target(world: World, cohort: Draw, train: Bools) -> Floats:
    """Centred label, or event minus the Nelson-Aalen cumulative hazard of the training patients."""
    truth = cohort.truth[train].astype(np.float64)
    if world.task == "survival":
        order = np.argsort(cohort.time[train])
        hazard = np.empty(len(truth))
        hazard[order] = np.cumsum(truth[order] / np.arange(len(truth), 0, -1))
        truth = truth - hazard
    return np.asarray(truth - truth.mean())


def score(world: World, cohort: Draw, linear: Floats, test: Bools) -> Floats:
    """AUROC or Harrell's C of the test patients of each split, (n_splits,); scores and times have no ties."""
    found = np.empty(len(test))
    for split, rows in enumerate(test):
        truth, values = cohort.truth[rows], linear[split, rows]
        if world.task == "mutation":
            rank = np.empty(len(values))
            rank[np.argsort(values)] = np.arange(1, len(values) + 1)
            n_positive = int(truth.sum())
            found[split] = rank[truth].sum() - n_positive * (n_positive + 1) / 2
            found[split] /= n_positive * (len(truth) - n_positive)
        else:
            time = cohort.time[rows]
            comparable = time[truth, None] < time
            found[split] = (comparable & (values[truth, None] > values)).sum() / comparable.sum()
    return found
