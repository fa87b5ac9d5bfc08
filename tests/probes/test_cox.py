from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import CoxPHFitter
from sksurv.linear_model import CoxPHSurvivalAnalysis

from bulkprobe.probes import newton, partial_likelihood
from bulkprobe.probes.cox import ConvergenceError, Ties, cox_objective, fit_cox_path
from bulkprobe.probes.partial_likelihood import Outcome, PartialLikelihood

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
@pytest.mark.parametrize("solver", ["lbfgs", "newton"])
def test_equals_scikit_survival(ties: Ties, solver: Literal["lbfgs", "newton"]) -> None:
    X, time, event = problem(90, 6, seed=7)
    path = fit_cox_path(X, time, event, PENALTIES, ties, tol=1e-10, solver=solver)
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


def naive_loss(time: np.ndarray, event: np.ndarray, eta: np.ndarray, ties: Ties) -> float:
    """Death by death, as it stands in the textbook."""
    total = 0.0
    for moment in np.unique(time[event]):
        tied = np.flatnonzero(event & (time == moment))
        at_risk, of_tied = np.exp(eta[time >= moment]).sum(), np.exp(eta[tied]).sum()
        for number in range(len(tied)):
            share = number / len(tied) if ties == "efron" else 0.0
            total += np.log(at_risk - share * of_tied) - eta[tied[number]]
    return float(total)


