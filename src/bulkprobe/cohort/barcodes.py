"""TCGA barcodes: TCGA-TSS-PART-SSV-PPA-PLAT-CC.

Tissue source site, participant, sample type and vial, portion and analyte, plate, centre
(https://docs.gdc.cancer.gov/Encyclopedia/pages/TCGA_Barcode/).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from bulkprobe.errors import UserError, some

PATIENT_LENGTH = 12
SAMPLE_LENGTH = 15
PRIMARY = "01"
BLOOD = "03"
METASTASIS = "06"
SAMPLE_TYPES = {
    "01": "primary solid tumour",
    "02": "recurrent solid tumour",
    "03": "primary blood-derived cancer",
    "05": "additional new primary",
    "06": "metastasis",
    "07": "additional metastasis",
    "10": "blood-derived normal",
    "11": "solid tissue normal",
}

_FORM = (
    r"^(?P<patient>TCGA-(?P<site>[A-Z0-9]{2})-[A-Z0-9]{4})"
    r"(?:-(?P<sample_type>\d{2})"
    r"(?:(?P<vial>[A-Z])"
    r"(?:-(?P<portion>\d{2})(?P<analyte>[A-Z])-(?P<plate>[A-Z0-9]{4})-(?P<centre>[A-Z0-9]{2}))?)?)?$"
)
_PATTERN = re.compile(_FORM)
PARTS = tuple(_PATTERN.groupindex)


@dataclass(frozen=True)
class Barcode:
    """The parts of one barcode; what a shorter barcode does not say is None."""

    text: str
    patient: str
    site: str
    sample_type: str | None = None
    vial: str | None = None
    portion: str | None = None
    analyte: str | None = None
    plate: str | None = None
    centre: str | None = None


def _refusal(found: Iterable[str]) -> UserError:
    return UserError(
        f"malformed TCGA barcode: {some(repr(text) for text in found)}; expected 12 (patient), 15 (sample), "
        "16 (vial) or 28 (aliquot) characters such as TCGA-02-0001-01C-01R-0177-01; correct the identifiers"
    )


def is_barcode(text: str) -> bool:
    """Say whether `text` is a TCGA barcode of 12, 15, 16 or 28 characters."""
    return _PATTERN.match(text) is not None


def parse_barcode(text: str) -> Barcode:
    """Take one barcode of 12, 15, 16 or 28 characters apart. Errors: `UserError` if it is malformed."""
    match = _PATTERN.match(text)
    if match is None:
        raise _refusal([text])
    return Barcode(text, **match.groupdict())


def split_barcodes(barcodes: Iterable[str]) -> pd.DataFrame:
    """Take barcodes apart: one row each, columns `PARTS`, index = the barcodes, absent parts are None.

    Errors: `UserError` listing malformed barcodes.
    """
    index = pd.Index(list(barcodes), dtype=object)
    matches = [_PATTERN.match(str(text)) for text in index]
    wrong = [text for text, match in zip(index, matches, strict=True) if match is None]
    if wrong:
        raise _refusal(wrong)
    rows = [match.groupdict() for match in matches if match is not None]
    return pd.DataFrame(rows, index=index, columns=list(PARTS), dtype=object)
