"""The errors that are addressed to the user."""

from __future__ import annotations

from collections.abc import Iterable


class UserError(Exception):
    """Something the user gave cannot be used.

    The message is one sentence: what is wrong, the value, what was expected, what to do.
    Commands print it on stderr without a traceback and end with a status other than 0.
    """


class Unfit(UserError):
    """The input is sound, but this encoder cannot read it (its scale, its genes): others can."""


def some(items: Iterable[object], limit: int = 10) -> str:
    """List at most `limit` offenders for an error message, and how many there are in all."""
    listed = [str(item) for item in items]
    if len(listed) <= limit:
        return ", ".join(listed)
    return f"{', '.join(listed[:limit])}, … ({len(listed)} in all)"
