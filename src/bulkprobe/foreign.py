"""Bytes from elsewhere: what libraries say to damaged ones, and how much memory a file may ask for.

A header may declare any size, and a few packed bytes may unpack to anything. What is read as a whole is therefore
measured against the file before memory is taken: small things may be packed as they like, larger ones must have some
bytes behind them.
"""

from __future__ import annotations

import errno
import gzip
import math
import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from bulkprobe.errors import Damaged, UserError, some

SMALL_BYTES = 1 << 26  # what any file may unpack to
MOST_PACKED = 2_000  # times that more may be packed; deflate reaches 1,032
MOST_CHUNK_BYTES = 1 << 30  # of a chunk of an array, which is unpacked as a whole
MOST_NODES = 100_000  # values in a YAML file, those behind an alias counted as often as they are named
MOST_CELLS = 100_000_000  # of a Parquet table: a few bytes can say a hundred million times the same
MOST_TEXT_BYTES = 1 << 28  # of a file read as a whole, and of a Parquet table's texts, each as often as it is named
HEAP, BLOCK = b"GCOL\x01\0\0\0", 1 << 16  # how a heap of texts begins in HDF5; bytes read at once
ROWS_OF_TEXT = 512  # of HDF5, looked at at once
MOST_JSON_BYTES = 1 << 26
LONGEST_NAME = 255  # bytes that file systems allow
MOST_LOCK_BYTES, MOST_DEPTH = 1 << 25, 50  # of a dvc.lock
MOST_SETTINGS_BYTES = 1 << 20  # of a YAML file, whose values take some hundred times that
# Of HDF5 and Zarr, by their names. More than one of the first, or another one, could unpack to any size.
PACKERS = frozenset({"deflate", "gzip", "zlib", "lzf", "zstd", "blosc", "lz4"})
PLAIN_CODECS = frozenset(
    "shuffle fletcher32 crc32 crc32c adler32 bytes transpose sharding_indexed vlen-utf8 vlen-bytes delta "
    "fixedscaleoffset quantize bitround packbits".split()
)
# What file systems say to damaged bytes (a place or a size that cannot be); other numbers mean a failing disk.
_DAMAGE = (None, errno.EINVAL, errno.EOVERFLOW, errno.ERANGE)


