"""Files made to run code, to fill the memory, or to reach other files: each is refused in one sentence."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from guarding import outcome
from readers import READERS
from reading import SAMPLES, Reader

from bulkprobe.cohort import genes, legible
from bulkprobe.errors import UserError, printable
from bulkprobe.foreign import load_yaml, plain_name
from bulkprobe.nn.files import PLAIN, TENSORS, read_pickle, read_torch, tensors_of
from bulkprobe.params import load_params
from bulkprobe.sources.client import Refused
from bulkprobe.sources.gdc_archive import unpack
from bulkprobe.sources.gdc_listing import StarFile, _row
from bulkprobe.stages.checkpoints import recorded

ROOT = Path(__file__).parents[2]
BY_NAME = {reader.name: reader for reader in READERS}


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def canary(folder: Path) -> Calls:
    return Calls(os.system, f"touch {folder / 'canary'}")


def made(name: str, folder: Path) -> Reader:
    BY_NAME[name].write(folder)
    return BY_NAME[name]


# ---------------------------------------------------------------- code


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


# ---------------------------------------------------------------- memory

HUGE = 1 << 43


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
from bulkprobe.nn.files import read_torch
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_torch(Path(sys.argv[1]))
    print("read")
except UserError:
    print("refused")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


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
    done = subprocess.run(
        [sys.executable, "-c", RESERVING, str(path)], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    said, kilobytes = done.stdout.split()
    assert said == "refused"
    assert int(kilobytes) < 300_000  # of the 8 GB that it claims


def _rewrite_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_an_embedding_store_cannot_claim_any_shape(tmp_path: Path) -> None:
    reader = made("embedding-store", tmp_path)
    meta = tmp_path / "s.zarr" / "embedding" / "zarr.json"
    grid = {"name": "regular", "configuration": {"chunk_shape": [HUGE, 4]}}
    _rewrite_json(meta, shape=[HUGE, 4], chunk_grid=grid)
    assert "damaged" in str(outcome(lambda: reader.read(tmp_path), tmp_path))


@pytest.mark.parametrize("place", ["obs/_index", "var/length"])
def test_a_table_of_zarr_cannot_claim_any_length(tmp_path: Path, place: str) -> None:
    reader = made("anndata.zarr-2", tmp_path)
    _rewrite_json(tmp_path / "a.zarr" / place / ".zarray", shape=[HUGE], chunks=[1 << 20])
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


# ---------------------------------------------------------------- other files

ROW = StarFile("0" * 8 + "-0000-0000-0000-" + "0" * 12, "a.tsv", "0" * 32, 5, "S", "S-1", "TCGA-KIRC", "Primary Tumor")


def tar(*members: tuple[str, bytes, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(content), "/etc/passwd"
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../x", tarfile.REGTYPE),
        ("/etc/x", tarfile.REGTYPE),
        (f"{ROW.file_id}/../../x", tarfile.REGTYPE),
        (ROW.path, tarfile.SYMTYPE),
        (ROW.path, tarfile.LNKTYPE),
        (ROW.path, tarfile.CHRTYPE),
    ],
)
def test_an_archive_of_the_gdc_reaches_nothing_else(tmp_path: Path, name: str, kind: bytes) -> None:
    content = tar((name, kind, b""))
    assert "is no plain file" in str(outcome(lambda: list(unpack(iter([content]), tmp_path, [ROW])), tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_an_archive_of_the_gdc_is_no_larger_than_its_files(tmp_path: Path) -> None:
    def blocks(content: bytes) -> Iterator[bytes]:
        yield from (content[i : i + 100] for i in range(0, len(content), 100))

    header = tarfile.TarInfo("pax")  # a header that tarfile reads as a whole
    header.type, header.size = tarfile.XHDTYPE, 1 << 33
    bomb = gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 24))
    with pytest.raises(Refused, match="larger than the files"):
        list(unpack(blocks(bomb), tmp_path, [ROW]))


@pytest.mark.parametrize(
    "change",
    [
        {"file_name": "../x"},
        {"file_name": "/etc/passwd"},
        {"file_id": "../../x"},
        {"file_size": 1 << 60},
        {"file_size": -1},
        {"md5sum": ["x"]},
        {"file_name": {"a": 1}},
        {"associated_entities": 5},
    ],
)
def test_an_entry_of_the_gdc_names_a_plain_file(change: dict[str, Any]) -> None:
    hit = {
        "file_id": ROW.file_id, "file_name": "a.tsv", "md5sum": "0" * 32, "file_size": 5,
        "associated_entities": [{"entity_submitter_id": "S-1"}],
        "cases": [{"samples": [{"submitter_id": "S", "sample_type": "P"}], "project": {"project_id": "TCGA-KIRC"}}],
    }  # fmt: skip
    assert _row(hit) is not None
    with pytest.raises(UserError, match="report this"):
        _row({**hit, **change})


def test_a_manifest_of_the_gdc_names_files_beside_it(tmp_path: Path) -> None:
    reader = made("gdc-star", tmp_path)
    manifest = tmp_path / "manifest.tsv"
    manifest.write_text(manifest.read_text().replace("f1.tsv", "../../outside.tsv"))
    assert "no names of files" in str(outcome(lambda: reader.read(tmp_path), tmp_path))


@pytest.mark.parametrize("kind", ["external link", "soft link", "external values", "virtual"])
def test_an_h5ad_holds_its_own_values(tmp_path: Path, kind: str) -> None:
    reader = made("anndata.h5ad", tmp_path)
    (tmp_path / ".secret").write_bytes(bytes(4096))
    n = len(SAMPLES)
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        del file["obs/age"]
        if kind == "external link":
            file["obs/age"] = h5py.ExternalLink(tmp_path / ".secret", "/x")
        elif kind == "soft link":
            file["obs/age"] = h5py.SoftLink("/var/length")
        elif kind == "external values":
            file.create_dataset("obs/age", (n,), "f8", external=[(str(tmp_path / ".secret"), 0, 8 * n)])
        else:
            layout = h5py.VirtualLayout((n,), "f8")
            layout[:] = h5py.VirtualSource(str(tmp_path / ".secret"), "x", (n,))
            file.create_virtual_dataset("obs/age", layout)
    sentence = str(outcome(lambda: reader.read(tmp_path), tmp_path))
    assert "is a link" in sentence or "in another file" in sentence


def test_an_h5ad_that_contains_itself_is_refused(tmp_path: Path) -> None:
    reader = made("anndata.h5ad", tmp_path)
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        file["obs/again"] = file["obs"]
    assert "contains itself" in str(outcome(lambda: reader.read(tmp_path), tmp_path))


@pytest.mark.parametrize("name", ["../../x", "a/b", "..", ".hidden", "-rf", "a\\b"])
def test_names_of_encoders_are_names_of_files(tmp_path: Path, name: str) -> None:
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("\nencoders:\n", f"\nencoders:\n  {json.dumps(name)}: " + (
        "{model: pca, release: null, enabled: true, options: {}}\n"
    )))  # fmt: skip
    assert "names become those of files" in str(outcome(lambda: load_params(tmp_path / "params.yaml"), tmp_path))


@pytest.mark.parametrize("release", ["../r", "/etc", ["r"], 5, "r\0"])
def test_a_record_of_weights_names_a_folder_beside_it(tmp_path: Path, release: Any) -> None:
    made("release.json", tmp_path)
    _rewrite_json(tmp_path / "release.json", release=release)
    assert "is damaged" in str(outcome(lambda: recorded(tmp_path), tmp_path))


def test_plain_names() -> None:
    assert all(map(plain_name, ["a", "a.b", "S-1", "ß", "a b"]))
    assert not any(map(plain_name, ["", ".", "..", "a/b", "/a", "a\\b", "a\0", None, 5]))


# ---------------------------------------------------------------- what is shown


@pytest.mark.parametrize(
    "text", ["\x1b]0;title\x07", "\x1b[2J", "a\nb", "a\rb", "\u202egnp.exe", "\x9b2J", "\u2028", "\ud800"]
)
def test_messages_cannot_move_the_cursor(text: str) -> None:
    assert str(UserError(f"bad name {text}")).isprintable()
    assert printable("plain – ß 中 'quoted' <b>") == "plain – ß 中 'quoted' <b>"


def test_the_command_shows_foreign_names_escaped(tmp_path: Path) -> None:
    path = tmp_path / "\x1b[2Jx\n.h5ad"
    path.write_bytes(b"no")
    done = subprocess.run(
        [sys.executable, "-c", "from bulkprobe.cli import main; main()", "check", str(path)],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    assert "\x1b" not in done.stderr
    assert r"\x1b[2Jx\n.h5ad" in done.stderr
    assert done.stderr.count("\n") == 1
