"""Current gene symbols, from a table of the HUGO Gene Nomenclature Committee (genenames.org)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bulkprobe.errors import UserError

APPROVED, STATUS, ENSEMBL = "Approved symbol", "Status", "Ensembl gene ID"
OLD = ("Alias symbols", "Previous symbols")  # in this order: what a gene was called before beats what it is also called


@dataclass(frozen=True)
class Nomenclature:
    """What a table says of names: old or other symbol → approved symbol, and Ensembl id → approved symbol."""

    current: dict[str, str]
    of_ensembl: dict[str, str]


def read_nomenclature(path: Path) -> Nomenclature:
    """Read the tab-separated download of HGNC; only approved entries count, and an approved symbol is never renamed.

    Where several entries claim an old name the last one has it.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: a checkpoint folder must hold the files exactly as released")
    try:
        table = pd.read_csv(path, sep="\t", usecols=[APPROVED, STATUS, ENSEMBL, *OLD], dtype=str)
    except ValueError as problem:  # also what pandas raises for bytes that are no table
        raise UserError(f"{path} is no HGNC table: {' '.join(str(problem).split())[:160]}; fetch it again") from None
    table = table[(table[STATUS] == "Approved") & table[APPROVED].notna()]
    approved = set(table[APPROVED])
    current = {}
    for column in OLD:
        for names, symbol in table.loc[table[column].notna(), [column, APPROVED]].itertuples(index=False):
            current.update({name: symbol for name in names.split(", ") if name not in approved})
    known = table[table[ENSEMBL].notna()]
    return Nomenclature(current, dict(zip(known[ENSEMBL], known[APPROVED], strict=True)))


def current_symbols(
    symbols: Sequence[str], ensembl_ids: Sequence[str], known: Collection[str], names: Nomenclature
) -> list[str]:
    """Return each gene's name for a vocabulary of symbols; "" for one that has none or whose name stands before.

    A gene without a symbol (or with its Ensembl id in that place) gets the approved one. Then the symbols that are not
    in the vocabulary, in alphabetical order, become the approved symbol unless another gene has that name already.
    """
    given = [
        symbol if symbol and symbol != ensembl else names.of_ensembl.get(ensembl, "")
        for symbol, ensembl in zip(symbols, ensembl_ids, strict=True)
    ]
    columns: dict[str, int] = {}
    for column, name in enumerate(given):
        if name:
            columns.setdefault(name, column)
    for name in sorted(set(columns) - set(known)):
        symbol = names.current.get(name)
        if symbol is not None and symbol not in columns:
            columns[symbol] = columns.pop(name)
    found = [""] * len(given)
    for name, column in columns.items():
        found[column] = name
    return found
