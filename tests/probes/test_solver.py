"""The engine under both probes: bases, stacks, exactness on hostile problems, and the path of a GPU."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from bulkprobe.probes import solver
from bulkprobe.probes.basis import Basis, Stack, gram, leading_axes
from bulkprobe.probes.logistic import fit_logistic_path, logistic_objective, solve_logistic
from bulkprobe.probes.solver import ConvergenceError

GRID = [1.0, 1e-2, 1e-4, 1e-6]


def hostile(seed: int, n: int, d: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Features of total variance about 1, and labels."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3)) @ rng.normal(size=(3, d)) + 0.3 * rng.normal(size=(n, d))
    truth = X[:, 0] + rng.logistic(size=n) > 0
    if kind == "separated":
        truth = X[:, 0] > np.median(X[:, 0])
    if kind == "rare":
        truth = np.arange(n) == n // 2
    if kind == "collinear":
        X[:, d // 2 :] = X[:, : d - d // 2]
    if kind == "constant":
        X[:, 0] = 4.0
    if kind == "scales":
        X *= 10.0 ** rng.uniform(-3, 1, d)
    truth[0], truth[1] = True, False
    return X / np.sqrt(d), truth


@given(
    st.integers(0, 10_000),
    st.sampled_from([(30, 6), (12, 40), (25, 25), (80, 3), (7, 150)]),
    st.sampled_from(["plain", "separated", "rare", "collinear", "constant", "scales"]),
    st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_the_objective_is_within_1e_8_of_a_float64_reference(
    seed: int, shape: tuple[int, int], kind: str, single: bool
) -> None:
    X, truth = hostile(seed, *shape, kind)
    given_rows = X.astype(np.float32) if single else X
    path = fit_logistic_path(given_rows, truth[:, None], GRID)
    exact = given_rows.astype(np.float64)
    for number, penalty in enumerate(GRID):
        found = logistic_objective(exact, truth, path.coef[0, number], path.intercept[0, number], penalty)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the reference may fail to reach 1e-12; it still is an upper bound
            best = LogisticRegression(C=1 / (len(X) * penalty), solver="newton-cholesky", tol=1e-12, max_iter=500)
            best.fit(exact, truth)
        reference = logistic_objective(exact, truth, best.coef_[0], float(best.intercept_[0]), penalty)
        assert found <= reference * (1 + 1e-8)


@pytest.mark.parametrize("shape", [(40, 9), (9, 40), (20, 20)])
def test_axes_of_a_basis_are_those_of_a_pca(shape: tuple[int, int]) -> None:
    X = np.random.default_rng(0).normal(size=shape) * np.arange(1, shape[1] + 1)
    X -= X.mean(axis=0)
    values, right = np.linalg.svd(X, full_matrices=False)[1:]
    for variance, axes in (Basis(X).axes(4), leading_axes(X, 4)):
        np.testing.assert_allclose(variance, values[:4] ** 2, rtol=1e-5)
        np.testing.assert_allclose(axes.T @ axes, np.eye(4), atol=1e-9)
        np.testing.assert_allclose(np.abs(np.sum(axes * right[:4].T, axis=0)), 1.0, atol=1e-5)
    np.testing.assert_allclose(gram(X, np.float64), X.T @ X if shape[1] <= shape[0] else X @ X.T)


def test_a_stack_of_unequal_parts_gives_each_its_own_solution() -> None:
    """Reduced, tall and component bases of several sizes, in one stack."""
    rng = np.random.default_rng(1)
    parts = [hostile(seed, n, 12, "plain") for seed, n in enumerate((60, 9, 31, 12))]
    centred = [X - X.mean(axis=0) for X, _ in parts]
    bases = [Basis(X) for X in centred]
    variance, axes = bases[2].axes(3)
    bases.append(Basis.of_components(centred[2] @ axes, variance))
    centred.append(centred[2] @ axes)
    labels = [np.stack([truth, rng.random(len(truth)) < 0.5], axis=1) for _, truth in [*parts, parts[2]]]
    for column in labels:
        column[:2, 1] = [True, False]
    grid = np.broadcast_to(np.array([1e-3, 1.0, 1e-1]), (5, 2, 3))  # in no order
    for basis, X, truth, (coef, intercept) in zip(
        bases, centred, labels, solve_logistic(bases, labels, grid), strict=True
    ):
        alone = fit_logistic_path(X, truth, grid[0, 0], tol=1e-9)
        assert basis.rank <= min(X.shape)
        np.testing.assert_allclose(coef, alone.coef, atol=2e-4 * np.abs(alone.coef).max())
        np.testing.assert_allclose(intercept, alone.intercept, atol=1e-4)


def test_torch_gives_the_same_models() -> None:
    """The path of a GPU, on its CPU."""
    for shape in ((60, 8), (20, 50)):
        X, truth = hostile(2, *shape, "plain")
        Y = np.stack([truth, ~truth], axis=1)
        ours, theirs = fit_logistic_path(X, Y, GRID), fit_logistic_path(X, Y, GRID, device="torch")
        for number, penalty in enumerate(GRID):
            one, other = (
                logistic_objective(X, truth, path.coef[0, number], path.intercept[0, number], penalty)
                for path in (ours, theirs)
            )
            assert other == pytest.approx(one, rel=1e-8)


def test_float32_that_falls_short_is_sent_back_and_then_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    X, truth = hostile(3, 40, 6, "plain")
    sloppy = Stack.backward

    def worse(self: Stack, change: np.ndarray) -> np.ndarray:
        return np.asarray(sloppy(self, change) * (1 + 1e-3))

    # An error that float32 would never make is still found by the check in float64, and mended.
    expected = fit_logistic_path(X, truth[:, None], [1e-2])
    monkeypatch.setattr(Stack, "backward", worse)
    mended = fit_logistic_path(X, truth[:, None], [1e-2])
    np.testing.assert_allclose(mended.coef, expected.coef, atol=1e-4)
    monkeypatch.setattr(solver, "CHECKS", 1)
    with pytest.raises(ConvergenceError, match="1 of 1 problems did not reach the gradient norm"):
        fit_logistic_path(X, truth[:, None], [1e-2])


def test_a_search_that_finds_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    X, truth = hostile(4, 40, 6, "plain")
    monkeypatch.setattr(solver, "SLOPE_LEFT", -1.0)  # no step is good enough
    with pytest.raises(ConvergenceError, match=r"no step lowers the objective any more.*the worst, in column 0"):
        fit_logistic_path(X, truth[:, None], [1e-4])
