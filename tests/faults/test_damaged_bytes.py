"""Bytes that change or go missing on the disk: refused in one sentence, never other numbers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from harness import BY_NAME, Study, Trial

from bulkprobe.cohort.store import open_expression
from bulkprobe.errors import UserError
from bulkprobe.store import is_finished, prepare_store, read_store, write_absent, write_store

ROWS, WIDTH, SHARD = 23, 5, 8
HOW = {"width": WIDTH, "attributes": {"encoder": "pca"}, "shard_size": SHARD}
NAMES = [f"S{i}" for i in range(ROWS)]
VECTORS = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)


def write(path: Path, starts: list[int] | None = None) -> None:
    chosen = range(0, ROWS, SHARD) if starts is None else starts
    write_store(path, sample_ids=NAMES, shards=((s, VECTORS[s : s + SHARD]) for s in chosen), **HOW)


def each_damage(path: Path, read: Callable[[], bool], flips: int) -> None:
    """Change single bits of a file, and cut it short: `read` refuses it, or (True) finds what was written."""
    whole = path.read_bytes()
    rng = np.random.default_rng(7)
    for bit in rng.choice(8 * len(whole), size=min(flips, 8 * len(whole)), replace=False):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        refused_or_right(read)
    for length in (0, *rng.integers(0, len(whole), 10)):
        path.write_bytes(whole[:length])
        refused_or_right(read)
    path.write_bytes(whole)


def refused_or_right(read: Callable[[], bool]) -> None:
    right = True
    with suppress(UserError, ValueError):
        right = read()
    assert right


def test_changed_vectors_and_names_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    write(path)

    def read() -> bool:
        store = read_store(path)
        return np.array_equal(store.embedding, VECTORS) and store.sample_id == NAMES

    files = [file for file in path.rglob("*") if file.is_file() and file.name != "zarr.json"]
    assert len(files) == 4  # three shards and the names
    for file in files:
        each_damage(file, read, 60)
    assert read()


@pytest.mark.slow
@pytest.mark.xdist_group("faults0")
def test_changed_expression_is_refused(study: Study, tmp_path: Path) -> None:
    folder = tmp_path / "expression.zarr"
    shutil.copytree(study.folder / "data/cohort/expression.zarr", folder)
    rows = np.arange(40)
    for layer, place in (("X", "X"), ("tpm", "layers/tpm")):
        expected = open_expression(folder).read(layer, rows)

        def read(layer: str = layer, expected: np.ndarray = expected) -> bool:
            return np.array_equal(open_expression(folder).read(layer, rows), expected)

        each_damage(next(file for file in (folder / place / "c").rglob("*") if file.is_file()), read, 40)


@pytest.mark.slow
@pytest.mark.xdist_group("faults0")
def test_a_probe_of_changed_vectors_is_one_sentence(study: Study, tmp_path: Path) -> None:
    copy = Trial(study, tmp_path / "copy", BY_NAME["probe_mutation"])
    shard = next((copy.folder / "data/embeddings/pca.zarr/embedding/c").glob("*/0"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 4
    shard.write_bytes(content)
    assert "cannot be read" in copy.run().sentence()
    content[len(content) // 3] ^= 4
    shard.write_bytes(content)
    copy.assert_another_run_makes_it_whole()


def test_damaged_shards_of_an_unfinished_store_are_written_again(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    with pytest.raises(ValueError, match="never written"):
        write(path, [0, 8])
    shard = tmp_path / "a.zarr.partial" / "embedding" / "c" / "1" / "0"
    shard.write_bytes(b"")  # as after a power cut
    assert prepare_store(path, sample_ids=NAMES, **HOW) == [8, 16]
    write(path, [8, 16])
    np.testing.assert_array_equal(read_store(path).embedding, VECTORS)


def test_damaged_metadata_is_embedded_again(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    write(path)
    with (path / "zarr.json").open("ab") as file:
        file.write(b"old")
    assert not is_finished(path, sample_ids=NAMES, width=WIDTH, attributes={"encoder": "pca"})
    write(path)
    assert is_finished(path, sample_ids=NAMES, width=WIDTH, attributes={"encoder": "pca"})


@pytest.mark.parametrize("absent", [True, False])
def test_the_beginning_of_another_store_is_not_gone_on_with(
    absent: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while an unfinished store of other options is being replaced, then run with the first options again."""
    path = tmp_path / "a.zarr"
    prepare_store(path, sample_ids=NAMES, **HOW)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("bulkprobe.store._take_name" if absent else "bulkprobe.store.atomic_path", killed)
        with pytest.raises(KeyboardInterrupt):
            write_absent(path, "off", {}) if absent else prepare_store(path, sample_ids=NAMES[::-1], **HOW)
    write(path)
    np.testing.assert_array_equal(read_store(path).embedding, VECTORS)
