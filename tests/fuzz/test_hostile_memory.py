"""Files made to fill the memory: what they claim is measured against what they hold."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from guarding import outcome
from hostile import BY_NAME, HUGE, Calls, made, rewrite_json
from reading import ROOT

from bulkprobe import foreign
from bulkprobe.cohort import feature_counts, genes, lab_mutations, labels, legible, survival, transcripts
from bulkprobe.nn.files import read_pickle, read_torch, tensors_of
from bulkprobe.params import load_params


def test_aliases_of_yaml_do_not_unfold(tmp_path: Path) -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    (tmp_path / "params.yaml").write_text("\n".join(lines))
    assert "unfold to more than" in str(outcome(lambda: load_params(tmp_path / "params.yaml"), tmp_path))


def test_a_view_cannot_claim_more_numbers_than_the_file_has(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1).expand(1 << 21, 1 << 21)}, tmp_path / "m.pt")
    path = tmp_path / "m.pt"
    assert "number by number: a;" in str(outcome(lambda: tensors_of(read_torch(path), path), tmp_path))
    torch.save(
        {"a": torch.sparse_coo_tensor(torch.zeros(2, 1), torch.ones(1), (1 << 30,) * 2, check_invariants=True)}, path
    )
    assert "number by number: a;" in str(outcome(lambda: tensors_of(read_torch(path), path), tmp_path))
    torch.save({"a": torch.empty(1 << 30, 1 << 30, device="meta")}, path)
    assert "number by number: a;" in str(outcome(lambda: tensors_of(read_torch(path), path), tmp_path))


@pytest.mark.parametrize("call", [Calls(np.ndarray, (HUGE,)), Calls(np.dtype, "V2000000000"), Calls(bytearray, HUGE)])
def test_a_pickle_cannot_ask_for_memory(tmp_path: Path, call: Calls) -> None:
    (tmp_path / "v.pkl").write_bytes(pickle.dumps(call))
    assert outcome(lambda: read_pickle(tmp_path / "v.pkl"), tmp_path)


def test_numbers_of_numpy_are_read_from_pickles(tmp_path: Path) -> None:
    content = {"a": np.float64(1.5), "b": np.float32(2.5), "c": np.int64(3)}
    for protocol in (2, 4, 5):
        (tmp_path / "v.pkl").write_bytes(pickle.dumps(content, protocol))
        found = read_pickle(tmp_path / "v.pkl")
        assert found == content
        assert [type(value) for value in found.values()] == [type(value) for value in content.values()]


RESERVING = """
import resource, sys
from pathlib import Path
from bulkprobe.errors import UserError
from bulkprobe.cohort.anndata_file import open_anndata
from bulkprobe.nn.files import read_torch
read = open_anndata if sys.argv[1].endswith(".h5ad") else read_torch
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read(Path(sys.argv[1]))
    print("read")
