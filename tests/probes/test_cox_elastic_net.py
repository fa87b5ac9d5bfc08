from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import CoxPHFitter
from sksurv.linear_model import CoxnetSurvivalAnalysis
from sksurv.util import Surv

from bulkprobe.errors import UserError
from bulkprobe.probes.cox import ConvergenceError, Ties, cox_objective, fit_cox_path
from bulkprobe.probes.cox_elastic_net import fit_cox_elastic_net

# One worker: the solver is compiled once a process, for half a minute.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("skglm")]


@pytest.fixture(name="_solver")
def fixture_solver() -> None:
    pytest.importorskip("skglm", reason="the extra elasticnet is not installed", exc_type=ImportError)


def problem(n: int, d: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) + rng.normal(size=(n, 1)) / 2 + 3.0
    died, censored = rng.exponential(size=n) * np.exp(0.8 * X[:, 0]), 30 * rng.exponential(size=n)
    event = died <= censored
    event[0] = True
    return X, np.ceil(np.minimum(died, censored)), event  # whole numbers, so that there are ties


def objective(
    X: np.ndarray, time: np.ndarray, event: np.ndarray, coef: np.ndarray, penalty: float, l1_ratio: float, ties: Ties
) -> float:
    value = cox_objective(X, time, event, coef, 0.0, ties)
    return value + penalty * (l1_ratio * np.abs(coef).sum() + (1 - l1_ratio) / 2 * float(coef @ coef))


@given(st.integers(0, 10_000), st.integers(5, 40), st.integers(1, 60), st.sampled_from(["efron", "breslow"]))
@settings(deadline=None, max_examples=30)
@pytest.mark.usefixtures("_solver")
def test_nothing_nearby_is_better(seed: int, n: int, d: int, ties: Ties) -> None:
    X, time, event = problem(n, d, seed)
    rng = np.random.default_rng(seed)
    l1_ratio = float(rng.choice([0.1, 0.5, 1.0]))
    penalties = np.array([0.03, 1.0, 0.2])
    path = fit_cox_elastic_net(X, time, event, penalties, l1_ratio, ties, tol=1e-8)
    for coef, penalty in zip(path.coef, penalties, strict=True):
        least = objective(X, time, event, coef, penalty, l1_ratio, ties)
        # Convex: no direction may go down, along any axis and some others, also those that leave a zero.
        for axis in np.concatenate([np.eye(d), rng.normal(size=(5, d)), -coef[None, :]]):
            for step in (-1e-4, 1e-4):
                assert objective(X, time, event, coef + step * axis, penalty, l1_ratio, ties) >= least - 1e-11


@pytest.mark.parametrize("ties", ["efron", "breslow"])
@pytest.mark.usefixtures("_solver")
def test_subgradient_by_differences(ties: Ties) -> None:
    X, time, event = problem(70, 8, seed=1)
    penalty, l1_ratio, step = 0.05, 0.7, 1e-6
    coef = fit_cox_elastic_net(X, time, event, [penalty], l1_ratio, ties, tol=1e-9).coef[0]
    assert 0 < (coef != 0).sum() < 8
    for axis, b in zip(np.eye(8), coef, strict=True):
        ahead, back = (cox_objective(X, time, event, coef + s * axis, 0.0, ties) for s in (step, -step))
        slope = (ahead - back) / (2 * step) + penalty * (1 - l1_ratio) * b
        if b == 0:
            assert abs(slope) <= penalty * l1_ratio + 1e-8
        else:
            assert slope == pytest.approx(-penalty * l1_ratio * np.sign(b), abs=1e-7)


@pytest.mark.parametrize("l1_ratio", [0.2, 0.9, 1.0])
@pytest.mark.usefixtures("_solver")
def test_equals_scikit_survival(l1_ratio: float) -> None:
    X, time, event = problem(90, 12, seed=7)
    penalties = np.array([0.3, 0.1, 0.03, 0.01])
    path = fit_cox_elastic_net(X, time, event, penalties, l1_ratio, "breslow", tol=1e-9)
    theirs = CoxnetSurvivalAnalysis(alphas=penalties, l1_ratio=l1_ratio, tol=1e-14, max_iter=1_000_000)
    theirs.fit(X, Surv.from_arrays(event, time))
    np.testing.assert_allclose(path.coef.T, theirs.coef_, atol=1e-6)
    np.testing.assert_array_equal(path.coef.T != 0, np.abs(theirs.coef_) > 0)
    np.testing.assert_allclose(path.risk(X), path.coef @ X.T)


