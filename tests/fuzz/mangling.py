"""Ways to damage a file: plain data, so that a failing one can be written down as an example.

Places are shares of the file's length (0 to 1), numbers of lines and columns count round, so that every damage fits
every file.
"""

from __future__ import annotations

import gzip
import io
import re
import struct
import zipfile
from typing import Any

from hypothesis import strategies as st

Damage = tuple[Any, ...]

NUMBERS = (
    *(b"", b"0", b"-1", b"1.5", b"1e308", b"1e309", b"-1e39", b"1e-320", b"nan", b"inf", b"-inf", b"NA", b"null"),
    *(b"2147483648", b"4294967296", b"9223372036854775807", b"9223372036854775808", b"1e18", b"9" * 5000),
    *(b"0x10", b"1_000", b"+5", b"1,5", b"true", b'"7"', "٣".encode(), b"[]", b"{}", b"[1e9]"),
)
WORDS = (
    *(b"", b" ", b"\0", b"\xff\xfe", b"\xc3", b"\xf0\x9f\x98\x80", b"\xe2\x80\xae", b"\x1b[2J", b"\r", b"\n", b"\r\n"),
    *(b"\t", b",", b'"', b'"""', b"'", b"\\", b"#", b"=cmd|' /C calc'!A0", b"<script>alert(1)</script>", b"NA"),
    *(b"../../x", b"/etc/passwd", b"..\\x", b"con:", b"%s{0}", b"__class__", b"\xef\xbb\xbf", b"x" * 70_000),
)
LENGTHS = tuple(
    struct.pack(kind, number)
    for kind, number in (
        *(("<Q", n) for n in (0, 1, 1 << 31, 1 << 32, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)),
        *(("<I", n) for n in (0, 1, 255, 1 << 30, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)),
        *((">Q", n) for n in (1 << 40, (1 << 64) - 1)),
    )
)
PLACE = st.floats(0, 1)
COUNT = st.integers(0, 400)

BYTES: st.SearchStrategy[Damage] = st.one_of(
    st.tuples(st.just("cut"), PLACE),
    st.tuples(st.just("flip"), PLACE, st.integers(0, 7)),
    st.tuples(st.just("set"), PLACE, st.one_of(st.sampled_from(LENGTHS), st.binary(min_size=1, max_size=8))),
    st.tuples(st.just("insert"), PLACE, st.one_of(st.sampled_from(WORDS), st.binary(max_size=16))),
    st.tuples(st.just("drop"), PLACE, COUNT),
    st.tuples(st.just("repeat"), PLACE, COUNT, st.integers(2, 40)),
)
LINES: st.SearchStrategy[Damage] = st.one_of(
    st.tuples(st.just("number"), COUNT, st.sampled_from(NUMBERS)),
    st.tuples(st.just("word"), COUNT, st.sampled_from(WORDS)),
    st.tuples(st.just("nest"), COUNT, st.sampled_from((b"[", b'{"a":', b"(", b"- ")), st.integers(1, 100_000)),
    st.tuples(st.just("line twice"), COUNT),
    st.tuples(st.just("line gone"), COUNT),
    st.tuples(st.just("lines change places"), COUNT, COUNT),
    st.tuples(st.just("columns change places"), COUNT, COUNT),
    st.tuples(st.just("column gone"), COUNT),
    st.tuples(st.just("column twice"), COUNT),
    st.tuples(
        st.just("packed"),
    ),
    st.tuples(st.just("line ends"), st.sampled_from((b"\r\n", b"\r", b"\n\n", b""))),
)
ANY = st.one_of(LINES, LINES, BYTES)
DAMAGES = st.lists(ANY, min_size=1, max_size=4).map(tuple)
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_WORD = re.compile(rb"[^\s,:\"'\[\]{}]+")


def damaged(content: bytes, damages: tuple[Damage, ...]) -> bytes:
    """Return the content after one damage after the other; inside gzip and zip where the content is such."""
    for damage in damages:
        content = _one(content, damage)
    return content


def _one(content: bytes, damage: Damage) -> bytes:
    kind, *args = damage
    if kind == "inside":
        return _inside(content, args[0], args[1])
    if kind in ("number", "word"):
        return _replaced(content, _NUMBER if kind == "number" else _WORD, args[0], args[1])
    if kind == "nest":
        return _replaced(content, _WORD, args[0], args[1] * args[2])
    if kind == "packed":
        return gzip.compress(content, 1, mtime=0)
    if kind == "line ends":
        return content.replace(b"\n", args[0])
    if kind.startswith("line"):
        return b"".join(_lines(content.splitlines(keepends=True), kind, args))
    if kind.startswith("column"):
        return b"\n".join(_columns(line, kind, args) for line in content.split(b"\n"))
    at = min(int(args[0] * len(content)), max(0, len(content) - 1))
    head, tail = content[:at], content[at:]
    if kind == "cut":
        return head
    if kind == "flip":
        return head + (bytes([tail[0] ^ 1 << args[1]]) + tail[1:] if tail else b"")
    if kind == "set":
        return head + args[1] + tail[len(args[1]) :]
    if kind == "insert":
        return head + args[1] + tail
    if kind == "drop":
        return head + tail[args[1] :]
    return head + tail[: args[1]] * args[2] + tail[args[1] :]


def _replaced(content: bytes, pattern: re.Pattern[bytes], number: int, text: bytes) -> bytes:
    found = list(pattern.finditer(content))
    if not found:
        return content + text
    match = found[number % len(found)]
    return content[: match.start()] + text + content[match.end() :]


def _lines(lines: list[bytes], kind: str, args: list[int]) -> list[bytes]:
    if not lines:
        return lines
    at = args[0] % len(lines)
    if kind == "line twice":
        lines.insert(at, lines[at])
    elif kind == "line gone":
        del lines[at]
    else:
        other = args[1] % len(lines)
        lines[at], lines[other] = lines[other], lines[at]
    return lines


def _columns(line: bytes, kind: str, args: list[int]) -> bytes:
    mark = b"\t" if b"\t" in line else b","
    fields = line.split(mark)
    at = args[0] % len(fields)
    if kind == "column gone":
        del fields[at]
    elif kind == "column twice":
        fields.insert(at, fields[at])
    else:
        other = args[1] % len(fields)
        fields[at], fields[other] = fields[other], fields[at]
    return mark.join(fields)


def _inside(content: bytes, member: int, damages: tuple[Damage, ...]) -> bytes:
    """Damage what is packed: the text of a gzip, or one member of a zip (with a right checksum)."""
    if content.startswith(b"\x1f\x8b"):
        try:
            return gzip.compress(damaged(gzip.decompress(content), damages), 1, mtime=0)
        except (OSError, EOFError, ValueError):
            return damaged(content, damages)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as source:
            members = [(info.filename, source.read(info)) for info in source.infolist()]
    except Exception:  # noqa: BLE001 - damaged already, in whatever way
        return damaged(content, damages)
    at = member % max(1, len(members))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as target:
        for number, (name, part) in enumerate(members):
            target.writestr(zipfile.ZipInfo(name), damaged(part, damages) if number == at else part)
    return out.getvalue()


PACKED_DAMAGES = st.one_of(
    DAMAGES,
    st.tuples(st.tuples(st.just("inside"), st.integers(0, 40), DAMAGES)),
    st.lists(BYTES, min_size=1).map(tuple),
)