except UserError:
    print("refused")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def assert_refused_untouched(path: Path) -> None:
    """Assert that a file claiming gigabytes is refused before any of them is used."""
    done = subprocess.run(
        [sys.executable, "-c", RESERVING, str(path)], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    said, kilobytes = done.stdout.split()
    assert said == "refused"
    assert int(kilobytes) < 300_000


def test_reserved_memory_is_never_touched(tmp_path: Path) -> None:
    # PyTorch's old format takes address space for a storage of any length before it looks for its bytes.
    path = tmp_path / "m.pt"
    torch.save({"a": torch.zeros(70_001)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert content.count(struct.pack("<I", 70_001)) >= 2  # numbers of the storage and of the tensor
    path.write_bytes(
        content.replace(struct.pack("<I", 70_001), struct.pack("<I", (1 << 31) - 1)).replace(
            struct.pack("<Q", 70_001), struct.pack("<Q", (1 << 31) - 1)
        )
    )
    assert_refused_untouched(path)  # it claims 8 GB


@pytest.mark.parametrize("claim", ["header", "heap", "end", "header and end", "heap and end", "shifted"])
def test_hdf5_uses_no_memory_on_the_word_of_its_own_tables(tmp_path: Path, claim: str) -> None:
    # HDF5 takes address space for a header or a heap of any length before it looks where the file ends.
    made("anndata-sparse.h5ad", tmp_path)
    content = bytearray((tmp_path / "a.h5ad").read_bytes())
    header, heap = struct.unpack("<Q", content[64:72])[0], content.index(b"HEAP")
    if "end" in claim:
        content[40:48] = struct.pack("<Q", 1 << 33)
    if "header" in claim:
        content[header + 8 : header + 12] = struct.pack("<I", (1 << 32) - 16)
    if "heap" in claim:
        content[heap + 8 : heap + 16] = struct.pack("<Q", 3 << 30)
    if claim == "shifted":
        content[:0] = content[:116]
    (tmp_path / "a.h5ad").write_bytes(content)
    assert_refused_untouched(tmp_path / "a.h5ad")


def test_an_embedding_store_cannot_claim_any_shape(tmp_path: Path) -> None:
    reader = made("embedding-store", tmp_path)
    meta = tmp_path / "s.zarr" / "embedding" / "zarr.json"
    grid = {"name": "regular", "configuration": {"chunk_shape": [HUGE, 4]}}
    rewrite_json(meta, shape=[HUGE, 4], chunk_grid=grid)
    assert "damaged" in str(outcome(lambda: reader.read(tmp_path), tmp_path))


@pytest.mark.parametrize("place", ["obs/_index", "var/length"])
def test_a_table_of_zarr_cannot_claim_any_length(tmp_path: Path, place: str) -> None:
    reader = made("anndata.zarr-2", tmp_path)
    rewrite_json(tmp_path / "a.zarr" / place / ".zarray", shape=[HUGE], chunks=[1 << 20])
    assert "claims" in str(outcome(lambda: reader.read(tmp_path), tmp_path))


@pytest.mark.parametrize("place", ["obs/age", "var/length"])
def test_a_table_of_hdf5_cannot_claim_any_length(tmp_path: Path, place: str) -> None:
    reader = made("anndata.h5ad", tmp_path)
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        del file[place]
        file.create_dataset(place, (HUGE,), "f8", chunks=(1024,))
    assert "claims" in str(outcome(lambda: reader.read(tmp_path), tmp_path))


def test_a_sparse_line_cannot_be_longer_than_its_matrix(tmp_path: Path) -> None:
    reader = made("anndata-sparse.h5ad", tmp_path)
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        for name, dtype in (("data", "f4"), ("indices", "i4")):
            del file[f"X/{name}"]
            file.create_dataset(f"X/{name}", (HUGE,), dtype, chunks=(1024,))
        pointer = file["X/indptr"][:].astype(np.int64)
        pointer[1:] = HUGE
        del file["X/indptr"]
        file["X/indptr"] = pointer
    assert "do not fit" in str(outcome(lambda: reader.read(tmp_path), tmp_path))


def test_an_array_of_a_probe_has_the_bytes_that_it_claims(tmp_path: Path) -> None:
    reader = made("probe.npz", tmp_path)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (HUGE,)})
    with zipfile.ZipFile(tmp_path / "p.npz") as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(tmp_path / "p.npz", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, header.getvalue() if name == "0.coef.npy" else content)
    assert "no readable probe file" in str(outcome(lambda: reader.read(tmp_path), tmp_path))


def test_zips_do_not_unpack_to_any_size(tmp_path: Path) -> None:
    for name, member in (("p.npz", "head.npy"), ("cdr.xlsx", "xl/workbook.xml")):
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(member, b"x")
        content = (tmp_path / name).read_bytes()
        at = content.index(b"PK\x01\x02")  # the size in the directory
        (tmp_path / name).write_bytes(content[: at + 24] + struct.pack("<I", (1 << 32) - 2) + content[at + 28 :])
        reader = BY_NAME["probe.npz" if name == "p.npz" else name]
        assert "claims" in str(outcome(lambda: reader.read(tmp_path), tmp_path))  # noqa: B023


@pytest.mark.parametrize("name", ["matrix.tsv.gz", "clinical.csv.gz", "mc3.maf.gz", "xena.gz"])
def test_packed_text_is_read_by_bounded_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for module, bound in ((genes, "MOST_LINE_BYTES"), (legible, "MOST_TABLE_BYTES")):
        monkeypatch.setattr(module, bound, 1 << 16)
    reader = made(name, tmp_path)
    (path,) = tmp_path.iterdir()
    header = gzip.decompress(path.read_bytes()).split(b"\n")[0]
    path.write_bytes(gzip.compress(header + b"x" * (1 << 20), 9))
    sentence = str(outcome(lambda: reader.read(tmp_path), tmp_path))
    assert "65,536 bytes" in sentence


def test_few_bytes_of_parquet_cannot_stand_for_any_number_of_rows(tmp_path: Path) -> None:
    table = pa.table({"sample_id": pa.array(["a"] * 101).dictionary_encode(), **{str(i): [1] * 101 for i in range(99)}})
    pa.parquet.write_table(table, tmp_path / "s.parquet")
    from bulkprobe import foreign

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(foreign, "MOST_CELLS", 10_000)
        assert "101 rows and 100 columns" in str(outcome(lambda: BY_NAME["clinical.parquet"].read(tmp_path), tmp_path))


def rewrite_member(path: Path, name: str, old: bytes, new: bytes) -> None:
    """Change a text in a member of a zip."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    assert old in members[name]
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content.replace(old, new, 1) if member == name else content)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'<row r="3"', b'<row r="900000000"'),  # the rows between are read as empty ones
        (b'r="A3"', b'r="ZZZZZZ3"'),
        (b'r="A3"', b'r="A900000000"'),
        (b"<worksheet", b'<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">' + b"".join(
            f'<!ENTITY a{i} "{f"&a{i - 1 or str()};" * 10}">'.encode() for i in range(1, 10)
        ) + b"]><worksheet"),
    ],
    ids=["row", "column", "cell", "entities"],
)  # fmt: skip
def test_a_workbook_has_the_rows_that_it_names(tmp_path: Path, old: bytes, new: bytes) -> None:
    reader = made("cdr.xlsx", tmp_path)
    rewrite_member(tmp_path / "cdr.xlsx", "xl/worksheets/sheet1.xml", old, new)
    outcome(lambda: reader.read(tmp_path), tmp_path, reserves=False)


@pytest.mark.parametrize(
    ("name", "file", "bound"),
    [
        ("params.yaml", "params.yaml", "MOST_SETTINGS_BYTES"),
        ("files.yaml", "files.yaml", "MOST_SETTINGS_BYTES"),
        ("metrics.json", "m.json", "MOST_JSON_BYTES"),
        ("release.json", "release.json", "MOST_JSON_BYTES"),
        ("gdc-manifest", "manifest.tsv", "MOST_TEXT_BYTES"),
        ("vocabulary.pkl", "v.pkl", "MOST_TEXT_BYTES"),
        ("paralogs.csv.gz", "p.csv.gz", "MOST_TEXT_BYTES"),
        ("dvc.lock", "dvc.lock", "MOST_LOCK_BYTES"),
    ],
)
def test_files_read_as_a_whole_are_measured_first(tmp_path: Path, name: str, file: str, bound: str) -> None:
    reader, most = made(name, tmp_path), getattr(foreign, bound)
    with (tmp_path / file).open("r+b") as sparse:  # takes no room on the disk
        sparse.truncate(most + 1)
    if file.endswith(".gz"):
        (tmp_path / file).write_bytes(gzip.compress(b"A,B\n" * (most // 4 + 1), 1))
    sentence = str(outcome(lambda: reader.read(tmp_path), tmp_path))
    assert "bytes" in sentence or "is damaged" in sentence or "no table" in sentence


@pytest.mark.parametrize("name", ["salmon-genes.gz", "star-strand.gz", "gdc-star"])
def test_quantifiers_files_are_measured_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(legible, "MOST_TABLE_BYTES", 1000)
    reader = made(name, tmp_path)
    assert "more than 1,000 bytes" in str(outcome(lambda: reader.read(tmp_path), tmp_path))


@pytest.mark.parametrize(
    ("name", "module", "bound", "said"),
    [
        ("featurecounts.gz", feature_counts, "MOST_TEXT_BYTES", "names more genes"),
        ("transcripts.tsv", transcripts, "MOST_TRANSCRIPTS", "transcripts, which no annotation has"),
        ("transcripts.gtf.gz", transcripts, "MOST_TRANSCRIPTS", "transcripts, which no annotation has"),
        ("annotation.gtf", genes, "MOST_GENES", "which no annotation has"),
        ("annotation.gtf", genes, "MOST_EXONS", "which no annotation has"),
        ("annotation.gtf", genes, "MOST_BASES", "not a GTF record"),
        ("mc3.maf.gz", labels, "MOST_NAMES", "give a MAF of one study"),
        ("mutations-long.tsv", lab_mutations, "MOST_NAMES", "samples and calls"),
        ("mutations-wide.csv", lab_mutations, "MOST_NAMES", "cells of labelled genes"),
        ("cdr.xlsx", survival, "MOST_ROWS", "more than 10 rows"),
    ],
)
def test_what_is_kept_of_a_long_table_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: ModuleType, bound: str, said: str
) -> None:
    monkeypatch.setattr(module, bound, 10)
    reader = made(name, tmp_path)
    assert said in str(outcome(lambda: reader.read(tmp_path), tmp_path))


@pytest.mark.parametrize("name", ["metrics.json", "release.json", "sources.lock.json"])
@pytest.mark.parametrize("opened", ["[", '{"a":'])
def test_json_is_not_nested_without_end(tmp_path: Path, name: str, opened: str) -> None:
    reader = made(name, tmp_path)
    (path,) = tmp_path.glob("*.json")
    path.write_text(opened * 100_000)
    assert outcome(lambda: reader.read(tmp_path), tmp_path)


@pytest.mark.parametrize("name", ["anndata.zarr-2", "anndata.zarr-3", "embedding-store", "expression.zarr"])
def test_metadata_of_zarr_are_not_nested_without_end(tmp_path: Path, name: str) -> None:
    reader = made(name, tmp_path)
    for path in [*tmp_path.rglob("zarr.json"), *tmp_path.rglob(".zarray")]:
        path.write_text('{"attributes":' * 100_000)
    assert outcome(lambda: reader.read(tmp_path), tmp_path)


@pytest.mark.parametrize(
    "text", ["a: &a [1]\nb: *a\n", "[" * 100, "- " * 100_000 + "1", "a: !!python/object/apply:os.system [x]", "a: [\n"]
)
def test_a_lock_of_dvc_is_flat_and_without_aliases(tmp_path: Path, text: str) -> None:
    reader = made("dvc.lock", tmp_path)
    (tmp_path / "dvc.lock").write_text(text)
    assert outcome(lambda: reader.read(tmp_path), tmp_path)
