"""Resuming, trying again and waiting, against a server that cuts, refuses and changes."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from server import DATA, PATH, Fault, FaultServer, left_in, pinned, session, unpinned

from bulkprobe.errors import UserError
from bulkprobe.files import write_json
from bulkprobe.sources import client as client_module
from bulkprobe.sources.client import Cancelled, Client, Interrupted, Meter, Refused, retry_after
from bulkprobe.sources.download import DownloadRecord, HashLock, download
from bulkprobe.sources.schema import SourceFile


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        running.files[PATH] = DATA
        running.etags[PATH] = '"one"'
        yield running


@pytest.fixture
def fetch(tmp_path: Path) -> Iterator[Any]:
    """`download` into tmp_path/raw, without pauses, proxies and bars."""
    with session() as quiet:

        def run(file: SourceFile, lock: HashLock | None = None, **options: Any) -> DownloadRecord:
            settings = {"retries": 3, "backoff": 0.0, "timeout": (2.0, 2.0), "session": quiet, **options}
            return download(file, tmp_path / "raw", lock=lock, progress=False, **settings)

        yield run


def test_a_cut_is_resumed_where_it_stopped(server: FaultServer, fetch: Any, tmp_path: Path) -> None:
    server.faults[PATH] = [Fault(cut=100_000), Fault(cut=50_000)]
    assert fetch(pinned(server.url + PATH)).resumed
    assert [request.range for request in server.log] == [None, "bytes=100000-", "bytes=150000-"]
    assert [request.headers.get("if-range") for request in server.log] == [None, '"one"', '"one"']
    assert (tmp_path / "raw" / "data.bin").read_bytes() == DATA


def test_a_later_run_resumes_what_an_earlier_one_left(server: FaultServer, fetch: Any, tmp_path: Path) -> None:
    server.always[PATH] = Fault(cut=70_000)
    with pytest.raises(UserError, match=r"data\.bin could not be downloaded: 127\.0\.0\.1:\d+: the conn"):
        fetch(pinned(server.url + PATH), retries=0)
    assert left_in(tmp_path / "raw") == ["data.bin.partial", "data.bin.partial.json"]
    del server.always[PATH]
    assert fetch(pinned(server.url + PATH)).resumed
    assert server.log[-1].range == "bytes=70000-"
    assert left_in(tmp_path / "raw") == ["data.bin"]


def test_a_body_of_unstated_length_is_not_complete_when_cut(server: FaultServer, fetch: Any, tmp_path: Path) -> None:
    server.faults[PATH] = [Fault(cut=50_000, chunked=True), Fault(chunked=True)]
    assert fetch(unpinned(server.url + PATH)).bytes == len(DATA)
    assert (tmp_path / "raw" / "data.bin").read_bytes() == DATA
    assert server.log[1].range is not None


def test_a_range_that_is_answered_in_pieces_is_asked_on(server: FaultServer, fetch: Any) -> None:
    server.faults[PATH] = [Fault(cut=100_000), Fault(most=150_000), Fault(most=40_000)]
    fetch(unpinned(server.url + PATH))
    assert [request.range for request in server.log[1:]] == [
        "bytes=100000-",
        "bytes=250000-",
        "bytes=290000-",
    ]


def test_a_kill_between_note_and_bytes_joins_nothing(
    server: FaultServer, fetch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.faults[PATH] = [Fault(cut=100_000)]
    with pytest.raises(UserError):
        fetch(unpinned(server.url + PATH), retries=0)
    server.files[PATH], server.etags[PATH] = DATA[::-1], '"two"'

    def killed(path: Path, content: Any) -> None:
        write_json(path, content)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("bulkprobe.sources.transfer.write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            fetch(unpinned(server.url + PATH))
    fetch(unpinned(server.url + PATH))
    assert (tmp_path / "raw" / "data.bin").read_bytes() == DATA[::-1]


def test_retries_end(server: FaultServer, fetch: Any) -> None:
    server.always[PATH] = Fault(cut=0)
    with pytest.raises(UserError, match="the connection was cut"):
        fetch(pinned(server.url + PATH), retries=2)
    assert len(server.log) == 3


def test_attempts_that_bring_much_do_not_count(
    server: FaultServer, fetch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bulkprobe.sources.transfer.GAIN_BYTES", 10_000)
    server.always[PATH] = Fault(cut=20_000)
    assert fetch(pinned(server.url + PATH), retries=1).bytes == len(DATA)
    assert len(server.log) == 15


@pytest.mark.parametrize("known", [True, False])
def test_a_file_that_changed_is_not_spliced(server: FaultServer, fetch: Any, tmp_path: Path, known: bool) -> None:
    newer = DATA[::-1]
    file = pinned(server.url + PATH, data=newer) if known else unpinned(server.url + PATH)
    server.always[PATH] = Fault(cut=100_000)
    with pytest.raises(UserError):
        fetch(file, retries=0)
    del server.always[PATH]
    server.files[PATH], server.etags[PATH] = newer, '"two"'
    assert not fetch(file).resumed
    assert server.log[-1].headers["if-range"] == '"one"'
    assert (tmp_path / "raw" / "data.bin").read_bytes() == newer


def test_a_server_that_overlooks_if_range_is_found_out(server: FaultServer, fetch: Any, tmp_path: Path) -> None:
    server.always[PATH] = Fault(cut=100_000, ignore_if_range=True)
    with pytest.raises(UserError):
        fetch(unpinned(server.url + PATH), retries=0)
    server.always[PATH] = Fault(ignore_if_range=True)
    server.files[PATH], server.etags[PATH] = DATA[::-1], '"two"'
    fetch(unpinned(server.url + PATH))
    assert (tmp_path / "raw" / "data.bin").read_bytes() == DATA[::-1]


def test_without_validator_and_hash_a_part_is_not_continued(server: FaultServer, fetch: Any) -> None:
    del server.etags[PATH]
    server.faults[PATH] = [Fault(cut=100_000)]
    fetch(unpinned(server.url + PATH))
    assert [request.range for request in server.log] == [None, None]


def test_last_modified_serves_where_the_etag_is_weak(server: FaultServer, fetch: Any) -> None:
    server.etags[PATH] = 'W/"weak"'
    date = "Mon, 01 Jan 2024 00:00:00 GMT"
    server.faults[PATH] = [Fault(cut=100_000, headers={"Last-Modified": date})]
    fetch(unpinned(server.url + PATH))
    assert server.log[1].headers["if-range"] == date


def test_a_wrong_part_gets_one_fresh_start(server: FaultServer, fetch: Any, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "data.bin.partial").write_bytes(b"x" * 1000)
    fetch(pinned(server.url + PATH))
    assert [request.range for request in server.log] == ["bytes=1000-", None]
    assert (tmp_path / "raw" / "data.bin").read_bytes() == DATA


def test_an_unreadable_note_beside_a_part_is_ignored(server: FaultServer, fetch: Any, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "data.bin.partial").write_bytes(DATA[:1000])
    (tmp_path / "raw" / "data.bin.partial.json").write_text("{")
    fetch(pinned(server.url + PATH))
    assert server.log[0].range == "bytes=1000-"
    assert "if-range" not in server.log[0].headers


def test_a_server_that_ignores_range_starts_again(server: FaultServer, fetch: Any, tmp_path: Path) -> None:
    server.faults[PATH] = [Fault(cut=100_000), Fault(ignore_range=True)]
    assert not fetch(pinned(server.url + PATH)).resumed
    assert server.log[1].range == "bytes=100000-"
    assert (tmp_path / "raw" / "data.bin").read_bytes() == DATA


def test_416_means_complete_or_start_again(server: FaultServer, fetch: Any, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    part = tmp_path / "raw" / "data.bin.partial"
    part.write_bytes(DATA)
    assert fetch(pinned(server.url + PATH)).resumed
    assert len(server.log) == 1  # the whole file was here, only its check was missing
    (tmp_path / "raw" / "data.bin").unlink()
    part.write_bytes(DATA + b"more")
    assert not fetch(pinned(server.url + PATH)).resumed
    assert (tmp_path / "raw" / "data.bin").read_bytes() == DATA


def test_206_without_a_usable_range_is_refused(server: FaultServer, fetch: Any) -> None:
    server.faults[PATH] = [Fault(cut=100), Fault(headers={"Content-Range": "lines 1-2"})]
    with pytest.raises(UserError, match="206 without a usable Content-Range"):
        fetch(pinned(server.url + PATH))


def test_the_next_mirror_is_asked_at_once_after_404(server: FaultServer, fetch: Any) -> None:
    record = fetch(pinned(server.url + "/gone.bin", server.url + PATH))
    assert [request.path for request in server.log] == ["/gone.bin", PATH]
    assert record.url == server.url + PATH


def test_a_mirror_continues_only_what_can_be_checked(server: FaultServer, fetch: Any) -> None:
    server.files["/mirror.bin"] = DATA
    server.always[PATH] = Fault(cut=100_000)
    fetch(pinned(server.url + PATH, server.url + "/mirror.bin"), retries=0)
    assert server.log[-1].range == "bytes=100000-"
    fetch(unpinned(server.url + PATH, server.url + "/mirror.bin", name="other.bin"), retries=0)
    assert server.log[-1].range is None


def test_503_and_429_are_asked_again(server: FaultServer, fetch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "LONGEST_RETRY_AFTER", 0.01)
    server.faults[PATH] = [
        Fault(status=503, headers={"Retry-After": "3600"}),
        Fault(status=429, headers={"Retry-After": "Mon, 01 Jan 2090 00:00:00 GMT"}),
        Fault(status=500),
    ]
    fetch(pinned(server.url + PATH))
    assert len(server.log) == 4


def test_pauses_grow_are_capped_and_obey_the_server() -> None:
    with Client(backoff=1.0) as patient:
        assert [patient.pause(n, None) for n in (1, 2, 3, 10)] == [1.0, 2.0, 4.0, 60.0]
        assert patient.pause(1, 7.0) == 7.0
        assert patient.pause(1, 1e9) == 120.0
    with Client(rng=np.random.default_rng(1)) as first, Client(rng=np.random.default_rng(1)) as second:
        drawn = [first.pause(n, None) for n in (1, 2, 3)]
        assert drawn == [second.pause(n, None) for n in (1, 2, 3)]
        assert all(2.0**n <= pause <= 2.0 ** (n + 1) for n, pause in enumerate(drawn))


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [("5", 5, 5), ("Mon, 01 Jan 2001 00:00:00 GMT", 0, 0), ("Mon, 01 Jan 2001 00:00:00 -0000", 0, 0)],
)
def test_retry_after_is_a_number_or_a_date(header: str, low: float, high: float) -> None:
    answer = requests.Response()
    answer.headers["Retry-After"] = header
    seconds = retry_after(answer)
    assert seconds is not None
    assert low <= seconds <= high


def test_retry_after_may_be_absent_or_nonsense() -> None:
    answer = requests.Response()
    assert retry_after(answer) is None
    answer.headers["Retry-After"] = "soon"
    assert retry_after(answer) is None


def test_a_silent_server_is_not_waited_for(server: FaultServer, fetch: Any) -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        address = f"http://127.0.0.1:{mute.getsockname()[1]}/"
        with pytest.raises(UserError, match="the server stayed silent"):
            fetch(pinned(address), timeout=(1.0, 0.1), retries=0)


def test_an_interruption_stops_the_threads() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with Client() as client:
        with pytest.raises(KeyboardInterrupt):
            client.in_parallel([interrupted, *[lambda: None] * 5], workers=1)
        with pytest.raises(Cancelled):
            client.retry(lambda: None)


def test_only_interruptions_are_tried_again() -> None:
    calls: list[int] = []

    def refuse() -> None:
        calls.append(1)
        raise Refused("no")

    def unreachable() -> None:
        calls.append(1)
        raise Interrupted("no connection", unreachable=True)

    with Client(backoff=0.0, retries=5) as client:
        with pytest.raises(Refused):
            client.retry(refuse)
        assert len(calls) == 1
        with pytest.raises(Interrupted):
            client.retry(unreachable)
        assert len(calls) == 1 + 3


def test_the_bar_counts_bytes_of_all_files() -> None:
    with Meter("two files", show=False) as meter:
        meter.place("a", 10, 100)
        meter.place("b", 5)
        meter.place("a", 0)  # started again
        meter.place("a", 100)
        assert meter._files == {"a": (100, 100), "b": (5, 5)}
        assert meter._bar.total == 105
