"""MindSpore's checkpoint files (.ckpt), without MindSpore.

The file is a sequence of protobuf records, one a tensor, without header or index (written alike by 2.0 and 2.7):

    record   field 1: value
    value    field 1: name; field 2: tensor (field 3: a hash map instead, which no model here has)
    tensor   field 1: dims, one varint each (or packed); field 2: type; field 3: bytes, little-endian, row-major

A scalar has no dims, or the single dim 0. Above 512 MB a tensor is cut into consecutive records of the same name, each
with the full dims and the next flat piece. A file saved with `crc_check` ends in `crc_num` and its checksum.

Protobuf libraries refuse messages of 2 GiB, which released files exceed, and would read the optimizer's moments, two
thirds of such a file. Here the records' heads are read and the bytes skipped; what is wanted is read afterwards. Every
length is checked against the file before it is believed, so no number in a file can make us allocate more than the file
holds.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import numpy as np
import torch

from bulkprobe.errors import UserError, some
from bulkprobe.files import READ_BYTES
from bulkprobe.nn.files import existing

TYPES = {
    "Bool": torch.bool,
    "Int8": torch.int8,
    "Int16": torch.int16,
    "Int32": torch.int32,
    "Int64": torch.int64,
    "UInt8": torch.uint8,
    "UInt16": torch.uint16,
    "UInt32": torch.uint32,
    "UInt64": torch.uint64,
    "Float16": torch.float16,
    "BFloat16": torch.bfloat16,
    "Float32": torch.float32,
    "Float64": torch.float64,
}
NAMES = {dtype: name for name, dtype in TYPES.items()}

PIECE_BYTES = 512 << 20  # MindSpore's own limit of one record
LONGEST_NAME = 4096  # bytes of a name; a longer one is damage
MOST_DIMS = 16
MOST_RECORDS = 1_000_000
CHECKSUM_MARK = b"crc_num"
CHECKSUM_BYTES = len(CHECKSUM_MARK) + 10

VARINT, EIGHT_BYTES, BYTES, FOUR_BYTES = 0, 1, 2, 5  # protobuf's wire types (3 and 4 are long gone)


@dataclass(frozen=True)
class Entry:
    """Where a tensor stands in a file: its shape, MindSpore's name of its type, and (offset, length) of its pieces."""

    shape: tuple[int, ...]
    kind: str
    pieces: tuple[tuple[int, int], ...]


class _Damaged(Exception):
    """The bytes are no MindSpore checkpoint."""


def list_mindspore(path: Path) -> dict[str, Entry]:
    """Return what stands in a MindSpore checkpoint, in its order, without reading a tensor; UserError if damaged."""
    path = existing(path)
    with path.open("rb") as handle:
        try:
            end = _without_checksum(handle, os.fstat(handle.fileno()).st_size)
            return _entries(handle, end)
        except _Damaged as problem:
            raise UserError(f"{path} is no whole MindSpore checkpoint: {problem}; fetch it again") from None


def read_mindspore(path: Path, wanted: Mapping[str, Entry]) -> dict[str, torch.Tensor]:
    """Read some of the tensors that `list_mindspore` found, under the names that they have in `wanted`."""
    strange = [f"{name} ({entry.kind})" for name, entry in wanted.items() if entry.kind not in TYPES]
    if strange:
        raise UserError(f"{path} has tensors of a type that cannot be read: {some(strange)}; is it another release?")
    with existing(path).open("rb") as handle:
        return {name: _read(handle, entry, path) for name, entry in wanted.items()}


def _read(handle: BufferedReader, entry: Entry, path: Path) -> torch.Tensor:
    dtype = TYPES[entry.kind]
    content = np.empty(sum(length for _, length in entry.pieces), np.uint8)  # as many as the file has: see _entries
    filled = 0
    for offset, length in entry.pieces:
        handle.seek(offset)
        if handle.readinto(content[filled : filled + length].data) != length:
            raise UserError(f"{path} became shorter while it was read; fetch it again")
        filled += length
    if not len(content):
        return torch.empty(entry.shape, dtype=dtype)
    return torch.from_numpy(content).view(dtype).reshape(entry.shape)


def _without_checksum(handle: BufferedReader, size: int) -> int:
    """Return where the records end; a checksum behind them is checked."""
    if size < CHECKSUM_BYTES:
        return size
    end = size - CHECKSUM_BYTES
    handle.seek(end)
    tail = handle.read(CHECKSUM_BYTES)
    if not tail.startswith(CHECKSUM_MARK):
        return size
    handle.seek(0)
    checksum, left = 0, end
    while left and (block := handle.read(min(READ_BYTES, left))):
        checksum = zlib.crc32(block, checksum)
        left -= len(block)
    if left or checksum != int.from_bytes(tail[len(CHECKSUM_MARK) :], "big"):
        raise _Damaged("its bytes do not give the checksum that it ends with")
    return end


