"""Stores and checkpoints made to fill the memory: chunks, filters, texts and pickles that unfold."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numcodecs
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
import zarr
from guarding import outcome
from hostile import BY_NAME, HUGE, made, rewrite_json
from reading import SAMPLES

from bulkprobe import foreign
from bulkprobe.foreign_zarr import open_group
from bulkprobe.nn.files import PLAIN, TENSORS, read_dictionary, read_pickle, read_torch

ZEROS = numcodecs.Zstd().encode(bytes(1 << 28)) * 8  # frames of 2 GiB in 64 KiB
BLOSC = bytes(numcodecs.Blosc().encode(np.zeros(64, "u1")))
BLOSC = BLOSC[:4] + struct.pack("<I", (1 << 31) - 100) + BLOSC[8:]
LZ4 = struct.pack("<I", (1 << 31) - 100) + bytes(20)


def spoil(array: Path, content: bytes) -> None:
    """Put a content into every chunk of an array."""
    chunks = [p for p in array.rglob("*") if p.is_file() and p.name not in (".zarray", ".zattrs", "zarr.json")]
    assert chunks
    for path in chunks:
        path.write_bytes(content)


@pytest.mark.parametrize("place", ["X", "obs/_index", "obs/age"])
@pytest.mark.parametrize(
    ("codec", "content"), [("zstd", ZEROS), ("blosc", BLOSC), ("lz4", LZ4)], ids=["zstd", "blosc", "lz4"]
)
def test_a_chunk_of_zarr_2_cannot_unpack_to_any_size(tmp_path: Path, place: str, codec: str, content: bytes) -> None:
    reader = made("anndata.zarr-2", tmp_path)
    rewrite_json(tmp_path / "a.zarr" / place / ".zarray", compressor={"id": codec})
    spoil(tmp_path / "a.zarr" / place, content)
    assert "claims" in str(outcome(lambda: reader.read(tmp_path), tmp_path))


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("anndata-sparse.zarr-3", "a.zarr/X/data"),
        ("anndata.zarr-3", "a.zarr/var/length"),
        ("embedding-store", "s.zarr/sample_id"),
        ("expression.zarr", "expression.zarr/var/symbol"),
    ],
)
def test_a_chunk_of_zarr_3_cannot_unpack_to_any_size(tmp_path: Path, name: str, array: str) -> None:
    reader = made(name, tmp_path)
    zstd = {"name": "zstd", "configuration": {"level": 0, "checksum": False}}
    codecs = json.loads((tmp_path / array / "zarr.json").read_text())["codecs"]
    rewrite_json(tmp_path / array / "zarr.json", codecs=[codecs[0], zstd])
    spoil(tmp_path / array, ZEROS)
    assert "claims" in str(outcome(lambda: reader.read(tmp_path), tmp_path))


@pytest.mark.parametrize("name", ["anndata.zarr-2", "anndata.zarr-3"])
def test_a_chunk_holds_the_texts_that_it_counts(tmp_path: Path, name: str) -> None:
    reader, array = made(name, tmp_path), tmp_path / "a.zarr" / "obs" / "_index"
    if name.endswith("2"):
        rewrite_json(array / ".zarray", compressor=None)
    else:
        rewrite_json(array / "zarr.json", codecs=[{"name": "vlen-utf8"}])
    spoil(array, struct.pack("<I", (1 << 31) - 1) + bytes(100))
    assert "texts and holds" in str(outcome(lambda: reader.read(tmp_path), tmp_path))


@pytest.mark.parametrize("shuffled", [True, False])
def test_a_shard_cannot_unpack_to_any_size(tmp_path: Path, shuffled: bool) -> None:
    codecs = [zarr.codecs.BloscCodec(typesize=4)] if shuffled else [zarr.codecs.ZstdCodec()]
    array = zarr.create_array(
        str(tmp_path / "a.zarr" / "x"), shape=(8,), chunks=(4,), shards=(8,), dtype="f4", compressors=codecs
    )
    array[:] = np.arange(8)
    (path,) = [p for p in (tmp_path / "a.zarr").rglob("c/*") if p.is_file()]
    content, index = path.read_bytes()[:-36], path.read_bytes()[-36:-4]
    offset, length = struct.unpack("<QQ", index[:16])
    if shuffled:
        bad = content[: offset + 4] + struct.pack("<I", (1 << 31) - 100) + content[offset + 8 :]
    else:
        bad = content + ZEROS
        index = struct.pack("<QQ", len(content), len(ZEROS)) + index[16:]
    assert length
    path.write_bytes(bad + index + struct.pack("<I", int(numcodecs.CRC32C().encode(index)[-4:].view("<u4")[0])))
    zarr.open_group(str(tmp_path / "a.zarr"), mode="a")
    assert "claims" in str(outcome(lambda: open_group(tmp_path / "a.zarr")["x"][:], tmp_path))


def test_what_was_packed_well_is_read(tmp_path: Path) -> None:
    for number, compressor in enumerate(
        (numcodecs.Zstd(), numcodecs.Blosc(), numcodecs.LZ4(), numcodecs.Zstd(9, True))
    ):
        group = zarr.open_group(str(tmp_path / f"{number}.zarr"), mode="w", zarr_format=2)
        values = np.tile(np.arange(1000.0), 1000)
        group.create_array("x", data=values, chunks=(500_000,), compressors=[compressor])
        np.testing.assert_array_equal(open_group(tmp_path / f"{number}.zarr")["x"][:], values)


@pytest.mark.parametrize(
    "changes",
    [
        {"compressor": {"id": "bz2", "level": 1}},
        {"compressor": {"id": "lzma"}},
        {"compressor": {"id": "zlib", "level": 1}, "filters": [{"id": "zlib", "level": 1}]},
        {"compressor": None, "filters": [{"id": "zstd"}, {"id": "zstd"}]},
    ],
)
def test_packing_twice_or_in_other_ways_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    reader = made("anndata.zarr-2", tmp_path)
    rewrite_json(tmp_path / "a.zarr" / "obs" / "age" / ".zarray", **changes)
    assert "is packed by" in str(outcome(lambda: reader.read(tmp_path), tmp_path))


def test_hdf5_is_not_unpacked_twice(tmp_path: Path) -> None:
    reader = made("anndata.h5ad", tmp_path)
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        del file["obs/age"]
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_chunk((len(SAMPLES),))
        settings.set_deflate(1)
        settings.set_deflate(1)
        h5py.h5d.create(file["obs"].id, b"age", h5py.h5t.IEEE_F64LE, h5py.h5s.create_simple((len(SAMPLES),)), settings)
    assert "packed by deflate and deflate" in str(outcome(lambda: reader.read(tmp_path), tmp_path))


@pytest.mark.parametrize("kind", ["long", "wide"])
def test_the_scale_of_an_h5ad_is_a_word(tmp_path: Path, kind: str) -> None:
    reader = made("anndata.h5ad", tmp_path)
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        del file["uns/scale"]
        if kind == "long":
            made_scale = file["uns"].create_dataset("scale", (HUGE,), "f8", chunks=(1024,))
            made_scale.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        else:
            made_scale = file["uns"].create_dataset("scale", (), "S2000000000")
            made_scale.attrs.update({"encoding-type": "string", "encoding-version": "0.2.0"})
    assert "uns/scale" in str(outcome(lambda: reader.read(tmp_path), tmp_path))


def test_the_scale_of_a_zarr_is_a_word(tmp_path: Path) -> None:
    reader = made("anndata.zarr-2", tmp_path)
    rewrite_json(tmp_path / "a.zarr" / "uns" / "scale" / ".zarray", shape=[HUGE], chunks=[1 << 20])
    assert "claims" in str(outcome(lambda: reader.read(tmp_path), tmp_path))


@pytest.mark.parametrize("name", ["anndata.h5ad", "anndata.zarr-2", "anndata.zarr-3", "embedding-store"])
def test_texts_are_measured_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(foreign, "MOST_TEXT_BYTES", 100)
    reader = made(name, tmp_path)
    assert "more than 100 bytes of text" in str(outcome(lambda: reader.read(tmp_path), tmp_path))


@pytest.mark.parametrize("name", ["clinical.parquet", "matrix.parquet", "mutations.parquet", "gene-table.parquet"])
def test_a_text_of_parquet_cannot_stand_in_every_row(tmp_path: Path, name: str) -> None:
    text = pa.DictionaryArray.from_arrays(np.zeros(50_000, np.int32), ["x" * 100_000])  # 5 GB, stored once
    table = pa.table({"sample_id": text, "symbol": text, "gene": text, "mutated": [1] * 50_000})
    path = tmp_path / "s.parquet"
    pa.parquet.write_table(table.select(["gene", "mutated"]) if name == "matrix.parquet" else table, path)
    assert path.stat().st_size < 1 << 20
    assert "bytes of text" in str(outcome(lambda: BY_NAME[name].read(tmp_path), tmp_path))


def test_a_cell_of_parquet_holds_one_value(tmp_path: Path) -> None:
    pa.parquet.write_table(pa.table({"sample_id": ["a"], "age": [[1, 2]]}), tmp_path / "s.parquet")
    assert "lists in its cells" in str(outcome(lambda: BY_NAME["clinical.parquet"].read(tmp_path), tmp_path))


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04}r" + struct.pack("<I", 1 << 28) + b".",  # the unpickler's memory, for 2^28 values
        b"}p4294967000\n.",
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 42) + b".",  # bytes that are not there
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 42) + b".",
        b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b".",
        b"(" * 1_000_000 + b".",
        b"]" * 3 + b"\x85" * 200_000 + b".",  # tuples in tuples
    ],
)
def test_a_pickle_has_what_it_names(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "v.pkl").write_bytes(content)
    assert outcome(lambda: read_pickle(tmp_path / "v.pkl"), tmp_path)


def test_values_of_a_pickle_do_not_unfold(tmp_path: Path) -> None:
    content: list[Any] = [1] * 10
    for _ in range(30):
        content = [content] * 10
    (tmp_path / "v.pkl").write_bytes(pickle.dumps({"a": content}))
    assert "unfold" in str(outcome(lambda: read_pickle(tmp_path / "v.pkl"), tmp_path))


@pytest.mark.parametrize("entry", [{"a": [1]}, {5: 1}, {"a": 10**400}, {"a": "1"}, {"a": None}])
def test_a_dictionary_holds_what_the_release_holds(tmp_path: Path, entry: dict[Any, Any]) -> None:
    (tmp_path / "v.pkl").write_bytes(pickle.dumps(entry))
    sentence = str(outcome(lambda: read_dictionary(tmp_path / "v.pkl", int, float, np.number), tmp_path))
    assert "another kind of entry" in sentence


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "named", ["torch Tensor", "torch DoubleTensor", "torch.storage UntypedStorage", "builtins bytearray"]
)
def test_a_checkpoint_makes_nothing_of_any_size(tmp_path: Path, named: str, zipped: bool) -> None:
    # `weights_only` calls these with what stands in the file: 2 GiB for a bytearray.
    module, name = named.encode().split()
    call = b"\x80\x02}X\x01\x00\x00\x00ac" + module + b"\n" + name + b"\nJ" + struct.pack("<i", (1 << 31) - 1)
    call += b"\x85Rs."
    path = tmp_path / "m.pt"
    torch.save({"a": torch.ones(4)}, path, _use_new_zipfile_serialization=zipped)
    if zipped:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist()}
        with zipfile.ZipFile(path, "w") as archive:
            for member, content in members.items():
                archive.writestr(member, call if member.endswith("data.pkl") else content)
    else:
        content = path.read_bytes()
        start = content.index(b"\x80\x02}", 60)  # of the fourth pickle
        path.write_bytes(content[:start] + call + content[start:])
    assert "has no need of" in str(outcome(lambda: read_torch(path), tmp_path))
    (tmp_path / "v.pkl").write_bytes(pickle.dumps({"graph": Stored(path.read_bytes())}, protocol=4))
    assert "has no need of" in str(outcome(lambda: read_pickle(tmp_path / "v.pkl", PLAIN | TENSORS), tmp_path))


class Stored:
    """Pickles as a storage of PyTorch."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __reduce__(self) -> tuple[Any, tuple[bytes]]:
        return torch.storage._load_from_bytes, (self.content,)
