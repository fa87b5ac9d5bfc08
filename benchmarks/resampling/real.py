"""The project's own procedure on a simulated cohort: its splits, nested tuning and metrics. Slow; for checking."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from bulkprobe.probes.metrics import auroc, harrell_c
from bulkprobe.probes.transform import Transform
from bulkprobe.probes.tuning import Settings, tune_logistic
from bulkprobe.probes.tuning_cox import tune_cox
from bulkprobe.splits import make_splits
from resampling.world import Draw, Floats, World

INNER_FOLDS = 3
PENALTIES = np.logspace(-5.0, 1.0, 7)  # those of params.yaml
LOGISTIC, COX = Settings(PENALTIES, Transform()), Settings(PENALTIES[1:], Transform())


def differences(world: World, cohort: Draw, seed: int) -> tuple[Floats, float]:
    """Return score of a minus score of b in each split, and the mean score of a."""
    ids = pd.Index([f"P{number:05d}" for number in range(world.n)])
    status = pd.DataFrame({"label": cohort.truth.astype(str)}, index=ids)
    strata = pd.Series(cohort.types.astype(str), index=ids) if world.pan_cancer else status["label"]
    table = make_splits(
        strata,
        status,
        pd.Series("", index=ids),
        n_splits=world.n_splits,
        test_fraction=world.test_fraction,
        inner_folds=INNER_FOLDS,
        seed=seed,
    )
    found = np.empty((world.n_splits, 2))
    for split, part in table.groupby("split"):
        fold = part["fold"].to_numpy()  # rows are sorted by patient, as ids are
        for column, view in enumerate((cohort.a, cohort.b)):
            found[split, column] = _score(world, cohort, view, fold)
    return found[:, 0] - found[:, 1], float(found[:, 0].mean())


def _score(world: World, cohort: Draw, view: Floats, fold: npt.NDArray[np.integer]) -> float:
    train = fold >= 0
    truth, time = cohort.truth, cohort.time
    if world.task == "mutation":
        tuned = tune_logistic(view[train], truth[train, None], fold[train], LOGISTIC)["own"]
        return auroc(truth[~train], tuned.score(view[~train])[:, 0])
    tuned = tune_cox(view[train], time[train], truth[train], fold[train], COX)["own"]
    return harrell_c(time[~train], truth[~train], tuned.score(view[~train])[:, 0])
