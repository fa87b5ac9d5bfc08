from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bulkprobe import files
from bulkprobe.cohort.schema import FilesConfig
from bulkprobe.errors import UserError
from bulkprobe.sources.files import fetch_files


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    folder = tmp_path / "lab"
    for name in ("expression/A.tsv", "expression/B.tsv", "mutations/A.tsv", "samples.tsv"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"content of {name}\n")
    return folder


CONFIG: dict[str, Any] = {
    "expression": ["expression/A.tsv", "expression/B.tsv"],
    "expression_scale": "tpm",
    "samples": "samples.tsv",
    "mutations": "mutations/A.tsv",
    "columns": {"age": "AGE"},
}


def test_tables_are_copied_and_described(lab: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    content = fetch_files(CONFIG, raw, base=lab)
    section = json.loads((raw / "files.json").read_text())
    # A.tsv stands in two folders
    assert section["expression"] == ["files/expression_A.tsv", "files/B.tsv"]
    assert section["mutations"] == ["files/mutations_A.tsv"]
    assert section["samples"] == "files/samples.tsv"
    assert section["columns"] == {"age": "AGE"}
    FilesConfig.from_mapping(section)
    assert content == json.loads((raw / "source.json").read_text())
    assert (content["source"], content["expression"]) == ("files", None)
    for name, entry in content["files"].items():
        assert entry == {
            "sha256": files.file_hash(raw / name),
            "bytes": (raw / name).stat().st_size,
            "url": None,
        }
    assert (raw / "files/expression_A.tsv").read_text() == "content of expression/A.tsv\n"
    assert str(tmp_path) not in (raw / "files.json").read_text()


def test_again_is_the_same_and_replaces(lab: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    fetch_files(CONFIG, raw, base=lab)
    before = files.tree_hash(raw)
    (raw / "files/left_over.tsv").write_text("x")
    fetch_files(FilesConfig.from_mapping(CONFIG), raw, base=lab)
    assert files.tree_hash(raw) == before


def test_same_name_in_folders_of_the_same_name(tmp_path: Path) -> None:
    for top in ("a", "b"):
        (tmp_path / top / "x").mkdir(parents=True)
        (tmp_path / top / "x" / "t.tsv").write_text(top)
    config = {"expression": "a/x/t.tsv", "expression_scale": "tpm", "samples": str(tmp_path / "b/x/t.tsv")}
    fetch_files(config, tmp_path / "raw", base=tmp_path)
    section = json.loads((tmp_path / "raw/files.json").read_text())
    assert section["expression"] == ["files/x_t.tsv"]
    assert section["samples"] == "files/2_x_t.tsv"
    assert (tmp_path / "raw/files/2_x_t.tsv").read_text() == "b"


def test_absent_tables_leave_nothing(lab: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file: survival.tsv; paths are relative"):
        fetch_files(CONFIG | {"survival": "survival.tsv"}, tmp_path / "raw", base=lab)
    assert not (tmp_path / "raw").exists()


def test_the_working_folder_is_the_base(lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(lab)
    fetch_files(CONFIG, tmp_path / "raw")
    assert (tmp_path / "raw/files/B.tsv").is_file()
