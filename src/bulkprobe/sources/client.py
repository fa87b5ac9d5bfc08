"""HTTP underneath the downloads: which failures are worth another try, how long to wait, progress."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self, TypedDict, TypeVar

import numpy as np
import requests
import urllib3
from tqdm import tqdm

from bulkprobe.errors import UserError

BLOCK_BYTES = 1 << 18
LONGEST_PAUSE = 60.0  # seconds between attempts
LONGEST_RETRY_AFTER = 120.0  # seconds that a server may ask us to wait
UNREACHABLE_RETRIES = 2  # without network nobody wants to wait for every attempt
RETRIED_STATUS = {408, 425, 429, 500, 502, 503, 504}
Result = TypeVar("Result")


class Interrupted(Exception):
    """The transfer stopped, and asking again may help."""

    def __init__(self, why: str, *, gained: bool = False, wait: float | None = None, unreachable: bool = False) -> None:
        super().__init__(why)
        self.gained = gained
        self.wait = wait
        self.unreachable = unreachable


class Refused(Exception):
    """This address does not give the file; asking it again does not help, another address may."""


class Cancelled(Exception):
    """Another thread asked to stop."""


class HttpOptions(TypedDict, total=False):
    """How patient a download is, and through what it goes; see `Client`."""

    retries: int
    backoff: float
    timeout: tuple[float, float]
    session: requests.Session | None
    rng: np.random.Generator | None
    base_urls: Mapping[str, str] | None


class Client:
    """An HTTP session that knows which failures pass.

    `retries` further attempts follow a failed one, after `backoff` · 2^i seconds (at most 60; with
    `rng` up to twice that, drawn, so that many machines do not knock at once) or what the server asks
    by Retry-After (at most 120 s). `timeout` is (connecting, silence) in seconds. `base_urls` maps the
    beginning of an address to what replaces it: an institute's mirror, or a test server.
    """

    def __init__(
        self,
        *,
        retries: int = 5,
        backoff: float = 1.0,
        timeout: tuple[float, float] = (30.0, 60.0),
        session: requests.Session | None = None,
        rng: np.random.Generator | None = None,
        base_urls: Mapping[str, str] | None = None,
    ) -> None:
        self.retries = retries
        self.backoff = backoff
        self.timeout = timeout
        self.base_urls = dict(base_urls or {})
        self.stop = threading.Event()
        self._rng = rng
        self._rng_guard = threading.Lock()
        self._owned = session is None
        self._session = requests.Session() if session is None else session

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._owned:
            self._session.close()

    @contextmanager
    def open(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, json: Any = None
    ) -> Iterator[requests.Response]:
        """Send a request and yield the response with its body unread; 416 is yielded, other errors raised."""
        # Bytes are kept as published: no compression may be added on the way.
        sent = {"Accept-Encoding": "identity", **(headers or {})}
        try:
            response = self._session.request(
                method, self._rebased(url), headers=sent, json=json, timeout=self.timeout, stream=True
            )
        except requests.RequestException as error:
            raise _translated(error) from error
        with response:
            status = response.status_code
            if status in RETRIED_STATUS:
                raise Interrupted(f"the server answered {status}", wait=retry_after(response))
            if status not in (200, 206, 416):
                raise Refused(f"the server answered {status}")
            yield response

    def blocks(self, response: requests.Response) -> Iterator[bytes]:
        """Yield the body as it was sent; a connection that breaks raises Interrupted."""
        try:
            for block in response.raw.stream(BLOCK_BYTES, decode_content=False):
                self.go_on()
                yield block
        except (urllib3.exceptions.HTTPError, ConnectionError, TimeoutError) as error:
            raise Interrupted("the connection was cut") from error

    def retry(self, action: Callable[[], Result], retries: int | None = None) -> Result:
        """Repeat `action` while it is Interrupted, with growing pauses; attempts that gained do not count."""
        retries = self.retries if retries is None else retries
        failures = 0
        while True:
            self.go_on()
            try:
                return action()
            except Interrupted as error:
                failures = 1 if error.gained else failures + 1
                if failures > (min(retries, UNREACHABLE_RETRIES) if error.unreachable else retries):
                    raise
                self.stop.wait(self.pause(failures, error.wait))

    def pause(self, failures: int, asked: float | None) -> float:
        """Return the seconds to wait after the nth failure in a row."""
        if asked is not None:
            return min(asked, LONGEST_RETRY_AFTER)
        seconds = min(self.backoff * 2.0 ** (failures - 1), LONGEST_PAUSE)
        if self._rng is None:
            return seconds
        with self._rng_guard:
            return seconds * (1.0 + float(self._rng.random()))

    def go_on(self) -> None:
        """Raise Cancelled when the work was stopped."""
        if self.stop.is_set():
            raise Cancelled

    def in_parallel(self, actions: Sequence[Callable[[], Result]], workers: int) -> list[Result | UserError]:
        """Run every action in threads; a UserError takes the place of its result, all others end the work."""

        def guarded(action: Callable[[], Result]) -> Result | UserError:
            try:
                return action()
            except UserError as error:
                return error

        with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
            waiting = [pool.submit(guarded, action) for action in actions]
            try:
                return [future.result() for future in waiting]
            except BaseException:  # Ctrl-C too: the threads must not go on for gigabytes
                self.stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _rebased(self, url: str) -> str:
        for prefix, replacement in self.base_urls.items():
            if url.startswith(prefix):
                return replacement + url[len(prefix) :]
        return url


def _translated(error: requests.RequestException) -> Interrupted | Refused:
    if isinstance(error, requests.exceptions.SSLError):
        return Refused("the server's certificate was not accepted")
    if isinstance(error, requests.ReadTimeout):
        return Interrupted("the server stayed silent")
    if isinstance(error, requests.ConnectionError):
        reason = getattr(error.args[0] if error.args else None, "reason", None)
        absent = isinstance(error, requests.exceptions.ProxyError | requests.ConnectTimeout) or isinstance(
            reason, urllib3.exceptions.NewConnectionError
        )
        return Interrupted("no connection" if absent else "the connection was cut", unreachable=absent)
    if isinstance(error, requests.exceptions.ChunkedEncodingError | requests.Timeout):
        return Interrupted("the connection was cut")
    return Refused(f"the request is impossible ({type(error).__name__})")


def retry_after(response: requests.Response) -> float | None:
    """Return the seconds that a Retry-After header asks for, given as a number or as a date."""
    text = response.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


class Meter:
    """One progress bar over the bytes of many files, shared by threads; shown after two seconds of work."""

    def __init__(self, what: str, show: bool) -> None:
        self._guard = threading.Lock()
        self._files: dict[str, tuple[int, int]] = {}
        self._bar = tqdm(desc=what, unit="B", unit_scale=True, unit_divisor=1024, total=0, delay=2.0, disable=not show)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def place(self, name: str, done: int, total: int | None = None) -> None:
        """Say how many bytes of a file are here, and how many it has where that is known."""
        with self._guard:
            was_done, was_total = self._files.get(name, (0, 0))
            now_total = max(total or was_total, done)
            self._files[name] = (done, now_total)
            self._bar.total = (self._bar.total or 0) + now_total - was_total
            self._bar.update(done - was_done)
