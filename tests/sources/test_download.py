"""What a download leaves behind: checked bytes, recorded hashes, or nothing."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server import DATA, PATH, Fault, FaultServer, left_in, pinned, session, unpinned, unused_address

from bulkprobe.errors import UserError
from bulkprobe.sources.download import DownloadRecord, HashLock, download, download_all
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


def test_a_file_arrives_checked(server: FaultServer, fetch: Any, tmp_path: Path) -> None:
    record = fetch(pinned(server.url + PATH))
    assert (tmp_path / "raw" / "data.bin").read_bytes() == DATA
    assert record == DownloadRecord(
        hashlib.sha256(DATA).hexdigest(), hashlib.md5(DATA).hexdigest(), len(DATA), server.url + PATH
    )
    assert left_in(tmp_path / "raw") == ["data.bin"]
    assert server.log[0].headers["accept-encoding"] == "identity"


def test_wrong_bytes_name_expected_and_got_and_leave_nothing(server: FaultServer, fetch: Any, tmp_path: Path) -> None:
    wrong = DATA[:-1] + bytes([DATA[-1] ^ 1])
    server.files[PATH] = wrong
    expected, got = hashlib.md5(DATA).hexdigest(), hashlib.md5(wrong).hexdigest()
    with pytest.raises(UserError, match=f"md5: expected {expected}, got {got}"):
        fetch(pinned(server.url + PATH))
    assert left_in(tmp_path / "raw") == []


def test_a_wrong_size_is_named(server: FaultServer, fetch: Any) -> None:
    server.files[PATH] = DATA[:-5]
    with pytest.raises(UserError, match="size in bytes: expected 300000, got 299995"):
        fetch(pinned(server.url + PATH))


def test_after_wrong_bytes_the_next_mirror_is_asked(server: FaultServer, fetch: Any) -> None:
    server.files["/wrong.bin"] = b"other"
    assert fetch(pinned(server.url + "/wrong.bin", server.url + PATH)).url == server.url + PATH


@pytest.mark.parametrize("by_type", [True, False])
def test_a_web_page_is_not_data(server: FaultServer, fetch: Any, tmp_path: Path, by_type: bool) -> None:
    server.files[PATH] = b"please log in" if by_type else b"\n<!DOCTYPE html><html>please log in</html>"
    server.content_types[PATH] = "text/html; charset=utf-8" if by_type else "application/octet-stream"
    with pytest.raises(UserError, match="a web page instead of the file"):
        fetch(unpinned(server.url + PATH))
    assert left_in(tmp_path / "raw") == []
    assert len(server.log) == 1


def test_a_web_page_does_not_destroy_a_part(server: FaultServer, fetch: Any, tmp_path: Path) -> None:
    server.faults[PATH] = [Fault(cut=100_000), Fault(body=b"<html>quota</html>", ignore_range=True)]
    with pytest.raises(UserError, match="a web page"):
        fetch(pinned(server.url + PATH))
    assert (tmp_path / "raw" / "data.bin.partial").stat().st_size == 100_000


def test_html_that_is_wanted_is_accepted(server: FaultServer, fetch: Any) -> None:
    server.files["/page.html"] = b"<html></html>"
    server.content_types["/page.html"] = "text/html"
    assert fetch(unpinned(server.url + "/page.html", name="page.html")).bytes == 13


def test_a_gz_without_hash_must_at_least_be_gzip(server: FaultServer, fetch: Any, tmp_path: Path) -> None:
    server.files["/a.gz"] = b"<?xml?><Error/>"
    with pytest.raises(UserError, match="gzip mark at the beginning: expected 1f8b, got 3c3f"):
        fetch(unpinned(server.url + "/a.gz", name="a.gz"))
    assert left_in(tmp_path / "raw") == []


def test_published_bytes_are_kept_as_they_are(server: FaultServer, fetch: Any, tmp_path: Path) -> None:
    server.files["/a.gz"] = gzip.compress(b"text", mtime=0)
    server.always["/a.gz"] = Fault(headers={"Content-Encoding": "gzip"})
    fetch(unpinned(server.url + "/a.gz", name="a.gz"))
    assert (tmp_path / "raw" / "a.gz").read_bytes() == server.files["/a.gz"]


def test_a_right_file_is_left_alone_and_works_offline(fetch: Any, tmp_path: Path) -> None:
    path = tmp_path / "raw" / "data.bin"
    path.parent.mkdir()
    path.write_bytes(DATA)
    before = path.stat()
    record = fetch(pinned(unused_address() + PATH))
    assert record.url is None
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_a_wrong_file_is_replaced_without_touching_its_other_links(
    server: FaultServer, fetch: Any, tmp_path: Path
) -> None:
    cached = tmp_path / "cache"
    cached.write_bytes(b"old")
    cached.chmod(0o444)
    (tmp_path / "raw").mkdir()
    os.link(cached, tmp_path / "raw" / "data.bin")
    fetch(pinned(server.url + PATH))
    assert (tmp_path / "raw" / "data.bin").read_bytes() == DATA
    assert cached.read_bytes() == b"old"


def test_a_wrong_file_stays_when_no_other_can_be_had(fetch: Any, tmp_path: Path) -> None:
    path = tmp_path / "raw" / "data.bin"
    path.parent.mkdir()
    path.write_bytes(b"old")
    with pytest.raises(UserError, match=r"is not it: size in bytes: expected 300000, got 3\): 127.*: no connection"):
        fetch(pinned(unused_address() + PATH))
    assert path.read_bytes() == b"old"


def test_no_network_is_one_sentence(fetch: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no server that has it can be reached \(127.*connect to the inter"):
        fetch(pinned(unused_address() + PATH, unused_address() + PATH))
    assert left_in(tmp_path / "raw") == []


def test_no_network_is_one_sentence_for_many_files_too(tmp_path: Path) -> None:
    host = unused_address()
    files = [pinned(f"{host}/{name}", name=name) for name in ("a.bin", "b.bin")]
    message = rf"^a\.bin, b\.bin are not in .* has them can be reached \({host[7:]}\): connect"
    with session() as quiet, pytest.raises(UserError, match=message):
        download_all(files, tmp_path, backoff=0.0, session=quiet, progress=False)


def test_impossible_addresses_are_refused_at_once(fetch: Any) -> None:
    with pytest.raises(UserError, match=r"the request is impossible \(InvalidSchema\)"):
        fetch(pinned("gopher://somewhere/file"))


def test_a_file_without_address_must_be_put_there(fetch: Any) -> None:
    with pytest.raises(UserError, match="cannot be downloaded automatically: ask the authors"):
        fetch(SourceFile("data.bin", (), note="ask the authors"))


def test_a_full_disk_is_said(server: FaultServer, fetch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("bulkprobe.sources.transfer.write_json", full)
    with pytest.raises(UserError, match=r"partial cannot be written \(No space left on device\); make room"):
        fetch(pinned(server.url + PATH))


def test_addresses_can_be_replaced(server: FaultServer, fetch: Any, tmp_path: Path) -> None:
    lock = HashLock(tmp_path / "lock.json")
    fetch(unpinned("https://example.org/pub/data.bin"), lock, base_urls={"https://example.org/pub": server.url})
    assert list(json.loads(lock.path.read_text())) == ["https://example.org/pub/data.bin"]


def test_an_unknown_hash_is_recorded_then_enforced(server: FaultServer, fetch: Any, tmp_path: Path) -> None:
    lock = HashLock(tmp_path / "lock.json")
    file = unpinned(server.url + PATH)
    first = fetch(file, lock)
    assert json.loads(lock.path.read_text()) == {server.url + PATH: first.sha256}
    (tmp_path / "raw" / "data.bin").unlink()
    server.files[PATH] = b"another release"
    with pytest.raises(UserError, match=r"recorded sha256: expected .* delete the line of .* in lock\.json"):
        fetch(file, lock)
    assert left_in(tmp_path / "raw") == []
    lock.path.write_text("{}")
    assert fetch(file, lock).bytes == 15


def test_a_present_file_is_recorded_and_enforced_too(server: FaultServer, fetch: Any, tmp_path: Path) -> None:
    lock = HashLock(tmp_path / "lock.json")
    path = tmp_path / "raw" / "data.bin"
    path.parent.mkdir()
    path.write_bytes(DATA)
    fetch(unpinned(server.url + PATH), lock)
    assert not server.log
    path.write_bytes(b"damaged")
    fetch(unpinned(server.url + PATH), lock)
    assert path.read_bytes() == DATA


def test_a_pinned_hash_does_not_enter_the_lock(server: FaultServer, fetch: Any, tmp_path: Path) -> None:
    fetch(pinned(server.url + PATH), HashLock(tmp_path / "lock.json"))
    assert not (tmp_path / "lock.json").exists()


def test_an_advisory_hash_warns_and_is_recorded(server: FaultServer, fetch: Any, tmp_path: Path) -> None:
    lock = HashLock(tmp_path / "lock.json")
    file = SourceFile("data.bin", (server.url + PATH,), 5, sha256="0" * 64, note="check its shape", strict_hash=False)
    with pytest.warns(UserWarning, match="sha256: expected 0000.*: check its shape"):
        record = fetch(file, lock)
    assert json.loads(lock.path.read_text()) == {server.url + PATH: record.sha256}


def test_a_damaged_lock_is_an_error(tmp_path: Path) -> None:
    lock = HashLock(tmp_path / "lock.json")
    lock.path.write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        lock.get("a")
    lock.path.write_text('{"a": 1}')
    with pytest.raises(UserError, match="must map addresses to sha256"):
        lock.get("a")


def test_the_lock_is_sorted_and_survives_threads(tmp_path: Path) -> None:
    lock = HashLock(tmp_path / "lock.json")
    keys = [f"file{i:02d}" for i in range(40)]
    threads = [threading.Thread(target=lock.record, args=(key, key * 2)) for key in reversed(keys)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(json.loads(lock.path.read_text())) == keys
    with pytest.raises(UserError, match="file01 has changed: expected sha256 file01file01 as recorded"):
        lock.record("file01", "other")


def test_several_files_come_together(server: FaultServer, tmp_path: Path) -> None:
    files = []
    for i in range(8):
        server.files[f"/{i}.bin"] = DATA[: 1000 * (i + 1)]
        server.faults[f"/{i}.bin"] = [Fault(cut=i * 500)]
        files.append(pinned(f"{server.url}/{i}.bin", data=server.files[f"/{i}.bin"], name=f"deep/{i}.bin"))
    with session() as quiet:
        records = download_all(files, tmp_path, workers=4, backoff=0.0, session=quiet)
    assert list(records) == [file.name for file in files]
    assert all((tmp_path / f.name).read_bytes() == DATA[: f.bytes] for f in files)


def test_one_failure_does_not_lose_the_others(server: FaultServer, tmp_path: Path) -> None:
    files = [pinned(f"{server.url}/gone{i}.bin", name=f"gone{i}.bin") for i in (1, 2)]
    files.append(pinned(server.url + PATH))
    with session() as quiet, pytest.raises(UserError, match=r"2 of 3 files.*gone1.*404.*gone2"):
        download_all(files, tmp_path, workers=2, backoff=0.0, session=quiet, progress=False)
    assert left_in(tmp_path) == ["data.bin"]
