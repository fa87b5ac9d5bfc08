from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines.utils import concordance_index
from lifelines.utils.concordance import naive_concordance_index
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.metrics import log_loss as sklearn_log_loss

from bulkprobe.probes.metrics import (
    Undefined,
    auroc,
    average_precision,
    cox_log_likelihood,
    harrell_c,
    log_loss,
    within_type_auroc,
)

EXACT = 1e-12


@st.composite
def labelled(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n = draw(st.integers(2, 40))
    truth = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    score = np.array(draw(st.lists(st.integers(-4, 4), min_size=n, max_size=n)), dtype=float)
    types = np.array(draw(st.lists(st.sampled_from("abc"), min_size=n, max_size=n)))
    return truth, score, types


@st.composite
def followed(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n = draw(st.integers(2, 30))
    time = np.array(draw(st.lists(st.integers(1, 6), min_size=n, max_size=n)), dtype=float)
    event = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    risk = np.array(draw(st.lists(st.integers(-3, 3), min_size=n, max_size=n)), dtype=float)
    return time, event, risk


@given(labelled())
@settings(deadline=None)
def test_auroc_and_average_precision_equal_scikit_learn(problem: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    truth, score, _ = problem
    if truth.all() or not truth.any():
        with pytest.raises(Undefined, match="one class only"):
            auroc(truth, score)
        with pytest.raises(Undefined, match="one class only"):
            average_precision(truth, score)
    elif len(set(score)) == 1:
        with pytest.raises(Undefined, match="constant score"):
            auroc(truth, score)
        with pytest.raises(Undefined, match="constant score"):
            average_precision(truth, score)
    else:
        assert auroc(truth, score) == pytest.approx(roc_auc_score(truth, score), abs=EXACT)
        assert average_precision(truth, score) == pytest.approx(average_precision_score(truth, score), abs=EXACT)
        assert auroc(truth, -score) == pytest.approx(1 - auroc(truth, score), abs=EXACT)
        assert auroc(truth, 3 * score + 7) == auroc(truth, score)


@given(labelled())
@settings(deadline=None)
def test_within_type_auroc_equals_counting_pairs(problem: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    truth, score, types = problem
    won, pairs, varied = 0.0, 0, False
    for i in np.flatnonzero(truth):
        for j in np.flatnonzero(~truth):
            if types[i] == types[j]:
                pairs += 1
                won += 1.0 if score[i] > score[j] else 0.5 if score[i] == score[j] else 0.0
                varied |= len(set(score[types == types[i]])) > 1
    if pairs == 0:
        with pytest.raises(Undefined, match="no cancer type has both classes"):
            within_type_auroc(truth, score, types)
    elif not varied:
        with pytest.raises(Undefined, match="constant score within every cancer type"):
            within_type_auroc(truth, score, types)
    else:
        found = within_type_auroc(truth, score, types)
        assert found.pairs == pairs
        assert found.value == pytest.approx(won / pairs, abs=EXACT)
        shift = np.array([{"a": 0.0, "b": 100.0, "c": -50.0}[t] for t in types])
        assert within_type_auroc(truth, score + shift, types).value == pytest.approx(found.value, abs=EXACT)


def test_within_type_counts_by_hand() -> None:
    truth = np.array([True, False, False, True, False, True])
    score = np.array([3.0, 1.0, 3.0, 0.0, 5.0, 9.0])
    types = np.array(["A", "A", "A", "B", "B", "C"])
    found = within_type_auroc(truth, score, types)
    # A: 3 > 1 and 3 = 3, so 1.5 of 2; B: 0 < 5, so 0 of 1; C has one class.
    assert found.value == pytest.approx(1.5 / 3)
    assert (found.pairs, found.n) == (3, 5)
    assert found.per_type == {"A": 0.75, "B": 0.0}
    assert found.macro_mean == pytest.approx(0.375)


def all_tied(time: np.ndarray, event: np.ndarray, risk: np.ndarray) -> bool:
    """Whether every comparable pair has equal risks."""
    pairs = [(i, j) for i in range(len(time)) for j in range(len(time)) if event[i]]
    return all(risk[i] == risk[j] for i, j in pairs if time[i] < time[j] or (time[i] == time[j] and not event[j]))


@given(followed())
@settings(deadline=None)
def test_c_equals_lifelines_and_its_naive_twin(problem: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    time, event, risk = problem
    comparable = sum(
        event[i] and (time[i] < time[j] or (time[i] == time[j] and not event[j]))
        for i in range(len(time))
        for j in range(len(time))
    )
    if comparable == 0:
        with pytest.raises(Undefined, match="no comparable pair"):
            harrell_c(time, event, risk)
    elif len(set(risk)) == 1:
        with pytest.raises(Undefined, match="constant score"):
            harrell_c(time, event, risk)
    elif all_tied(time, event, risk):
        with pytest.raises(Undefined, match="constant risk over all comparable pairs"):
            harrell_c(time, event, risk)
    else:
        c = harrell_c(time, event, risk)
        assert c == pytest.approx(concordance_index(time, -risk, event), abs=EXACT)
        assert c == pytest.approx(naive_concordance_index(time, -risk, event), abs=EXACT)
        assert harrell_c(3 * time + 11, event, risk) == c
        assert harrell_c(time, event, -risk) == pytest.approx(1 - c, abs=EXACT)


@pytest.mark.parametrize(
    ("time", "event", "risk", "expected"),
    [
        ([1, 2, 3], [1, 1, 1], [3, 2, 1], 1.0),
        ([1, 2, 3], [1, 1, 1], [1, 2, 3], 0.0),
        ([1, 2, 3], [1, 0, 1], [1, 3, 2], 0.0),  # pairs (1, 2) and (1, 3) only
        ([1, 2, 3], [1, 1, 1], [2, 2, 1], 2.5 / 3),  # tied risk
        ([2, 2, 3], [1, 1, 1], [1, 5, 0], 1.0),  # two deaths at one time are not compared
        ([2, 2, 3], [1, 0, 0], [5, 1, 6], 0.5),  # a death comes before a censoring at the same time
    ],
)
def test_c_by_hand(time: list[int], event: list[int], risk: list[int], expected: float) -> None:
    assert harrell_c(np.array(time), np.array(event, dtype=bool), np.array(risk)) == pytest.approx(expected)


def test_c_of_many_patients_equals_lifelines() -> None:
    rng = np.random.default_rng(0)
    time = np.ceil(rng.exponential(size=5_000) * 300)
    event = rng.random(5_000) < 0.4
    risk = np.round(rng.normal(size=5_000), 2)
    assert harrell_c(time, event, risk) == pytest.approx(concordance_index(time, -risk, event), abs=EXACT)


def test_log_loss_equals_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    truth, linear = rng.random(50) < 0.3, rng.normal(size=50) * 3
    assert log_loss(truth, linear) == pytest.approx(sklearn_log_loss(truth, 1 / (1 + np.exp(-linear))))
    assert log_loss(truth[:1], np.array([2000.0 if truth[0] else -2000.0])) == 0.0
    with pytest.raises(Undefined, match="no patients"):
        log_loss(np.zeros(0, dtype=bool), np.zeros(0))


def test_cox_log_likelihood_by_hand() -> None:
    time, event = np.array([1.0, 1.0, 2.0]), np.array([True, True, False])
    a, b, c = np.log(2.0), 0.0, np.log(3.0)
    # Efron: risk set 2 + 1 + 3; the second of the tied deaths sees half of the deaths' hazard less.
    expected = a + b - np.log(6.0) - np.log(6.0 - 1.5)
    assert cox_log_likelihood(time, event, np.array([a, b, c])) == pytest.approx(expected)
    assert cox_log_likelihood(time, np.zeros(3, dtype=bool), np.array([a, b, c])) == 0.0


def test_nan_and_wrong_types_are_refused() -> None:
    truth = np.array([True, False])
    with pytest.raises(ValueError, match="NaN or infinite"):
        auroc(truth, [np.nan, 1.0])
    with pytest.raises(ValueError, match="NaN or infinite"):
        harrell_c([1.0, np.inf], truth, [0.0, 1.0])
    with pytest.raises(ValueError, match="must be bool"):
        auroc([1, 0], [0.0, 1.0])
    with pytest.raises(ValueError, match="both must be"):
        auroc(truth, [0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match="must be equal"):
        within_type_auroc(truth, [0.0, 1.0], ["a"])
    with pytest.raises(ValueError, match="both must be"):
        harrell_c([1.0], truth, [0.0, 1.0])


def test_rounding_is_no_score_and_reasons_count() -> None:
    truth = np.array([True, False, True])
    with pytest.raises(Undefined, match=r"constant score \(n 3\)"):
        auroc(truth, [0.1 + 0.2, 0.3, 0.3])
    with pytest.raises(Undefined) as caught:
        auroc(np.array([True, True]), [0.0, 1.0])
    assert caught.value.reason == "one class only"
    assert caught.value.counts == {"positives": 2, "negatives": 0}
