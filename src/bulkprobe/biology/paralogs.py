"""Paralogs: genes of one family, whose vectors may be alike because of their names or sequences alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.intp]
Flags = npt.NDArray[np.bool_]

RULE = (
    "genes of one symbol stem: the symbol up to its first hyphen, without a final number that may hold or end in a "
    "letter (KRT5, KRT6A: KRT; HLA-A, HLA-DRB1: HLA), or, where it has no digit, without a final A to H (LDHA, LDHB: "
    "LDH); no stem have CD, KIAA, LINC, LOC, MIR numbers, orf names, clone names and mitochondrial genes; approximate: "
    "it joins some unrelated genes and misses paralogs of different names"
)
TABLE_RULE = "the pairs of the given table"
_NUMBERED = re.compile(r"([A-Z][A-Z0-9]*?[A-Z])\d+[A-Z]?\d*[A-Z]?")  # the shortest stem that leaves such an ending
_LETTERED = re.compile(r"([A-Z]{3,})[A-H]")
_BIT = (128 >> np.arange(8)).astype(np.uint8)
_NUMBERS_ONLY = {"CD", "KIAA", "LINC", "LOC", "MIR"}  # catalogues: equal letters say nothing of descent


def stem_of(symbol: str) -> str | None:
    """Return the stem of a gene symbol by `RULE`; None where it has none."""
    first, hyphen, rest = symbol.partition("-")
    if first == "MT" or "." in rest:
        return None
    found = _NUMBERED.fullmatch(first) or (None if hyphen else _LETTERED.fullmatch(first))
    if found:
        return None if found[1] in _NUMBERS_ONLY else found[1]
    return first if hyphen and re.fullmatch(r"[A-Z][A-Z0-9]+", first) and first not in _NUMBERS_ONLY else None


@dataclass(frozen=True)
class Paralogs:
    """Which pairs of n genes are paralogs: one bit a pair, (n, ceil(n / 8)) uint8, symmetric; no gene is its own."""

    bits: npt.NDArray[np.uint8]
    rule: str

    def between(self, first: Ints, second: Ints) -> Flags:
        """Return bool, the genes' numbers broadcast against each other: whether they are paralogs."""
        flags: Flags = self.bits[first, second >> 3] & _BIT[second & 7] != 0
        return flags


def paralogs_of_symbols(symbols: Sequence[str]) -> Paralogs:
    """Return the paralogs among genes by the stems of their symbols ("" has none)."""
    families: dict[str, list[int]] = {}
    for gene, symbol in enumerate(symbols):
        stem = stem_of(symbol)
        if stem is not None:
            families.setdefault(stem, []).append(gene)
    bits = np.zeros((len(symbols), -(-len(symbols) // 8)), dtype=np.uint8)
    for family in families.values():
        flags = np.zeros(len(symbols), dtype=bool)
        flags[family] = True
        bits[family] = np.packbits(flags)
    genes = np.arange(len(symbols))
    bits[genes, genes >> 3] &= ~_BIT[genes & 7]
    return Paralogs(bits, RULE)


def paralogs_of_pairs(pairs: Ints, n_genes: int) -> Paralogs:
    """Return the paralogs that a table lists: pairs (n_pairs, 2) of gene numbers, in either order."""
    bits = np.zeros((n_genes, -(-n_genes // 8)), dtype=np.uint8)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    for first, second in (pairs.T, pairs.T[::-1]):
        np.bitwise_or.at(bits, (first, second >> 3), _BIT[second & 7])
    return Paralogs(bits, TABLE_RULE)
