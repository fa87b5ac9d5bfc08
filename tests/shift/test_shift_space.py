"""Shape of a cloud and distance between clouds, against direct formulas."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist, pdist
from sklearn.metrics.pairwise import cosine_similarity

from bulkprobe.shift.sampling import chosen_ids, grouped_folds, twins_of
from bulkprobe.shift.space import anisotropy, distances, geometry, squared_distances

IDS = [f"s{number}" for number in range(60)]


def cloud(seed: int, n: int, width: int = 5, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(n, width)) + shift).astype(np.float32)


def test_anisotropy_is_the_mean_cosine_of_all_pairs() -> None:
    vectors = cloud(0, 40, shift=1.0)
    cosines = cosine_similarity(vectors.astype(np.float64))
    assert geometry(vectors)["anisotropy"] == pytest.approx(cosines[~np.eye(40, dtype=bool)].mean(), abs=1e-9)
    centred = cosine_similarity(vectors.astype(np.float64) - vectors.astype(np.float64).mean(0))
    assert geometry(vectors)["anisotropy_centred"] == pytest.approx(centred[~np.eye(40, dtype=bool)].mean(), abs=1e-9)
    assert anisotropy(3 * vectors.astype(np.float64)) == pytest.approx(cosines[~np.eye(40, dtype=bool)].mean())


def test_a_vector_of_length_0_has_no_direction() -> None:
    vectors = np.array([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    assert anisotropy(vectors) == pytest.approx(np.sqrt(0.5))
    assert anisotropy(vectors[:2]) is None


def test_dimensions_of_a_cloud_with_planted_axes() -> None:
    """Equal variances along k axes give k, by either number; with unequal ones the formulas."""
    axes = np.linalg.qr(np.random.default_rng(1).normal(size=(30, 4)))[0]
    axes -= axes.mean(axis=0)
    left = np.linalg.qr(axes)[0]  # centred and orthonormal
    equal = geometry(left)
    assert equal["effective_rank"] == pytest.approx(4)
    assert equal["participation_ratio"] == pytest.approx(4)
    sizes = np.array([4.0, 2.0, 1.0, 1.0])
    found = geometry(left * sizes)
    share = sizes / sizes.sum()
    assert found["effective_rank"] == pytest.approx(np.exp(-(share * np.log(share)).sum()))
    assert found["participation_ratio"] == pytest.approx((sizes**2).sum() ** 2 / (sizes**4).sum())


def test_equal_vectors_have_no_shape() -> None:
    found = geometry(np.full((6, 3), 0.1, np.float32))
    assert found["anisotropy"] == pytest.approx(1)
    assert (found["anisotropy_centred"], found["effective_rank"], found["participation_ratio"]) == (None, None, None)


def test_squared_distances_are_those_of_scipy() -> None:
    vectors = cloud(3, 30, shift=100.0)
    direct = cdist(vectors.astype(np.float64), vectors.astype(np.float64), "sqeuclidean")
    np.testing.assert_allclose(squared_distances(vectors), direct, atol=1e-9)
    assert squared_distances(np.concatenate([vectors, vectors]))[0, 30] == 0


def brute_force_mmd(bulk: np.ndarray, reference: np.ndarray, twins: set[tuple[int, int]]) -> float:
    pooled = np.concatenate([bulk, reference]).astype(np.float64)
    bandwidth = np.median(pdist(pooled))

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.exp(-((a.astype(np.float64) - b) ** 2).sum() / (2 * bandwidth**2)))

    inside = [
        np.mean([kernel(a, b) for i, a in enumerate(s) for j, b in enumerate(s) if i != j]) for s in (bulk, reference)
    ]
    pairs = [kernel(a, b) for i, a in enumerate(bulk) for j, b in enumerate(reference) if (i, j) not in twins]
    return float(sum(inside) - 2 * np.mean(pairs))


def test_mmd_is_that_of_three_sums() -> None:
    bulk, reference = cloud(4, 12), cloud(5, 9, shift=0.5)
    strangers = distances(bulk, reference, IDS[:12], IDS[20:29], 0)["mmd"]
    assert strangers["value"] == pytest.approx(brute_force_mmd(bulk, reference, set()), abs=1e-9)
    some = distances(bulk, reference, IDS[:12], [*IDS[10:12], *IDS[20:27]], 0)["mmd"]
    assert some["value"] == pytest.approx(brute_force_mmd(bulk, reference, {(10, 0), (11, 1)}), abs=1e-9)
    assert strangers["bandwidth"] == pytest.approx(np.median(pdist(np.concatenate([bulk, reference]))), rel=1e-6)


def test_a_reference_equal_to_the_cohort_is_no_distance_away() -> None:
    bulk = cloud(6, 30)
    found = distances(bulk, bulk, IDS[:30], IDS[:30], 0)
    assert found["mmd"]["value"] == pytest.approx(0, abs=1e-12)
    assert found["mmd"]["p"] == 1
    assert [found["nearest"][key] for key in ("low", "median", "high")] == pytest.approx([1, 1, 1])
    shuffled = np.random.default_rng(0).permutation(30)
    again = distances(bulk, bulk[shuffled], IDS[:30], [IDS[place] for place in shuffled], 0)
    assert again["mmd"]["value"] == pytest.approx(0, abs=1e-12)
    assert again["nearest"]["median"] == pytest.approx(1)


def test_p_is_small_for_a_shift_and_spread_evenly_without() -> None:
    shifted = distances(cloud(7, 30), cloud(8, 30, shift=1.0), IDS[:30], IDS[30:60], 0)["mmd"]
    assert shifted["p"] == 1 / (1 + shifted["permutations"])
    null = [distances(cloud(seed, 20), cloud(900 + seed, 20), IDS[:20], IDS[20:40], 0)["mmd"] for seed in range(60)]
    assert 0.35 < np.mean([found["p"] for found in null]) < 0.65
    assert sum(found["p"] <= 0.1 for found in null) <= 12
    assert abs(np.mean([found["value"] for found in null])) < 0.01


def test_twins_swap_in_pairs() -> None:
    """Each cell is its tumour moved a little in one direction: between pairs nothing shows, within pairs all does."""
    bulk = 10 * cloud(9, 30)
    moved = bulk + np.float32(0.8)
    paired = distances(bulk, moved, IDS[:30], IDS[:30], 0)["mmd"]
    dealt = distances(bulk, moved, IDS[:30], IDS[30:60], 0)["mmd"]
    assert paired["p"] < 0.05 < dealt["p"]


def test_nearest_by_hand() -> None:
    bulk = np.array([[0.0], [1.0], [3.0]])
    reference = np.array([[0.5], [7.0]])
    found = distances(bulk, reference, IDS[:3], IDS[10:12], 0)["nearest"]
    ratios = [0.5 / 1, 0.5 / 1, 2.5 / 2]
    assert found["median"] == pytest.approx(0.5)
    assert found["high"] == pytest.approx(np.quantile(ratios, 0.95))
    twin = distances(bulk, reference, IDS[:3], ["s0", "x"], 0)["nearest"]  # the first tumour's own cell does not count
    assert twin["high"] == pytest.approx(np.quantile([7.0, 0.5, 1.25], 0.95))


def test_undefined_distances_say_why() -> None:
    one = distances(cloud(1, 1), cloud(2, 4), IDS[:1], IDS[10:14], 0)
    assert one["mmd"]["value"] is None
    assert "at least 2" in one["mmd"]["reason"]
    assert one["nearest"]["median"] is None
    assert one["nearest"]["reason"]
    flat = distances(np.ones((4, 2)), np.ones((4, 2)), IDS[:4], IDS[4:8], 0)
    assert "same vector" in flat["mmd"]["reason"]


def test_the_same_ids_are_chosen_wherever_they_stand() -> None:
    chosen = {IDS[place] for place in chosen_ids(3, IDS, 20)}
    mirrored = IDS[::-1]
    assert {mirrored[place] for place in chosen_ids(3, mirrored, 20)} == chosen
    assert len(chosen) == 20
    some = [name for name in IDS if name in chosen or name in IDS[::2]]
    assert {some[place] for place in chosen_ids(3, some, 20)} == chosen  # others that go make no difference
    assert {IDS[place] for place in chosen_ids(4, IDS, 20)} != chosen
    assert chosen_ids(3, IDS, None).tolist() == list(range(60))


def test_twins_and_folds() -> None:
    first, second = twins_of(["a", "b", "c"], ["c", "x", "a"])
    assert (first.tolist(), second.tolist()) == ([0, 2], [2, 0])
    with pytest.raises(ValueError, match="repeats"):
        twins_of(["a", "a"], ["b"])
    groups = np.array([*IDS[:30], *IDS[20:60]])
    side = np.arange(70) >= 30
    folds = grouped_folds(groups, side, 5, 0)
    assert all(len(set(folds[groups == name])) == 1 for name in IDS)
    assert all(6 - 1 <= (folds[~side] == fold).sum() <= 6 + 1 for fold in range(5))
    assert all(8 - 1 <= (folds[side] == fold).sum() <= 8 + 1 for fold in range(5))