def _entries(handle: BufferedReader, end: int) -> dict[str, Entry]:
    heads: dict[str, tuple[tuple[int, ...], str]] = {}
    pieces: dict[str, list[tuple[int, int]]] = {}
    last = ""
    for count, (number, start, stop) in enumerate(_fields(handle, 0, end)):
        if number != 1:
            raise _Damaged(f"field {number} at byte {start}, where only tensors stand")
        if count >= MOST_RECORDS:
            raise _Damaged(f"more than {MOST_RECORDS} tensors")
        name, one = _value(handle, start, stop)
        head = (one.shape, one.kind)
        if heads.setdefault(name, head) != head or (name in pieces and name != last):
            raise _Damaged(f"{name!r} stands in it twice")
        pieces.setdefault(name, []).extend(one.pieces)
        last = name
    if not heads:
        raise _Damaged("it has no tensors")
    found = {name: Entry(shape, kind, tuple(pieces[name])) for name, (shape, kind) in heads.items()}
    for name, entry in found.items():
        _check_size(name, entry)
    # The lone dim 0 with one element is how a scalar was written until MindSpore 2.2.
    return {name: Entry((), e.kind, e.pieces) if e.shape == (0,) and _bytes(e) else e for name, e in found.items()}


def _bytes(entry: Entry) -> int:
    return sum(length for _, length in entry.pieces)


def _check_size(name: str, entry: Entry) -> None:
    """Refuse a tensor whose dims and bytes disagree; of a type that is not known nothing can be said."""
    if entry.kind not in TYPES:
        return
    one = TYPES[entry.kind].itemsize
    have, want = _bytes(entry), math.prod(entry.shape) * one
    if have != want and not (entry.shape == (0,) and have == one):
        raise _Damaged(f"{name!r} has {have} bytes where {list(entry.shape)} of {entry.kind} take {want}")


def _value(handle: BufferedReader, start: int, stop: int) -> tuple[str, Entry]:
    name, entry = "", Entry((), "nothing", ())
    for number, begin, finish in _fields(handle, start, stop):
        if number == 1:
            name = _text(handle, begin, finish, "name")
        elif number == 2:
            entry = _tensor(handle, begin, finish)
        elif number == 3:
            entry = Entry((), "MapTensor", ())
    if not name:
        raise _Damaged(f"a tensor without a name at byte {start}")
    return name, entry


def _tensor(handle: BufferedReader, start: int, stop: int) -> Entry:
    dims: list[int] = []
    kind, place = "", (start, 0)
    for number, begin, finish in _fields(handle, start, stop):
        if number == 1:
            handle.seek(begin)
            while handle.tell() < finish:  # one, or several where they are packed
                dims.append(_varint(handle, finish))
                if len(dims) > MOST_DIMS:
                    raise _Damaged(f"a tensor of more than {MOST_DIMS} dims at byte {start}")
        elif number == 2:
            kind = _text(handle, begin, finish, "type")
        elif number == 3:
            place = (begin, finish - begin)
    if any(dim >= 1 << 63 for dim in dims):
        raise _Damaged(f"a negative dim at byte {start}")
    return Entry(tuple(dims), kind, (place,))


def _text(handle: BufferedReader, start: int, stop: int, what: str) -> str:
    if stop - start > LONGEST_NAME:
        raise _Damaged(f"a {what} of {stop - start} bytes at byte {start}")
    handle.seek(start)
    try:
        return handle.read(stop - start).decode()
    except UnicodeDecodeError:
        raise _Damaged(f"a {what} that is no text at byte {start}") from None


def _fields(handle: BufferedReader, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (number, start, stop) of each field's content between two offsets; every stop lies within `end`."""
    at = start
    while at < end:
        handle.seek(at)
        key = _varint(handle, end)
        number, wire = key >> 3, key & 7
        begin = handle.tell()
        if wire == VARINT:
            _varint(handle, end)
            stop = handle.tell()
        elif wire == BYTES:
            length = _varint(handle, end)
            begin = handle.tell()
            stop = begin + length
        elif wire in (EIGHT_BYTES, FOUR_BYTES):
            stop = begin + (8 if wire == EIGHT_BYTES else 4)
        else:
            raise _Damaged(f"nothing that MindSpore writes stands at byte {at}")
        if not number or stop > end:
            what = f"a field of {stop - begin} bytes where {max(0, end - begin)} are left" if number else "a field 0"
            raise _Damaged(f"{what} at byte {at}")
        yield number, begin, stop
        at = stop


def _varint(handle: BufferedReader, end: int) -> int:
    """Read one number of 7 bits a byte, at most 64 bits and not beyond `end`."""
    number = 0
    for place in range(10):
        byte = handle.read(1) if handle.tell() < end else b""
        if not byte:
            raise _Damaged(f"it ends in the middle of a number at byte {handle.tell()}")
        number |= (byte[0] & 0x7F) << (7 * place)
        if byte[0] < 0x80:
            return number & ((1 << 64) - 1)
    raise _Damaged(f"a number of more than 64 bits at byte {handle.tell()}")


def write_mindspore(path: Path, tensors: Iterable[tuple[str, torch.Tensor]], piece_bytes: int = PIECE_BYTES) -> None:
    """Write tensors as MindSpore 2.0 does, one after the other, so that few need to be in memory at once."""
    with Path(path).open("wb") as handle:
        for name, tensor in tensors:
            dims = b"".join(b"\x08" + _number(dim) for dim in tensor.shape or (0,))
            head = dims + _field(2, NAMES[tensor.dtype].encode())
            flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
            for start in range(0, max(1, len(flat)), piece_bytes):
                piece = flat[start : start + piece_bytes]
                body = head + b"\x1a" + _number(len(piece))
                value = _field(1, name.encode()) + b"\x12" + _number(len(body) + len(piece)) + body
                handle.write(b"\x0a" + _number(len(value) + len(piece)) + value)
                handle.write(piece.data)


def _number(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | BYTES]) + _number(len(content)) + content
