from __future__ import annotations

import pytest

from bulkprobe.cohort.barcodes import is_barcode, parse_barcode, split_barcodes
from bulkprobe.errors import UserError

WHOLE = "TCGA-02-0001-01C-01R-0177-07"


def test_whole_aliquot() -> None:
    barcode = parse_barcode(WHOLE)
    assert barcode.patient == "TCGA-02-0001"
    assert barcode.site == "02"
    assert (barcode.sample_type, barcode.vial) == ("01", "C")
    assert (barcode.portion, barcode.analyte) == ("01", "R")
    assert (barcode.plate, barcode.centre) == ("0177", "07")


@pytest.mark.parametrize(
    ("length", "sample_type", "vial", "plate"),
    [(12, None, None, None), (15, "01", None, None), (16, "01", "C", None), (28, "01", "C", "0177")],
)
def test_shorter_barcodes(length: int, sample_type: str | None, vial: str | None, plate: str | None) -> None:
    barcode = parse_barcode(WHOLE[:length])
    assert (barcode.sample_type, barcode.vial, barcode.plate) == (sample_type, vial, plate)
    assert is_barcode(WHOLE[:length])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "TCGA",
        "tcga-02-0001-01",
        "TCGA-02-0001-1",
        "TCGA.02.0001.01",
        "TCGA-02-0001-01C-01R",
        WHOLE + "-1",
        " " + WHOLE,
    ],
)
def test_malformed(text: str) -> None:
    assert not is_barcode(text)
    with pytest.raises(UserError, match="malformed TCGA barcode"):
        parse_barcode(text)


def test_table_of_barcodes() -> None:
    table = split_barcodes([WHOLE, WHOLE[:12], WHOLE])
    assert list(table["patient"]) == ["TCGA-02-0001"] * 3
    assert table["plate"].iloc[1] is None
    assert split_barcodes([]).empty


def test_malformed_are_counted() -> None:
    wrong = [f"X{i}" for i in range(12)]
    with pytest.raises(UserError, match=r"malformed TCGA barcode: 'X0', .*12 in all"):
        split_barcodes([WHOLE, *wrong])
