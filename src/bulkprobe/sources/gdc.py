"""The GDC's STAR counts: a pinned listing, and thousands of small files fetched in batches."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Unpack

from bulkprobe.errors import UserError, some
from bulkprobe.files import atomic_path, file_hash
from bulkprobe.sources import schema
from bulkprobe.sources.client import Client, HttpOptions, Interrupted, Meter, Refused
from bulkprobe.sources.download import fetch_file
from bulkprobe.sources.gdc_archive import unpack
from bulkprobe.sources.gdc_listing import (
    GDC_API,
    PROJECTS,
    UUID,
    StarFile,
    manifest_text,
    project_ids,
    query_star,
    read_manifest,
)
from bulkprobe.sources.lock import HashLock
from bulkprobe.sources.schema import SourceFile

__all__ = ["GDC_API", "PROJECTS", "StarFile", "fetch_star", "project_ids", "query_star", "read_manifest"]

MOST_FAILURES = 10  # files given up before the rest is not tried any more


def fetch_star(
    folder: Path,
    projects: Sequence[str] | None = None,
    *,
    lock: HashLock | None = None,
    api: str = GDC_API,
    workers: int = 4,
    batch: int = 50,
    refresh: bool = False,
    progress: bool = True,
    **http: Unpack[HttpOptions],
) -> list[StarFile]:
    """Write `gdc_star/manifest.tsv` and every counts file it lists below `folder`; return its rows.

    `projects` are cancer types or project ids (None: all 33). The manifest that is there is kept unless
    `refresh`; `lock` pins it. Files with the right md5 are left alone, others come `batch` at a time.
    Raises UserError when the listing changed against the lock, or naming the files that failed.
    """
    star = Path(folder) / schema.STAR_FOLDER
    with Client(**http) as client:
        rows = _pinned_listing(client, api, star / "manifest.tsv", project_ids(projects), lock, refresh)
        _remove_unlisted(star, rows)
        with Meter("Checking GDC files", progress) as meter:
            checks = [partial(_is_right, star, row, meter) for row in rows]
            right = client.in_parallel(checks, workers)
        missing = [row for row, is_right in zip(rows, right, strict=True) if not is_right]
        with Meter("GDC STAR counts", progress) as meter:
            run = _Run(client, api, star, meter, missing)
            groups = [missing[i : i + batch] for i in range(0, len(missing), batch)]
            results = client.in_parallel([partial(run.fetch, group) for group in groups], workers)
    for result in results:
        if isinstance(result, UserError):
            raise result
    if run.failed:
        listed = some(f"{path} ({reason})" for path, reason in sorted(run.failed.items()))
        raise UserError(
            f"{len(run.left(missing))} of {len(rows)} GDC files are still missing, given up: {listed}; "
            "run again to continue, finished files are kept."
        )
    _sweep(star, rows)
    return rows


class _Run:
    """The batches of one call; its methods run in several threads."""

    def __init__(self, client: Client, api: str, star: Path, meter: Meter, missing: Sequence[StarFile]) -> None:
        self.failed: dict[str, str] = {}  # path → reason
        self._client = client
        self._api = api
        self._star = star
        self._meter = meter
        self._done: set[str] = set()
        self._bytes = 0
        self._total = sum(row.size for row in missing)
        self._unreachable = False
        self._guard = threading.Lock()
        meter.place("all", 0, self._total)

    def left(self, rows: Sequence[StarFile]) -> list[StarFile]:
        """Return the rows whose files are not finished."""
        return [row for row in rows if row.file_id not in self._done]

    def fetch(self, rows: Sequence[StarFile], retries: int | None = None) -> None:
        """Fetch a batch; what fails is tried again in halves, and in the end one by one."""
        rows = self.left(rows)
        if not rows or self._unreachable or len(self.failed) >= MOST_FAILURES:
            return
        if len(rows) == 1:
            self._fetch_one(rows[0])
            return
        try:
            self._client.retry(partial(self._fetch_archive, rows), retries)
        except (Interrupted, Refused) as error:
            if isinstance(error, Interrupted) and error.unreachable:
                self._unreachable = True
                self.failed[rows[0].path] = str(error)
                return
            rows = self.left(rows)
            middle = (len(rows) + 1) // 2
            self.fetch(rows[:middle], retries=1)
            self.fetch(rows[middle:], retries=1)

    def _fetch_archive(self, rows: Sequence[StarFile]) -> None:
        """Ask for what is left of the batch as one archive; its finished files count even if it breaks."""
        rows = self.left(rows)
        if len(rows) == 1:  # the GDC answers one id with the bare file
            self._fetch_one(rows[0])
            return
        try:
            ids = {"ids": [row.file_id for row in rows]}
            with self._client.open("POST", f"{self._api}/data", json=ids) as response:
                for row in unpack(self._client.blocks(response), self._star, rows):
                    self._finish(row)
        except Interrupted as error:
            error.gained = len(self.left(rows)) < len(rows)
            raise
        if self.left(rows):
            raise Refused("the archive lacks files, or holds other bytes than listed")

    def _fetch_one(self, row: StarFile) -> None:
        url = f"{self._api}/data/{row.file_id}"
        file = SourceFile(row.path, (url,), bytes=row.size, md5=row.md5)
        try:
            fetch_file(file, self._star, None, self._client, Meter("", False))
        except UserError as error:
            self.failed[row.path] = str(error)
        else:
            self._finish(row)

    def _finish(self, row: StarFile) -> None:
        with self._guard:
            self._done.add(row.file_id)
            self._bytes += row.size
            self._meter.place("all", self._bytes, self._total)


def _pinned_listing(
    client: Client, api: str, path: Path, wanted: tuple[str, ...], lock: HashLock | None, refresh: bool
) -> list[StarFile]:
    """Return the rows of the manifest: the one that is here if it fits, else asked for and checked."""
    key = f"{GDC_API}/files#{'all' if wanted == PROJECTS else ','.join(wanted)}"
    locked = lock.get(key) if lock else None
    here = read_manifest(path) if path.exists() else []
    if here and not refresh:
        known = file_hash(path)
        if known == locked or (locked is None and {row.project for row in here} == set(wanted)):
            if lock:
                lock.record(key, known)
            return here
    rows = query_star(client, wanted, api=api)
    text = manifest_text(rows).encode()
    now = hashlib.sha256(text).hexdigest()
    if lock and locked not in (None, now):
        ours, theirs = set(here), set(rows)
        change = f" ({len(theirs - ours)} entries new, {len(ours - theirs)} gone)" if here else ""
        raise UserError(
            f"The GDC lists other STAR counts files than recorded{change}, a new data release: expected "
            f"sha256 {locked}, got {now}; {lock.how_to_accept(key)}."
        )
    with atomic_path(path) as aside:
        aside.write_bytes(text)
    if lock:
        lock.record(key, now)
    return rows


def _is_right(star: Path, row: StarFile, meter: Meter) -> bool:
    path = star / row.path
    right = path.is_file() and path.stat().st_size == row.size and file_hash(path, "md5") == row.md5
    meter.place(row.path, row.size if right else 0)
    return right


def _remove_unlisted(star: Path, rows: Sequence[StarFile]) -> None:
    """Remove the files of other projects or releases; nothing but folders named by a file id."""
    listed = {row.file_id for row in rows}
    for folder in sorted(star.iterdir()):
        if folder.is_dir() and UUID.fullmatch(folder.name) and folder.name not in listed:
            shutil.rmtree(folder)


def _sweep(star: Path, rows: Sequence[StarFile]) -> None:
    """Remove what a killed run left beside finished files."""
    for row in rows:
        for leftover in (star / row.file_id).glob("*.partial*"):
            leftover.unlink()
