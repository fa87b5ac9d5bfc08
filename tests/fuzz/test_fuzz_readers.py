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
