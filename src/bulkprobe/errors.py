"""The errors that are addressed to the user."""

from __future__ import annotations

from collections.abc import Iterable

LONGEST = 1_600  # characters of a sentence: names in other people's files have no bounds


class UserError(Exception):
    """Something the user gave cannot be used.

    The message is one sentence: what is wrong, the value, what was expected, what to do.
    Commands print it on stderr without a traceback and end with a status other than 0. Names and texts of other
    people's files stand in it, so whatever would move a terminal's cursor or break the line is escaped.
    """

    def __init__(self, message: object = "") -> None:
        text = printable(str(message))
        super().__init__(text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[-LONGEST // 4 :]}")


class Damaged(UserError, ValueError):
    """Bytes are not of the kind they should be; also a ValueError, for those who can give better advice."""


class Unfit(UserError):
    """The input is sound, but this encoder cannot read it (its scale, its genes): others can."""


def printable(text: str) -> str:
    """Return a text on one line with what is not shown as itself escaped (newlines, ESC, bidi marks)."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode() for char in text
    )


def some(items: Iterable[object], limit: int = 10) -> str:
    """List at most `limit` offenders for an error message, and how many there are in all."""
    listed = [str(item) for item in items]
    if len(listed) <= limit:
        return ", ".join(listed)
    return f"{', '.join(listed[:limit])}, … ({len(listed)} in all)"
