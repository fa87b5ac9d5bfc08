from __future__ import annotations

import numpy as np
import pytest

from bulkprobe.errors import UserError
from bulkprobe.preprocess.draws import stream_of
from bulkprobe.preprocess.thinning import thin

COUNTS = np.array([0, 1, 2, 30, 400, 5_000, 60_000, 0], np.float32)
LIBRARY = float(COUNTS.sum())


def drawn(depth: float, draws: int) -> np.ndarray:
    return np.stack([thin(COUNTS, depth, stream_of(seed, f"S/{depth}")) for seed in range(draws)])


@pytest.mark.parametrize("depth", [60_000, 1_000, 50])
def test_every_count_is_kept_with_one_probability(depth: int) -> None:
    draws = 4_000
    found, share = drawn(depth, draws).astype(np.float64), depth / LIBRARY
    mean, variance = COUNTS * share, COUNTS * share * (1 - share)
    seen = COUNTS > 0
    z = (found.mean(axis=0) - mean)[seen] / np.sqrt(variance[seen] / draws)
    assert np.abs(z).max() < 4
    # The variance of a sample variance, from the binomial's own fourth moment.
    fourth = variance * (1 + 3 * (COUNTS - 2) * share * (1 - share))
    error = np.sqrt((fourth - variance**2)[seen] / draws)
    assert (np.abs(found.var(axis=0) - variance)[seen] < 4 * error).all()
    covariance = np.cov(found[:, 5], found[:, 6])[0, 1]  # counts are kept each for itself: no fixed total
    assert abs(covariance) < 4 * np.sqrt(variance[5] * variance[6] / draws)


def test_thinned_counts_are_whole_and_no_more_than_there_were() -> None:
    found = drawn(5_000, 50)
    assert found.dtype == np.float32
    assert (found == np.rint(found)).all()
    assert (found <= COUNTS).all()
    assert (found >= 0).all()
    assert (found[:, COUNTS == 0] == 0).all()


@pytest.mark.parametrize("depth", [LIBRARY, LIBRARY + 1, 10_000_000])
def test_the_whole_depth_changes_nothing_not_even_fractions(depth: float) -> None:
    assert (thin(COUNTS, depth, stream_of(0, "S")) == COUNTS).all()
    fractions = np.array([0.4, 1.6], np.float32)
    kept = thin(fractions, depth, stream_of(0, "S"))
    assert (kept == fractions).all()
    kept[0] = 9
    assert fractions[0] != 9


def test_fractional_counts_are_rounded_half_to_even_first() -> None:
    fractions = np.array([0.5, 1.5, 2.5, 1000.4])
    rounded = np.array([0.0, 2.0, 2.0, 1000.0])
    found = [thin(values, 300, stream_of(3, "S")) for values in (fractions, rounded)]
    assert (found[0] == found[1]).all()
    assert found[0].dtype == np.float64
    # Its fractions may be all that a library has above the depth: then every whole count stays.
    assert thin(np.array([1.4, 2.0]), 3.2, stream_of(3, "S")).tolist() == [1.0, 2.0]


def test_a_sample_is_thinned_for_itself() -> None:
    one = thin(COUNTS, 1_000, stream_of(7, "A/1000"))
    thin(COUNTS[::-1], 1_000, stream_of(7, "B/1000"))
    assert (thin(COUNTS, 1_000, stream_of(7, "A/1000")) == one).all()
    assert (thin(COUNTS, 1_000, stream_of(7, "B/1000")) != one).any()
    assert (thin(COUNTS, 1_000, stream_of(8, "A/1000")) != one).any()


def test_what_cannot_be_thinned_is_refused() -> None:
    stream = stream_of(0, "S")
    for wrong in (-1.0, np.nan, np.inf):
        with pytest.raises(UserError, match="counts were expected"):
            thin(np.array([1.0, wrong]), 10, stream)
    with pytest.raises(UserError, match="depth above 0"):
        thin(COUNTS, 0, stream)
