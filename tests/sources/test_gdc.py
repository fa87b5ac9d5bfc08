"""The GDC's listing and archives, against a server that speaks its API and breaks off."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server import FakeGdc, Fault, FaultServer, session

from bulkprobe.errors import UserError
from bulkprobe.sources import gdc
from bulkprobe.sources.client import Client
from bulkprobe.sources.gdc import StarFile, fetch_star, project_ids, query_star, read_manifest
from bulkprobe.sources.lock import HashLock
from bulkprobe.sources.schema import STAR_COLUMNS, STAR_MANIFEST

BARCODES = {
    f"TCGA-{tss}-{number:04d}-{kind}A-11R-A00Z-07": project
    for tss, project in (("LU", "TCGA-LUAD"), ("BR", "TCGA-BRCA"))
    for number, kind in ((1, "01"), (2, "01"), (2, "11"), (3, "01"), (4, "01"), (5, "01"))
}
DATA, FILES = "/gdc/data", "/gdc/files"


@pytest.fixture
def archive() -> Iterator[FakeGdc]:
    with FaultServer() as server:
        yield FakeGdc(server, BARCODES)


@pytest.fixture
def fetch(archive: FakeGdc, tmp_path: Path) -> Iterator[Any]:
    """`fetch_star` into tmp_path, one worker, without pauses, proxies and bars."""
    with session() as quiet:

        def run(projects: tuple[str, ...] = ("BRCA", "LUAD"), **options: Any) -> list[StarFile]:
            http = {"retries": 2, "backoff": 0.0, "timeout": (2.0, 2.0), "session": quiet}
            settings = {"api": archive.api, "workers": 1, "batch": 4, "progress": False, **http, **options}
            return fetch_star(tmp_path, projects, **settings)

        yield run


def posts(archive: FakeGdc, path: str) -> list[Any]:
    return [request.json for request in archive.server.asked(path)]


def assert_complete(archive: FakeGdc, folder: Path, rows: list[StarFile]) -> None:
    for row in rows:
        assert (folder / "gdc_star" / row.path).read_bytes() == archive.bytes[row.file_id]
    here = sorted(p.relative_to(folder / "gdc_star").as_posix() for p in (folder / "gdc_star").rglob("*.*"))
    assert here == sorted(["manifest.tsv", *(row.path for row in rows)])


def test_the_listing_is_paged_and_sorted(archive: FakeGdc) -> None:
    with session() as quiet, Client(session=quiet) as client:
        rows = query_star(client, gdc.PROJECTS, api=archive.api, page_files=5)
    assert [request["from"] for request in posts(archive, FILES)] == [0, 5, 10]
    assert [row.aliquot_barcode for row in rows] == sorted(BARCODES)
    assert [row.project for row in rows] == ["TCGA-BRCA"] * 6 + ["TCGA-LUAD"] * 6
    first = rows[0]
    assert (first.sample_barcode, first.sample_type) == ("TCGA-BR-0001-01A", "Primary Tumor")
    assert first.size == len(archive.bytes[first.file_id])


def test_files_come_in_batches_and_the_manifest_lists_them(archive: FakeGdc, fetch: Any, tmp_path: Path) -> None:
    rows = fetch()
    assert_complete(archive, tmp_path, rows)
    assert [len(request["ids"]) for request in posts(archive, DATA)] == [4, 4, 4]
    lines = (tmp_path / STAR_MANIFEST).read_text().splitlines()
    assert lines[0].split("\t") == list(STAR_COLUMNS)
    assert read_manifest(tmp_path / STAR_MANIFEST) == rows


def test_workers_do_not_change_the_result(archive: FakeGdc, fetch: Any, tmp_path: Path) -> None:
    assert_complete(archive, tmp_path, fetch(workers=4, batch=2, progress=True))


def test_a_second_run_needs_no_network(archive: FakeGdc, fetch: Any) -> None:
    rows = fetch()
    asked = len(archive.server.log)
    assert fetch() == rows
    assert len(archive.server.log) == asked


def test_projects_are_chosen_and_others_removed(archive: FakeGdc, fetch: Any, tmp_path: Path) -> None:
    fetch()
    own = tmp_path / "gdc_star" / "notes"
    own.mkdir()
    rows = fetch(["LUAD"])
    assert {row.project for row in rows} == {"TCGA-LUAD"}
    assert len(posts(archive, DATA)) == 3  # nothing came again
    own.rmdir()
    assert_complete(archive, tmp_path, rows)


def test_project_names() -> None:
    assert len(project_ids(None)) == 33
    assert project_ids(["LUAD", "TCGA-BRCA", "LUAD"]) == ("TCGA-BRCA", "TCGA-LUAD")
    with pytest.raises(UserError, match="Unknown TCGA projects: TCGA-LUNG; expected some of TCGA-ACC"):
        project_ids(["LUNG"])
    with pytest.raises(UserError, match="none given"):
        project_ids([])


@pytest.mark.parametrize("chunked", [True, False])
def test_a_broken_archive_keeps_its_finished_files(archive: FakeGdc, fetch: Any, tmp_path: Path, chunked: bool) -> None:
    archive.server.faults[DATA] = [Fault(cut=9000, chunked=chunked)]
    assert_complete(archive, tmp_path, fetch(batch=12))
    first, second = (request["ids"] for request in posts(archive, DATA))
    assert len(first) == 12
    assert 0 < len(second) < 12
    assert set(second) < set(first)


def test_archives_that_always_break_but_bring_files_are_not_given_up(
    archive: FakeGdc, fetch: Any, tmp_path: Path
) -> None:
    archive.server.always[DATA] = Fault(cut=16_000)
    assert_complete(archive, tmp_path, fetch(batch=12, retries=1))
    sizes = [len(request["ids"]) for request in posts(archive, DATA)]
    assert sizes == sorted(set(sizes), reverse=True)  # the same archive was never asked for twice


def test_a_killed_run_is_continued(archive: FakeGdc, fetch: Any, tmp_path: Path) -> None:
    rows = fetch()
    star = tmp_path / "gdc_star"
    gone, truncated, empty = rows[1], rows[5], rows[7]
    (star / gone.path).unlink()
    (star / f"{gone.file_id}/.{gone.file_name}.123.partial").write_bytes(b"half")
    (star / truncated.path).write_bytes(archive.bytes[truncated.file_id][:100])
    (star / empty.path).write_bytes(b"x" * empty.size)
    archive.server.log.clear()
    assert_complete(archive, tmp_path, fetch())
    (request,) = posts(archive, DATA)
    assert sorted(request["ids"]) == sorted([gone.file_id, truncated.file_id, empty.file_id])


def test_a_failing_batch_falls_to_halves_and_single_files(archive: FakeGdc, fetch: Any, tmp_path: Path) -> None:
    archive.server.always[DATA] = Fault(status=500)
    rows = fetch()
    assert_complete(archive, tmp_path, rows)
    sizes = [len(request["ids"]) for request in posts(archive, DATA)][:7]
    assert sizes == [4, 4, 4, 2, 2, 2, 2]
    assert all(len(archive.server.asked(f"{DATA}/{row.file_id}")) == 1 for row in rows)


def test_wrong_bytes_in_an_archive_are_fetched_singly(archive: FakeGdc, fetch: Any, tmp_path: Path) -> None:
    bad = next(iter(archive.entries))
    archive.spoilt[bad] = archive.bytes[bad][::-1]
    assert_complete(archive, tmp_path, fetch())
    assert len(archive.server.asked(f"{DATA}/{bad}")) == 1


def test_what_fails_is_listed_and_the_rest_is_kept(archive: FakeGdc, fetch: Any, tmp_path: Path) -> None:
    bad = next(iter(archive.entries))
    archive.spoilt[bad] = b"wrong"
    archive.server.files[f"{DATA}/{bad}"] = b"wrong"
    with pytest.raises(UserError, match=rf"1 of 12 GDC files are still missing, given up: {bad}/.*got 5"):
        fetch()
    assert len(list((tmp_path / "gdc_star").rglob("*.tsv"))) == 12  # the manifest and eleven files
    del archive.spoilt[bad]
    archive.server.files[f"{DATA}/{bad}"] = archive.bytes[bad]
    assert_complete(archive, tmp_path, fetch())


def test_many_failures_end_the_run(archive: FakeGdc, fetch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gdc, "MOST_FAILURES", 3)
    archive.server.always[DATA] = Fault(status=400)
    for file_id in archive.entries:
        archive.server.always[f"{DATA}/{file_id}"] = Fault(status=403)
    with pytest.raises(UserError, match=r"12 of 12 GDC files are still missing, given up: .*answered 403"):
        fetch()
    assert sum(request.method == "GET" for request in archive.server.log) == 3


def test_a_lost_network_ends_the_run_at_once(archive: FakeGdc, fetch: Any, tmp_path: Path) -> None:
    fetch()
    for path in (tmp_path / "gdc_star").glob("*/*.tsv"):
        path.unlink()
    with FaultServer() as other:
        nowhere = other.url
    with pytest.raises(UserError, match=r"12 of 12 GDC files are still missing.*no connection"):
        fetch(api=nowhere)
    with pytest.raises(UserError, match=r"The GDC does not list its files \(http.*no connection\)"):
        fetch(["BRCA"], api=nowhere)


@pytest.mark.parametrize("name", ["../../evil.tsv", "/tmp/evil.tsv"])
def test_members_that_leave_the_folder_are_refused(archive: FakeGdc, fetch: Any, tmp_path: Path, name: str) -> None:
    member = tarfile.TarInfo(name)
    member.size = 10
    archive.extra_members.append(member)
    with pytest.raises(UserError, match=r"archive holds '.*evil\.tsv', which is no plain file"):
        fetch()
    assert not list(tmp_path.parent.rglob("evil.tsv"))


def test_links_are_refused(archive: FakeGdc, fetch: Any) -> None:
    member = tarfile.TarInfo("link")
    member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
    archive.extra_members.append(member)
    with pytest.raises(UserError, match="archive holds 'link', which is no plain file"):
        fetch()


@pytest.mark.parametrize("body", [b"<html>log in</html>", b"", b"\x1f\x8b\x08 not really"])
def test_an_answer_that_is_no_archive_does_not_stop_the_run(
    archive: FakeGdc, fetch: Any, tmp_path: Path, body: bytes
) -> None:
    archive.server.always[DATA] = Fault(body=body)
    assert_complete(archive, tmp_path, fetch(["BRCA"]))


def test_the_listing_is_pinned(archive: FakeGdc, fetch: Any, tmp_path: Path) -> None:
    lock = HashLock(tmp_path / "lock.json")
    fetch(["BRCA"], lock=lock)
    (key,) = json.loads(lock.path.read_text())
    assert key == "https://api.gdc.cancer.gov/files#TCGA-BRCA"
    archive.add(77, "TCGA-BR-0007-01A-11R-A00Z-07", "TCGA-BRCA")
    before = (tmp_path / STAR_MANIFEST).read_bytes()
    assert len(fetch(["BRCA"], lock=lock)) == 6  # kept: nobody asked anew
    with pytest.raises(UserError, match=r"\(1 entries new, 0 gone\).*delete the line of .*#TCGA-BRCA in"):
        fetch(["BRCA"], lock=lock, refresh=True)
    assert (tmp_path / STAR_MANIFEST).read_bytes() == before
    (tmp_path / STAR_MANIFEST).unlink()
    with pytest.raises(UserError, match="other STAR counts files than recorded, a new data release"):
        fetch(["BRCA"], lock=lock)
    lock.path.unlink()
    assert_complete(archive, tmp_path, fetch(["BRCA"], lock=lock, refresh=True))


def test_a_changed_manifest_is_asked_for_anew(archive: FakeGdc, fetch: Any, tmp_path: Path) -> None:
    lock = HashLock(tmp_path / "lock.json")
    rows = fetch(lock=lock)
    path = tmp_path / STAR_MANIFEST
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert fetch(lock=lock) == rows


@pytest.mark.parametrize(
    "damage", ["", "file_id\tfile_name\n", "\t".join(STAR_COLUMNS) + "\n../x\ty\tz\t1\ta\tb\tc\td\n"]
)
def test_a_damaged_manifest_is_an_error(tmp_path: Path, damage: str) -> None:
    (tmp_path / "manifest.tsv").write_text(damage)
    with pytest.raises(UserError, match="is not a listing of GDC files"):
        read_manifest(tmp_path / "manifest.tsv")


def test_a_listing_that_moves_is_an_error(archive: FakeGdc) -> None:
    answer = archive.list_files
    archive.server.posts[FILES] = lambda question: answer({**question, "from": 0})
    with session() as quiet, Client(session=quiet) as client, pytest.raises(UserError, match="does not add up"):
        query_star(client, gdc.PROJECTS, api=archive.api, page_files=5)


@pytest.mark.parametrize("body", [b"[]", b"no json", b'{"data": {"hits": []}}'])
def test_a_listing_that_is_none_is_an_error(archive: FakeGdc, fetch: Any, body: bytes) -> None:
    archive.server.always[FILES] = Fault(body=body)
    with pytest.raises(UserError, match=r"does not list its files.*the answer is not a listing"):
        fetch()


@pytest.mark.parametrize("field", ["md5sum", "file_size", "associated_entities"])
def test_entries_that_lack_something_are_named(archive: FakeGdc, fetch: Any, field: str) -> None:
    bad, entry = next(iter(archive.entries.items()))
    del entry[field]
    with pytest.raises(UserError, match=f"entry of file {bad} lacks what the manifest needs .KeyError: '{field}'"):
        fetch()


def test_names_that_would_leave_the_folder_are_refused(archive: FakeGdc, fetch: Any) -> None:
    next(iter(archive.entries.values()))["file_name"] = "../../evil.tsv"
    with pytest.raises(UserError, match=r"named '\.\./\.\./evil\.tsv' cannot be a file here"):
        fetch()
