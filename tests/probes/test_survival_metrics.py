from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.metrics import brier_score as sksurv_brier
from sksurv.metrics import concordance_index_ipcw
from sksurv.metrics import integrated_brier_score as sksurv_integrated
from sksurv.util import Surv

from bulkprobe.probes.metrics import Undefined, harrell_c
from bulkprobe.probes.survival_metrics import (
    breslow_survival,
    brier_score,
    brier_times,
    default_tau,
    integrated_brier_score,
    uno_c,
)

EXACT = 1e-12
Outcome = tuple[np.ndarray, np.ndarray]

# Follow-up by hand: the training censoring survival is 3/4 from 1 on and 3/8 from 3 on.
TRAIN: Outcome = (np.array([1.0, 2.0, 3.0, 4.0]), np.array([False, True, False, True]))
TEST: Outcome = (np.array([2.0, 3.0, 4.0]), np.array([True, True, False]))
RISK = np.array([3.0, 1.0, 2.0])

# Reasons that are nobody's choice of times: there is nothing to judge.
EMPTY = {
    "no event in training",
    "no event among the test patients",
    "no comparable pair before tau",
    "no range of follow-up before tau",
}


@st.composite
def outcomes(draw: st.DrawFn, least: int, most: int) -> Outcome:
    n = draw(st.integers(least, most))
    time = np.array(draw(st.lists(st.integers(1, 8), min_size=n, max_size=n)), dtype=float)
    return time, np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))


@st.composite
def judged(draw: st.DrawFn) -> tuple[Outcome, Outcome, np.ndarray, float]:
    train, test = draw(outcomes(1, 25)), draw(outcomes(1, 20))
    step = draw(st.sampled_from([1.0, 1e-8, 0.5e-8]))  # also risks at and below the tolerance of a tie
    n = len(test[0])
    risk = step * np.array(draw(st.lists(st.integers(-4, 4), min_size=n, max_size=n)), dtype=float)
    return train, test, risk, draw(st.sampled_from([2.0, 4.0, 5.5, 9.0, np.inf]))


@st.composite
def curves(draw: st.DrawFn) -> tuple[Outcome, Outcome, np.ndarray, np.ndarray]:
    train, test = draw(outcomes(2, 25)), draw(outcomes(1, 20))
    times = np.array(sorted(draw(st.sets(st.integers(1, 30), min_size=2, max_size=8)))) / 4
    seed = draw(st.integers(0, 1_000))
    survival = np.sort(np.random.default_rng(seed).random((len(test[0]), len(times))), axis=1)[:, ::-1]
    return train, test, survival, times


def still_uncensored(train: Outcome, when: float) -> float:
    """P(not censored up to `when`), from the definition; NaN after the last follow-up."""
    time, event = train
    product = 1.0
    for moment in np.unique(time[~event]):
        if moment <= when:
            here = int((~event & (time == moment)).sum())
            product *= 1 - here / int((time > moment).sum() + here)
    return product if when <= time.max() else float("nan")


def value_or_reason(measure: Callable[[], float]) -> float | str:
    try:
        return measure()
    except Undefined as refusal:
        return refusal.reason


def surv(outcome: Outcome) -> Any:
    return Surv.from_arrays(outcome[1], outcome[0])


@given(judged())
@settings(deadline=None, max_examples=400)
def test_uno_c_equals_its_definition_and_scikit_survival(
    problem: tuple[Outcome, Outcome, np.ndarray, float],
) -> None:
    train, (time, event), risk, tau = problem
    won, total, ties, pairs, weights = 0.0, 0.0, 0, 0, {}
    for i in np.flatnonzero(event & (time < tau)):
        for j in range(len(time)):
            if time[i] < time[j] or (time[i] == time[j] and not event[j]):
                weights[i] = still_uncensored(train, time[i])
                weight = weights[i] ** -2 if weights[i] > 0 else np.nan
                tied = abs(risk[i] - risk[j]) <= 1e-8
                won += weight * (0.5 if tied else float(risk[i] > risk[j]))
                total, pairs, ties = total + weight, pairs + 1, ties + tied

    def ours() -> float:
        return uno_c(*train, time, event, risk, tau)

    if not train[1].any():
        with pytest.raises(Undefined, match="no event in training"):
            ours()
    elif pairs == 0:
        with pytest.raises(Undefined, match="no comparable pair before tau"):
            ours()
    elif ties == pairs or np.ptp(risk) == 0:
        with pytest.raises(Undefined, match="constant risk over all comparable pairs"):
            ours()
    elif any(np.isnan(weight) for weight in weights.values()):
        with pytest.raises(Undefined, match="beyond the training follow-up"):
            ours()
    elif any(weight == 0 for weight in weights.values()):
        with pytest.raises(Undefined, match="no training patient remains uncensored"):
            ours()
    else:
        assert ours() == pytest.approx(won / total, abs=EXACT)
        # scikit-survival also asks for the weights of deaths that nobody is compared with.
        if all(still_uncensored(train, t) > 0 for t in time[event & (time < tau)]):
            theirs = concordance_index_ipcw(surv(train), surv((time, event)), risk, tau)[0]
            assert ours() == pytest.approx(theirs, abs=EXACT)


