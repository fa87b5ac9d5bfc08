"""Set recovery: AUROC against counting pairs by hand, its null, what must not change it, and what must."""

from __future__ import annotations

import numpy as np
import pytest

from bulkprobe.biology import levels
from bulkprobe.biology.levels import cosines, count_levels, level_table, unit_vectors
from bulkprobe.biology.paralogs import Paralogs, paralogs_of_pairs, paralogs_of_symbols
from bulkprobe.biology.sets import Recovery, pair_auroc, permutation_p, set_recovery
from bulkprobe.errors import UserError
from bulkprobe.probes.metrics import Undefined
from bulkprobe.sources.simulate import simulate

Sets = list[np.ndarray]


def no_paralogs(n: int) -> Paralogs:
    return paralogs_of_symbols([""] * n)


def recover(vectors: np.ndarray, sets: Sets, paralogs: Paralogs | None = None, draws: int = 20) -> Recovery:
    used = no_paralogs(len(vectors)) if paralogs is None else paralogs
    return set_recovery(vectors, sets, used, random_sets=draws, seed=3)[0 if paralogs is None else 1]


def by_counting(vectors: np.ndarray, members: np.ndarray, left_out: set[tuple[int, int]] = frozenset()) -> float:  # type: ignore[assignment]
    """The definition, pair by pair."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(length > 0, length, 1)
    cosine = np.round(unit @ unit.T, 6)

    def kept(i: int, j: int) -> bool:
        return (i, j) not in left_out and (j, i) not in left_out

    inside = set(members.tolist())
    within = [cosine[i, j] for i in members for j in members if i < j and kept(i, j)]
    between = [cosine[i, j] for i in members for j in range(len(vectors)) if j not in inside and kept(i, j)]
    difference = np.subtract.outer(np.array(within), np.array(between))
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


@pytest.fixture(scope="module")
def planted() -> tuple[np.ndarray, Sets]:
    """The loadings of a simulated cohort's genes on its programs, and the genes of each program."""
    loadings = simulate(patients=200, genes=1200, seed=5).loadings.to_numpy(dtype=np.float64)
    return loadings, [np.flatnonzero(column) for column in loadings.T]


def test_hand_counted() -> None:
    vectors = np.array([[1, 0], [1, 1], [0, 1], [1, -1.0]])
    # Set {0, 1}: one pair at cosine 0.707. Outside: 0-2 at 0, 0-3 at 0.707 (a tie), 1-2 at 0.707 (a tie), 1-3 at 0.
    assert recover(vectors, [np.array([0, 1])]).auroc.tolist() == [0.75]


@pytest.mark.parametrize("seed", range(5))
def test_auroc_is_the_share_of_pairs_counted_one_by_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-2, 3, size=(40, 3)).astype(float)  # whole numbers: many ties and zero vectors
    sets = [np.sort(rng.permutation(40)[:size]) for size in (2, 5, 17)]
    paralogs = paralogs_of_pairs(rng.integers(0, 40, size=(60, 2)), 40)
    pairs = {(i, j) for i in range(40) for j in range(40) if paralogs.between(np.array(i), np.array(j))}
    expected = [by_counting(vectors, members) for members in sets]
    np.testing.assert_allclose(recover(vectors, sets).auroc, expected, atol=1e-12)
    found = recover(vectors, sets[1:], paralogs)
    np.testing.assert_allclose(found.auroc, [by_counting(vectors, m, pairs) for m in sets[1:]], atol=1e-12)


@pytest.mark.parametrize("kind", ["continuous", "tied", "one_hot"])
def test_random_sets_are_scored_as_exactly_as_their_null_needs(kind: str) -> None:
    rng = np.random.default_rng(0)
    vectors = {
        "continuous": rng.normal(size=(300, 6)),
        "tied": rng.integers(0, 2, size=(300, 4)).astype(float),
        "one_hot": np.eye(8)[rng.integers(0, 8, 300)] * (rng.random((300, 1)) < 0.7),
    }[kind]
    unit = unit_vectors(vectors)
    similarity, itself = cosines(unit, unit), np.eye(300, dtype=bool)
    table = level_table(similarity)
    counts = count_levels(similarity, itself, table)
    for size in (3, 20, 50):
        members = np.sort(rng.permutation(300)[:size])
        shares = counts.shares(members, members)
        assert shares is not None
        first, second = np.triu_indices(size, 1)
        fast = shares[table[similarity[members][:, members][first, second]]].mean()
        assert fast == pytest.approx(by_counting(vectors, members), abs=0.001 if kind == "continuous" else 1e-12)


