"""Files made to reach other files: names are plain, links and values elsewhere are refused."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import pytest
from guarding import outcome
from hostile import made, rewrite_json
from reading import ROOT, SAMPLES

from bulkprobe.errors import UserError
from bulkprobe.foreign import plain_name
from bulkprobe.params import load_params
from bulkprobe.sources.client import Refused
from bulkprobe.sources.gdc_archive import unpack
from bulkprobe.sources.gdc_listing import StarFile, _row
from bulkprobe.stages.checkpoints import recorded

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


@pytest.mark.parametrize("name", ["obs", "var", "X", "uns"])
def test_the_parts_of_an_h5ad_are_its_own(tmp_path: Path, name: str) -> None:
    reader = made("anndata.h5ad", tmp_path)
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        with h5py.File(tmp_path / ".other.h5", "w") as other:
            file.copy(name, other)
        del file[name]
        file[name] = h5py.ExternalLink(str(tmp_path / ".other.h5"), f"/{name}")
    assert "is a link" in str(outcome(lambda: reader.read(tmp_path), tmp_path))


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
    rewrite_json(tmp_path / "release.json", release=release)
    assert "is damaged" in str(outcome(lambda: recorded(tmp_path), tmp_path))


@pytest.mark.parametrize("key", ["sha256", "untrained", "twin", "verified"])
def test_a_record_of_weights_is_whole(tmp_path: Path, key: str) -> None:
    reader = made("release.json", tmp_path)
    content = json.loads((tmp_path / "release.json").read_text())
    (tmp_path / "release.json").write_text(json.dumps({k: v for k, v in content.items() if k != key}))
    assert key in str(outcome(lambda: reader.read(tmp_path), tmp_path)) or key == "sha256"


def test_plain_names() -> None:
    assert all(map(plain_name, ["a", "a.b", "S-1", "ß", "a b", "a" * 255]))
    assert not any(map(plain_name, ["", ".", "..", "a/b", "/a", "a\\b", "a\0", "a" * 256, None, 5]))
