"""Bringing a release's files into `models/<encoder>/<release>`, checked."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from bulkprobe.encoders.base import Card
from bulkprobe.errors import UserError, some
from bulkprobe.sources.download import download_all
from bulkprobe.sources.lock import HashLock
from bulkprobe.sources.schema import SourceFile
from bulkprobe.stages.checkpoints import Checkpoint, folder_hash, hashes_of


def fetch_release(
    card: Card, name: str, folder: Path, *, lock: Path, workers: int, retries: int, **http: Any
) -> tuple[Checkpoint, dict[str, str]]:
    """Bring a release into `folder`/<its name>: what is there is checked, what is missing downloaded, resumably.

    Raises UserError where a file cannot be had or is not the published one; nothing unchecked stands under a final
    name. Files without a published hash are recorded in `lock` at the first download.
    """
    release = card.release(name)
    final = folder / release.name
    if release.terms:
        print(f"{card.name} {release.name}: {release.terms}", file=sys.stderr)
    # Downloads that are under way wait outside the folder that DVC hashes.
    incoming = folder.parent / ".incoming" / card.name / release.name
    for file in release.files:
        if (final / file.path).is_file() and not (incoming / file.path).exists():
            (incoming / file.path).parent.mkdir(parents=True, exist_ok=True)
            os.link((final / file.path).resolve(), incoming / file.path)
    here = [file for file in release.files if file.urls or (incoming / file.path).is_file()]
    files = [SourceFile(f.path, f.urls, f.bytes, f.sha256, f.md5, release.terms, f.by_hand) for f in here]
    try:
        download_all(files, incoming, workers=workers, lock=HashLock(lock), retries=retries, **http)
    except UserError as problem:
        raise UserError(str(problem).replace(str(incoming), str(final))) from None
    if by_hand := [file for file in release.files if file not in here]:
        how = "; ".join(dict.fromkeys(file.by_hand or "fetch it by hand" for file in by_hand))
        raise UserError(
            f"{some(file.path for file in by_hand)} cannot be downloaded by a program: {how}; put what is missing into "
            f"{final} under the names given and run again"
        )
    for file in release.files:
        (final / file.path).parent.mkdir(parents=True, exist_ok=True)
        os.replace(incoming / file.path, final / file.path)
    shutil.rmtree(incoming, ignore_errors=True)
    hashes = hashes_of(final)
    strange = sorted(set(hashes) - {file.path for file in release.files})
    if strange:
        raise UserError(f"{final} holds files that {release.name} does not have: {some(strange)}; remove them")
    verified = all(file.sha256 or file.md5 for file in release.files)
    return Checkpoint(final, folder_hash(hashes), release.name, verified=verified), hashes