@contextmanager
def refusing(what: str, advice: str) -> Iterator[None]:
    """Turn what a library raises over the bytes of a file into a UserError: `<what> (<reason>): <advice>`.

    A failing disk stays an OSError, and too little memory a MemoryError.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as problem:
        if isinstance(problem, OSError) and problem.errno not in _DAMAGE:
            raise
        raise Damaged(f"{what} ({flat(problem)}): {advice}") from problem


def flat(problem: BaseException, longest: int = 160) -> str:
    """Return the beginning of a message, on one line."""
    return " ".join(str(problem).split())[:longest].rstrip(". ") or type(problem).__name__


def bytes_of(path: Path, most: int = MOST_TEXT_BYTES, *, unpack: bool = False) -> bytes:
    """Read a file as a whole; Damaged where it has more than `most` bytes, of which no more are read.

    unpack: gzip, of which damaged bytes raise OSError, EOFError or zlib.error.
    """
    with Path(path).open("rb") as plain:
        packed = unpack and plain.read(2) == b"\x1f\x8b"
        plain.seek(0)
        handle: Any = gzip.GzipFile(fileobj=plain) if packed else plain
        content: bytes = handle.read(most + 1)
    if len(content) > most:
        raise Damaged(f"{path} has more than {most:,} bytes: it is damaged or another kind of file, give the right one")
    return content


def refuse_bomb(what: str, declared: int, stored: int) -> None:
    """Refuse what would unpack to far more bytes than it is stored in."""
    if declared > SMALL_BYTES + MOST_PACKED * stored:
        raise Damaged(
            f"{what} claims {declared:,} bytes and holds {stored:,}: it is damaged or made to fill the memory, write "
            "or fetch it again"
        )


def in_markdown(text: str) -> str:
    """Return a text for a Markdown document, in which HTML of names does nothing."""
    return text.replace("&", "&amp;").replace("<", "&lt;")


def plain_name(name: object) -> bool:
    """Whether a text can be the name of a file in a folder, and of no other one."""
    if not isinstance(name, str) or name in ("", ".", "..") or set(name) & set("/\\\0"):
        return False
    return len(name.encode("utf-8", "surrogatepass")) <= LONGEST_NAME


def load_yaml(text: str) -> Any:
    """Read YAML; Damaged where it is none, is nested too deeply or unfolds to far more than stands there."""
    try:
        content = yaml.safe_load(text)
        refuse_unfolding(content)
    except RecursionError:
        raise Damaged("it is nested too deeply; write it flat") from None
    # Dates that do not exist and numbers of thousands of digits are ValueErrors.
    except (yaml.YAMLError, ValueError, OverflowError, TypeError, AttributeError) as problem:
        raise Damaged(flat(problem, 300)) from None
    return content


def refuse_odd_lock(path: Path) -> None:
    """Refuse a dvc.lock that DVC never wrote and might not survive: with aliases, or nested deeply."""
    depth = 0
    try:
        for event in yaml.parse(bytes_of(path, MOST_LOCK_BYTES), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > MOST_DEPTH:
                raise Damaged(f"{path} has aliases or is nested deeply, as DVC never writes it: restore it from git")
    except yaml.YAMLError as problem:
        raise Damaged(f"{path} is not YAML ({flat(problem)}): restore it from git") from None


def refuse_unfolding(content: Any, most: int = MOST_NODES) -> None:
    """Refuse a value of more than `most` others, those that stand in several places counted in each of them.

    Raises RecursionError where it is nested too deeply.
    """
    known: dict[int, int] = {}

    def count(value: Any) -> int:
        if not isinstance(value, dict | list | tuple | set | frozenset):
            return 1
        if id(value) not in known:
            known[id(value)] = most  # until it is known: a value inside itself
            parts = [*value.keys(), *value.values()] if isinstance(value, dict) else list(value)
            known[id(value)] = 1 + sum(map(count, parts))
        if known[id(value)] > most:
            raise Damaged(f"its aliases unfold to more than {most:,} values; write them out")
        return known[id(value)]

    count(content)


def refuse_zip_bomb(path: Path) -> None:
    """Refuse a zip archive whose members unpack to far more than the file has."""
    with zipfile.ZipFile(path) as archive:
        refuse_bomb(path.name, sum(member.file_size for member in archive.infolist()), os.path.getsize(path))


def refuse_wide_table(path: Path, columns: Sequence[str] | None = None) -> None:
    """Refuse a Parquet table, to be read as a whole, of more cells or text than anybody's table of samples has.

    columns: those that are read, all without them. Lists in a cell are refused: a row may hold any number of values.
    """
    import pyarrow as pa
    import pyarrow.parquet

    found = pyarrow.parquet.read_metadata(path)
    if found.num_rows * found.num_columns > MOST_CELLS:
        raise Damaged(
            f"{path.name} has {found.num_rows:,} rows and {found.num_columns:,} columns: at most {MOST_CELLS:,} cells "
            "were expected, is it another table?"
        )
    unpacked = sum(found.row_group(number).total_byte_size for number in range(found.num_row_groups))
    refuse_bomb(path.name, unpacked, os.path.getsize(path))
    fields = [field for field in found.schema.to_arrow_schema() if columns is None or field.name in columns]
    if nested := [field.name for field in fields if pa.types.is_nested(field.type)]:
        raise Damaged(f"{path.name} has lists in its cells ({some(nested)}): write one value a cell")
    refuse_much_text(path, [field.name for field in fields])


def refuse_much_text(path: Path, columns: Sequence[str]) -> None:
    """Refuse columns of a Parquet table whose texts, written out in every row, would be more than anybody has."""
    import pyarrow as pa
    import pyarrow.compute
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path, read_dictionary=list(columns)) as file:
        total = 0
        for name in columns:
            kind = file.schema_arrow.field(file.schema_arrow.get_all_field_indices(name)[0]).type
            if pa.types.is_fixed_size_binary(kind):
                total += kind.byte_width * file.metadata.num_rows
            elif pa.types.is_dictionary(kind) and not pa.types.is_primitive(kind.value_type):
                for part in (part for batch in file.iter_batches(columns=[name]) for part in batch.columns):
                    lengths = pyarrow.compute.binary_length(part.dictionary).cast("int64")
                    total += pyarrow.compute.sum(lengths.take(part.indices)).as_py() or 0
            if total > MOST_TEXT_BYTES:
                raise Damaged(
                    f"{path.name} has more than {MOST_TEXT_BYTES:,} bytes of text in {name}: is it another table?"
                )


def refuse_foreign_arrays(node: Any, name: str) -> None:
    """Check a group or array of HDF5 or Zarr, and all below it, before it is read as a whole.

    Refused: links out of the file, values kept in other files, sizes that nothing stands behind, pickled objects, texts
    that HDF5 would look for without end.
    """
    if hasattr(node, "id"):
        refuse_endless_texts(node)
    seen: set[Any] = set()
    waiting = [(node, name)]
    while waiting:
        here, place = waiting.pop()
        identity = getattr(here, "id", None) or getattr(here, "path", place)
        if identity in seen:
            raise Damaged(f"{name}: {place} contains itself: write or fetch it again")
        seen.add(identity)
        if not hasattr(here, "shape"):
            for key in here:
                waiting.append((child(here, key, f"{place}/{key}"), f"{place}/{key}"))
            continue
        refuse_foreign_array(here, place)
        refuse_bomb(place, math.prod(here.shape) * here.dtype.itemsize, _stored(here))
        if here.dtype.kind in ("O", "T") and here.shape:
            _refuse_long_texts(here, place)


def refuse_endless_texts(node: Any) -> None:
    """Refuse an HDF5 file whose texts its library (2.0 and before) would look for without end; `node`: of that file.

    Texts of any length, also those of attributes, lie in heaps, one piece after the other. Over a piece of no length
    the library stands still and cannot be interrupted. Reads the file once by blocks, and its heaps once more.
    """
    path, now = Path(node.file.filename), os.stat(node.file.filename)
    _refuse_endless_heaps(path, node.file.id.get_create_plist().get_sizes()[1], now.st_size, now.st_mtime_ns)


@lru_cache
def _refuse_endless_heaps(path: Path, width: int, size: int, _: int) -> None:
    head = -(-(8 + width) // 8) * 8  # bytes before a heap's pieces, and before a piece's text; `width`: of a length
    left = 2 * size  # bytes to read: heaps do not overlap, and thousands that claim to would be read for hours
    with path.open("rb") as file:
        for heap in _places(file, HEAP):
            at, end = heap + head, heap + int.from_bytes(os.pread(file.fileno(), width, heap + 8), "little")
            start, block = at, b""
            while at + head <= end:
                if at + head > start + len(block):
                    start, block = at, os.pread(file.fileno(), min(BLOCK, end - at), at)
                    left -= len(block)
                    if len(block) < head:  # the file is cut off, which HDF5 notices
                        break
                piece = block[at - start : at - start + 8 + width]
                length = int.from_bytes(piece[8:], "little")
                # As it is reckoned there, in 64 bits; number 0 is what is free, with its header.
                step = (head + -(-length // 8) * 8 if any(piece[:2]) else length) % (1 << 64)
                if step < head or left < 0:
                    raise Damaged(f"{path.name} has damaged texts (at byte {at:,}): write or fetch it again")
                at += step


def _places(file: Any, word: bytes) -> Iterator[int]:
    """Yield where a word stands in a file, read by blocks."""
    before, start = b"", 0  # the end of the block before, where a word may begin; where it begins
    while block := file.read(BLOCK):
        content = before + block
        at = content.find(word)
        while at >= 0:
            yield start + at
            at = content.find(word, at + 1)
        before = content[-(len(word) - 1) :]
        start += len(content) - len(before)


def refuse_foreign_array(array: Any, place: str) -> None:
    """Check an array of HDF5 or Zarr that is read by blocks."""
    if getattr(array, "external", None) or getattr(array, "is_virtual", False):
        raise Damaged(f"{place} keeps its values in another file: write it again with a current anndata")
    chunk = math.prod(array.chunks or (1,)) * array.dtype.itemsize
    if chunk > MOST_CHUNK_BYTES:
        raise Damaged(
            f"{place} has chunks of {chunk:,} bytes, at most {MOST_CHUNK_BYTES:,} were expected: write it anew"
        )
    names = _hdf5_filters(array) if hasattr(array, "id") else list(_zarr_codecs(getattr(array, "metadata", None)))
    if "pickle" in names:
        raise Damaged(f"{place} holds pickled objects, which are never read: write it again with a current anndata")
    packers = [name for name in names if name not in PLAIN_CODECS]
    if len(packers) > 1 or not PACKERS.issuperset(packers):
        raise Damaged(
            f"{place} is packed by {' and '.join(packers)}: expected one of {', '.join(sorted(PACKERS))}, write it "
            "again with a current anndata"
        )


def _refuse_long_texts(array: Any, place: str) -> None:
    """Refuse texts that are long in all: HDF5 may name one of them in every row, and many small chunks unpack."""
    step = ROWS_OF_TEXT if hasattr(array, "id") else int((array.chunks or (1,))[0])
    total = 0
    for start in range(0, array.shape[0], step):
        total += sum(map(len, array[start : start + step].ravel()))
        if total > MOST_TEXT_BYTES:
            raise Damaged(f"{place} has more than {MOST_TEXT_BYTES:,} bytes of text: is it another table?")


def child(group: Any, key: str, place: str) -> Any:
    """Return what a group of HDF5 or Zarr holds under a name; Damaged where it is a link to something else."""
    if hasattr(group, "id"):  # HDF5
        import h5py

        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise Damaged(f"{place} is a link and no part of the file: write it again with a current anndata")
    return group[key]


def _hdf5_filters(array: Any) -> list[str]:
    settings = array.id.get_create_plist()
    return [settings.get_filter(number)[3].decode("utf-8", "replace") for number in range(settings.get_nfilters())]


def _zarr_codecs(metadata: Any) -> Iterator[str]:
    """Yield the names of what the chunks of an array pass through, also within shards."""
    for codec in (*(getattr(metadata, "filters", None) or ()), getattr(metadata, "compressor", None)):  # version 2
        if codec is not None:
            yield str(codec.codec_id)
    waiting = list(getattr(metadata, "codecs", ()))  # version 3
    while waiting:
        codec = waiting.pop()
        yield str(codec.to_dict()["name"])
        waiting += getattr(codec, "codecs", ())


def _stored(array: Any) -> int:
    """Bytes behind an array."""
    return int(array.id.get_storage_size() if hasattr(array, "id") else array.nbytes_stored())
