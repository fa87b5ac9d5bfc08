"""The embedding store: a Zarr v3 group holding one vector a sample, written in shards of many samples.

`embedding` float32 (n_samples, width), `sample_id` (n_samples,), and attributes that say exactly what made the numbers.
One shard is one file, so a store of 10,000 samples is a few dozen files to hash. A store is built beside its final
name and renamed when complete; a killed run continues at the first missing shard. No dates, no machine names: equal
input gives equal bytes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from bulkprobe.errors import UserError, some
from bulkprobe.files import atomic_path, only_writer, replace_folder, sweep
from bulkprobe.foreign import refuse_foreign_arrays, refusing
from bulkprobe.foreign_zarr import open_group

CHUNKS_PER_SHARD = 4
# The checksum is 4 bytes a chunk; without it more than half of all changed bits would pass for other numbers.
CODECS = (ZstdCodec(level=3), Crc32cCodec())
FORMAT = 1


@dataclass(frozen=True)
class Store:
    """A store read into memory: `embedding` (n_samples, width) float32, `sample_id`, `attributes`."""

    embedding: np.ndarray
    sample_id: list[str]
    attributes: dict[str, Any]

    @property
    def absent(self) -> str | None:
        """Why the encoder could not be run, where it could not."""
        reason = self.attributes.get("absent")
        return None if reason is None else str(reason)

    def rows_of(self, samples: Sequence[str]) -> np.ndarray:
        """Return the row numbers of `samples`; UserError names those that have no vector."""
        place = {sample: row for row, sample in enumerate(self.sample_id)}
        missing = [sample for sample in samples if sample not in place]
        if missing:
            raise UserError(
                f"the embedding store has no vector for {some(missing)}: embed the same cohort that is probed"
            )
        return np.array([place[sample] for sample in samples], dtype=np.intp)


def write_store(
    path: Path,
    *,
    sample_ids: Sequence[str],
    width: int,
    attributes: Mapping[str, Any],
    shards: Iterable[tuple[int, np.ndarray]],
    shard_size: int,
) -> None:
    """Write or finish a store; `shards` yields (first row, vectors) and may skip what `missing_shards` left out."""
    _open_aside(_aside(path), sample_ids, width, attributes, shard_size)
    for start, vectors in shards:
        write_shard(path, start, vectors)
    finish_store(path)


def write_shard(path: Path, start: int, vectors: np.ndarray) -> None:
    """Write one shard of a store that `prepare_store` began; several processes may write different shards at once.

    Its file takes its name when it is whole: whoever is killed before leaves a `*.partial` file that counts as nothing.
    """
    # Zarr leaves out chunks of zeros, but a shard that is not there counts as not yet written.
    with zarr.config.set({"array.write_empty_chunks": True}):
        array = _array(zarr.open_group(str(_aside(path)), mode="r+"))
    n_samples, width = array.shape
    expected = (min(_shard_size(array), n_samples - start), width)
    if vectors.shape != expected:
        raise ValueError(f"shard at row {start} has shape {vectors.shape}, expected {expected}")
    array[start : start + expected[0]] = np.ascontiguousarray(vectors, dtype=np.float32)


def finish_store(path: Path) -> None:
    """Give a store that has all its shards its final name."""
    aside = _aside(path)
    array = _array(zarr.open_group(str(aside), mode="r"))
    lacking = missing_shards(path, array.shape[0], _shard_size(array))
    if lacking:
        raise ValueError(f"shards starting at rows {some(lacking)} were never written")
    _sweep(aside)  # of a worker that was killed and whose shard another one wrote
    _take_name(aside, path)


def write_absent(path: Path, reason: str, attributes: Mapping[str, Any]) -> None:
    """Write a store without vectors that says why the encoder could not be run."""
    with only_writer(path):
        tidy(path)
        aside = _aside(path)
        _note(aside).unlink(missing_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        group = zarr.open_group(str(aside), mode="w", zarr_format=3)
        group.attrs.update({**attributes, "absent": reason, "format": FORMAT})
        _take_name(aside, path)


def missing_shards(path: Path, n_samples: int, shard_size: int) -> list[int]:
    """First rows of the shards that are not yet written."""
    done = _written(_aside(path))
    return [start for start in range(0, n_samples, shard_size) if start // shard_size not in done]


def prepare_store(
    path: Path, *, sample_ids: Sequence[str], width: int, attributes: Mapping[str, Any], shard_size: int
) -> list[int]:
    """Begin a store, or take up an unfinished one made of the same input; return the first rows of shards to write.

    Shards of an unfinished store that was made otherwise (other options, cohort or weights) are thrown away, and so are
    those that cannot be read, as after a power cut.
    """
    array = _array(_open_aside(_aside(path), sample_ids, width, attributes, shard_size))
    lacking = set(missing_shards(path, len(sample_ids), shard_size))
    for start in range(0, len(sample_ids), shard_size):
        if start not in lacking and not _readable(array, start, shard_size):
            (_aside(path) / "embedding" / "c" / str(start // shard_size) / "0").unlink()
    return missing_shards(path, len(sample_ids), shard_size)


def is_finished(path: Path, *, sample_ids: Sequence[str], width: int, attributes: Mapping[str, Any]) -> bool:
    """Whether `path` is a complete store of exactly this input; its vectors are looked at shard by shard."""
    if not (path / "zarr.json").is_file():
        return False
    try:
        group = _open(path)
        if {key: value for key, value in group.attrs.items() if key != "format"} != _plain(attributes):
            return False
        array, names = _verified(path, group)
        for _ in _shards_of(path, array, names):
            pass
    except UserError:
        return False
    return names == list(sample_ids) and array.shape == (len(sample_ids), width)


def read_store(path: Path) -> Store:
    """Read and verify a store; UserError where it is missing, unfinished, or holds NaN."""
    group = _open_finished(path)
    attributes = dict(group.attrs)
    if attributes.get("absent") is not None:
        return Store(np.empty((0, 0), dtype=np.float32), [], attributes)
    array, names = _verified(path, group)
    vectors = np.empty(array.shape, dtype=np.float32)
    for start, part in _shards_of(path, array, names):
        vectors[start : start + len(part)] = part
    return Store(vectors, names, attributes)


def check_store(path: Path) -> tuple[int, dict[str, Any]]:
    """Verify every vector as `read_store` does, a shard in memory at a time; return their number and the attributes."""
    group = _open_finished(path)
    if group.attrs.get("absent") is not None:
        return 0, dict(group.attrs)
    array, names = _verified(path, group)
    for _ in _shards_of(path, array, names):
        pass
    return len(names), dict(group.attrs)


def read_attributes(path: Path) -> dict[str, Any]:
    """Read what a store records about itself, and its width, without reading the vectors."""
    group = _open_finished(path)
    width = _array(group).shape[1] if "embedding" in group else None
    return {**group.attrs, "width": width}


def _open_finished(path: Path) -> zarr.Group:
    if not (path / "zarr.json").is_file():
        raise UserError(f"{path} is not an embedding store: make one with `bulkprobe embed`")
    return _open(path)


def _verified(path: Path, group: zarr.Group) -> tuple[zarr.Array[Any], list[str]]:
    """The array and the sample ids of a store that has all its shards."""
    if "embedding" not in group or "sample_id" not in group:
        raise UserError(f"{path} is a Zarr group without `embedding` and `sample_id`, so it is no embedding store")
    array = _array(group)
    n_shards = -(-array.shape[0] // array.shards[0]) if array.shards else 0
    present = len(_written(path))
    if present != n_shards:
        raise UserError(f"{path} holds {present} of {n_shards} shards: run the embedding again, it resumes")
    with refusing(f"{path}: the sample ids cannot be read", "embed again"):
        names = [str(name) for name in _read_names(group)]
    if len(names) != array.shape[0]:
        raise UserError(f"{path} has {array.shape[0]} vectors but {len(names)} sample ids: embed again")
    return array, names


def _shards_of(path: Path, array: zarr.Array[Any], names: Sequence[str]) -> Iterator[tuple[int, np.ndarray]]:
    """First row and vectors of each shard in turn; UserError where one is not finite."""
    size = _shard_size(array)
    for start in range(0, array.shape[0], size):
        # Cut short, or bytes changed: checksum and Zstandard notice.
        with refusing(f"{path}: the shard at row {start} cannot be read", "embed again"):
            part = np.asarray(array[start : start + size], dtype=np.float32)
        broken = np.flatnonzero(~np.isfinite(part).all(axis=1))
        if len(broken):
            raise UserError(
                f"{path} has NaN or infinite vectors for {some(names[start + int(i)] for i in broken)}: embed again"
            )
        yield start, part


def _written(folder: Path) -> set[int]:
    """Numbers of the shards that are there; Zarr would read an empty file, as a power cut leaves it, as zeros."""
    return {int(file.parent.name) for file in (folder / "embedding" / "c").glob("*/0") if file.stat().st_size}


def _readable(array: zarr.Array[Any], start: int, size: int) -> bool:
    try:
        array[start : start + size]
    except (ValueError, RuntimeError):
        return False
    return True


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial")


def _note(aside: Path) -> Path:
    """Beside an unfinished store: what it is being made of."""
    return aside.with_name(f"{aside.name}.json")


def _take_name(aside: Path, path: Path) -> None:
    replace_folder(aside, path)
    _note(aside).unlink(missing_ok=True)


def tidy(path: Path) -> None:
    """Remove what killed runs left beside a store, but for an unfinished store that can be continued."""
    sweep(path)
    sweep(_note(_aside(path)))
    if not _aside(path).exists():
        _note(_aside(path)).unlink(missing_ok=True)


def _open(path: Path) -> zarr.Group:
    with refusing(f"{path} is a damaged embedding store", "embed again"):
        group = open_group(path)
        if "sample_id" in group:
            refuse_foreign_arrays(group["sample_id"], f"{path}: sample_id")
        if "embedding" in group:
            refuse_foreign_arrays(group["embedding"], f"{path}: embedding")
        return group


def _read_names(group: zarr.Group) -> np.ndarray:
    names: Any = group["sample_id"]
    return np.asarray(names[:])


def _array(group: zarr.Group) -> zarr.Array[Any]:
    array = group["embedding"]
    if not isinstance(array, zarr.Array) or array.ndim != 2:
        raise UserError("`embedding` is not an array (samples, width), so this is no embedding store")
    return array


def _shard_size(array: zarr.Array[Any]) -> int:
    return int(array.shards[0] if array.shards else array.shape[0])


def _sweep(aside: Path) -> None:
    """Remove a killed writer's unfinished files."""
    for left in aside.rglob("*.partial"):
        left.unlink(missing_ok=True)


