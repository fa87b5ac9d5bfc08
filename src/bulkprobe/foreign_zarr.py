"""Chunks of Zarr from elsewhere, measured before they are unpacked.

Zarr hands a chunk to Zstandard, Blosc or LZ4, and these take memory for what the chunk says it unpacks to, whatever the
shape of the array is: 64 KiB of packed zeros are 2 GiB. Importing this module has Zarr use codecs that look first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numcodecs
import zarr
from numcodecs.registry import register_codec as register_v2
from zarr import codecs
from zarr.registry import register_codec as register_v3

from bulkprobe.errors import Damaged
from bulkprobe.foreign import refuse_bomb

_FRAME, _SKIPPED = 0xFD2FB528, 0x184D2A50  # first four bytes of Zstandard's frames (RFC 8878)
_BLOCK = 1 << 17  # bytes that a block unpacks to at most


def open_group(path: Path | str) -> zarr.Group:
    """Open a folder of Zarr for reading; what unpacks to far more than it holds is Damaged, then or when it is read."""
    return zarr.open_group(str(path), mode="r")


def _zstd(data: memoryview) -> int:
    """Return how many bytes Zstandard's frames unpack to: as they say, or what so many blocks can be at most."""
    total = at = 0
    while at + 5 <= len(data):
        magic = int.from_bytes(data[at : at + 4], "little")
        if magic & ~0xF == _SKIPPED:
            at += 8 + int.from_bytes(data[at + 4 : at + 8], "little")
            continue
        if magic != _FRAME:
            break
        head = data[at + 4]
        single = head >> 5 & 1
        at += 5 + (1 - single) + (0, 1, 2, 4)[head & 3]
        size = (single, 2, 4, 8)[head >> 6]
        said = int.from_bytes(data[at : at + size], "little") + (256 if size == 2 else 0)
        at += size
        blocks = last = 0
        while not last and at + 3 <= len(data):
            block = int.from_bytes(data[at : at + 3], "little")
            last, blocks = block & 1, blocks + 1
            at += 3 + (1 if block >> 1 & 3 == 1 else block >> 3)
        at += 4 * (head >> 2 & 1)
        total += said if size else blocks * _BLOCK
    return total


def _blosc(data: memoryview) -> int:
    return int.from_bytes(data[4:8], "little")


def _lz4(data: memoryview) -> int:
    return int.from_bytes(data[:4], "little")


def _texts(data: memoryview) -> int:
    """Return the bytes that texts need, each of which has its length in front of it."""
    return 4 * int.from_bytes(data[:4], "little")


def _counted(chunk: Any) -> Any:
    data = memoryview(numcodecs.compat.ensure_contiguous_ndarray(chunk)).cast("B")
    if _texts(data) > len(data):
        raise Damaged(f"a chunk claims {_texts(data) // 4:,} texts and holds {len(data):,} bytes: write it again")
    return chunk


def _measured(packed: Any, length: Any) -> Any:
    data = memoryview(numcodecs.compat.ensure_contiguous_ndarray(packed)).cast("B")
    refuse_bomb("a chunk", length(data), len(data))
    return packed


class Zstd2(numcodecs.Zstd):  # type: ignore[misc]
    """Zstandard of Zarr 2."""

    def decode(self, buf: Any, out: Any = None) -> Any:
        """Unpack a chunk; Damaged where it is a bomb."""
        return super().decode(_measured(buf, _zstd), out)


class Blosc2(numcodecs.Blosc):  # type: ignore[misc]
    """Blosc of Zarr 2."""

    def decode(self, buf: Any, out: Any = None) -> Any:
        """Unpack a chunk; Damaged where it is a bomb."""
        return super().decode(_measured(buf, _blosc), out)


class LZ42(numcodecs.LZ4):  # type: ignore[misc]
    """LZ4 of Zarr 2."""

    def decode(self, buf: Any, out: Any = None) -> Any:
        """Unpack a chunk; Damaged where it is a bomb."""
        return super().decode(_measured(buf, _lz4), out)


class Texts2(numcodecs.VLenUTF8):  # type: ignore[misc]
    """Texts of Zarr 2."""

    def decode(self, buf: Any, out: Any = None) -> Any:
        """Take a chunk apart; Damaged where it claims more texts than it holds."""
        return super().decode(_counted(buf), out)


class Bytes2(numcodecs.VLenBytes):  # type: ignore[misc]
    """Bytes of Zarr 2."""

    def decode(self, buf: Any, out: Any = None) -> Any:
        """Take a chunk apart; Damaged where it claims more texts than it holds."""
        return super().decode(_counted(buf), out)


class VLenUTF8Codec(codecs.VLenUTF8Codec):
    """Texts of Zarr 3, which looks at the name of the class."""

    async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        _counted(chunk_bytes.as_numpy_array())
        return await super()._decode_single(chunk_bytes, chunk_spec)


class VLenBytesCodec(codecs.VLenBytesCodec):
    """Bytes of Zarr 3, likewise."""

    async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        _counted(chunk_bytes.as_numpy_array())
        return await super()._decode_single(chunk_bytes, chunk_spec)


class Zstd3(codecs.ZstdCodec):
    """Zstandard of Zarr 3."""

    async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        _measured(chunk_bytes.as_numpy_array(), _zstd)
        return await super()._decode_single(chunk_bytes, chunk_spec)


class Blosc3(codecs.BloscCodec):
    """Blosc of Zarr 3."""

    async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        _measured(chunk_bytes.as_numpy_array(), _blosc)
        return await super()._decode_single(chunk_bytes, chunk_spec)


for _codec in (Zstd2, Blosc2, LZ42, Texts2, Bytes2):
    register_v2(_codec)
for _name, _class in (("zstd", Zstd3), ("blosc", Blosc3), ("vlen-utf8", VLenUTF8Codec), ("vlen-bytes", VLenBytesCodec)):
    register_v3(_name, _class)
    zarr.config.set({f"codecs.{_name}": f"{_class.__module__}.{_class.__qualname__}"})
