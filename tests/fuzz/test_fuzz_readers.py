"""Every reader of foreign bytes, given damaged files: a result, or one sentence."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from guarding import FUZZ, outcome
from hypothesis import given
from hypothesis import strategies as st
from mangling import PACKED_DAMAGES, Damage, damaged
from readers import READERS, sound
from reading import Reader


def lay(folder: Path, files: dict[str, bytes]) -> Path:
    """Write files into an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_a_sound_file_is_read(reader: Reader, tmp_path: Path) -> None:
    folder = lay(tmp_path / "in", sound(reader))
    assert outcome(lambda: reader.read(folder), tmp_path) is None


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
@FUZZ
@given(which=st.integers(0, 1000), damages=PACKED_DAMAGES)
def test_a_damaged_file_is_read_or_refused(
    reader: Reader, tmp_path_factory: pytest.TempPathFactory, which: int, damages: tuple[Damage, ...]
) -> None:
    files = dict(sound(reader))
    name = sorted(files)[which % len(files)]
    files[name] = damaged(files[name], damages)
    folder = lay(tmp_path_factory.getbasetemp() / "fuzz", files)
    outcome(lambda: reader.read(folder), folder, reserves=reader.reserves)


# What long runs have found; each is mended in its reader.
FOUND: list[tuple[str, str, Damage]] = [
    ("mutations.parquet", "m.parquet", ("flip", 0.75, 0)),  # in the notes of pandas
    ("gene-table.gtf", "a.gtf", ("number", 34, b"9223372036854775808")),
    ("annotation.gtf", "a.gtf", ("number", 34, b"9223372036854775808")),
    ("kallisto", "t.gtf.gz", ("inside", 0, (("number", 1, b"9223372036854775808"),))),
    ("gdc-star", "manifest.tsv", ("nest", 8, b"[", 256)),  # a name longer than file systems allow
    ("release.json", "release.json", ("column gone", 2)),
    ("anndata-sparse.h5ad", "a.h5ad", ("repeat", 0.0, 116, 2)),
]


@pytest.mark.parametrize(("name", "file", "damage"), FOUND, ids=[case[0] for case in FOUND])
def test_what_was_found_once_is_one_sentence(tmp_path: Path, name: str, file: str, damage: Damage) -> None:
    (reader,) = (reader for reader in READERS if reader.name == name)
    files = dict(sound(reader))
    files[file] = damaged(files[file], (damage,))
    folder = lay(tmp_path / "in", files)
    outcome(lambda: reader.read(folder), tmp_path)
