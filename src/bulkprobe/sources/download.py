"""Downloading published files: mirrors, hashes checked before a file gets its name, several at a time."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Unpack
from urllib.parse import urlsplit

from bulkprobe.errors import UserError, some
from bulkprobe.files import READ_BYTES
from bulkprobe.sources.client import Client, HttpOptions, Interrupted, Meter, Refused
from bulkprobe.sources.lock import HashLock
from bulkprobe.sources.schema import SourceFile
from bulkprobe.sources.transfer import discard, partial_paths, transfer

__all__ = ["DownloadRecord", "HashLock", "download", "download_all", "fetch_file"]


@dataclass(frozen=True)
class DownloadRecord:
    """What stands under the final name: hashes, size in bytes, and how it came there.

    `url` is the address that the bytes came from in this call (None: the file was here already),
    `resumed` whether an earlier part was continued, `note` what the user should know.
    """

    sha256: str
    md5: str
    bytes: int
    url: str | None = None
    resumed: bool = False
    note: str | None = None


class _Unreachable(UserError):
    """Files are not here and there is no network; many of these make one sentence."""

    def __init__(self, names: Sequence[str], folder: Path, hosts: Sequence[str]) -> None:
        self.names, self.hosts = names, hosts
        one = len(names) == 1
        super().__init__(
            f"{some(names)} {'is' if one else 'are'} not in {folder} and no server that has "
            f"{'it' if one else 'them'} can be reached ({', '.join(dict.fromkeys(hosts))}): connect to the "
            f"internet and run again, or put the {'file' if one else 'files'} there by hand."
        )


def download(
    file: SourceFile,
    folder: Path,
    *,
    lock: HashLock | None = None,
    progress: bool = True,
    **http: Unpack[HttpOptions],
) -> DownloadRecord:
    """Bring one file into `folder` under its name, checked; a right file that is there is left alone.

    `http` are the options of `Client`. A file whose hash the registry does not state is compared with
    `lock`, or recorded there. Raises UserError when no address gives the right bytes; then nothing
    stands under the final name that was not there before.
    """
    return download_all([file], folder, workers=1, lock=lock, progress=progress, **http)[file.name]


def download_all(
    files: Sequence[SourceFile],
    folder: Path,
    *,
    workers: int = 4,
    lock: HashLock | None = None,
    progress: bool = True,
    **http: Unpack[HttpOptions],
) -> dict[str, DownloadRecord]:
    """Bring several files into `folder`, `workers` at a time, and return their records by name.

    A file that fails does not stop the others: they are finished first, then one UserError tells all.
    """
    what = files[0].name if len(files) == 1 else f"{len(files)} files"
    with Client(**http) as client, Meter(what, progress) as meter:
        actions = [partial(fetch_file, file, Path(folder), lock, client, meter) for file in files]
        results = client.in_parallel(actions, workers)
    errors = [result for result in results if isinstance(result, UserError)]
    if len(errors) == 1:
        raise errors[0]
    offline = [error for error in errors if isinstance(error, _Unreachable)]
    if offline and len(offline) == len(errors):
        raise _Unreachable([n for e in offline for n in e.names], folder, [h for e in offline for h in e.hosts])
    if errors:
        reasons = some(str(error).rstrip(".") for error in errors)
        raise UserError(f"{len(errors)} of {len(files)} files could not be fetched: {reasons}.")
    records = {f.name: r for f, r in zip(files, results, strict=True) if isinstance(r, DownloadRecord)}
    for record in records.values():
        if record.note:
            warnings.warn(record.note, stacklevel=2)
    return records


def fetch_file(file: SourceFile, folder: Path, lock: HashLock | None, client: Client, meter: Meter) -> DownloadRecord:
    """Bring one file into `folder` with a client and a progress bar that are shared with others."""
    final = folder / file.name
    locked = lock.get(file.lock_key) if lock and not file.pinned else None
    replaced = ""
    if final.is_file():
        record = _measure(final)
        wrong = _difference(file, locked, record, _beginning(final))
        if wrong is None:
            discard(final)
            return _accept(file, lock, record)
        replaced = f" (the one in {folder} is not it: {_explain(file, lock, wrong)})"
    if not file.urls:
        advice = file.note or f"put it into {folder} by hand"
        raise UserError(f"{file.name} cannot be downloaded automatically{replaced}: {advice}.")
    final.parent.mkdir(parents=True, exist_ok=True)
    failures: dict[str, str] = {}
    unreachable = True
    for url in file.urls:
        try:
            record = _from_address(file, url, final, locked, lock, client, meter)
        except (Interrupted, Refused) as error:
            failures[url] = str(error)
            unreachable = unreachable and isinstance(error, Interrupted) and error.unreachable
            continue
        # A rename, not a write: what stood here may be a hard link into a read-only cache.
        os.replace(partial_paths(final)[0], final)
        discard(final)
        return _accept(file, lock, record)
    if unreachable and not replaced:
        raise _Unreachable([file.name], folder, [_host(url) for url in failures])
    reasons = "; ".join(f"{_host(url)}: {reason}" for url, reason in failures.items())
    raise UserError(f"{file.name} could not be downloaded{replaced}: {reasons}.")


def _from_address(
    file: SourceFile,
    url: str,
    final: Path,
    locked: str | None,
    lock: HashLock | None,
    client: Client,
    meter: Meter,
) -> DownloadRecord:
    """Bring the right bytes of one address into the partial file, or raise Interrupted or Refused."""
    aside = partial_paths(final)[0]
    checkable = file.pinned or locked is not None
    meter.place(final.name, aside.stat().st_size if aside.exists() else 0, file.bytes)
    fetch = partial(transfer, client, url, final, checkable=checkable, meter=meter)
    resumed = client.retry(fetch)
    record = _measure(aside, url, resumed)
    wrong = _difference(file, locked, record, _beginning(aside))
    if wrong is not None and resumed:
        # The part from before may have been of another file: this address deserves one fresh start.
        discard(final)
        record = _measure(aside, url, client.retry(fetch))
        wrong = _difference(file, locked, record, _beginning(aside))
    if wrong is not None:
        discard(final)
        raise Refused(f"the bytes are not those of the published file, {_explain(file, lock, wrong)}")
    return record


def _measure(path: Path, url: str | None = None, resumed: bool = False) -> DownloadRecord:
    """Hash a file, both ways in one reading."""
    sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    with path.open("rb") as handle:
        while block := handle.read(READ_BYTES):
            sha256.update(block)
            md5.update(block)
            size += len(block)
    return DownloadRecord(sha256.hexdigest(), md5.hexdigest(), size, url, resumed)


@dataclass(frozen=True)
class _Difference:
    what: str
    expected: str | int
    got: str | int


def _beginning(path: Path) -> str:
    with path.open("rb") as handle:
        return handle.read(2).hex()


def _difference(file: SourceFile, locked: str | None, record: DownloadRecord, beginning: str) -> _Difference | None:
    """Return the first thing by which the bytes differ from what they must be."""
    must: list[tuple[str, str | int | None, str | int]] = []
    if file.strict_hash:
        must += [("md5", file.md5, record.md5), ("sha256", file.sha256, record.sha256)]
        must.insert(0, ("size in bytes", file.bytes, record.bytes))
    must.append(("recorded sha256", locked, record.sha256))
    if file.name.endswith(".gz"):  # all we can know of a file without a hash
        must.append(("gzip mark at the beginning", "1f8b", beginning))
    return next((_Difference(w, e, g) for w, e, g in must if e is not None and e != g), None)


def _explain(file: SourceFile, lock: HashLock | None, wrong: _Difference) -> str:
    text = f"{wrong.what}: expected {wrong.expected}, got {wrong.got}"
    if lock is not None and wrong.what == "recorded sha256":
        return f"{text} ({lock.how_to_accept(file.lock_key)})"
    return text


def _accept(file: SourceFile, lock: HashLock | None, record: DownloadRecord) -> DownloadRecord:
    """Record a hash that the registry does not state, and note one that it states without insisting."""
    if file.pinned:
        return record
    if lock is not None:
        lock.record(file.lock_key, record.sha256)
    stated = (("md5", file.md5, record.md5), ("sha256", file.sha256, record.sha256))
    wrong = next((_Difference(w, e, g) for w, e, g in stated if e is not None and e != g), None)
    if wrong is None:
        return record
    note = f"{file.name} is not the copy that the registry knows, {_explain(file, None, wrong)}: {file.note}."
    return replace(record, note=note)


def _host(url: str) -> str:
    return urlsplit(url).netloc or url
