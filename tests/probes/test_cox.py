from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import CoxPHFitter
from sksurv.linear_model import CoxPHSurvivalAnalysis

from bulkprobe.probes import cox
from bulkprobe.probes.cox import ConvergenceError, PartialLikelihood, Ties, cox_objective, fit_cox_path

PENALTIES = np.logspace(-3, 1, 3)


def problem(n: int, d: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) @ rng.normal(size=(d, d))
    X = (X - X.mean(axis=0)) / X.std(axis=0, ddof=1)
    died, censored = rng.exponential(size=n) * np.exp(-0.5 * X[:, 0]), 1.5 * rng.exponential(size=n)
    event = died <= censored
    event[0] = True
    return X, np.ceil(np.minimum(died, censored) * 8), event  # coarse times, so that there are ties


@pytest.mark.parametrize("seed", range(3))
def test_equals_lifelines(seed: int) -> None:
    X, time, event = problem(80, 4, seed)
    path = fit_cox_path(X, time, event, PENALTIES, tol=1e-10)
    table = pd.DataFrame(X).assign(time=time, event=event)
    for coef, penalty in zip(path.coef, PENALTIES, strict=True):
        fitted = CoxPHFitter(penalizer=penalty, l1_ratio=0).fit(
            table, "time", "event", fit_options={"precision": 1e-12}
        )
        # lifelines smooths the square of a coefficient a little.
        np.testing.assert_allclose(coef, fitted.params_.to_numpy(), atol=1e-5)
        objective = cox_objective(X, time, event, fitted.params_.to_numpy(), penalty)
        assert cox_objective(X, time, event, coef, penalty) == pytest.approx(objective, rel=1e-8)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
@pytest.mark.parametrize("rank", [0, 1000], ids=["lbfgs", "newton"])
def test_equals_scikit_survival(ties: Ties, rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cox, "NEWTON_RANK", rank)
    X, time, event = problem(90, 6, seed=7)
    path = fit_cox_path(X, time, event, PENALTIES, ties, tol=1e-10)
    outcome = np.array(list(zip(event, time, strict=True)), dtype=[("event", bool), ("time", float)])
    for coef, penalty in zip(path.coef, PENALTIES, strict=True):
        fitted = CoxPHSurvivalAnalysis(alpha=penalty * len(X), ties=ties, tol=1e-14, n_iter=200).fit(X, outcome)
        np.testing.assert_allclose(coef, fitted.coef_, atol=1e-8)
    np.testing.assert_allclose(path.risk(X), path.coef @ X.T)


@given(st.integers(0, 10_000), st.integers(3, 30), st.integers(1, 50), st.sampled_from(["efron", "breslow"]))
@settings(deadline=None, max_examples=40)
def test_gradient_vanishes(seed: int, n: int, d: int, ties: Ties) -> None:
    X, time, event = problem(n, d, seed)
    X = X / np.sqrt(d)
    path = fit_cox_path(X, time, event, PENALTIES, ties, tol=1e-8)
    for coef, penalty in zip(path.coef, PENALTIES, strict=True):
        step = 1e-6 * np.random.default_rng(seed).normal(size=d)
        ahead = cox_objective(X, time, event, coef + step, penalty, ties)
        back = cox_objective(X, time, event, coef - step, penalty, ties)
        assert abs(ahead - back) / 2e-6 < 1e-6
        assert ahead + back >= 2 * cox_objective(X, time, event, coef, penalty, ties) - 1e-13


def test_logarithms_and_sums_agree_and_nothing_underflows(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(8)
    _, time, event = problem(40, 2, seed=8)
    eta, direction, design = (rng.normal(size=(40, c)) for c in (3, 3, 5))
    for ties in ("efron", "breslow"):
        loss = PartialLikelihood(time, event, ties)
        value, gradient, state = loss.evaluate(eta, np.arange(3))
        monkeypatch.setattr(cox, "WIDEST", 0.0)
        slow_value, slow_gradient, slow_state = loss.evaluate(eta, np.arange(3))
        monkeypatch.setattr(cox, "WIDEST", 600.0)
        np.testing.assert_allclose(slow_value, value)
        np.testing.assert_allclose(slow_gradient, gradient, atol=1e-12)
        np.testing.assert_allclose(loss.curvature(slow_state, direction), loss.curvature(state, direction))
        np.testing.assert_allclose(loss.hessian(slow_state, 1, design), loss.hessian(state, 1, design), atol=1e-12)
        wide, slope, _ = loss.evaluate(eta * 1e4, np.arange(3))
        assert np.isfinite(wide).all()
        assert np.isfinite(slope).all()


def test_newton_and_lbfgs_agree_on_wide_data(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(9)
    X = rng.normal(size=(50, 400)) / 20
    time, event = rng.exponential(size=50), rng.random(50) < 0.6
    newton = fit_cox_path(X, time, event, [1e-6, 1e-3, 1.0], tol=1e-9)
    monkeypatch.setattr(cox, "NEWTON_RANK", 0)
    lbfgs = fit_cox_path(X, time, event, [1e-6, 1e-3, 1.0], tol=1e-9)
    np.testing.assert_allclose(newton.coef, lbfgs.coef, atol=1e-5 * np.abs(newton.coef).max())


def test_time_counts_by_its_order_only() -> None:
    X, time, event = problem(40, 3, seed=10)
    first = fit_cox_path(X, time, event, PENALTIES).coef
    np.testing.assert_array_equal(fit_cox_path(X, 30 * time + 5, event, PENALTIES).coef, first)
    constant = np.concatenate([X, np.full((40, 1), 3.0)], axis=1)
    np.testing.assert_allclose(fit_cox_path(constant, time, event, PENALTIES).coef[:, 3], 0.0, atol=1e-12)


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    X, time, event = problem(30, 3, seed=11)
    with pytest.raises(ValueError, match="none of 30 patients has an event"):
        fit_cox_path(X, time, np.zeros(30, dtype=bool), [1.0])
    with pytest.raises(ValueError, match="must be bool"):
        fit_cox_path(X, time, event.astype(int), [1.0])
    with pytest.raises(ValueError, match="expected"):
        fit_cox_path(X, time[:3], event, [1.0])
    with pytest.raises(ValueError, match="NaN or infinite"):
        fit_cox_path(X, time * np.nan, event, [1.0])
    with pytest.raises(ValueError, match="must be positive"):
        fit_cox_path(X, time, event, [0.0])
    with pytest.raises(ValueError, match="ties is 'exact'"):
        fit_cox_path(X, time, event, [1.0], "exact")  # type: ignore[arg-type]
    monkeypatch.setattr(cox, "NEWTON_STEPS", 1)
    with pytest.raises(ConvergenceError, match="did not converge in 1 Newton steps"):
        fit_cox_path(X, time, event, [1e-6], tol=1e-12)
    monkeypatch.setattr(cox, "NEWTON_RANK", 0)
    with pytest.raises(ConvergenceError, match="did not converge in 1 iterations"):
        fit_cox_path(X, time, event, [1e-6], tol=1e-12, max_iter=1)