@pytest.mark.usefixtures("_solver")
def test_not_worse_than_lifelines() -> None:
    X, time, event = problem(80, 4, seed=3)
    X = (X - X.mean(axis=0)) / X.std(axis=0, ddof=1)
    table = pd.DataFrame(X).assign(time=time, event=event)
    for penalty in (0.1, 0.01):
        coef = fit_cox_elastic_net(X, time, event, [penalty], 0.5).coef[0]
        fitted = CoxPHFitter(penalizer=penalty, l1_ratio=0.5).fit(table, "time", "event").params_.to_numpy()
        # lifelines smooths |b|, so its zeros are small numbers and its minimum lies a little higher.
        np.testing.assert_allclose(coef, fitted, atol=2e-2)
        ours, theirs = (objective(X, time, event, b, penalty, 0.5, "efron") for b in (coef, fitted))
        assert theirs - 1e-3 < ours <= theirs + 1e-9


@pytest.mark.usefixtures("_solver")
def test_the_path_between_its_ends() -> None:
    X, time, event = problem(60, 10, seed=4)
    grid = np.array([0.02, 100.0, 0.2])
    path = fit_cox_elastic_net(X, time, event, grid, 0.5, tol=1e-8)
    np.testing.assert_array_equal(path.coef[1], 0.0)
    sparse, dense = (path.coef[2] != 0).sum(), (path.coef[0] != 0).sum()
    assert 0 < sparse < dense
    again = fit_cox_elastic_net(X, time, event, grid[::-1], 0.5, tol=1e-8)
    np.testing.assert_array_equal(again.coef, path.coef[::-1])
    np.testing.assert_array_equal(fit_cox_elastic_net(X, 30 * time + 5, event, grid, 0.5, tol=1e-8).coef, path.coef)
    ridge = fit_cox_path(X, time, event, [0.02]).coef[0]
    np.testing.assert_allclose(fit_cox_elastic_net(X, time, event, [0.02], 1e-9).coef[0], ridge, atol=1e-4)
    constant = np.concatenate([X, np.full((60, 1), 3.0)], axis=1)
    np.testing.assert_allclose(fit_cox_elastic_net(constant, time, event, grid, 0.5).coef[:, 10], 0.0, atol=1e-12)


@pytest.mark.usefixtures("_solver")
def test_no_convergence_is_an_error() -> None:
    X, time, event = problem(40, 60, seed=5)
    with pytest.raises(ConvergenceError, match=r"at penalty 0\.001 did not converge in 1 working sets"):
        fit_cox_elastic_net(X, time, event, [1.0, 0.001], 0.5, max_iter=1)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("skglm", "skglm.datafits", "skglm.penalties", "skglm.solvers"):
        monkeypatch.setitem(sys.modules, name, None)
    X, time, event = problem(30, 3, seed=6)
    with pytest.raises(UserError, match=r"needs skglm, .* install it with pip install 'bulkprobe\[elasticnet\]'"):
        fit_cox_elastic_net(X, time, event, [1.0], 0.5)


def test_refusals() -> None:
    X, time, event = problem(30, 3, seed=6)
    with pytest.raises(ValueError, match="l1_ratio is 0; it must be above 0 and at most 1"):
        fit_cox_elastic_net(X, time, event, [1.0], 0)
    with pytest.raises(ValueError, match="l1_ratio is nan"):
        fit_cox_elastic_net(X, time, event, [1.0], np.nan)
    with pytest.raises(ValueError, match="none of 30 patients has an event"):
        fit_cox_elastic_net(X, time, np.zeros(30, dtype=bool), [1.0], 0.5)
    with pytest.raises(ValueError, match="must be bool"):
        fit_cox_elastic_net(X, time, event.astype(int), [1.0], 0.5)
    with pytest.raises(ValueError, match="expected"):
        fit_cox_elastic_net(X, time[:3], event, [1.0], 0.5)
    with pytest.raises(ValueError, match="NaN or infinite"):
        fit_cox_elastic_net(X * np.nan, time, event, [1.0], 0.5)
    with pytest.raises(ValueError, match="must be positive"):
        fit_cox_elastic_net(X, time, event, [0.0], 0.5)
    with pytest.raises(ValueError, match="ties is 'exact'"):
        fit_cox_elastic_net(X, time, event, [1.0], 0.5, "exact")  # type: ignore[arg-type]
