from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from bulkprobe.errors import UserError
from bulkprobe.files import tree_hash
from bulkprobe.store import (
    is_finished,
    missing_shards,
    prepare_store,
    read_attributes,
    read_store,
    write_absent,
    write_store,
)

ROWS, WIDTH, SHARD = 23, 5, 8
NAMES = [f"S{i}" for i in range(ROWS)]
VECTORS = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)
ATTRIBUTES = {"encoder": "pca", "options": {"components": 3}, "release": None}


def shards(starts: list[int] | None = None) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, ROWS, SHARD) if starts is None else starts:
        yield start, VECTORS[start : start + SHARD]


def save(path: Path, parts: Iterator[tuple[int, np.ndarray]] | None = None) -> None:
    write_store(
        path,
        sample_ids=NAMES,
        width=WIDTH,
        attributes=ATTRIBUTES,
        shards=shards() if parts is None else parts,
        shard_size=SHARD,
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    save(tmp_path / "a.zarr")
    store = read_store(tmp_path / "a.zarr")
    np.testing.assert_array_equal(store.embedding, VECTORS)
    assert store.sample_id == NAMES
    assert store.absent is None
    assert store.attributes["options"] == {"components": 3}
    assert read_attributes(tmp_path / "a.zarr")["width"] == WIDTH
    np.testing.assert_array_equal(store.rows_of(["S3", "S1"]), [3, 1])


def test_one_shard_is_one_file_and_nothing_else_is_left(tmp_path: Path) -> None:
    save(tmp_path / "a.zarr")
    assert len(list((tmp_path / "a.zarr" / "embedding" / "c").rglob("0"))) == 2 * 3 - 2  # shard 0's folder is named 0
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    save(tmp_path / "a.zarr")
    save(tmp_path / "b.zarr", iter(list(shards())[::-1]))
    assert tree_hash(tmp_path / "a.zarr") == tree_hash(tmp_path / "b.zarr")


def test_a_killed_run_continues_at_the_first_missing_shard(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"

    def killed() -> Iterator[tuple[int, np.ndarray]]:
        yield next(shards())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save(path, killed())
    assert not path.exists()
    left = tmp_path / "a.zarr.partial" / "embedding" / "c" / "1"
    left.mkdir(parents=True)
    (left / "0.123.partial").write_bytes(b"half")
    starts = prepare_store(path, sample_ids=NAMES, width=WIDTH, attributes=ATTRIBUTES, shard_size=SHARD)
    assert starts == [8, 16]
    assert not (left / "0.123.partial").exists()
    save(path, shards(starts))
    save(tmp_path / "whole.zarr")
    assert tree_hash(path) == tree_hash(tmp_path / "whole.zarr")


def test_an_unfinished_store_of_other_options_is_begun_again(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    prepare_store(path, sample_ids=NAMES, width=WIDTH, attributes=ATTRIBUTES, shard_size=SHARD)
    with pytest.raises(ValueError, match="never written"):
        save(path, shards([0]))
    assert missing_shards(path, ROWS, SHARD) == [8, 16]
    other = {**ATTRIBUTES, "options": {"components": 4}}
    again = prepare_store(path, sample_ids=NAMES, width=WIDTH, attributes=other, shard_size=SHARD)
    assert again == [0, 8, 16]


def test_a_finished_store_is_known_by_what_it_was_made_of(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    save(path)
    assert is_finished(path, sample_ids=NAMES, width=WIDTH, attributes=ATTRIBUTES)
    assert not is_finished(path, sample_ids=NAMES, width=WIDTH, attributes={**ATTRIBUTES, "release": "x"})
    assert not is_finished(path, sample_ids=NAMES[::-1], width=WIDTH, attributes=ATTRIBUTES)
    assert not is_finished(tmp_path / "b.zarr", sample_ids=NAMES, width=WIDTH, attributes=ATTRIBUTES)


def test_a_store_with_a_lost_shard_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    save(path)
    (path / "embedding" / "c" / "1" / "0").unlink()
    with pytest.raises(UserError, match="holds 2 of 3 shards"):
        read_store(path)
    assert not is_finished(path, sample_ids=NAMES, width=WIDTH, attributes=ATTRIBUTES)


def test_vectors_that_are_not_finite_are_refused_by_name(tmp_path: Path) -> None:
    broken = VECTORS.copy()
    broken[4, 2] = np.nan
    save(tmp_path / "a.zarr", iter([(s, broken[s : s + SHARD]) for s in (0, 8, 16)]))
    with pytest.raises(UserError, match="NaN or infinite vectors for S4"):
        read_store(tmp_path / "a.zarr")


def test_a_shard_of_zeros_is_a_shard(tmp_path: Path) -> None:
    zeros = VECTORS.copy()
    zeros[8:] = 0
    save(tmp_path / "a.zarr", iter([(s, zeros[s : s + SHARD]) for s in (0, 8, 16)]))
    np.testing.assert_array_equal(read_store(tmp_path / "a.zarr").embedding, zeros)


def test_a_damaged_shard_is_refused_by_its_row(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    save(path)
    shard = path / "embedding" / "c" / "1" / "0"
    shard.write_bytes(shard.read_bytes()[:-7])
    with pytest.raises(UserError, match="the shard at row 8 cannot be read"):
        read_store(path)
    assert not is_finished(path, sample_ids=NAMES, width=WIDTH, attributes=ATTRIBUTES)


def test_a_finished_store_is_verified_without_holding_its_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.zarr"
    save(path)
    rows: list[int] = []
    read = zarr.Array.__getitem__

    def counted(array: zarr.Array, selection: Any) -> Any:
        part = read(array, selection)
        rows.append(len(part) if np.ndim(part) == 2 else 0)
        return part

    monkeypatch.setattr(zarr.Array, "__getitem__", counted)
    assert is_finished(path, sample_ids=NAMES, width=WIDTH, attributes=ATTRIBUTES)
    assert sum(rows) == ROWS
    assert max(rows) == SHARD


def test_missing_samples_are_named(tmp_path: Path) -> None:
    save(tmp_path / "a.zarr")
    with pytest.raises(UserError, match="no vector for X1, X2"):
        read_store(tmp_path / "a.zarr").rows_of(["S0", "X1", "X2"])


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not an embedding store"):
        read_store(tmp_path)


def test_an_absent_encoder_says_why(tmp_path: Path) -> None:
    write_absent(tmp_path / "a.zarr", "no weights here", {"encoder": "x"})
    store = read_store(tmp_path / "a.zarr")
    assert store.absent == "no weights here"
    assert read_attributes(tmp_path / "a.zarr")["width"] is None


@pytest.mark.parametrize(
    ("part", "message"),
    [("zarr.json", "is a damaged embedding store"), ("sample_id/c/0", "is a damaged embedding store")],
)
def test_a_store_cut_short_is_one_sentence(tmp_path: Path, part: str, message: str) -> None:
    path = tmp_path / "a.zarr"
    save(path)
    whole = (path / part).read_bytes()
    (path / part).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=message) as caught:
        read_store(path)
    assert "\n" not in str(caught.value)
