"""The calibration of the paired test: its record, its stand-in for the probes, and one null run again."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bulkprobe.probes.metrics import auroc, harrell_c
from bulkprobe.splits import make_splits
from bulkprobe.statistics import CALIBRATED_MULTIPLE

TOP = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOP / "benchmarks"))  # also for workers of pytest-xdist, each of which imports this file

from resampling import conditions, fast, sizes  # noqa: E402
from resampling.world import View, World, draw  # noqa: E402


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return dict(json.loads((TOP / "docs" / "calibration.json").read_text(encoding="utf-8")))


def test_the_multiple_in_use_is_the_one_that_was_found(record: dict[str, Any]) -> None:
    assert record["multiple"] == CALIBRATED_MULTIPLE
    assert max(row["least_multiple"] for row in record["nulls"]) == CALIBRATED_MULTIPLE


def test_the_record_holds_the_size_under_every_null_and_covers_what_it_says(record: dict[str, Any]) -> None:
    assert {row["kind"] for row in record["nulls"]} == {"equal", "label-free", "widths"}
    assert [row["name"] for row in record["nulls"]] == [condition.name for condition in conditions.EVERY]
    for row in record["nulls"]:
        assert row["calibrated"] + row["calibrated_error"] <= record["bound"] == 0.065
        assert row["replicates"] >= 2000
        # The largest of 33 |z| rarely exceeds this: a null whose mean difference is not 0 is none.
        assert abs(row["z"]) < 3.5


def test_the_tables_of_the_documentation_are_those_of_the_record(record: dict[str, Any]) -> None:
    text = (TOP / "docs" / "statistics.md").read_text(encoding="utf-8")
    assert f"**calibrated multiple, {CALIBRATED_MULTIPLE:g}**" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    for row in record["nulls"]:
        start = f"| {row['kind']} | {row['name']} | {row['replicates']} | {row['score']:.3f} |"
        shares = [f"{100 * row[test]:.1f}" for test in ("plain", "nadeau_bengio", "calibrated")]
        assert any(line.startswith(start) and all(f"| {share} " in line for share in shares) for line in lines), start
    for row in record["power"]:
        cells = [
            f"{row['difference']:+.3f}",
            *(f"{100 * row[t]:.1f}" for t in ("plain", "nadeau_bengio", "calibrated")),
        ]
        assert f"| {row['n']} | {' | '.join(cells)} |" in lines


def test_a_null_of_unequal_widths_is_found_where_both_views_are_worth_the_same() -> None:
    """With equal widths the answer is known: equal noise."""
    world, error = conditions.matched(conditions.mutation(150, 0.3, 1.5, View(12, 0.6), View(12, 0.1)), 100, seed=1)
    assert world.b.width == 12
    assert world.b.noise == pytest.approx(0.6, abs=0.1)
    assert 0 < error < 0.01


@pytest.mark.parametrize("task", ["mutation", "survival"])
def test_the_fast_scores_are_those_of_the_metrics(task: str) -> None:
    world = World(task, 200, 0.3, 1.0, View(8, 1.0), View(8, 1.0))  # type: ignore[arg-type]
    cohort = draw(world, np.random.default_rng(0))
    test = fast.splits(world, cohort, np.random.default_rng(1))
    linear = np.random.default_rng(2).standard_normal(test.shape)
    for rows, values, found in zip(test, linear, fast.score(world, cohort, linear, test), strict=True):
        truth, time = cohort.truth[rows], cohort.time[rows]
        expected = auroc(truth, values[rows]) if task == "mutation" else harrell_c(time, truth, values[rows])
        assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("pan_cancer", [False, True])
def test_the_fast_splits_are_as_balanced_as_those_of_the_project(pan_cancer: bool) -> None:
    world = World("mutation", 203, 0.3, 1.0, View(8, 1.0), View(8, 1.0), pan_cancer=pan_cancer)
    cohort = draw(world, np.random.default_rng(0))
    status = pd.DataFrame({"label": cohort.truth.astype(str)})
    strata = pd.Series(cohort.types.astype(str)) if pan_cancer else status["label"]
    table = make_splits(strata, status, pd.Series("", index=status.index), inner_folds=3, seed=1)
    own = np.stack([part["role"].to_numpy() == "test" for _, part in table.groupby("split")])
    for drawn in (own, fast.splits(world, cohort, np.random.default_rng(1))):
        assert (np.abs(drawn.sum(axis=1) - 0.2 * world.n) <= 1).all()
        assert (np.abs(drawn[:, cohort.truth].sum(axis=1) - 0.2 * cohort.truth.sum()) <= 2).all()
        for kind in np.unique(cohort.types):
            assert (np.abs(drawn[:, cohort.types == kind].sum(axis=1) - 0.2 * (cohort.types == kind).sum()) <= 1).all()
        assert len(np.unique(drawn, axis=0)) == 10


def test_the_fast_probe_is_ridge_regression_at_the_penalty_of_least_generalised_cross_validation() -> None:
    world = World("mutation", 120, 0.3, 1.0, View(12, 1.0), View(12, 1.0), n_splits=2)
    cohort = draw(world, np.random.default_rng(4))
    test = fast.splits(world, cohort, np.random.default_rng(5))
    for rows, found in zip(test, fast.predictions(cohort.a, cohort, world, test), strict=True):
        train = cohort.a[~rows]
        X = (train - train.mean(axis=0)) / train.std(axis=0) / np.sqrt(train.shape[1])
        y = cohort.truth[~rows] - cohort.truth[~rows].mean()
        losses, weights = [], []
        for penalty in fast.PENALTIES:
            inverse = np.linalg.inv(X.T @ X / len(X) + penalty * np.eye(X.shape[1]))
            weights.append(inverse @ X.T @ y / len(X))
            freedom = np.trace(X @ inverse @ X.T) / len(X) + 1
            losses.append(((y - X @ weights[-1]) ** 2).sum() / (1 - freedom / len(X)) ** 2)
        best = weights[int(np.argmin(losses))] / train.std(axis=0) / np.sqrt(train.shape[1])
        np.testing.assert_allclose(found, cohort.a @ best, rtol=1e-8, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("condition", conditions.LABEL_FREE[:2], ids=lambda condition: str(condition.name))
def test_a_label_free_null_is_held_and_the_plain_test_is_not(condition: conditions.Condition) -> None:
    """Two of the worst nulls again, with seeds of their own; the plain test shows that this check can fail."""
    world = condition.world
    found, level = sizes.simulate(world, 1000, seed=5)
    plain, plain_error = sizes.size(found, world.test_fraction, 0.0)
    calibrated, error = sizes.size(found, world.test_fraction, CALIBRATED_MULTIPLE)
    print(f"AUROC {level:.3f}; size {plain:.1%} ± {plain_error:.1%} and {calibrated:.1%} ± {error:.1%}")
    assert level == pytest.approx(0.5, abs=0.01)
    assert plain - plain_error > 0.25
    assert sum(sizes.size(found, world.test_fraction, 1.0)) > sizes.BOUND  # nor would Nadeau and Bengio's pass
    assert calibrated - error < sizes.BOUND
    assert calibrated + error > 0.02  # and it is not bought by never rejecting
