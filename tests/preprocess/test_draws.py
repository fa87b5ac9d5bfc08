from __future__ import annotations

import numpy as np
import pytest

from bulkprobe.preprocess.draws import legacy_orders, stream_of, weighted_orders

WEIGHTS = np.array([0.5, 1.0, 2.0, 4.0], np.float32)


def test_a_stream_is_the_samples_own() -> None:
    assert stream_of(1, "A").random() == stream_of(1, "A").random()
    assert len({stream_of(seed, name).random() for seed in (0, 1) for name in ("A", "B")}) == 4


@pytest.mark.parametrize("kind", ["race", "legacy"])
def test_both_ways_draw_by_weight_without_replacement(kind: str) -> None:
    n = 20_000
    if kind == "race":
        orders = weighted_orders(np.random.default_rng(1).standard_exponential((n, 4)), WEIGHTS)
    else:
        orders = legacy_orders(1, WEIGHTS, n)
    assert (np.sort(orders, axis=1) == np.arange(4)).all()
    shares = WEIGHTS / WEIGHTS.sum()
    np.testing.assert_allclose(np.bincount(orders[:, 0], minlength=4) / n, shares, atol=0.015)
    # Second place: the sum over who came first of their share times what is left to this one.
    second = [sum(shares[j] * shares[i] / (1 - shares[j]) for j in range(4) if j != i) for i in range(4)]
    np.testing.assert_allclose(np.bincount(orders[:, 1], minlength=4) / n, second, atol=0.015)


def test_in_a_race_the_others_do_not_matter() -> None:
    times = np.random.default_rng(2).standard_exponential((1, 4))
    whole = weighted_orders(times, WEIGHTS)[0]
    part = weighted_orders(times[:, [0, 1, 3]], WEIGHTS[[0, 1, 3]])[0]
    assert [i for i in whole if i != 2] == [[0, 1, 3][i] for i in part]
