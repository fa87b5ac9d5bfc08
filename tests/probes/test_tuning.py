from __future__ import annotations

import numpy as np
import pytest

from bulkprobe.errors import UserError
from bulkprobe.probes.cox import fit_cox_path
from bulkprobe.probes.logistic import fit_logistic_path
from bulkprobe.probes.metrics import Undefined, cox_log_likelihood, log_loss
from bulkprobe.probes.transform import Transform
from bulkprobe.probes.tuning import (
    LabelledPart,
    Settings,
    check_penalties,
    choose,
    has_both_classes,
    tune_logistic,
    tune_logistic_parts,
)
from bulkprobe.probes.tuning_cox import FollowedPart, tune_cox, tune_cox_parts

GRID = np.array([1e-3, 1e-2, 1e-1, 1.0])
SETTINGS = Settings(GRID, Transform())


def problem() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 5)).astype(np.float32)
    truth = rows[:, :2] + rng.logistic(size=(60, 2)) > 0
    return rows, truth, np.arange(60) % 3


def test_the_curve_is_the_held_out_log_loss() -> None:
    rows, truth, fold = problem()
    tuned = tune_logistic(rows, truth, fold, SETTINGS)["own"]
    for label, choice in enumerate(tuned.choices):
        curve = np.zeros(len(GRID))
        for k in range(3):
            train, held = fold != k, fold == k
            made = Transform().fit(rows[train])
            fitted, prepared = made.fitted, made.rows
            path = fit_logistic_path(prepared, truth[train][:, [label]], GRID)
            decision = path.decision(fitted.apply(rows[held]))[0]
            curve += [held.sum() * log_loss(truth[held, label], one) for one in decision]
        np.testing.assert_allclose(choice.curve, curve / 60, rtol=1e-6)
        assert choice.penalty == GRID[np.argmin(curve)]
        assert choice.folds == 3
    prepared = Transform().fit(rows).rows
    refit = fit_logistic_path(prepared, truth, [[choice.penalty] for choice in tuned.choices])
    np.testing.assert_allclose(tuned.coef, refit.coef[:, 0], atol=1e-6)
    np.testing.assert_allclose(tuned.score(rows)[:, 0], refit.decision(prepared)[0, 0], atol=1e-6)


def test_the_cox_curve_is_verweijs_cross_validated_likelihood() -> None:
    rows, _, fold = problem()
    rng = np.random.default_rng(1)
    time, event = np.ceil(5 * rng.exponential(size=60) * np.exp(-rows[:, 0])), rng.random(60) < 0.7
    tuned = tune_cox(rows, time, event, fold, SETTINGS)["own"]
    curve = np.zeros(len(GRID))
    for k in range(3):
        train = fold != k
        made = Transform().fit(rows[train])
        path = fit_cox_path(made.rows, time[train], event[train], GRID)
        for number, risk in enumerate(path.risk(made.fitted.apply(rows))):
            curve[number] -= cox_log_likelihood(time, event, risk)
            curve[number] += cox_log_likelihood(time[train], event[train], risk[train])
    np.testing.assert_allclose(tuned.choice.curve, curve / 60, rtol=1e-6)
    assert tuned.choice.penalty == GRID[np.argmin(curve)]
    whole = Transform().fit(rows)
    refit = fit_cox_path(whole.rows, time, event, [tuned.choice.penalty])
    np.testing.assert_allclose(tuned.score(rows), refit.risk(whole.fitted.apply(rows))[0], atol=1e-5)
    np.testing.assert_allclose(tuned.linear, tuned.score(rows), atol=1e-5)