def test_uno_c_of_many_patients_equals_scikit_survival() -> None:
    rng = np.random.default_rng(0)
    train = np.ceil(rng.exponential(size=3_000) * 300), rng.random(3_000) < 0.4
    test = np.ceil(rng.exponential(size=800) * 300), rng.random(800) < 0.4
    for decimals in (1, 9):  # many ties; ties by the tolerance only
        risk = np.round(rng.normal(size=800), decimals) * (1.0 if decimals == 1 else 1e-6)
        tau = default_tau(train[0], test[0])
        theirs = concordance_index_ipcw(surv(train), surv(test), risk, tau)
        assert theirs[3] > 0
        assert uno_c(*train, *test, risk, tau) == pytest.approx(theirs[0], abs=EXACT)


def test_uno_c_by_hand() -> None:
    # The first death wins both pairs at weight 16/9 each, the second loses its one pair at weight 64/9.
    assert uno_c(*TRAIN, *TEST, RISK, tau=np.inf) == pytest.approx(1 / 3)
    assert harrell_c(*TEST, RISK) == pytest.approx(2 / 3)
    assert uno_c(*TRAIN, *TEST, RISK, tau=3.0) == 1.0  # a death at tau is not judged
    assert uno_c(*TRAIN, *TEST, np.array([2.0, 1.0, 2.0]), tau=np.inf) == pytest.approx((16 / 9 + 8 / 9) / (96 / 9))
    near = np.array([2.0, 1.0, 2.0 - 0.9e-8])
    assert uno_c(*TRAIN, *TEST, near, tau=np.inf) == pytest.approx(0.25)
    assert uno_c(*TRAIN, *TEST, near, tau=np.inf, tied_tol=0.0) == pytest.approx(1 / 3)


@given(judged())
@settings(deadline=None)
def test_uno_c_under_transformations(problem: tuple[Outcome, Outcome, np.ndarray, float]) -> None:
    train, test, _, tau = problem
    risk = np.random.default_rng(len(test[0])).permutation(len(test[0])).astype(float)  # without ties
    c = value_or_reason(lambda: uno_c(*train, *test, risk, tau))
    assume(not isinstance(c, str))
    assert uno_c(*train, *test, np.exp(risk / 4), tau) == c
    assert uno_c(*train, *test, -risk, tau) == pytest.approx(1 - c, abs=EXACT)
    assert uno_c(7 * train[0], train[1], 7 * test[0], test[1], risk, 7 * tau) == c
    shuffled = np.random.default_rng(1).permutation(len(risk))
    again = uno_c(*train, test[0][shuffled], test[1][shuffled], risk[shuffled], tau)
    assert again == pytest.approx(c, abs=EXACT)


@given(outcomes(2, 30), st.integers(0, 100))
@settings(deadline=None)
def test_without_censoring_in_training_uno_is_harrell(test: Outcome, seed: int) -> None:
    risk = np.random.default_rng(seed).integers(0, 5, len(test[0])).astype(float)
    everybody = np.arange(1.0, 10.0), np.ones(9, dtype=bool)
    c = value_or_reason(lambda: harrell_c(*test, risk))
    uno = value_or_reason(lambda: uno_c(*everybody, *test, risk, np.inf))
    if isinstance(c, str):
        assert isinstance(uno, str)
    elif uno == "constant risk over all comparable pairs":  # Harrell's C calls that one half
        assert c == 0.5
    else:
        assert uno == pytest.approx(c, abs=EXACT)


