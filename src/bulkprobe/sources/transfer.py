"""One transfer of one address into a `.partial` file that a later attempt can continue."""

from __future__ import annotations

import re
from pathlib import Path

import requests

from bulkprobe.errors import UserError
from bulkprobe.files import read_json, write_json
from bulkprobe.sources.client import Client, Interrupted, Meter, Refused

GAIN_BYTES = 1 << 20  # an attempt that brings this much does not count as a failure


def partial_paths(final: Path) -> tuple[Path, Path]:
    """Return where an unfinished download stands, and the note from which server state it came."""
    return final.with_name(f"{final.name}.partial"), final.with_name(f"{final.name}.partial.json")


def discard(final: Path) -> None:
    """Remove an unfinished download."""
    for path in partial_paths(final):
        path.unlink(missing_ok=True)


def transfer(client: Client, url: str, final: Path, *, checkable: bool, meter: Meter) -> bool:
    """Bring the body of `url` to the end of `final`'s partial file; return whether it was resumed.

    What is there is continued by Range, under If-Range where the server gave a validator at the start.
    `checkable` says that the finished bytes will be compared with a known hash; without that and
    without a validator a continuation could join two files unnoticed, so it starts again.
    """
    partial, sidecar = partial_paths(final)
    validator = _validator(sidecar, url)
    if partial.exists() and not (validator or checkable):
        discard(final)
    before = partial.stat().st_size if partial.exists() else 0
    headers = {"Range": f"bytes={before}-"} if before else {}
    if before and validator:
        headers["If-Range"] = validator
    with client.open("GET", url, headers=headers) as response:
        if response.status_code == 416:
            if before and response.headers.get("Content-Range", "").strip() == f"bytes */{before}":
                return True  # everything is here already
            discard(final)
            raise Interrupted("the server holds less than was already here")
        start, total = _extent(response)
        if start and (start != before or _changed(response, validator)):
            discard(final)
            raise Interrupted("the file changed on the server")
        _refuse_page(response.headers.get("Content-Type", ""), b"", final.name)
        size = _append(client, response, url, final, start=start, total=total, meter=meter)
    if total is not None and size < total:
        raise Interrupted(f"the body ended at {size} of {total} bytes", gained=size - before >= GAIN_BYTES)
    return start > 0


def _append(
    client: Client,
    response: requests.Response,
    url: str,
    final: Path,
    *,
    start: int,
    total: int | None,
    meter: Meter,
) -> int:
    """Write the body behind the first `start` bytes and return the size reached."""
    partial, sidecar = partial_paths(final)
    held = partial.stat().st_size if partial.exists() else 0
    size = start
    blocks = client.blocks(response)
    try:
        block = next(blocks, b"")
        if start == 0:
            _refuse_page("", block, final.name)
            # In this order: a kill in between must not join the old bytes with the new validator.
            discard(final)
            write_json(sidecar, {"url": url, "validator": _strong_validator(response)})
        with partial.open("ab" if start else "wb") as handle:
            while block:
                handle.write(block)
                size += len(block)
                meter.place(final.name, size, total)
                block = next(blocks, b"")
    except Interrupted as error:
        raise Interrupted(str(error), gained=size - held >= GAIN_BYTES) from error
    except OSError as error:
        raise UserError(
            f"{partial} cannot be written ({error.strerror}); make room or choose another folder."
        ) from error
    return size


def _extent(response: requests.Response) -> tuple[int, int | None]:
    """Return where the body starts, and how long the whole file is (None: not said)."""
    if response.status_code == 200:
        length = response.headers.get("Content-Length")
        return 0, int(length) if length and length.isdigit() else None
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    if found is None:
        raise Refused(f"the server answered {response.status_code} without a usable Content-Range")
    return int(found[1]), None if found[2] == "*" else int(found[2])


def _refuse_page(content_type: str, beginning: bytes, name: str) -> None:
    """A login, proxy or quota page comes with status 200: data must not be taken from it."""
    if name.lower().endswith((".html", ".htm")):
        return
    opening = beginning.lstrip(b"\xef\xbb\xbf \t\r\n")[:14].lower()
    if content_type.lower().startswith("text/html") or opening.startswith((b"<!doctype html", b"<html")):
        raise Refused("the server sent a web page instead of the file (a login, proxy or quota page?)")


def _strong_validator(response: requests.Response) -> str | None:
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified")


def _changed(response: requests.Response, validator: str | None) -> bool:
    """Some servers overlook If-Range: compare what they say the file is now."""
    now = _strong_validator(response)
    return validator is not None and now is not None and now != validator


def _validator(sidecar: Path, url: str) -> str | None:
    if not sidecar.exists():
        return None
    try:
        note = read_json(sidecar)
    except ValueError:
        return None
    validator = note.get("validator")
    return validator if note.get("url") == url and isinstance(validator, str) else None
