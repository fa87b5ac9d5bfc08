"""Co-expression: planted programs are found, cancer types and noise earn nothing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from scipy.stats import spearmanr

from bulkprobe.biology import coexpression as room
from bulkprobe.biology.coexpression import (
    PERMUTATIONS,
    Coexpression,
    coexpression,
    gene_pairs,
    held_out_r2,
    loadings,
    principal_gene_vectors,
    score_coexpression,
    variable_genes,
)
from bulkprobe.biology.contextual import average_states
from bulkprobe.probes.metrics import Undefined

GENES, TUMOURS, PROGRAMS = 240, 300, 6


def made(seed: int = 0, strength: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log expression (tumours, genes), cancer types, and the genes' loadings on the programs (genes, programs)."""
    rng = np.random.default_rng(seed)
    planted = np.eye(PROGRAMS)[np.arange(GENES) % PROGRAMS] * rng.uniform(0.5, 1.5, (GENES, 1))
    types = np.array([f"T{k % 4}" for k in range(TUMOURS)], dtype=object)
    offsets = rng.normal(size=(4, GENES)) * 3.0
    activity = rng.normal(size=(TUMOURS, PROGRAMS))
    noise = rng.normal(size=(TUMOURS, GENES))
    return strength * activity @ planted.T + noise + offsets[np.arange(TUMOURS) % 4], types, planted


def reader(values: np.ndarray) -> room.Blocks:
    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, len(values), 64):
            yield values[start : start + 64].astype(np.float32)

    return blocks


def measured(values: np.ndarray, types: np.ndarray) -> Coexpression:
    return coexpression(reader(values), types, seed=0)


def test_planted_loadings_predict_coexpression_and_noise_does_not() -> None:
    values, types, planted = made()
    known = measured(values, types)
    columns = np.arange(GENES)
    found = score_coexpression(planted, columns, known, seed=0)
    assert found.r2 > 0.7
    assert found.spearman is not None
    assert found.spearman > 0.3
    assert found.spearman_p == pytest.approx(1 / (1 + PERMUTATIONS), rel=1e-6)
    assert (found.n_genes, found.n_pairs) == (GENES, 20_000)
    noise = score_coexpression(np.random.default_rng(1).normal(size=(GENES, 12)), columns, known, seed=0)
    assert abs(noise.r2) < 0.1
    assert noise.spearman_p is not None
    assert noise.spearman_p > 0.02
    shuffled = score_coexpression(planted[np.random.default_rng(2).permutation(GENES)], columns, known, seed=0)
    assert abs(shuffled.r2) < 0.1


def test_differences_between_cancer_types_alone_earn_nothing() -> None:
    values, types, _ = made(strength=0.0)  # nothing but type means and noise
    known = measured(values, types)
    of_types = np.array([values[types == name].mean(axis=0) for name in np.unique(types)]).T
    of_types -= of_types.mean(axis=1, keepdims=True)
    found = score_coexpression(of_types, np.arange(GENES), known, seed=0)
    assert abs(found.r2) < 0.1
    assert found.spearman == pytest.approx(0.0, abs=0.05)
    # The same vectors know the co-expression that the types make where these are not taken out.
    as_one = score_coexpression(of_types, np.arange(GENES), measured(values, np.full(TUMOURS, "T")), seed=0)
    assert as_one.r2 > 0.5


def test_residuals_are_correlations_within_types() -> None:
    values, types, _ = made()
    known = measured(values, types)
    expected = values - np.array([values[types == name].mean(axis=0) for name in types])
    np.testing.assert_allclose(known.residual.T @ known.residual, np.corrcoef(expected.T), atol=1e-4)
    assert known.profile.shape == (GENES, room.COMPONENTS)


def test_r2_is_the_same_for_turned_and_stretched_vectors() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(120, 5))
    profile = vectors @ rng.normal(size=(5, 3)) + rng.normal(size=(120, 3))
    base = held_out_r2(vectors, profile, seed=0)
    turned = 7.0 * vectors @ np.linalg.qr(rng.normal(size=(5, 5)))[0] + 3.0
    np.testing.assert_allclose(held_out_r2(turned, profile, seed=0), base, atol=1e-9)
    assert len(base) == room.FOLDS


