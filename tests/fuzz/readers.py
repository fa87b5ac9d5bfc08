"""Every reader of foreign bytes."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from reader_quantifiers import QUANTIFIERS
from reader_stores import STORES
from reader_tables import TABLES
from reading import Reader

READERS = (*TABLES, *QUANTIFIERS, *STORES)


@cache
def sound(reader: Reader) -> dict[str, bytes]:
    """The sound files of a reader, by relative path."""
    with tempfile.TemporaryDirectory() as scratch:
        reader.write(Path(scratch))
        return {
            p.relative_to(scratch).as_posix(): p.read_bytes() for p in sorted(Path(scratch).rglob("*")) if p.is_file()
        }
