"""Taking counts files out of the GDC's archives while they come, each checked before it gets its name."""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, cast

from bulkprobe.errors import UserError
from bulkprobe.files import atomic_path
from bulkprobe.sources.client import Interrupted, Refused
from bulkprobe.sources.gdc_listing import StarFile


class _Body:
    """The blocks of a response as the readable file that tarfile wants.

    A broken connection shows only after everything that came before it was read.
    """

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
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
            self._rest += block
        if self._broken is not None and not self._rest:
            raise self._broken
        taken = bytes(self._rest[:count])
        del self._rest[:count]
        return taken


def unpack(blocks: Iterator[bytes], folder: Path, rows: Sequence[StarFile]) -> Iterator[StarFile]:
    """Write the members `<file_id>/<file_name>` of a tar or tar.gz below `folder`; yield the finished rows.

    Only what `rows` list is written, and only with the listed size and md5; anything else (the
    archive's MANIFEST.txt, annotations) is passed over. Raises Refused on a damaged archive and
    UserError on one whose members point out of the folder.
    """
    wanted = {row.path: row for row in rows}
    try:
        with tarfile.open(fileobj=cast(IO[bytes], _Body(blocks)), mode="r|*") as archive:
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
    except (tarfile.TarError, zlib.error, EOFError) as error:
        raise Refused(f"the archive is damaged ({error})") from error