def test_only_genes_that_both_have_are_compared() -> None:
    values, types, planted = made()
    values[:, 10] = 1.0  # a gene that does not vary has no co-expression
    known = measured(values, types)
    assert 10 not in known.columns
    columns = np.arange(5, 200)
    found = score_coexpression(planted[5:200], columns, known, seed=0)
    assert found.n_genes == 194
    with pytest.raises(Undefined, match="too few genes with a vector vary"):
        score_coexpression(planted[:20], np.arange(20), known, seed=0)


def test_the_most_variable_genes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert variable_genes(np.array([1.0, 3.0, 0.0, 2.0]), 2).tolist() == [1, 3]
    assert variable_genes(np.array([1.0, 3.0, 0.0, 2.0]), 9).tolist() == [0, 1, 3]
    monkeypatch.setattr(room, "MOST_GENES", 100)
    values, types, _ = made()
    values[:, :100] *= 5.0
    assert measured(values, types).columns.tolist() == list(range(100))


def test_types_of_one_tumour_are_left_out_and_too_few_tumours_said() -> None:
    values, types, _ = made()
    types[0] = "alone"
    assert measured(values, types).residual.shape == (TUMOURS - 1, GENES)
    with pytest.raises(Undefined, match="too few tumours of types with several"):
        measured(values, np.arange(TUMOURS).astype(object))
    with pytest.raises(Undefined, match="too few genes vary"):
        measured(values[:, :20], types)


def test_spearman_is_scipys_over_all_pairs_of_few_genes() -> None:
    values, types, planted = made()
    known = measured(values, types)
    columns = np.arange(60)
    first, second = gene_pairs(60, seed=0)
    assert len(first) == 60 * 59 // 2
    unit = planted[:60] / np.linalg.norm(planted[:60], axis=1, keepdims=True)
    correlation = (known.residual[:, first] * known.residual[:, second]).sum(axis=0)
    expected = spearmanr(np.round((unit[first] * unit[second]).sum(axis=1), 6), correlation).statistic
    assert score_coexpression(planted[:60], columns, known, seed=0).spearman == pytest.approx(expected, abs=1e-6)


def test_equal_vectors_have_no_rank_correlation() -> None:
    values, types, _ = made()
    found = score_coexpression(np.ones((GENES, 3)), np.arange(GENES), measured(values, types), seed=0)
    assert found.spearman is None
    assert found.spearman_p is None


def test_pairs_are_different_ones_of_the_upper_triangle() -> None:
    first, second = gene_pairs(250, seed=1)
    assert len(first) == 20_000
    assert (first < second).all()
    assert first.min() >= 0
    assert second.max() < 250
    assert len(set(zip(first.tolist(), second.tolist(), strict=True))) == 20_000


def test_loadings_are_correlations_with_the_components() -> None:
    values, _, _ = made()
    standard = (values - values.mean(axis=0)) / values.std(axis=0) / np.sqrt(TUMOURS)
    found = loadings(standard.astype(np.float32), 5, seed=0)
    left, _, _ = np.linalg.svd(standard, full_matrices=False)
    expected = np.array([[np.corrcoef(gene, left[:, k])[0, 1] for k in range(3)] for gene in standard.T])
    np.testing.assert_allclose(np.abs(found[:, :3]), np.abs(expected), atol=1e-3)
    columns, vectors = principal_gene_vectors(reader(values), 5, GENES, seed=0)
    assert columns.tolist() == list(range(GENES))
    np.testing.assert_allclose(vectors[:, :3], found[:, :3], atol=1e-3)


def test_states_are_averaged_over_the_samples_that_read_a_gene() -> None:
    states = [(np.array([0, 2]), np.array([[1.0], [5.0]])), (np.array([2, 3]), np.array([[7.0], [9.0]]))]
    columns, vectors = average_states(states, 5)
    assert columns.tolist() == [2]  # the others were read in one sample
    assert vectors.tolist() == [[6.0]]
    assert average_states([], 5)[0].tolist() == []
