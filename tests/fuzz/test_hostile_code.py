"""Files made to run code: nothing of them is run."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from guarding import outcome
from hostile import BY_NAME, canary, made

from bulkprobe.errors import UserError
from bulkprobe.foreign import load_yaml
from bulkprobe.nn.files import PLAIN, TENSORS, read_pickle, read_torch


@pytest.mark.parametrize("write", [pickle.dump, torch.save])
def test_a_checkpoint_cannot_run_code(tmp_path: Path, write: Callable[..., None]) -> None:
    for name in ("v.pkl", "m.pt"):
        with (tmp_path / name).open("wb") as file:
            write({"a": canary(tmp_path)}, file)
    for allowed in (PLAIN, PLAIN | TENSORS):
        assert outcome(lambda: read_pickle(tmp_path / "v.pkl", allowed), tmp_path)  # noqa: B023
    assert outcome(lambda: read_torch(tmp_path / "m.pt"), tmp_path)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("place", ["obs/_index", "X"])
@pytest.mark.parametrize("role", ["filters", "compressor"])
def test_a_zarr_array_of_pickled_objects_is_not_read(tmp_path: Path, place: str, role: str) -> None:
    reader = made("anndata.zarr-2", tmp_path)
    array = tmp_path / "a.zarr" / place
    meta = json.loads((array / ".zarray").read_text())
    codec = {"id": "pickle", "protocol": 5}
    meta[role] = [*(meta["filters"] or ()), codec] if role == "filters" else codec
    (array / ".zarray").write_text(json.dumps(meta))
    for chunk in array.glob("[0-9]*"):
        chunk.write_bytes(pickle.dumps(canary(tmp_path)))
    assert outcome(lambda: reader.read(tmp_path), tmp_path)
    assert not (tmp_path / "canary").exists()


def test_a_parquet_extension_type_is_not_unpickled(tmp_path: Path) -> None:
    meta = {
        "ARROW:extension:name": "arrow.py_extension_type",
        "ARROW:extension:metadata": pickle.dumps(canary(tmp_path)),
    }
    field = pa.field("gene", pa.string(), metadata=meta)
    table = pa.Table.from_arrays([pa.array(["TP53"]), pa.array([1])], schema=pa.schema([field, ("S1", pa.int64())]))
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    outcome(lambda: BY_NAME["matrix.parquet"].read(tmp_path), tmp_path)
    assert not (tmp_path / "canary").exists()


def test_yaml_makes_no_objects() -> None:
    with pytest.raises(UserError, match="could not determine a constructor"):
        load_yaml("!!python/object/apply:os.system ['true']")