def test_splits_solved_together_are_those_solved_alone() -> None:
    """The sums of a stack do not depend on what else stands in it."""
    rng = np.random.default_rng(3)
    settings = Settings(GRID, Transform(), common_width=3)
    labelled, followed = [], []
    for n in (60, 48, 57):
        rows = rng.normal(size=(n, 8)).astype(np.float32)
        truth = np.stack([rows[:, 0] + rng.logistic(size=n) > 0, rng.random(n) < 0.3], axis=1)
        fold = np.arange(n) % 3
        labelled.append(LabelledPart(rows, truth, fold))
        time, event = np.ceil(9 * rng.exponential(size=n) * np.exp(-rows[:, 0])), rng.random(n) < 0.6
        followed.append(FollowedPart(rows, time, event, fold, rng.normal(size=(n, 2))))
    for part, together in zip(labelled, tune_logistic_parts(labelled, settings), strict=True):
        alone = tune_logistic(part.rows, part.truth, part.fold, settings)
        for variant in ("own", "common"):
            np.testing.assert_allclose(together[variant].coef, alone[variant].coef, atol=1e-6)
            assert [c.penalty for c in together[variant].choices] == [c.penalty for c in alone[variant].choices]
    for one, models in zip(followed, tune_cox_parts(followed, settings), strict=True):
        alone_cox = tune_cox_parts([one], settings)[0]
        assert set(models) == {"own", "common", "covariates", "with_covariates"}
        for variant in models:
            np.testing.assert_allclose(models[variant].linear, alone_cox[variant].linear, atol=1e-5)


def test_the_common_width_is_a_probe_of_principal_components() -> None:
    rows, truth, fold = problem()
    tuned = tune_logistic(rows, truth, fold, Settings(GRID, Transform(), common_width=2))
    components = tune_logistic(rows, truth, fold, Settings(GRID, Transform("pca", 2)))["own"]
    np.testing.assert_allclose(tuned["common"].score(rows), components.score(rows), atol=1e-5)
    assert np.abs(tuned["own"].score(rows) - components.score(rows)).max() > 1e-3
    narrow = tune_logistic(rows, truth, fold, Settings(GRID, Transform(), common_width=5))
    assert narrow["common"] is narrow["own"]  # no wider than that: the same model, not fitted twice
    time, event = np.arange(60) + 1.0, truth[:, 0]
    cox = tune_cox(rows, time, event, fold, Settings(GRID, Transform(), common_width=2))
    expected = tune_cox(rows, time, event, fold, Settings(GRID, Transform("pca", 2)))["own"]
    np.testing.assert_allclose(cox["common"].score(rows), expected.score(rows), atol=1e-5)


def test_covariates_keep_their_own_penalty_beside_the_embedding() -> None:
    rng = np.random.default_rng(4)
    rows, facts = rng.normal(size=(90, 6)).astype(np.float32), rng.normal(size=(90, 2))
    time, event = rng.exponential(size=90) * np.exp(-facts[:, 0]), rng.random(90) < 0.8
    part = FollowedPart(rows, time, event, np.arange(90) % 3, facts)
    models = tune_cox_parts([part], SETTINGS)[0]
    alone, beside = models["covariates"], models["with_covariates"]
    assert alone.embedding is None
    assert beside.covariates is not None
    assert beside.covariates.choices == alone.covariates.choices  # type: ignore[union-attr]
    # The optimum of both blocks, each with its own penalty: the gradient vanishes.
    whole, more = Transform().fit(rows).rows.astype(float), Transform().fit(facts).rows.astype(float)
    design = np.concatenate([whole, more], axis=1)
    penalty = np.r_[np.full(6, beside.choice.penalty), np.full(2, alone.choice.penalty)]
    coef = np.r_[beside.embedding.coef[0], beside.covariates.coef[0]]  # type: ignore[union-attr]

    def objective(b: np.ndarray) -> float:
        return -cox_log_likelihood(time, event, design @ b) / 90 + float(penalty @ (b * b)) / 2

    for step in np.eye(8) * 1e-5:
        assert abs(objective(coef + step) - objective(coef - step)) / 2e-5 < 1e-6
    with pytest.raises(ValueError, match="needs covariates"):
        beside.score(rows)
    constant = tune_cox_parts([FollowedPart(rows, time, event, part.fold, np.ones((90, 2)))], SETTINGS)[0]
    assert set(constant) == {"own"}


