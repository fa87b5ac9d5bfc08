"""Vocabularies are pickled dictionaries, often of NumPy's own numbers and texts."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from bulkprobe.errors import UserError
from bulkprobe.foreign import MOST_TEXT_BYTES
from bulkprobe.nn.files import PLAIN, TENSORS, read_pickle

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


def test_a_graph_larger_than_any_text_is_read(tmp_path: Path) -> None:
    graph = torch.zeros(2, MOST_TEXT_BYTES // 16 + 10, dtype=torch.int64)
    with (tmp_path / "settings.pkl").open("wb") as handle:
        pickle.dump({"G_go": graph}, handle, protocol=4)
    assert (tmp_path / "settings.pkl").stat().st_size > MOST_TEXT_BYTES
    found = read_pickle(tmp_path / "settings.pkl", PLAIN | TENSORS)
    assert found["G_go"].shape == graph.shape
    (tmp_path / "settings.pkl").unlink()
