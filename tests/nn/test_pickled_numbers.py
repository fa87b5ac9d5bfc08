"""Vocabularies are pickled dictionaries, often of NumPy's own numbers and texts."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from bulkprobe.errors import UserError
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


def test_a_gene_graph_of_the_released_size_is_read(tmp_path: Path) -> None:
    """scLong keeps the 21 strongest links of each of its 27,874 genes."""
    links = 21 * 27_874
    settings = {"G_go": torch.zeros(2, links, dtype=torch.int64), "G_go_weight": torch.ones(links)}
    (tmp_path / "settings.pkl").write_bytes(pickle.dumps(settings, pickle.HIGHEST_PROTOCOL))
    found = read_pickle(tmp_path / "settings.pkl", PLAIN | TENSORS)
    assert {name: tensor.shape for name, tensor in found.items()} == {"G_go": (2, links), "G_go_weight": (links,)}
