from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from bulkprobe.probes.logistic import ConvergenceError, fit_logistic_path, logistic_objective

PENALTIES = np.logspace(-4, 1, 3)


def problem(n: int, d: int, seed: int, labels: int = 2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(n, 5))
    X = factors @ rng.normal(size=(5, d)) + 0.5 * rng.normal(size=(n, d)) + 3.0
    X /= np.sqrt(d) * X.std()
    Y = factors[:, :labels] + rng.logistic(size=(n, labels)) > 0.5
    Y[0], Y[1] = True, False
    return X, Y


@pytest.mark.parametrize(("n", "d"), [(120, 8), (40, 90), (30, 30)])
def test_equals_scikit_learn(n: int, d: int) -> None:
    X, Y = problem(n, d, seed=n)
    with threadpool_limits(1):  # threads only get into each other's way on problems of this size
        ours = fit_logistic_path(X, Y, PENALTIES, tol=1e-8)
        theirs = fit_logistic_path(X, Y, PENALTIES, tol=1e-8, max_iter=200_000, solver="sklearn")
    for label in range(Y.shape[1]):
        for number, penalty in enumerate(PENALTIES):
            found, expected = (
                logistic_objective(X, Y[:, label], path.coef[label, number], path.intercept[label, number], penalty)
                for path in (ours, theirs)
            )
            assert found <= expected * (1 + 1e-8)
            assert found == pytest.approx(expected, rel=1e-8)
    np.testing.assert_allclose(ours.coef, theirs.coef, atol=2e-4 * np.abs(theirs.coef).max())
    np.testing.assert_allclose(ours.decision(X), theirs.decision(X), atol=2e-3)


@given(st.integers(0, 10_000), st.integers(4, 40), st.integers(0, 60))
@settings(deadline=None, max_examples=40)
def test_gradient_vanishes(seed: int, n: int, d: int) -> None:
    X, Y = problem(n, d, seed) if d else (np.zeros((n, 0)), np.arange(n)[:, None] % 2 == 0)
    path = fit_logistic_path(X, Y, PENALTIES, tol=1e-8)
    linear = path.decision(X)
    for label in range(Y.shape[1]):
        for number, penalty in enumerate(PENALTIES):
            residual = 1 / (1 + np.exp(-linear[label, number])) - Y[:, label]
            gradient = X.T @ residual / n + penalty * path.coef[label, number]
            assert np.linalg.norm(gradient) < 1e-7 * max(1.0, np.linalg.norm(X) / np.sqrt(n)) ** 2
            assert abs(residual.mean()) < 1e-7


def test_a_penalty_of_each_label_gives_the_models_of_the_common_grid() -> None:
    X, Y = problem(60, 10, seed=3)
    grid = fit_logistic_path(X, Y, PENALTIES, tol=1e-9)
    own = fit_logistic_path(X, Y, [[PENALTIES[0]], [PENALTIES[2]]], tol=1e-9)
    np.testing.assert_allclose(own.coef[0, 0], grid.coef[0, 0], atol=1e-5)
    np.testing.assert_allclose(own.coef[1, 0], grid.coef[1, 2], atol=1e-5)


def test_separated_constant_and_collinear_features() -> None:
    rng = np.random.default_rng(4)
    truth = np.arange(30) < 12
    signal = np.where(truth, 1.0, -1.0) + 0.1 * rng.normal(size=30)
    X = np.stack([signal, signal, np.full(30, 7.0), rng.normal(size=30)], axis=1)
    path = fit_logistic_path(X, truth[:, None], [1e-8, 1e-3])
    assert ((path.decision(X)[0] > 0) == truth).all()
    # The objective is within 1e-9 of its minimum; at a penalty of 1e-8 that leaves the coefficients this much.
    np.testing.assert_allclose(path.coef[0, :, 0], path.coef[0, :, 1], rtol=1e-5)
    np.testing.assert_allclose(path.coef[0, :, 2], 0.0, atol=1e-12)
    nothing = fit_logistic_path(X[:, 2:3], truth[:, None], [0.1])
    np.testing.assert_allclose(nothing.intercept, np.log(12 / 18))


def test_a_large_penalty_leaves_the_share() -> None:
    X, Y = problem(50, 6, seed=5)
    path = fit_logistic_path(X, Y, [1e8])
    share = Y.mean(axis=0)
    np.testing.assert_allclose(path.decision(X)[:, 0, 0], np.log(share / (1 - share)), atol=1e-6)


def test_refusals() -> None:
    X, Y = problem(20, 3, seed=6)
    with pytest.raises(ConvergenceError, match="limit of 1 iterations is reached"):
        fit_logistic_path(X, Y, [1e-6], tol=1e-12, max_iter=1)
    with pytest.raises(ConvergenceError, match="scikit-learn did not converge"), pytest.warns(match="converge"):
        fit_logistic_path(X, Y, [1e-6], tol=1e-12, max_iter=1, solver="sklearn")
    with pytest.raises(ValueError, match="one class only"):
        fit_logistic_path(X, np.ones((20, 1), dtype=bool), [1.0])
    with pytest.raises(ValueError, match="must be bool"):
        fit_logistic_path(X, Y.astype(float), [1.0])
    with pytest.raises(ValueError, match="are expected"):
        fit_logistic_path(X[:5], Y, [1.0])
    with pytest.raises(ValueError, match="NaN or infinite"):
        fit_logistic_path(np.full_like(X, np.nan), Y, [1.0])
    for penalties in ([0.0], [-1.0], [[1.0]], [np.inf]):
        with pytest.raises(ValueError, match="must be positive"):
            fit_logistic_path(X, Y, penalties)


@pytest.mark.parametrize("n", [97, 260, 1001, 2003])
def test_without_any_feature_the_intercept_is_the_share(n: int) -> None:
    """Constant features leave only the intercept, which starts at its optimum: the gradient is rounding at once."""
    truth = np.arange(n)[:, None] % 7 == 0
    path = fit_logistic_path(np.zeros((n, 0)), truth, [1.0, 1e-5])
    share = truth.mean()
    np.testing.assert_allclose(path.intercept, np.log(share / (1 - share)), rtol=1e-9)