@given(st.integers(0, 10_000), st.integers(3, 40), st.sampled_from(["efron", "breslow"]), st.integers(1, 3))
@settings(deadline=None, max_examples=60)
def test_the_loss_of_a_stack_is_the_textbooks(seed: int, n: int, ties: Ties, strata: int) -> None:
    rng = np.random.default_rng(seed)
    outcomes, etas, expected = [], np.zeros((3, n + 2, 2)), np.zeros((3, 2))
    for mask, rows in enumerate((n, n + 2, max(2, n - 1))):
        _, time, event = problem(rows, 1, seed + mask)
        stratum = rng.integers(0, strata, rows)
        eta = rng.normal(size=(rows, 2)) * 2
        outcomes.append(Outcome(time, event, stratum))
        etas[mask, :rows] = eta
        for column in range(2):
            for code in range(strata):
                here = stratum == code
                expected[mask, column] += naive_loss(time[here], event[here], eta[here, column], ties) / rows
    loss = PartialLikelihood.build(outcomes, ties, over=[float(len(o.time)) for o in outcomes])
    value, slope = loss.evaluate(etas)
    np.testing.assert_allclose(value, expected, rtol=1e-10, atol=1e-12)
    # The gradient, by differences; and zero on padded rows.
    step = np.zeros_like(etas)
    for mask, outcome in enumerate(outcomes):
        step[mask, : len(outcome.time)] = rng.normal(size=(len(outcome.time), 2))
        assert (slope[mask, len(outcome.time) :] == 0).all()
    ahead, back = loss.evaluate(etas + 1e-6 * step)[0], loss.evaluate(etas - 1e-6 * step)[0]
    np.testing.assert_allclose((slope * step).sum(axis=1), (ahead - back) / 2e-6, atol=1e-6)
    some = loss.take(np.array([2, 0]))
    np.testing.assert_allclose(some.evaluate(etas[[2, 0]])[0], value[[2, 0]])


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_gradient_and_hessian_are_those_of_autograd(ties: Ties) -> None:
    rng = np.random.default_rng(12)
    X, time, event = problem(25, 4, seed=12)
    loss = PartialLikelihood.build([Outcome(time, event)], ties, over=[25.0])
    coef = rng.normal(size=4) / 3
    design = torch.from_numpy(X)

    def by_torch(b: torch.Tensor) -> torch.Tensor:
        eta, total = design @ b, torch.zeros((), dtype=torch.float64)
        for moment in np.unique(time[event]):
            tied = torch.from_numpy(event & (time == moment))
            at_risk = eta[torch.from_numpy(time >= moment)].exp().sum()
            for number in range(int(tied.sum())):
                share = number / int(tied.sum()) if ties == "efron" else 0.0
                total = total + torch.log(at_risk - share * eta[tied].exp().sum())
            total = total - eta[tied].sum()
        return total / 25

    b = torch.from_numpy(coef).requires_grad_()
    gradient = torch.autograd.grad(by_torch(b), b)[0].numpy()
    hessian = torch.autograd.functional.hessian(by_torch, b.detach()).numpy()
    value, slope = loss.evaluate((X @ coef)[None, :, None])
    assert value[0, 0] == pytest.approx(float(by_torch(b.detach())))
    np.testing.assert_allclose(X.T @ slope[0, :, 0], gradient, atol=1e-12)
    np.testing.assert_allclose(loss.hessian(X @ coef, X), hessian, atol=1e-12)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_logarithms_and_sums_agree_and_nothing_underflows(ties: Ties, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(8)
    outcomes = [Outcome(*problem(n, 2, seed=n)[1:], rng.integers(0, 2, n)) for n in (40, 33)]
    eta = rng.normal(size=(2, 40, 3))
    loss = PartialLikelihood.build(outcomes, ties, over=[1.0, 1.0])
    value, gradient = loss.evaluate(eta)
    monkeypatch.setattr(partial_likelihood, "WIDEST", 0.0)
    slow_value, slow_gradient = loss.evaluate(eta)
    np.testing.assert_allclose(slow_value, value)
    np.testing.assert_allclose(slow_gradient, gradient, atol=1e-12)
    monkeypatch.setattr(partial_likelihood, "WIDEST", 600.0)
    wide, slope = loss.evaluate(eta * 1e4)
    assert np.isfinite(wide).all()
    assert np.isfinite(slope).all()
    with pytest.raises(ValueError, match="spread over more than 600"):
        PartialLikelihood.build(outcomes[:1], ties, over=[1.0]).hessian(eta[0, :, 0] * 1e4, np.ones((40, 1)))


@given(st.integers(0, 10_000), st.sampled_from([(12, 40), (60, 5), (30, 30), (25, 120)]), st.booleans())
@settings(deadline=None, max_examples=30)
def test_the_objective_is_within_a_billionth_of_newtons(seed: int, shape: tuple[int, int], single: bool) -> None:
    """Down to penalties at which the training deaths are told apart completely."""
    X, time, event = problem(*shape, seed)
    X = (X / np.sqrt(shape[1])).astype(np.float32 if single else np.float64)
    X = np.concatenate([X, X[:, :1], np.ones((len(X), 1), dtype=X.dtype)], axis=1)  # collinear and constant
    grid = [1e-6, 1e-4, 1e-2, 1.0]
    for path in (fit_cox_path(X, time, event, grid), fit_cox_path(X, time, event, grid, strata=np.arange(len(X)) % 2)):
        assert np.isfinite(path.coef).all()
    ours = fit_cox_path(X, time, event, grid)
    newton_path = fit_cox_path(X, time, event, grid, solver="newton", tol=1e-12)
    exact = X.astype(np.float64)
    for coef, best, penalty in zip(ours.coef, newton_path.coef, grid, strict=True):
        reference = cox_objective(exact, time, event, best, penalty)
        assert cox_objective(exact, time, event, coef, penalty) <= reference * (1 + 1e-8)


def test_strata_are_separate_risk_sets() -> None:
    X, time, event = problem(70, 3, seed=13)
    stratum = np.arange(70) % 3
    path = fit_cox_path(X, time, event, [0.1], strata=stratum, tol=1e-9)
    table = pd.DataFrame(X).assign(time=time, event=event, stratum=stratum)
    fitted = CoxPHFitter(penalizer=0.1).fit(table, "time", "event", strata=["stratum"])
    # lifelines divides by n as we do.
    np.testing.assert_allclose(path.coef[0], fitted.params_.to_numpy(), atol=1e-5)
    with pytest.raises(ValueError, match="strata has shape"):
        fit_cox_path(X, time, event, [0.1], strata=stratum[:5])


def test_newton_and_lbfgs_agree_on_wide_data() -> None:
    rng = np.random.default_rng(9)
    X = rng.normal(size=(50, 400)) / 20
    time, event = rng.exponential(size=50), rng.random(50) < 0.6
    newtons = fit_cox_path(X, time, event, [1e-6, 1e-3, 1.0], tol=1e-9, solver="newton")
    lbfgs = fit_cox_path(X, time, event, [1e-6, 1e-3, 1.0], tol=1e-9)
    np.testing.assert_allclose(newtons.coef, lbfgs.coef, atol=1e-5 * np.abs(newtons.coef).max())


def test_torch_gives_the_same_models() -> None:
    """The path of a GPU, on its CPU."""
    X, time, event = problem(60, 8, seed=14)
    for design in (X, np.random.default_rng(0).normal(size=(60, 90)).astype(np.float32) / 9):
        ours = fit_cox_path(design, time, event, PENALTIES, strata=np.arange(60) % 2)
        theirs = fit_cox_path(design, time, event, PENALTIES, strata=np.arange(60) % 2, device="torch")
        np.testing.assert_allclose(theirs.coef, ours.coef, atol=1e-5)
    spread = fit_cox_path(X * 300, time, event, [1e-7], device="torch")
    np.testing.assert_allclose(spread.coef, fit_cox_path(X * 300, time, event, [1e-7]).coef, rtol=1e-3)


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
    monkeypatch.setattr(newton, "STEPS", 1)
    with pytest.raises(ConvergenceError, match="did not converge in 1 Newton steps"):
        fit_cox_path(X, time, event, [1e-6], tol=1e-12, solver="newton")
    with pytest.raises(ConvergenceError, match="limit of 1 iterations is reached"):
        fit_cox_path(X, time, event, [1e-6], tol=1e-12, max_iter=1)
