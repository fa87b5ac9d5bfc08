"""Vocabularies are pickled dictionaries, often of NumPy's own numbers and texts."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from bulkprobe.errors import UserError
from bulkprobe.nn.files import read_pickle

KINDS = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "b1")


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_numbers_and_texts_of_numpy_are_read(protocol: int, tmp_path: Path) -> None:
    written = {np.str_("ENSG00000141510"): np.str_("TP53"), b"x": np.bytes_(b"ab")}
    written |= {kind: np.dtype(kind).type(1) for kind in KINDS}
    (tmp_path / "v.pkl").write_bytes(pickle.dumps(written, protocol=protocol))
    found = read_pickle(tmp_path / "v.pkl")
    assert found == written
    assert [type(value) for value in found.values()] == [type(value) for value in written.values()]


@pytest.mark.parametrize("value", [np.datetime64("2020-01-01"), np.complex128(1j), np.array([1]), np.dtype("O")])
def test_other_things_of_numpy_are_refused(value: object, tmp_path: Path) -> None:
    (tmp_path / "v.pkl").write_bytes(pickle.dumps({"a": value}))
    with pytest.raises(UserError, match="is not a pickle that may be read"):
        read_pickle(tmp_path / "v.pkl")
