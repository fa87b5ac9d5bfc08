"""Taking counts files out of the GDC's archives while they come, each checked before it gets its name."""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from bulkprobe.errors import UserError
from bulkprobe.files import READ_BYTES, atomic_path
from bulkprobe.sources.client import Interrupted, Refused
from bulkprobe.sources.gdc_listing import StarFile

GZIP_MAGIC = b"\x1f\x8b"
BESIDE_A_FILE = 1 << 20  # bytes of headers, annotations and manifest that an archive may have for each file


class _Body:
    """The blocks of a response, unpacked, as the readable file that tarfile wants.

    A broken connection shows only after everything that came before it was read. More than `most` bytes are Refused:
    an archive has little beside the files that were asked for, and a few packed bytes may unpack to anything.
    """

    def __init__(self, blocks: Iterator[bytes], most: int) -> None:
        self._blocks = _unpacked(blocks)
        self._left = most
        self._rest = bytearray()
        self._broken: Interrupted | None = None

    def read(self, count: int) -> bytes:
        while len(self._rest) < count and self._broken is None:
            try:
                block = next(self._blocks, b"")
            except Interrupted as error:
                self._broken = error
                break
            if not block:
                break
            self._left -= len(block)
            if self._left < 0:
                raise Refused("the archive is larger than the files that it should hold")
            self._rest += block
        if self._broken is not None and not self._rest:
            raise self._broken
        taken = bytes(self._rest[:count])
        del self._rest[:count]
        return taken


def _unpacked(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the blocks of a tar or tar.gz as those of the tar, small ones."""
    unpacker: Any = None
    for number, block in enumerate(blocks):
        if not number and block.startswith(GZIP_MAGIC):
            unpacker = zlib.decompressobj(wbits=31)
        while block:
            if unpacker is None:
                yield block
                break
            if part := unpacker.decompress(block, READ_BYTES):
                yield part
            block = unpacker.unconsumed_tail


def unpack(blocks: Iterator[bytes], folder: Path, rows: Sequence[StarFile]) -> Iterator[StarFile]:
    """Write the members `<file_id>/<file_name>` of a tar or tar.gz below `folder`; yield the finished rows.

    Only what `rows` list is written, and only with the listed size and md5; anything else (the
    archive's MANIFEST.txt, annotations) is passed over. Raises Refused on a damaged archive and
    UserError on one whose members point out of the folder.
    """
    wanted = {row.path: row for row in rows}
    most = sum(row.size for row in rows) + BESIDE_A_FILE * (len(rows) + 1)
    try:
        with tarfile.open(fileobj=cast(IO[bytes], _Body(blocks, most)), mode="r|") as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                if name.is_absolute() or ".." in name.parts or not (member.isfile() or member.isdir()):
                    raise UserError(
                        f"The GDC's archive holds {member.name!r}, which is no plain file below a folder: "
                        "nothing more is taken from it; see what answers in the GDC's place (a proxy?)."
                    )
                row = wanted.get(str(name))
                content = archive.extractfile(member) if row and member.size == row.size else None
                if row is None or content is None:
                    continue
                data = content.read()  # about 4 MB, and as long as the manifest says
                if hashlib.md5(data, usedforsecurity=False).hexdigest() != row.md5:
                    continue
                with atomic_path(folder / row.path) as aside:
                    aside.write_bytes(data)
                yield row
    except (tarfile.TarError, zlib.error, EOFError, ValueError, OverflowError, RecursionError) as error:
        raise Refused(f"the archive is damaged ({error})") from error
