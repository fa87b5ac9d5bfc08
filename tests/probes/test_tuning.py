from __future__ import annotations

import numpy as np
import pytest

from bulkprobe.errors import UserError
from bulkprobe.probes.cox import fit_cox_path
from bulkprobe.probes.logistic import fit_logistic_path
from bulkprobe.probes.metrics import Undefined, cox_log_likelihood, log_loss
from bulkprobe.probes.transform import Transform
from bulkprobe.probes.tuning import check_penalties, choose, has_both_classes, tune_cox, tune_logistic

GRID = np.array([1e-3, 1e-2, 1e-1, 1.0])


def problem() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 5)).astype(np.float32)
    truth = rows[:, :2] + rng.logistic(size=(60, 2)) > 0
    return rows, truth, np.arange(60) % 3


def test_the_curve_is_the_held_out_log_loss() -> None:
    rows, truth, fold = problem()
    tuned = tune_logistic(rows, truth, fold, GRID, Transform())
    for label, choice in enumerate(tuned.choices):
        curve = np.zeros(len(GRID))
        for k in range(3):
            train, held = fold != k, fold == k
            fitted, prepared = Transform().fit(rows[train])
            path = fit_logistic_path(prepared, truth[train][:, [label]], GRID)
            decision = path.decision(fitted.apply(rows[held]))[0]
            curve += [held.sum() * log_loss(truth[held, label], one) for one in decision]
        np.testing.assert_allclose(choice.curve, curve / 60, rtol=1e-6)
        assert choice.penalty == GRID[np.argmin(curve)]
        assert choice.folds == 3
    fitted, prepared = Transform().fit(rows)
    refit = fit_logistic_path(prepared, truth, [[choice.penalty] for choice in tuned.choices])
    np.testing.assert_allclose(tuned.coef, refit.coef[:, 0], atol=1e-6)
    np.testing.assert_allclose(tuned.score(rows)[:, 0], refit.decision(prepared)[0, 0], atol=1e-6)


def test_the_cox_curve_is_verweijs_cross_validated_likelihood() -> None:
    rows, _, fold = problem()
    rng = np.random.default_rng(1)
    time, event = np.ceil(5 * rng.exponential(size=60) * np.exp(-rows[:, 0])), rng.random(60) < 0.7
    tuned = tune_cox(rows, time, event, fold, GRID, Transform())
    curve = np.zeros(len(GRID))
    for k in range(3):
        train = fold != k
        fitted, prepared = Transform().fit(rows[train])
        for number, risk in enumerate(fit_cox_path(prepared, time[train], event[train], GRID).risk(fitted.apply(rows))):
            curve[number] -= cox_log_likelihood(time, event, risk)
            curve[number] += cox_log_likelihood(time[train], event[train], risk[train])
    np.testing.assert_allclose(tuned.choices[0].curve, curve / 60, rtol=1e-6)
    assert tuned.choices[0].penalty == GRID[np.argmin(curve)]


def test_ties_go_to_the_larger_penalty_and_edges_are_said() -> None:
    choice = choose(GRID, np.array([0.7, 0.5, 0.5, 0.6]), 3)
    assert choice.penalty == 0.1
    assert not choice.grid_edge
    assert choose(GRID, np.array([0.7, 0.5, 0.5, 0.4]), 3).grid_edge
    assert choose(GRID, np.array([0.1, 0.5, 0.5, 0.4]), 3).grid_edge
    assert not choose(GRID[:1], np.array([0.1]), 3).grid_edge


def test_noise_takes_a_large_penalty() -> None:
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(90, 200))
    tuned = tune_logistic(rows, rng.random((90, 1)) < 0.5, np.arange(90) % 3, np.logspace(-4, 2, 7), Transform())
    assert tuned.choices[0].penalty >= 0.1


def test_folds_without_a_class_are_left_out() -> None:
    rows, truth, fold = problem()
    truth = truth[:, :1].copy()
    truth[:] = False
    truth[[0, 3], 0] = True  # both in fold 0: nothing positive is left to train on when it is held out
    assert has_both_classes(truth, fold).tolist() == [True]
    assert tune_logistic(rows, truth, fold, GRID, Transform()).choices[0].folds == 2
    everything = np.zeros(60, dtype=int)
    assert has_both_classes(truth, everything).tolist() == [False]
    with pytest.raises(Undefined, match="no inner fold has both classes"):
        tune_logistic(rows, truth, everything, GRID, Transform())
    time, event = np.arange(60) + 1.0, truth[:, 0]
    with pytest.raises(Undefined, match="no event in the training part"):
        tune_cox(rows, time, np.zeros(60, dtype=bool), fold, GRID, Transform())
    with pytest.raises(Undefined, match="no inner fold has an event"):
        tune_cox(rows, time, event, everything, GRID, Transform())
    assert tune_cox(rows, time, event, fold, GRID, Transform()).choices[0].folds == 2
    with pytest.raises(ValueError, match="inner fold"):
        tune_logistic(rows, truth, fold - 1, GRID, Transform())


def test_penalties_are_checked_and_sorted() -> None:
    assert check_penalties([1.0, 0.1]).tolist() == [0.1, 1.0]
    for penalties in ([], [0.0, 1.0], [1.0, 1.0], [float("nan")]):
        with pytest.raises(UserError, match="distinct positive numbers"):
            check_penalties(penalties)
