"""Texts of HDF5 lie in heaps; over a piece of no length its library stands still, so heaps are looked at before."""

from __future__ import annotations

import struct
from pathlib import Path

import h5py
import numpy as np
import pytest
from guarding import outcome
from hostile import made
from reading import ROOT

from bulkprobe import foreign
from bulkprobe.encoders.scbert import read_genes
from bulkprobe.foreign import HEAP, refuse_endless_texts
from bulkprobe.stages.embed_input import add_vectors

TEXTS = [f"text {number}" for number in range(2_000)]


def pieces(content: bytes, heap: int, width: int = 8) -> list[tuple[int, int, int]]:
    """Where the pieces of a heap lie, with number and length; the last one is what is free (number 0)."""
    end, at, found = heap + int.from_bytes(content[heap + 8 : heap + 8 + width], "little"), heap + 16, []
    while at + 16 <= end:
        (number,) = struct.unpack("<H", content[at : at + 2])
        length = int.from_bytes(content[at + 8 : at + 8 + width], "little")
        found.append((at, number, length))
        at += 16 + -(-length // 8) * 8 if number else length
    return found


def heaps(content: bytes) -> list[int]:
    return [at for at in range(0, len(content), 8) if content.startswith(HEAP, at)]


def endless(path: Path, width: int = 8) -> None:
    """Shorten what is free in the last heap with room to its own header: what follows is a piece of no length."""
    content = bytearray(path.read_bytes())
    last = [pieces(content, heap, width)[-1] for heap in heaps(content)]
    at = [at for at, number, length in last if not number and length > 32][-1]
    content[at + 8 : at + 8 + width] = (16).to_bytes(width, "little")
    content[at + 16 : at + 32] = bytes(16)
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["anndata.h5ad", "anndata-sparse.h5ad"])
def test_a_cohort_with_endless_texts_is_refused(tmp_path: Path, name: str) -> None:
    reader = made(name, tmp_path)
    endless(tmp_path / "a.h5ad")
    assert "a.h5ad has damaged texts (at byte " in str(outcome(lambda: reader.read(tmp_path), tmp_path))


def test_a_length_beyond_64_bits_is_endless_too(tmp_path: Path) -> None:
    reader = made("anndata.h5ad", tmp_path)
    content = bytearray((tmp_path / "a.h5ad").read_bytes())
    at, number, _ = pieces(content, heaps(content)[0])[0]
    assert number
    content[at + 8 : at + 16] = struct.pack("<Q", (1 << 64) - 16)  # and 16 for its own header
    (tmp_path / "a.h5ad").write_bytes(content)
    assert "has damaged texts" in str(outcome(lambda: reader.read(tmp_path), tmp_path))


def test_a_gene_list_with_endless_texts_is_refused(tmp_path: Path) -> None:
    made("anndata.h5ad", tmp_path)
    (tmp_path / "a.h5ad").rename(tmp_path / "panglao_10000.h5ad")
    endless(tmp_path / "panglao_10000.h5ad")
    assert "has damaged texts" in str(outcome(lambda: read_genes(tmp_path), tmp_path))


def test_nothing_is_added_to_a_file_with_endless_texts(tmp_path: Path) -> None:
    made("embedding-store", tmp_path)
    made("anndata.h5ad", tmp_path)
    endless(tmp_path / "a.h5ad")
    before = (tmp_path / "a.h5ad").read_bytes()
    told = outcome(lambda: add_vectors(tmp_path / "a.h5ad", tmp_path / "s.zarr", "X_pca"), tmp_path)
    assert str(told).startswith("a.h5ad has damaged texts")
    assert (tmp_path / "a.h5ad").read_bytes() == before


@pytest.mark.parametrize("width", [4, 8])
def test_heaps_of_every_width_of_lengths(tmp_path: Path, width: int) -> None:
    settings = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    settings.set_sizes(8, width)
    path = tmp_path / "a.h5"
    with h5py.File(h5py.h5f.create(str(path).encode(), fcpl=settings)) as file:
        file["texts"] = TEXTS
        file.attrs["long"] = "x" * 30_000  # a heap of its own
    with h5py.File(path) as file:
        refuse_endless_texts(file["texts"])
        assert file["texts"].asstr()[:].tolist() == TEXTS
    assert len(heaps(path.read_bytes())) == 2
    endless(path, width)
    with h5py.File(path) as file, pytest.raises(foreign.Damaged, match=r"a\.h5 has damaged texts"):
        refuse_endless_texts(file)


def test_texts_that_were_changed_or_deleted_are_no_damage(tmp_path: Path) -> None:
    path, rng = tmp_path / "a.h5", np.random.default_rng(1)
    for _ in range(5):
        with h5py.File(path, "a") as file:
            texts = file.require_dataset("texts", (500,), h5py.string_dtype())
            for row in rng.integers(0, 500, 300):
                texts[row] = "y" * int(rng.integers(0, 200))
            if "others" in file:
                del file["others"]
            file["others"] = TEXTS[: int(rng.integers(1, 2_000))]
        with h5py.File(path) as file:
            refuse_endless_texts(file)
            assert all(len(text) < 200 for text in file["texts"][:])


@pytest.mark.parametrize("shift", range(-9, 3))
def test_a_heap_is_found_where_two_blocks_meet(tmp_path: Path, shift: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["texts"] = TEXTS
    (heap,) = heaps(path.read_bytes())
    assert heap > 20
    monkeypatch.setattr(foreign, "BLOCK", heap - shift)
    endless(path)
    with h5py.File(path) as file, pytest.raises(foreign.Damaged, match="damaged texts"):
        refuse_endless_texts(file)


def test_many_heaps_in_one_another_are_not_read_for_hours(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["values"] = np.frombuffer((HEAP + struct.pack("<Q", 1 << 40)) * (1 << 17), "u1")  # 2 MiB
    reads = []
    with pytest.MonkeyPatch.context() as patch, h5py.File(path) as file:
        pread = foreign.os.pread
        patch.setattr(foreign.os, "pread", lambda *at: reads.append(len(found := pread(*at))) or found)
        with pytest.raises(foreign.Damaged, match="damaged texts"):
            refuse_endless_texts(file)
    assert sum(reads) < 4 * path.stat().st_size


def test_whoever_opens_hdf5_looks_at_its_texts() -> None:
    openers = {path.name: path.read_text() for path in (ROOT / "src").rglob("*.py") if "h5py.File(" in path.read_text()}
    assert set(openers) == {"anndata_file.py", "embed_input.py", "scbert.py"}
    for name, source in openers.items():
        assert "refuse_endless_texts(" in source or "refuse_foreign_arrays(" in source, name
