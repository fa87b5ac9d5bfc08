"""What files made to harm are made of."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from readers import READERS
from reading import Reader

BY_NAME = {reader.name: reader for reader in READERS}
HUGE = 1 << 43


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def canary(folder: Path) -> Calls:
    return Calls(os.system, f"touch {folder / 'canary'}")


def made(name: str, folder: Path) -> Reader:
    """Put a reader's sound files into a folder."""
    BY_NAME[name].write(folder)
    return BY_NAME[name]


def rewrite_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
