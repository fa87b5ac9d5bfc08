from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cosine, pdist
from scipy.stats import ortho_group
from sklearn.neighbors import NearestNeighbors

from bulkprobe.shift import ladder
from bulkprobe.shift.ladder import (
    cosine_distance,
    linear_cka,
    lost_from,
    mean_distance,
    nearest,
    neighbour_overlap,
    spread,
)

RNG = np.random.default_rng(11)
ROWS = RNG.normal(size=(60, 7)).astype(np.float32)
OTHER = (ROWS + 0.4 * RNG.normal(size=ROWS.shape)).astype(np.float32)


def test_cosine_distance_is_that_of_scipy() -> None:
    expected = [cosine(a, b) for a, b in zip(ROWS.astype(float), OTHER.astype(float), strict=True)]
    np.testing.assert_allclose(cosine_distance(ROWS, OTHER), expected, atol=1e-12)
    axes = np.array([[1.0, 0], [1, 0], [1, 0], [2, 0]])
    found = cosine_distance(axes, np.array([[0.0, 3], [-5, 0], [1, 1], [2, 0]]))
    np.testing.assert_allclose(found, [1, 2, 1 - np.sqrt(0.5), 0], atol=1e-15)


def test_equal_rows_have_no_distance_at_all() -> None:
    wide = RNG.normal(3.0, 1.0, (40, 3072)).astype(np.float32)
    assert (cosine_distance(wide, wide.copy()) == 0).all()


def test_a_vector_without_direction_has_no_distance() -> None:
    found = cosine_distance(np.array([[0.0, 0], [1, 0]]), np.array([[1.0, 0], [1, 0]]))
    assert np.isnan(found[0])
    assert found[1] == 0
    assert spread(found) == {"mean": 0.0, "median": 0.0, "low": 0.0, "high": 0.0}
    assert spread(found[:1]) == dict.fromkeys(("mean", "median", "low", "high"))


def test_the_mean_distance_runs_over_all_pairs() -> None:
    assert mean_distance(ROWS) == pytest.approx(pdist(ROWS.astype(float), "cosine").mean(), abs=1e-12)
    assert mean_distance(ROWS[:1]) is None


def test_neighbours_are_those_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = NearestNeighbors(n_neighbors=6, metric="cosine").fit(ROWS.astype(float))
    expected = reference.kneighbors(return_distance=False)[:, :5]
    monkeypatch.setattr(ladder, "BLOCK", 7)
    assert (nearest(ROWS, 5) == expected).all()


def test_overlap_counts_the_neighbours_kept() -> None:
    # Angles on a circle: who is nearest is plain to see. Exchanging two of four pairs keeps the neighbours of the rest.
    angles = np.deg2rad([0, 1, 90, 91, 180, 181, 270, 271])
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    exchanged = circle[[0, 2, 1, 3, 4, 5, 6, 7]]
    assert neighbour_overlap(circle, circle, 1) == 1
    assert neighbour_overlap(circle, exchanged, 1) == 0.5
    assert neighbour_overlap(circle[:2], circle[:2], 1) is None


def test_unrelated_vectors_share_neighbours_by_chance_only() -> None:
    one, other = RNG.normal(size=(400, 20)), RNG.normal(size=(400, 30))
    assert neighbour_overlap(one, other, 10) == pytest.approx(10 / 399, abs=0.01)


def test_order_rotation_and_scale_change_nothing() -> None:
    order = RNG.permutation(len(ROWS))
    turned = ROWS.astype(float) @ ortho_group.rvs(7, random_state=3) * 9.0
    for measure in (linear_cka, neighbour_overlap):
        value = measure(ROWS, OTHER)
        assert value is not None
        assert 0 < value < 1
        assert measure(ROWS[order], OTHER[order]) == pytest.approx(value, abs=1e-12)
        assert measure(turned, OTHER) == pytest.approx(value, abs=1e-9)
        assert measure(OTHER, ROWS) == pytest.approx(value, abs=1e-12)
    assert linear_cka(turned + 5.0, ROWS) == pytest.approx(1.0, abs=1e-6)


def unbiased_hsic(k: np.ndarray, m: np.ndarray) -> float:
    """Song et al. 2012, equation 5, as it is printed there."""
    n, one = len(k), np.ones(len(k))
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    total = np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return float((total - 2 / (n - 2) * one @ k @ m @ one) / (n * (n - 3)))


def test_alignment_is_that_of_the_printed_estimator() -> None:
    a, b = ROWS.astype(float), OTHER[:, :4].astype(float)
    k, m = a @ a.T, b @ b.T
    expected = unbiased_hsic(k, m) / np.sqrt(unbiased_hsic(k, k) * unbiased_hsic(m, m))
    assert linear_cka(ROWS, OTHER[:, :4]) == pytest.approx(expected, abs=1e-9)


def test_wide_unrelated_vectors_are_not_aligned() -> None:
    one, other = RNG.normal(size=(100, 800)), RNG.normal(size=(100, 700))
    a, b = one - one.mean(axis=0), other - other.mean(axis=0)
    plain = np.linalg.norm(b.T @ a) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    assert plain > 0.8
    assert linear_cka(one, other) == pytest.approx(0, abs=0.05)


def test_alignment_of_too_few_or_constant_vectors_is_undefined() -> None:
    assert linear_cka(ROWS[:3], OTHER[:3]) is None
    assert linear_cka(ROWS, np.ones((60, 2))) is None


@pytest.mark.parametrize(
    ("full", "scores", "depth"),
    [
        (0.9, {1000: 0.6, 10_000: 0.69, 100_000: 0.71, 1_000_000: 0.9}, 10_000),
        (0.9, {1000: 0.6, 10_000: 0.8, 100_000: 0.6}, 1000),  # what comes back was not lost
        (0.9, {1000: None, 10_000: 0.8}, 1000),
        (0.9, {1000: 0.3, 10_000: 0.2}, 10_000),
        (0.9, {1000: 0.71, 10_000: 0.9}, None),
        (0.54, {1000: 0.5}, None),
        (None, {1000: None}, None),
    ],
)
def test_half_of_a_score_is_lost_from_a_depth_on(
    full: float | None, scores: dict[int, float | None], depth: int | None
) -> None:
    found, reason = lost_from(full, dict(reversed(scores.items())))
    assert found == depth
    assert (reason is None) == (depth is not None)