def test_default_tau_leaves_a_tenth_of_the_training_patients() -> None:
    trained = np.arange(1.0, 101.0)
    assert default_tau(trained, [200.0, 5.0]) == 91.0  # 91 … 100 are ten patients
    assert default_tau(trained[::-1], [50.0, 5.0]) == 50.0  # nobody is tested for longer
    assert default_tau([3.0], [9.0]) == 3.0
    assert default_tau(np.repeat(7.0, 30), [9.0]) == 7.0
    with pytest.raises(Undefined, match=r"no patients \(train 0, n 1\)"):
        default_tau([], [1.0])


@given(outcomes(1, 25), outcomes(2, 20), st.integers(0, 100))
@settings(deadline=None)
def test_default_tau_never_leaves_a_weight_unknown(train: Outcome, test: Outcome, seed: int) -> None:
    tau = default_tau(train[0], test[0])
    risk = np.random.default_rng(seed).normal(size=len(test[0]))
    survival = np.full((len(risk), 5), 0.5)
    for found in (
        value_or_reason(lambda: uno_c(*train, *test, risk, tau)),
        value_or_reason(lambda: integrated_brier_score(*train, *test, survival, brier_times(test[0], tau, 5))),
    ):
        if isinstance(found, str):
            assert found in EMPTY
        else:
            assert np.isfinite(found)


@given(curves())
@settings(deadline=None, max_examples=400)
def test_brier_scores_equal_their_definition_and_scikit_survival(
    problem: tuple[Outcome, Outcome, np.ndarray, np.ndarray],
) -> None:
    train, (time, event), survival, times = problem
    needed = [*times, *time[event & (time <= times[-1])]]
    weights = [still_uncensored(train, when) for when in needed]

    def ours() -> np.ndarray:
        return brier_score(*train, time, event, survival, times)

    if not train[1].any():
        with pytest.raises(Undefined, match="no event in training"):
            ours()
    elif not event.any():
        with pytest.raises(Undefined, match="no event among the test patients"):
            ours()
    elif times[-1] >= time.max():
        with pytest.raises(Undefined, match="not before the longest test follow-up"):
            ours()
    elif not all(weight > 0 for weight in weights):
        with pytest.raises(Undefined, match=r"beyond the training follow-up|no training patient remains uncensored"):
            ours()
    else:
        expected = []
        for column, when in enumerate(times):
            errors = 0.0
            for row, (t, died) in enumerate(zip(time, event, strict=True)):
                if t > when:
                    errors += (1 - survival[row, column]) ** 2 / still_uncensored(train, when)
                elif died:
                    errors += survival[row, column] ** 2 / still_uncensored(train, t)
            expected.append(errors / len(time))
        np.testing.assert_allclose(ours(), expected, atol=EXACT)
        np.testing.assert_allclose(brier_score(9 * train[0], train[1], 9 * time, event, survival, 9 * times), ours())
        integral = integrated_brier_score(*train, time, event, survival, times)
        assert min(expected) - EXACT <= integral <= max(expected) + EXACT
        # scikit-survival asks more: weights of later patients too, and no time before the first follow-up.
        if times[0] >= time.min() and time.max() <= train[0].max():
            tables = surv(train), surv((time, event)), survival, times
            np.testing.assert_allclose(ours(), sksurv_brier(*tables)[1], atol=EXACT)
            assert integral == pytest.approx(sksurv_integrated(*tables), abs=EXACT)


def test_brier_scores_by_hand() -> None:
    survival = np.array([[0.5, 0.25], [0.8, 0.4], [0.9, 0.6]])
    times = np.array([2.5, 3.5])
    first = (0.25 + 0.04 + 0.01) / 0.75 / 3
    second = (0.0625 / 0.75 + 0.16 / 0.375 + 0.16 / 0.375) / 3
    np.testing.assert_allclose(brier_score(*TRAIN, *TEST, survival, times), [first, second])
    assert integrated_brier_score(*TRAIN, *TEST, survival, times) == pytest.approx((first + second) / 2)


