"""Hashes of files whose publisher states none: recorded at the first download, enforced afterwards."""

from __future__ import annotations

import threading
from pathlib import Path

from bulkprobe.errors import UserError
from bulkprobe.files import read_json, write_json


class HashLock:
    """A JSON file `{address: sha256}`, one line a file, meant to be kept under version control.

    Safe to share between threads. A line that is deleted is recorded anew at the next download:
    that is how a changed file is accepted.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._guard = threading.Lock()

    def get(self, key: str) -> str | None:
        """Return the sha256 recorded for `key`, or None."""
        with self._guard:
            return self._read().get(key)

    def record(self, key: str, sha256: str) -> None:
        """Record the sha256 of `key` at its first sight; a different one later is a UserError."""
        with self._guard:
            known = self._read()
            if key not in known:
                write_json(self.path, known | {key: sha256})
            elif known[key] != sha256:
                raise UserError(
                    f"{key} has changed: expected sha256 {known[key]} as recorded in {self.path.name}, "
                    f"got {sha256}; {self.how_to_accept(key)}."
                )

    def how_to_accept(self, key: str) -> str:
        """Say what to do when a file was changed on purpose."""
        return f"if the change is meant, delete the line of {key} in {self.path.name} and run again"

    def _read(self) -> dict[str, str]:
        # Read every time: another process may have recorded a file meanwhile.
        if not self.path.exists():
            return {}
        try:
            content = read_json(self.path)
        except ValueError as error:
            raise UserError(
                f"{self.path} is not JSON ({error}); restore it from version control or delete it."
            ) from error
        if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
            raise UserError(f"{self.path} must map addresses to sha256; restore it from version control or delete it.")
        return content
