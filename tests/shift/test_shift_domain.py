"""Whether bulk and reference are told apart: by nothing where they are one, by everything where they differ."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from bulkprobe.probes.metrics import auroc
from bulkprobe.shift.domain import _resampled, _scores, domain_auroc

IDS = [f"s{number}" for number in range(400)]


def cloud(seed: int, n: int, width: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)


def test_a_reference_equal_to_the_cohort_cannot_be_told_apart() -> None:
    bulk = cloud(0, 120)
    found = domain_auroc(bulk, bulk, IDS[:120], IDS[:120], 0)
    assert found["low"] <= 0.5 <= found["high"]
    assert found["value"] == 0.5
    order = np.random.default_rng(1).permutation(120)
    again = domain_auroc(bulk, bulk[order], IDS[:120], [IDS[place] for place in order], 0)
    assert again["value"] == 0.5


def test_without_grouping_twins_across_folds_would_drive_it_far_below() -> None:
    """The same numbers under ids of their own: a test sample's twin stands in training with the other label."""
    bulk = cloud(0, 120, width=64)
    naive = domain_auroc(bulk, bulk, IDS[:120], IDS[120:240], 0)
    assert naive["value"] < 0.3
    assert naive["high"] < 0.5


def test_near_twins_in_one_fold_do_not_bias_either() -> None:
    bulk = cloud(2, 150, width=64)
    near = bulk + 0.05 * cloud(3, 150, width=64)
    found = domain_auroc(bulk, near, IDS[:150], IDS[:150], 0)
    assert found["low"] <= 0.5 <= found["high"]


def test_a_shift_is_seen() -> None:
    found = domain_auroc(cloud(4, 100), cloud(5, 100) + 2, IDS[:100], IDS[100:200], 0)
    assert found["value"] > 0.95
    assert found["low"] > 0.9
    assert found["reason"] is None


def test_two_random_halves_lie_within_the_interval_of_one_half() -> None:
    found = [domain_auroc(cloud(seed, 80), cloud(70 + seed, 80), IDS[:80], IDS[80:160], seed) for seed in range(10)]
    assert sum(each["low"] <= 0.5 <= each["high"] for each in found) >= 8
    assert 0.45 < np.mean([each["value"] for each in found]) < 0.55
    assert all(0.05 < each["high"] - each["low"] < 0.3 for each in found)


def test_the_span_of_the_training_rows_loses_nothing() -> None:
    """Wide embeddings are brought to as many coordinates as there are rows: the same classifier."""
    rows, test = cloud(6, 40, width=90).astype(np.float64), cloud(7, 20, width=90).astype(np.float64)
    label = np.arange(40) % 3 == 0
    mean, sd = rows.mean(axis=0), rows.std(axis=0) * np.sqrt(90)
    direct = LogisticRegression(tol=1e-9, max_iter=5000).fit((rows - mean) / sd, label)
    np.testing.assert_allclose(_scores(rows, label, test), direct.decision_function((test - mean) / sd), atol=1e-3)


def test_the_observed_auroc_is_the_metric() -> None:
    rng = np.random.default_rng(8)
    label, score = rng.random(50) < 0.4, rng.integers(0, 6, 50).astype(np.float64)
    drawn = _resampled(score, label, np.array(IDS[:50]), rng)
    assert drawn[0] == pytest.approx(auroc(label, score))
    assert abs(np.nanmean(drawn[1:]) - drawn[0]) < 0.02


def test_too_few_samples_have_a_reason() -> None:
    found = domain_auroc(cloud(9, 100), cloud(10, 19), IDS[:100], IDS[100:119], 0)
    assert found["value"] is None
    assert "19 cells" in found["reason"]
    constant = domain_auroc(np.ones((40, 3)), np.ones((40, 3)), IDS[:40], IDS[40:80], 0)
    assert (constant["value"], constant["low"], constant["high"]) == (0.5, 0.5, 0.5)