def curves(*means: list[float]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(means) * 20, np.full(len(means), 20.0)


def test_ties_go_to_the_larger_penalty_and_edges_are_said() -> None:
    choice = choose(GRID, *curves([0.7, 0.5, 0.5, 0.6]))
    assert choice.penalty == 0.1
    assert not choice.grid_edge
    assert choice.errors is None
    assert choose(GRID, *curves([0.7, 0.5, 0.5, 0.4])).grid_edge
    assert choose(GRID, *curves([0.1, 0.5, 0.5, 0.4])).grid_edge
    assert not choose(GRID[:1], *curves([0.1])).grid_edge


def test_one_standard_error_takes_the_largest_penalty_that_is_no_worse() -> None:
    losses, sizes = curves([0.50, 0.40, 0.44, 0.60], [0.54, 0.44, 0.46, 0.60], [0.52, 0.42, 0.42, 0.60])
    assert choose(GRID, losses, sizes).penalty == 0.01
    one = choose(GRID, losses, sizes, "one_standard_error")
    error = np.std([0.40, 0.44, 0.42], ddof=1) / np.sqrt(3)
    assert one.errors is not None
    assert one.errors[1] == pytest.approx(error)
    assert 0.44 > 0.42 + error  # so the next one is out
    assert one.penalty == 0.01
    wide, _ = curves([0.50, 0.40, 0.44, 0.60], [0.54, 0.48, 0.46, 0.60], [0.52, 0.38, 0.42, 0.60])
    assert choose(GRID, wide, sizes, "one_standard_error").penalty == 0.1
    # Folds count by their patients in the curve.
    assert choose(GRID, losses, np.array([10.0, 20.0, 30.0])).curve == pytest.approx(losses.sum(axis=0) / 60)
    with pytest.raises(UserError, match="selection is 'best'"):
        Settings(GRID, Transform(), "best")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="common_width is 0"):
        Settings(GRID, Transform(), common_width=0)


def test_noise_takes_a_large_penalty() -> None:
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(90, 200))
    settings = Settings(np.logspace(-4, 2, 7), Transform())
    tuned = tune_logistic(rows, rng.random((90, 1)) < 0.5, np.arange(90) % 3, settings)["own"]
    assert tuned.choices[0].penalty >= 0.1


def test_folds_without_a_class_are_left_out() -> None:
    rows, truth, fold = problem()
    truth = truth[:, :1].copy()
    truth[:] = False
    truth[[0, 3], 0] = True  # both in fold 0: nothing positive is left to train on when it is held out
    assert has_both_classes(truth, fold).tolist() == [True]
    assert tune_logistic(rows, truth, fold, SETTINGS)["own"].choices[0].folds == 2
    everything = np.zeros(60, dtype=int)
    assert has_both_classes(truth, everything).tolist() == [False]
    with pytest.raises(Undefined, match="no inner fold has both classes"):
        tune_logistic(rows, truth, everything, SETTINGS)
    time, event = np.arange(60) + 1.0, truth[:, 0]
    with pytest.raises(Undefined, match="no event in the training part"):
        tune_cox(rows, time, np.zeros(60, dtype=bool), fold, SETTINGS)
    with pytest.raises(Undefined, match="no inner fold has an event"):
        tune_cox(rows, time, event, everything, SETTINGS)
    assert tune_cox(rows, time, event, fold, SETTINGS)["own"].choice.folds == 2
    with pytest.raises(ValueError, match="inner fold"):
        tune_logistic(rows, truth, fold - 1, SETTINGS)


def test_penalties_are_checked_and_sorted() -> None:
    assert check_penalties([1.0, 0.1]).tolist() == [0.1, 1.0]
    for penalties in ([], [0.0, 1.0], [1.0, 1.0], [float("nan")]):
        with pytest.raises(UserError, match="distinct positive numbers"):
            check_penalties(penalties)
