"""Checkpoints: made, downloaded from a server on 127.0.0.1 and checked, given by hand, or absent."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from server import Fault, FaultServer

from bulkprobe.encoders import get_encoder
from bulkprobe.encoders.base import Card, Release, WeightFile
from bulkprobe.errors import UserError
from bulkprobe.files import read_json
from bulkprobe.stages import checkpoints
from bulkprobe.stages.checkpoints import Checkpoint, identify, recorded, write_absence, write_record
from bulkprobe.stages.released import fetch_release

FILES = {"vocab.json": b'{"A": 0}', "deep/model.bin": bytes(range(256)) * 40}
sha = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        for name, content in FILES.items():
            running.files[f"/{name}"] = content
        yield running


def card_of(server: FaultServer | None, **changes: Any) -> Card:
    """A model with one release of two files at the server."""
    files = tuple(
        WeightFile(
            name, (f"{server.url}/{name}",) if server else (), len(content), sha[name], by_hand="ask the authors"
        )
        for name, content in FILES.items()
    )
    release = replace(Release("one", files, 8, 100), **changes)
    return replace(get_encoder("expression").card, name="scgpt", kind="foundation", releases=(release,))


@pytest.fixture
def fetch(tmp_path: Path) -> Any:
    def run(card: Card) -> tuple[Checkpoint, dict[str, str]]:
        return fetch_release(
            card, "one", tmp_path / "models" / "scgpt", lock=tmp_path / "lock.json", workers=2, retries=1, backoff=0.0,
            timeout=(2.0, 2.0), progress=False,
        )  # fmt: skip

    return run


def test_a_release_is_downloaded_checked_and_recognised(server: FaultServer, fetch: Any, tmp_path: Path) -> None:
    card = card_of(server)
    found, hashes = fetch(card)
    assert found.folder == tmp_path / "models" / "scgpt" / "one"
    assert {name: (found.folder / name).read_bytes() for name in FILES} == FILES
    assert hashes == sha
    assert found.verified
    assert not (tmp_path / "models" / ".incoming" / "scgpt" / "one").exists()
    assert identify(card, found.folder) == found
    write_record(found.folder.parent, "scgpt", found, hashes)
    assert recorded(found.folder.parent) == found


def test_what_is_there_and_right_is_not_downloaded_again(server: FaultServer, fetch: Any) -> None:
    card = card_of(server)
    fetch(card)
    asked = len(server.log)
    found, _ = fetch(card)
    assert len(server.log) == asked
    assert found.verified


def test_wrong_bytes_never_get_the_final_name(server: FaultServer, fetch: Any, tmp_path: Path) -> None:
    server.files["/deep/model.bin"] = b"other" * 2048
    with pytest.raises(UserError, match=r"deep/model.bin could not be downloaded: .*sha256: expected"):
        fetch(card_of(server))
    assert not (tmp_path / "models" / "scgpt" / "one" / "deep").exists()


def test_a_cut_download_is_continued(server: FaultServer, fetch: Any) -> None:
    server.faults["/deep/model.bin"] = [Fault(cut=4_000)]
    found, hashes = fetch(card_of(server))
    assert hashes == sha
    assert any(asked.range == "bytes=4000-" for asked in server.asked("/deep/model.bin"))
    assert found.verified


def test_a_file_that_only_a_person_can_fetch_says_how_and_where(fetch: Any, tmp_path: Path) -> None:
    card = card_of(None)
    place = tmp_path / "models" / "scgpt" / "one"
    with pytest.raises(UserError, match=f"ask the authors; put what is missing into {place} under the names"):
        fetch(card)
    for name, content in FILES.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    found, _ = fetch(card)
    assert found.verified


def test_a_file_put_there_by_hand_is_checked_too(fetch: Any, tmp_path: Path) -> None:
    place = tmp_path / "models" / "scgpt" / "one"
    for name in FILES:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(b"a web page")
    with pytest.raises(UserError, match="is not it: size in bytes: expected"):
        fetch(card_of(None))


def test_the_terms_are_said_before_anything_is_downloaded(
    server: FaultServer, fetch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch(card_of(server, terms="for research only; by downloading you accept LICENCE"))
    assert "scgpt one: for research only; by downloading you accept LICENCE" in capsys.readouterr().err


def test_files_without_a_published_hash_are_recorded_and_marked_unverified(
    server: FaultServer, fetch: Any, tmp_path: Path
) -> None:
    files = tuple(WeightFile(name, (f"{server.url}/{name}",)) for name in FILES)
    found, _ = fetch(card_of(server, files=files))
    assert found.verified is False
    assert set(read_json(tmp_path / "lock.json").values()) == set(sha.values())
    (found.folder / "vocab.json").unlink()
    server.files["/vocab.json"] = b'{"B": 0}'
    with pytest.raises(UserError, match="recorded sha256"):
        fetch(card_of(server, files=files))


def test_an_unknown_release_lists_those_that_exist(fetch: Any) -> None:
    card = replace(card_of(None), releases=())
    with pytest.raises(UserError, match="scgpt has no release 'one'; known: none"):
        fetch(card)


def test_strange_files_in_a_release_are_refused(server: FaultServer, fetch: Any, tmp_path: Path) -> None:
    place = tmp_path / "models" / "scgpt" / "one"
    place.mkdir(parents=True)
    (place / "extra.bin").write_bytes(b"x")
    with pytest.raises(UserError, match=r"holds files that one does not have: extra\.bin"):
        fetch(card_of(server))


def test_an_unknown_folder_is_unverified_and_has_a_hash(tmp_path: Path) -> None:
    place = tmp_path / "mine"
    place.mkdir()
    (place / "a").write_bytes(b"a")
    found = identify(card_of(None), place)
    assert (found.release, found.verified, found.untrained) == (None, False, False)
    (place / "a").write_bytes(b"b")
    assert identify(card_of(None), place).sha256 != found.sha256
    with pytest.raises(UserError, match="is no folder"):
        identify(card_of(None), tmp_path / "nothing")


def test_files_that_changed_after_they_were_checked_are_refused(server: FaultServer, fetch: Any) -> None:
    found, hashes = fetch(card_of(server))
    write_record(found.folder.parent, "scgpt", found, hashes)
    (found.folder / "vocab.json").write_bytes(b"{}")
    with pytest.raises(UserError, match=r"have changed since they were checked: fetch them again"):
        recorded(found.folder.parent)


def test_absence_is_recorded_with_its_reason(tmp_path: Path) -> None:
    write_absence(tmp_path, "scgpt", "no network")
    assert recorded(tmp_path) == "no network"
    write_absence(tmp_path, "pca", None)
    assert recorded(tmp_path) is None
    (tmp_path / checkpoints.RECORD).write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        recorded(tmp_path)


def test_another_release_replaces_the_one_that_was_there(server: FaultServer, fetch: Any) -> None:
    found, hashes = fetch(card_of(server))
    (found.folder.parent / "older").mkdir()
    write_record(found.folder.parent, "scgpt", found, hashes)
    assert sorted(p.name for p in found.folder.parent.iterdir()) == ["one", "release.json"]


def test_a_release_of_which_a_hash_is_unknown_is_recognised_but_not_called_verified(tmp_path: Path) -> None:
    card = card_of(None)
    files = (card.releases[0].files[0], replace(card.releases[0].files[1], sha256=None))
    card = replace(card, releases=(replace(card.releases[0], files=files),))
    place = tmp_path / "mine"
    (place / "deep").mkdir(parents=True)
    (place / "vocab.json").write_bytes(FILES["vocab.json"])
    assert identify(card, place).release is None  # a file of it is missing
    (place / "deep" / "model.bin").write_bytes(b"anything")
    found = identify(card, place)
    assert (found.release, found.verified) == ("one", False)
