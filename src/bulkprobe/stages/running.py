"""How every stage starts and how it fails."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from bulkprobe.errors import UserError, printable

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """Somebody asked this process to stop; no KeyboardInterrupt, which libraries answer in their own ways."""


@contextmanager
def stoppable() -> Iterator[None]:
    """End by Ctrl-C (130) or SIGTERM (143) in one sentence, after what is half-written has been removed.

    What can be continued is kept: finished shards and the beginnings of downloads. A second signal ends at once.
    """

    def stop(number: int, frame: object) -> NoReturn:
        for each in caught:
            signal.signal(each, signal.SIG_DFL)
        logging.getLogger("asyncio").disabled = True  # Zarr's reads under way would say at the end that they were
        raise Stopped(number)

    # What is ignored stays ignored, as under nohup.
    caught = [each for each in SIGNALS if signal.getsignal(each) not in (signal.SIG_IGN, None)]
    before = {each: signal.signal(each, stop) for each in caught}
    try:
        yield
    except Stopped as asked:
        number = asked.args[0]
        print(
            f"stopped by {signal.Signals(number).name}: run again to continue, what is finished is kept",
            file=sys.stderr,
        )
        sys.exit(128 + number)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def run_stage(main: Callable[[], str]) -> None:
    """Run a stage: its last line says where the results are; a user's error is one sentence and status 1."""
    try:
        with stoppable():
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