def _plain(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes as JSON will give them back."""
    content: dict[str, Any] = json.loads(json.dumps(dict(attributes), sort_keys=True))
    return content


def _digest(sample_ids: Sequence[str]) -> str:
    """One hash of names in their order."""
    digest = hashlib.sha256()
    for name in sample_ids:
        digest.update(f"{len(name)} {name}".encode())
    return digest.hexdigest()


def _open_aside(
    aside: Path, sample_ids: Sequence[str], width: int, attributes: Mapping[str, Any], shard_size: int
) -> zarr.Group:
    identity = {
        "attributes": _plain(attributes), "samples": _digest(sample_ids), "width": width, "shard_size": shard_size,
    }  # fmt: skip
    note = _note(aside)
    if (aside / "zarr.json").is_file() and note.is_file() and json.loads(note.read_text()) == identity:
        _sweep(aside)
        return zarr.open_group(str(aside), mode="r+")
    note.unlink(missing_ok=True)  # first: with the note of one store, the beginning of another would pass for it
    shutil.rmtree(aside, ignore_errors=True)
    aside.parent.mkdir(parents=True, exist_ok=True)
    group = zarr.open_group(str(aside), mode="w", zarr_format=3)
    group.attrs.update({**_plain(attributes), "format": FORMAT})
    chunk = shard_size // CHUNKS_PER_SHARD if shard_size % CHUNKS_PER_SHARD == 0 else shard_size
    group.create_array(
        "embedding",
        shape=(len(sample_ids), width),
        dtype="float32",
        shards=(shard_size, width),
        chunks=(chunk, width),
        compressors=CODECS,
        fill_value=0.0,
    )
    names = group.create_array(
        "sample_id", shape=(len(sample_ids),), dtype=str, chunks=(len(sample_ids),), compressors=CODECS
    )
    names[:] = np.array(list(sample_ids), dtype=object)
    with atomic_path(note) as written:
        written.write_text(json.dumps(identity))
    return group
