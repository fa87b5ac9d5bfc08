from __future__ import annotations

import numpy as np
import pytest

from bulkprobe.errors import UserError
from bulkprobe.probes.transform import Transform


def rows(n: int = 30, width: int = 12, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(n, width)) * np.arange(1, width + 1) + 5.0
    table[:, 3] = 2.5
    return table.astype(np.float32)


@pytest.mark.parametrize(
    ("transform", "features"), [(Transform(), 11), (Transform("pca", 4), 4), (Transform("hvg", 5), 5)]
)
@pytest.mark.parametrize("n", [30, 8], ids=["tall", "wide"])
def test_total_variance_is_one_and_apply_repeats_fit(transform: Transform, features: int, n: int) -> None:
    made = transform.fit(rows(n))
    fitted, prepared = made.fitted, made.rows
    assert prepared.dtype == np.float32
    assert prepared.shape == (n, features)
    assert prepared.var(axis=0).sum() == pytest.approx(1.0, rel=1e-6)
    np.testing.assert_allclose(prepared.mean(axis=0), 0.0, atol=1e-6)
    np.testing.assert_allclose(fitted.apply(rows(n)), prepared, atol=1e-6)
    coefficients = np.random.default_rng(1).normal(size=(features, 2))
    new = rows(7, seed=2)
    expected = fitted.apply(new) @ coefficients + [1.0, -1.0]
    np.testing.assert_allclose(fitted.score(new, coefficients, np.array([1.0, -1.0])), expected, atol=1e-10)


def test_pca_equals_scikit_learn() -> None:
    from sklearn.decomposition import PCA

    for table in (rows(40), rows(8)):
        z = np.delete(table.astype(float), 3, axis=1)
        z = (z - z.mean(axis=0)) / z.std(axis=0)
        expected = PCA(3, svd_solver="full").fit_transform(z)
        prepared = Transform("pca", 3).fit(table).rows
        expected = expected / np.sqrt(expected.var(axis=0).sum())
        np.testing.assert_allclose(np.abs(prepared), np.abs(expected), atol=1e-6)


def test_pca_signs_do_not_hang_on_the_side_that_is_decomposed() -> None:
    fitted = Transform("pca", 3).fit(rows(8)).fitted
    assert fitted.axes is not None
    largest = fitted.axes[np.abs(fitted.axes).argmax(axis=0), np.arange(3)]
    assert (largest > 0).all()
    np.testing.assert_allclose(fitted.axes.T @ fitted.axes, np.eye(3), atol=1e-6)  # the rows are float32


def test_hvg_takes_the_most_variable_and_sizes_above_take_all() -> None:
    fitted = Transform("hvg", 3).fit(rows(2000)).fitted
    assert fitted.kept.tolist() == [9, 10, 11]
    assert Transform("hvg", 99).fit(rows()).rows.shape == (30, 11)
    assert Transform("pca", 99).fit(rows()).rows.shape == (30, 11)
    assert Transform("pca", 99).fit(rows(6)).rows.shape == (6, 5)


def test_equal_rows_score_equally_to_the_last_bit() -> None:
    rng = np.random.default_rng(5)
    kind = rng.integers(0, 3, size=101)
    table = np.eye(3, dtype=np.float32)[kind] @ rng.normal(size=(3, 77)).astype(np.float32)
    table = np.stack([table[np.flatnonzero(kind == k)[0]] for k in kind])
    for transform in (Transform(), Transform("pca", 2)):
        made = transform.fit(table)
        fitted, prepared = made.fitted, made.rows
        score = fitted.score(table, rng.normal(size=(prepared.shape[1], 1)), np.zeros(1))[:, 0]
        assert len(set(score.tolist())) == 3
        np.testing.assert_array_equal(
            fitted.score(table[::-1][:7], np.ones((prepared.shape[1], 1)), np.zeros(1)),
            fitted.score(table, np.ones((prepared.shape[1], 1)), np.zeros(1))[::-1][:7],
        )


def test_no_feature_varies() -> None:
    for transform in (Transform(), Transform("pca", 2), Transform("hvg", 2)):
        made = transform.fit(np.full((5, 4), 0.1, dtype=np.float32))
        fitted, prepared = made.fitted, made.rows
        assert prepared.shape == (5, 0)
        score = fitted.score(np.ones((2, 4)), np.zeros((0, 1)), np.array([3.0]))
        np.testing.assert_array_equal(score, [[3.0], [3.0]])


def test_refusals() -> None:
    with pytest.raises(UserError, match=r"transform.kind is 'umap'"):
        Transform("umap")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="takes no size"):
        Transform("none", 3)
    with pytest.raises(UserError, match="needs a number of at least 1"):
        Transform("pca")
    with pytest.raises(ValueError, match="without NaN"):
        Transform().fit(np.full((3, 2), np.nan))
    fitted = Transform().fit(rows()).fitted
    with pytest.raises(ValueError, match="rows have width 2"):
        fitted.score(np.zeros((1, 2)), np.zeros((11, 1)), np.zeros(1))
    assert Transform("pca", 3).as_dict() == {"kind": "pca", "size": 3}
    assert Transform().as_dict() == {"kind": "none"}