def test_brier_of_foresight_and_of_a_coin() -> None:
    rng = np.random.default_rng(2)
    train = test = np.ceil(rng.exponential(size=60) * 50), np.ones(60, dtype=bool)
    times = brier_times(test[0], default_tau(train[0], test[0]))
    assert len(times) == 100
    foresight = (test[0][:, None] > times).astype(float)
    assert integrated_brier_score(*train, *test, foresight, times) == 0.0
    assert integrated_brier_score(*train, *test, 1 - foresight, times) == pytest.approx(1.0)
    assert integrated_brier_score(*train, *test, np.full((60, 100), 0.5), times) == pytest.approx(0.25)


def test_brier_of_one_patient() -> None:
    # 3.5 is uncensored with probability 3/8; dies at 4.
    score = brier_score(*TRAIN, [4.0], np.array([True]), [[0.9, 0.5]], [0.5, 3.5])
    np.testing.assert_allclose(score, [0.01, 0.25 / 0.375])


def test_brier_times() -> None:
    np.testing.assert_allclose(brier_times(np.arange(1.0, 12.0), 10.0, 4), [2.0, 4.0, 6.0, 8.0])
    np.testing.assert_allclose(brier_times(np.arange(1.0, 12.0), np.inf, 3), [2.0, 5.0, 8.0])
    with pytest.raises(Undefined, match="no range of follow-up before tau"):
        brier_times([5.0, 5.0], 9.0)
    with pytest.raises(Undefined, match="no range of follow-up before tau"):
        brier_times([5.0, 6.0], 1.0)
    with pytest.raises(Undefined, match="no patients"):
        brier_times([], 1.0)
    with pytest.raises(ValueError, match="needs at least 2"):
        brier_times([5.0, 6.0], 1.0, n_times=1)


@given(outcomes(6, 40), st.integers(0, 1_000))
@settings(deadline=None, max_examples=100)
def test_breslow_equals_scikit_survival(train: Outcome, seed: int) -> None:
    assume(train[1].any())
    rng = np.random.default_rng(seed)
    X, tested = rng.normal(size=(len(train[0]), 2)), rng.normal(size=(7, 2))
    model = CoxPHSurvivalAnalysis(alpha=1.0, ties="efron").fit(X, surv(train))
    # Before the first training follow-up scikit-survival repeats the value at it, where nobody has died yet.
    times = np.linspace(train[0].min(), train[0].max(), 9)
    theirs = np.array([curve(times) for curve in model.predict_survival_function(tested)])
    for shift in (0.0, 2_000.0, -2_000.0):
        ours = breslow_survival(*train, X @ model.coef_ + shift, tested @ model.coef_ + shift, times)
        np.testing.assert_allclose(ours, theirs, atol=1e-9)
    assert (breslow_survival(*train, X[:, 0], tested[:, 0], train[0][train[1]].min() * np.array([0, 0.9])) == 1).all()


def test_breslow_by_hand_and_at_the_edge_of_floats() -> None:
    time, event = np.array([2.0, 1.0, 2.0]), np.ones(3, dtype=bool)
    hazards = np.array([1 / 3, 4 / 3])  # one of three dies, then two of two
    curves = breslow_survival(time, event, np.zeros(3), np.array([0.0, np.log(2.0)]), np.array([1.5, 2.0]))
    np.testing.assert_allclose(curves, np.exp(-np.array([[1.0], [2.0]]) * hazards))
    wide = breslow_survival(time, event, np.array([0.0, 5e3, -5e3]), np.array([-1e4, 0.0, 1e4]), np.array([0.5, 2.0]))
    np.testing.assert_array_equal(wide[:, 0], 1.0)
    np.testing.assert_allclose(wide[:, 1], [1.0, np.exp(-2.0), 0.0])