def test_planted_loadings_are_recovered_and_shuffled_ones_are_not(planted: tuple[np.ndarray, Sets]) -> None:
    loadings, sets = planted
    found = recover(loadings, sets, draws=50)
    assert found.mean > 0.9
    assert found.p == pytest.approx(1 / 51)
    shuffled = recover(loadings[np.random.default_rng(1).permutation(len(loadings))], sets, draws=50)
    assert shuffled.mean == pytest.approx(0.5, abs=0.02)
    assert shuffled.p > 0.05


def test_random_vectors_score_a_half_within_the_error_that_the_null_states() -> None:
    sets = [np.arange(k * 20, k * 20 + 20) for k in range(10)]
    deviations, p_values = [], []
    for seed in range(20):
        found = recover(np.random.default_rng(seed).normal(size=(400, 8)), sets, draws=40)
        deviations.append((found.mean - found.null_means.mean()) / found.null_means.std(ddof=1))
        p_values.append(found.p)
        assert found.mean == pytest.approx(0.5, abs=0.02)
    assert abs(np.mean(deviations)) < 3 / np.sqrt(20)
    assert 0.6 < np.std(deviations) < 1.5
    assert 0.3 < np.mean(p_values) < 0.7


def test_the_null_of_the_mean_keeps_what_sets_share() -> None:
    vectors = np.random.default_rng(0).normal(size=(300, 4))
    one = recover(vectors, [np.arange(30)], draws=200)
    same = recover(vectors, [np.arange(30)] * 5, draws=200)
    assert same.null_means.std() == pytest.approx(one.null_means.std())
    apart = recover(vectors, [np.arange(30 * k, 30 * k + 30) for k in range(5)], draws=200)
    assert apart.null_means.std() < 0.7 * one.null_means.std()


def test_turning_and_stretching_the_vectors_and_reordering_genes_change_nothing() -> None:
    rng = np.random.default_rng(2)
    vectors, sets = rng.normal(size=(200, 7)), [np.arange(15), np.arange(100, 140)]
    base = recover(vectors, sets).auroc
    turned = vectors @ np.linalg.qr(rng.normal(size=(7, 7)))[0]
    np.testing.assert_allclose(recover(turned, sets).auroc, base, atol=2e-5)
    stretched = vectors * rng.uniform(0.1, 10, size=(200, 1))
    np.testing.assert_allclose(recover(stretched, sets).auroc, base, atol=2e-5)
    order = rng.permutation(200)
    place = np.argsort(order)
    np.testing.assert_allclose(recover(vectors[order], [place[s] for s in sets]).auroc, base, atol=2e-5)


def test_a_sample_of_outside_genes_stands_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    vectors = rng.normal(size=(900, 5))
    vectors[:60, 0] += 2.0
    whole = recover(vectors, [np.arange(60)])
    assert whole.n_outside == 900
    monkeypatch.setattr("bulkprobe.biology.sets.OUTSIDE", 300)
    part = recover(vectors, [np.arange(60)])
    assert part.n_outside == 300
    assert part.auroc[0] == pytest.approx(whole.auroc[0], abs=0.03)
    assert part.auroc[0] == recover(vectors, [np.arange(60)]).auroc[0]


def test_undefined_is_said_and_never_a_half() -> None:
    with pytest.raises(Undefined, match="every pair of genes is equally similar"):
        recover(np.ones((30, 4)), [np.arange(5)])
    with pytest.raises(Undefined, match="every pair of genes is equally similar"):
        recover(np.zeros((30, 4)), [np.arange(5)])
    broken = np.random.default_rng(0).normal(size=(30, 4))
    paralogs = paralogs_of_symbols([f"ABC{k}" for k in range(5)] + [""] * 25)
    found = recover(broken, [np.arange(5)], paralogs)
    with pytest.raises(Undefined, match="no set has two genes that can be compared"):
        _ = found.mean
    broken[3, 1] = np.nan
    with pytest.raises(UserError, match="1 of 30 gene vectors hold NaN"):
        recover(broken, [np.arange(5)])


def test_pieces() -> None:
    assert pair_auroc([2, 3], [1, 2]) == 0.875
    assert np.isnan(pair_auroc([], [1]))
    assert permutation_p(0.5, np.array([0.4, 0.5, np.nan, 0.6])) == 0.75
    table = level_table(np.array([[0, 5, 5, 5, 9]], dtype=np.int32) + levels.STEPS)
    # 5, which many have, is alone in its level.
    assert table[levels.STEPS + np.array([-1, 0, 4, 5, 6, 8, 9, 10])].tolist() == [0, 1, 2, 3, 4, 4, 5, 5]
