"""Paralogs by symbol or table, and a signal that is theirs alone."""

from __future__ import annotations

import numpy as np
import pytest

from bulkprobe.biology.paralogs import RULE, TABLE_RULE, paralogs_of_pairs, paralogs_of_symbols, stem_of
from bulkprobe.biology.sets import set_recovery


@pytest.mark.parametrize(
    ("symbol", "stem"),
    [
        ("KRT5", "KRT"),
        ("KRT6A", "KRT"),
        ("HLA-A", "HLA"),
        ("HLA-DRB1", "HLA"),
        ("CYP51A1", "CYP"),
        ("GTF2H2C", "GTF"),
        ("RPL7P1", "RPL"),
        ("NKX2-1", "NKX"),
        ("KRTAP5-1", "KRTAP"),
        ("LDHA", "LDH"),
        ("LDHB", "LDH"),
        ("MAPK8IP2", "MAPK8IP"),
        ("TP53", "TP"),
        ("F2", None),
        ("MYC", None),
        ("CD4", None),
        ("MT-CO1", None),
        ("LINC00115", None),
        ("C1orf112", None),
        ("RP11-34P13.7", None),
        ("AC012345.1", None),
        ("", None),
    ],
)
def test_stem(symbol: str, stem: str | None) -> None:
    assert stem_of(symbol) == stem


def test_pairs_of_symbols() -> None:
    symbols = ["KRT5", "HLA-A", "KRT6A", "", "HLA-B", "MYC", "KRT14", "", "CD4", "CD8A"]
    genes = np.arange(len(symbols))
    found = paralogs_of_symbols(symbols)
    pairs = {(int(i), int(j)) for i, j in np.argwhere(found.between(genes[:, None], genes)) if i < j}
    assert pairs == {(0, 2), (0, 6), (2, 6), (1, 4)}
    assert found.rule == RULE


def test_pairs_of_a_table_hold_both_ways_and_no_gene_is_its_own() -> None:
    genes = np.arange(12)
    found = paralogs_of_pairs(np.array([[0, 11], [9, 3], [3, 9], [4, 4]]), 12)
    flags = found.between(genes[:, None], genes)
    assert {tuple(pair) for pair in np.argwhere(flags)} == {(0, 11), (11, 0), (3, 9), (9, 3)}
    assert found.rule == TABLE_RULE


def test_a_signal_of_paralogs_alone_vanishes_when_they_are_left_out() -> None:
    rng = np.random.default_rng(0)
    # Forty families of five; each of the ten sets holds four whole families, which have nothing in common.
    families = np.repeat(np.arange(40), 5)
    vectors = rng.normal(size=(40, 16))[families] + 0.1 * rng.normal(size=(200, 16))
    symbols = [f"{chr(65 + family // 26)}{chr(65 + family % 26)}X{k % 5 + 1}" for k, family in enumerate(families)]
    sets = [np.flatnonzero(families // 4 == k) for k in range(10)]
    whole, apart = set_recovery(vectors, sets, paralogs_of_symbols(symbols), random_sets=100, seed=0)
    assert whole.mean > 0.6
    assert whole.p < 0.02
    assert apart.pairs_left_out == 10 * 4 * 10
    assert apart.mean == pytest.approx(0.5, abs=0.06)
    assert apart.p > 0.05


def test_a_signal_of_the_set_itself_stays() -> None:
    rng = np.random.default_rng(1)
    families = np.repeat(np.arange(40), 5)
    vectors = rng.normal(size=(10, 16))[families // 4] + 0.3 * rng.normal(size=(200, 16))
    symbols = [f"{chr(65 + family // 26)}{chr(65 + family % 26)}X{k % 5 + 1}" for k, family in enumerate(families)]
    sets = [np.flatnonzero(families // 4 == k) for k in range(10)]
    _, apart = set_recovery(vectors, sets, paralogs_of_symbols(symbols), random_sets=20, seed=0)
    assert apart.mean > 0.95