@pytest.mark.parametrize(
    ("train", "test", "risk", "reason"),
    [
        (TRAIN, ([2.0], [True]), [1.0], "no comparable pair before tau"),
        (TRAIN, ([2.0, 3.0], [False, False]), [1.0, 2.0], "no comparable pair before tau"),
        (TRAIN, ([2.0, 2.0], [True, True]), [1.0, 2.0], "no comparable pair before tau"),
        (TRAIN, ([], []), [], "no comparable pair before tau"),
        (TRAIN, ([2.0, 3.0], [True, True]), [0.1 + 0.2, 0.3], "constant risk over all comparable pairs"),
        (TRAIN, ([2.0, 3.0], [True, True]), [3e5, 3e5 * (1 + 1e-14)], "constant risk over all comparable pairs"),
        (TRAIN, ([1.0, 2.0, 3.0], [False, True, True]), [9.0, 1.0, 1.0], "constant risk over all comparable pairs"),
        (TRAIN, ([5.0, 6.0], [True, True]), [2.0, 1.0], "time beyond the training follow-up"),
        (([1.0, 2.0], [True, False]), ([2.0, 3.0], [True, True]), [2.0, 1.0], "no training patient remains uncensored"),
        (([1.0, 2.0], [False, False]), TEST, RISK, "no event in training"),
        (([], []), TEST, RISK, "no event in training"),
    ],
)
def test_uno_c_says_why_it_is_undefined(train: Any, test: Any, risk: Any, reason: str) -> None:
    train_event, event = np.array(train[1], dtype=bool), np.array(test[1], dtype=bool)
    with pytest.raises(Undefined) as caught:
        uno_c(train[0], train_event, test[0], event, risk, tau=10.0)
    assert caught.value.reason == reason
    assert caught.value.counts["n"] == len(test[0])
    assert caught.value.counts["train_events"] == train_event.sum()


def test_undefined_curves() -> None:
    censored = np.zeros(3, dtype=bool)
    with pytest.raises(Undefined, match=r"no event in training \(train 3, train_events 0\)"):
        breslow_survival(TEST[0], censored, RISK, RISK, [1.0])
    with pytest.raises(Undefined, match=r"beyond the training follow-up \(train 3, train_events 2, beyond 1\)"):
        breslow_survival(*TEST, RISK, RISK, [1.0, 4.5])


def test_bad_input_is_refused() -> None:
    survival, times = np.full((3, 2), 0.5), [2.5, 3.5]
    with pytest.raises(ValueError, match="time holds 1 values that are not finite and above zero"):
        uno_c(*TRAIN, [0.0, 3.0, 4.0], TEST[1], RISK, 9.0)
    with pytest.raises(ValueError, match="train_time holds 1 values that are not finite and above zero"):
        brier_score([np.nan, 1.0], np.array([True, True]), *TEST, survival, times)
    with pytest.raises(ValueError, match="train_event has type int64; it must be bool"):
        uno_c(TRAIN[0], TRAIN[1].astype(np.int64), *TEST, RISK, 9.0)
    with pytest.raises(ValueError, match="both must be"):
        uno_c(*TRAIN, TEST[0][:2], TEST[1], RISK, 9.0)
    with pytest.raises(ValueError, match="one row is expected"):
        default_tau([[1.0]], [1.0])
    with pytest.raises(ValueError, match="they must be equal"):
        uno_c(*TRAIN, *TEST, RISK[:2], 9.0)
    with pytest.raises(ValueError, match="risk holds 1 values that are NaN or infinite"):
        uno_c(*TRAIN, *TEST, [np.nan, 1.0, 2.0], 9.0)
    with pytest.raises(ValueError, match="tau is nan"):
        uno_c(*TRAIN, *TEST, RISK, np.nan)
    with pytest.raises(ValueError, match="tied_tol is -1"):
        uno_c(*TRAIN, *TEST, RISK, 9.0, tied_tol=-1.0)
    with pytest.raises(ValueError, match="times must be ascending"):
        brier_score(*TRAIN, *TEST, survival, [3.5, 2.5])
    with pytest.raises(ValueError, match=r"survival has shape \(3, 2\)"):
        brier_score(*TRAIN, *TEST, survival, [2.5])
    with pytest.raises(ValueError, match="outside 0 to 1"):
        brier_score(*TRAIN, *TEST, survival + 0.6, times)
    with pytest.raises(ValueError, match="an integral needs at least 2"):
        integrated_brier_score(*TRAIN, *TEST, survival[:, :1], [2.5])
    with pytest.raises(ValueError, match="train_linear has shape"):
        breslow_survival(*TEST, RISK[:2], RISK, [1.0])
    with pytest.raises(ValueError, match="linear holds values that are NaN"):
        breslow_survival(*TEST, RISK, [np.inf], [1.0])
    with pytest.raises(ValueError, match="times holds values that are NaN, infinite or below zero"):
        breslow_survival(*TEST, RISK, RISK, [-1.0])
