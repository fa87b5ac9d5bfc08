"""The vectorised bootstrap against the plain one and against the metrics of the probes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkprobe.probes.metrics import auroc, harrell_c, within_type_auroc
from bulkprobe.probes.units import attempt
from bulkprobe.stages.resampling import (
    TestPart,
    draw_patients,
    mutation_pairs,
    percentile_interval,
    resample_label,
    survival_pairs,
)
from bulkprobe.statistics import bootstrap_difference


def people(n: int) -> list[str]:
    return [f"P{number:03d}" for number in range(n)]


@given(seed=st.integers(0, 10_000), n=st.integers(6, 40), levels=st.integers(2, 6))
@settings(max_examples=60, deadline=None)
def test_every_draw_is_the_metric_of_the_drawn_patients(seed: int, n: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    truth, types = rng.random(n) < 0.4, rng.choice(["A", "B", "C"], n)
    score = rng.integers(0, levels, n) / 4.0  # with ties
    time, event = rng.integers(1, 9, n).astype(float), rng.random(n) < 0.6
    draws = draw_patients(people(n), 8, seed)
    cases = {
        "auroc": (mutation_pairs(truth), lambda rows: auroc(truth[rows], score[rows])),
        "within": (
            mutation_pairs(truth, types),
            lambda rows: within_type_auroc(truth[rows], score[rows], types[rows]).value,
        ),
        "c": (survival_pairs(time, event), lambda rows: harrell_c(time[rows], event[rows], score[rows])),
    }
    for name, (pairs, metric) in cases.items():
        found = resample_label(draws, {0: TestPart(draws.patients, pairs)}, {"x": {0: score}})["x"]
        for counts, mean in zip(draws.counts, found.means, strict=True):
            rows = np.repeat(np.arange(n), counts.astype(int))
            expected, reason = attempt(lambda metric=metric, rows=rows: metric(rows))  # type: ignore[misc]
            if reason is None:
                assert mean == pytest.approx(expected, abs=1e-12), name
            elif "constant" in reason:  # among the drawn: every pair is tied
                assert mean == 0.5, name
            else:
                assert np.isnan(mean), name


def test_the_interval_is_that_of_the_plain_bootstrap() -> None:
    rng = np.random.default_rng(3)
    n, splits = 60, 3
    ids = people(n)
    truth = rng.random(n) < 0.4
    tested = {split: np.sort(rng.permutation(n)[:25]) for split in range(splits)}
    scores = {name: {s: truth[rows] + rng.normal(0, 1.5, 25) for s, rows in tested.items()} for name in "ab"}
    draws = draw_patients(ids, 200, 11)
    parts = {s: TestPart(draws.patients[rows], mutation_pairs(truth[rows])) for s, rows in tested.items()}
    found = resample_label(draws, parts, scores)
    low, high, undefined, reason = percentile_interval((found["a"].means - found["b"].means)[1:], 0.9)

    def difference(drawn: np.ndarray) -> float | None:
        times = pd.Series(drawn).value_counts().reindex(ids, fill_value=0).to_numpy()
        values = []
        for split, rows in tested.items():
            again = np.repeat(np.arange(25), times[rows])
            chosen = truth[rows][again]
            if chosen.all() or not chosen.any():
                return None
            values.append(auroc(chosen, scores["a"][split][again]) - auroc(chosen, scores["b"][split][again]))
        return float(np.mean(values))

    plain = bootstrap_difference(difference, ids, n_boot=200, seed=11, level=0.9)
    assert (undefined, reason) == (plain.n_undefined, plain.reason) == (0, None)
    assert (low, high) == pytest.approx((plain.low, plain.high), abs=1e-12)
    assert found["a"].means[0] - found["b"].means[0] == pytest.approx(plain.estimate, abs=1e-12)


def test_large_counts_are_exact() -> None:
    rng = np.random.default_rng(0)
    n = 2000
    truth, score = rng.random(n) < 0.5, rng.integers(0, 50, n).astype(float)
    draws = draw_patients(people(n), 20, 0)
    found = resample_label(draws, {0: TestPart(draws.patients, mutation_pairs(truth))}, {"x": {0: score}})["x"]
    for counts, mean in zip(draws.counts, found.means, strict=True):
        rows = np.repeat(np.arange(n), counts.astype(int))
        assert mean == pytest.approx(auroc(truth[rows], score[rows]), abs=1e-14)


def test_draws_hold_every_patient_as_often_as_drawn_and_do_not_depend_on_order() -> None:
    draws = draw_patients(people(30), 5, (7, 9))
    assert (draws.counts.sum(axis=1) == 30).all()
    assert (draws.counts[0] == 1).all()
    again = draw_patients(people(30)[::-1], 5, (7, 9))
    assert draws.patients.equals(again.patients)
    assert (draws.counts == again.counts).all()
    assert (draws.counts != draw_patients(people(30), 5, (7, 10)).counts).any()


def test_too_many_undefined_draws_give_no_interval() -> None:
    values = np.r_[np.full(6, np.nan), np.linspace(0, 1, 94)]
    assert percentile_interval(values, 0.95) == (
        None,
        None,
        6,
        "the difference is undefined in 6 of 100 draws, more than 5%",
    )
    low, high, undefined, reason = percentile_interval(np.r_[np.nan, np.arange(99.0)], 0.5)
    assert (low, high, undefined, reason) == (24.5, 73.5, 1, None)
