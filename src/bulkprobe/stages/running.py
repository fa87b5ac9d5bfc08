"""How every stage starts and how it fails."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from bulkprobe.errors import UserError, printable


def run_stage(main: Callable[[], str]) -> None:
    """Run a stage: its last line says where the results are; a user's error is one sentence and status 1."""
    try:
        print(main())
    except (UserError, OSError) as problem:  # a full disk or a missing file is no bug of ours
        if os.environ.get("BULKPROBE_DEBUG"):
            raise
        sys.exit(f"error: {printable(str(problem))}")


def encoder_argument() -> str:
    """The encoder's name, the one argument of the stages that run once an encoder."""
    if len(sys.argv) != 2:
        raise UserError(f"one argument was expected, the encoder's name, but {len(sys.argv) - 1} were given")
    return sys.argv[1]
