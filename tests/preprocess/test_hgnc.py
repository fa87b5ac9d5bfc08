from __future__ import annotations

from pathlib import Path

import pytest

from bulkprobe.errors import UserError
from bulkprobe.preprocess.hgnc import Nomenclature, current_symbols, read_nomenclature

TABLE = """HGNC ID\tApproved symbol\tStatus\tPrevious symbols\tAlias symbols\tEnsembl gene ID
1\tONE\tApproved\tUNO, WAS\tEIN, BOTH\tENSG01
2\tTWO\tApproved\tDUO\tZWEI, BOTH, ONE, UNO\tENSG02
3\tTHREE\tApproved\t\t\t
4\tGONE\tEntry Withdrawn\tLOST\tMISSED\tENSG04
5\tFIVE\tApproved\tBOTH\t\tENSG05
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.tsv"
    path.write_text(TABLE)
    return path


def test_the_last_claim_wins_previous_beats_alias_and_approved_names_stay(table: Path) -> None:
    found = read_nomenclature(table)
    assert found.current == {"EIN": "ONE", "ZWEI": "TWO", "UNO": "ONE", "WAS": "ONE", "DUO": "TWO", "BOTH": "FIVE"}
    assert found.of_ensembl == {"ENSG01": "ONE", "ENSG02": "TWO", "ENSG05": "FIVE"}


@pytest.mark.parametrize("content", [b"", b"a\tb\n1\t2\n", b"\xff\xfe\x00", b'Approved symbol\t"\n'])
def test_what_is_no_such_table_is_refused(table: Path, content: bytes) -> None:
    table.write_bytes(content)
    with pytest.raises(UserError, match=r"table.tsv is no HGNC table: .*; fetch it again"):
        read_nomenclature(table)
    table.unlink()
    with pytest.raises(UserError, match=r"table.tsv is missing"):
        read_nomenclature(table)


NAMES = Nomenclature({"UNO": "ONE", "EIN": "ONE", "DUO": "TWO"}, {"ENSG01": "ONE", "ENSG09": "NINE"})


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["UNO", "X"], ["ONE", "X"]),
        (["UNO", "ONE"], ["UNO", "ONE"]),  # the approved symbol is there: the old one stays as it is
        (["UNO", "EIN"], ["UNO", "ONE"]),  # two old names of a gene: the alphabetically first
        (["DUO"], ["DUO"]),  # in the vocabulary under its old name
        (["X", "X", "UNO", "UNO"], ["X", "", "ONE", ""]),  # the first of a name counts
    ],
)
def test_symbols_become_current_where_the_vocabulary_does_not_know_them(given: list[str], found: list[str]) -> None:
    assert current_symbols(given, [""] * len(given), {"ONE", "DUO"}, NAMES) == found


def test_ensembl_ids_stand_in_where_there_is_no_symbol() -> None:
    symbols = ["", "ENSG09", "OWN", "", "ONE"]
    ensembl = ["ENSG01", "ENSG09", "ENSG09", "ENSG77", "ENSG01"]
    assert current_symbols(symbols, ensembl, {"ONE"}, NAMES) == ["ONE", "NINE", "OWN", "", ""]
