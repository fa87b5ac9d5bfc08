"""What is read of a sample, counted by hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from bulkprobe.shift.inputs import Read, bin_edges, marker_columns, marker_table, read_sample, side, token_histogram


@dataclass(frozen=True)
class Tokens:
    columns: np.ndarray
    values: np.ndarray


KNOWN = np.array([0, 1, 2, 3])  # of six genes
LENGTH = 2


def toy_tokens(values: np.ndarray) -> Tokens:
    """The two largest of the known expressed genes, each with its rank."""
    found = KNOWN[values[KNOWN] > 0]
    columns = found[np.argsort(-values[found], kind="stable")][:LENGTH]
    return Tokens(columns, np.arange(1, len(columns) + 1))


def toy_read(values: list[float], markers: tuple[np.ndarray, ...] = ()) -> Read:
    row = np.array(values, np.float32)
    return read_sample(row, toy_tokens(row), KNOWN, markers)


SAMPLES = [
    [5, 3, 1, 0, 2, 0],  # expressed 0 1 2 4; read 0 1; 2 is lost to length, 4 to the vocabulary
    [0, 0, 0, 7, 1, 1],  # expressed 3 4 5; read 3; 4 and 5 are lost to the vocabulary
    [0, 0, 0, 0, 0, 0],  # nothing
]


def test_a_side_counted_by_hand() -> None:
    found = side([toy_read(values) for values in SAMPLES])
    assert found["n"] == 3
    assert found["expressed"]["mean"] == pytest.approx(7 / 3)
    assert found["expressed"]["median"] == 3
    # The sample that expresses nothing has no share of its expressed genes.
    assert found["lost_to_vocabulary"]["mean"] == pytest.approx((1 / 4 + 2 / 3) / 2)
    assert found["lost_to_length"]["mean"] == pytest.approx((1 / 4 + 0) / 2)
    assert found["zero_fraction"]["mean"] == pytest.approx((2 / 6 + 3 / 6 + 1) / 3)
    assert found["tokens"]["mean"] == pytest.approx(1)
    assert found["expressed"]["low"] == pytest.approx(np.quantile([4, 3, 0], 0.05))
    assert found["expressed"]["high"] == pytest.approx(np.quantile([4, 3, 0], 0.95))


def test_an_unexpressed_token_is_no_loss_and_no_gain() -> None:
    row = np.array(SAMPLES[0], np.float32)
    everything = Tokens(KNOWN, row[KNOWN])  # a model that reads zeros too
    found = read_sample(row, everything, KNOWN)
    assert (found.lost_to_length, found.lost_to_vocabulary, len(found.values)) == (0, 1, 4)


def test_nothing_is_summarised_as_none() -> None:
    assert side([])["tokens"] == {"mean": None, "median": None, "low": None, "high": None}


def test_markers_counted_by_hand() -> None:
    names = ["A", "B", "C", "D", "E"]
    # B stands in two columns, of which one is known: known is known. C is unknown. D is not measured.
    columns = marker_columns(names, {"A": [2], "B": [1, 4], "C": [5], "E": [0]})
    reads = [toy_read(values, tuple(columns)) for values in SAMPLES]
    table = marker_table(names, columns, KNOWN, reads)
    third = pytest.approx(1 / 3)
    assert table["A"] == {
        "measured": True, "known": True, "expressed": third, "lost_to_vocabulary": 0, "lost_to_length": 1
    }  # fmt: skip
    # The second sample expresses B in its unknown column alone.
    assert table["B"]["expressed"] == pytest.approx(2 / 3)
    assert (table["B"]["lost_to_vocabulary"], table["B"]["lost_to_length"]) == (0.5, 0)
    assert table["C"] == {
        "measured": True, "known": False, "expressed": third, "lost_to_vocabulary": 1, "lost_to_length": 0
    }  # fmt: skip
    assert table["D"] == {
        "measured": False, "known": False, "expressed": None, "lost_to_vocabulary": None, "lost_to_length": None
    }  # fmt: skip
    assert (table["E"]["expressed"], table["E"]["lost_to_length"]) == (third, 0)


def read_of(values: list[float]) -> Read:
    return Read(1, 1, 0, 0, np.array(values, np.float32), np.empty((0, 3), bool))


def test_whole_numbers_get_a_bar_each_and_total_variation_is_half_the_difference() -> None:
    histogram, variation = token_histogram([read_of([1, 1]), read_of([2, 3])], [read_of([3, 4])])
    assert histogram == {
        "edges": [0.5, 1.5, 2.5, 3.5, 4.5], "bulk": [0.5, 0.25, 0.25, 0], "reference": [0, 0, 0.5, 0.5]
    }  # fmt: skip
    assert variation == pytest.approx((0.5 + 0.25 + 0.25 + 0.5) / 2)


def test_equal_sides_have_no_variation_and_disjoint_ones_the_whole() -> None:
    values = np.random.default_rng(0).normal(size=500).tolist()
    assert token_histogram([read_of(values)], [read_of(values)])[1] == 0
    assert token_histogram([read_of([0.5] * 9)], [read_of([7.25] * 3)])[1] == 1
    histogram, variation = token_histogram([read_of(values)], None)
    assert (variation, histogram["reference"]) == (None, None)
    assert sum(histogram["bulk"]) == pytest.approx(1)
    assert token_histogram([read_of([])], [read_of([1])]) == ({"edges": [], "bulk": [], "reference": None}, None)


def test_edges_hold_every_value() -> None:
    rng = np.random.default_rng(1)
    many, tailed = rng.integers(0, 2000, 900), np.exp(rng.normal(0, 3, 900)).astype(np.float32)
    for values in (many, tailed, rng.normal(size=900), np.array([0.25, 0.25]), np.array([4, 4])):
        edges = bin_edges(values)
        assert np.histogram(values, edges)[0].sum() == len(values)
        assert (np.diff(edges) > 0).all()
    steps = np.diff(np.log(bin_edges(tailed)))
    np.testing.assert_allclose(steps, steps[0])
    assert len(bin_edges(many)) == 41
