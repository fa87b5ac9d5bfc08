"""The registry of official TCGA files, and what `fetch_tcga` leaves in the raw folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server import FakeGdc, FaultServer, session

from bulkprobe.errors import UserError
from bulkprobe.sources import schema, tcga
from bulkprobe.sources.gdc import GDC_API
from bulkprobe.sources.lock import HashLock
from bulkprobe.sources.tcga import fetch_tcga, files_for

EVERY_FILE = (*tcga.LABEL_FILES, *sum(tcga.EXPRESSION_FILES.values(), ()), *tcga.ALTERNATIVES)
BARCODES = {
    "TCGA-BR-0001-01A-11R-A00Z-07": "TCGA-BRCA",
    "TCGA-BR-0002-11A-11R-A00Z-07": "TCGA-BRCA",
    "TCGA-LU-0001-01A-11R-A00Z-07": "TCGA-LUAD",
}


class Stand:
    """A server with small stand-ins under the official paths, and a raw folder."""

    def __init__(self, server: FaultServer, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.server = server
        self.raw = root / "raw"
        self.lock = HashLock(root / "sources.lock.json")
        self.gdc = FakeGdc(server, BARCODES)
        self.hosts = {
            GDC_API: f"{server.url}/gdc",
            tcga.TOIL_HUB: f"{server.url}/toil",
            tcga.TOIL_ALIAS: f"{server.url}/alias",
            "https://ftp.ebi.ac.uk/pub/databases": f"{server.url}/ebi",
        }
        for name, group in list(tcga.EXPRESSION_FILES.items()):
            monkeypatch.setitem(tcga.EXPRESSION_FILES, name, tuple(map(self.stand_in, group)))
        monkeypatch.setattr(tcga, "LABEL_FILES", tuple(map(self.stand_in, tcga.LABEL_FILES)))

    def path(self, url: str) -> str:
        prefix = next(prefix for prefix in self.hosts if url.startswith(prefix))
        return (self.hosts[prefix] + url.removeprefix(prefix)).removeprefix(self.server.url)

    def stand_in(self, file: schema.SourceFile) -> schema.SourceFile:
        """Serve a few bytes at the official path, and let the registry state their size and md5."""
        data = b"\x1f\x8b" + file.name.encode() * 20
        self.server.files[self.path(file.urls[0])] = data
        if file.md5 is None:
            return file
        md5 = hashlib.md5(data).hexdigest()
        return dataclasses.replace(file, bytes=len(data) if file.bytes else None, md5=md5)

    def fetch(self, expression: Any = "xena_toil", **options: Any) -> dict[str, Any]:
        with session() as quiet:
            http = {"retries": 1, "backoff": 0.0, "timeout": (2.0, 2.0), "session": quiet}
            settings = {"lock": self.lock, "base_urls": self.hosts, "progress": False, **http, **options}
            return fetch_tcga(self.raw, expression, **settings)

    def names(self) -> list[str]:
        return sorted(p.relative_to(self.raw).as_posix() for p in self.raw.rglob("*") if p.is_file())


@pytest.fixture
def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stand]:
    with FaultServer() as server:
        yield Stand(server, tmp_path, monkeypatch)


def test_every_entry_is_well_formed() -> None:
    assert len({file.name for file in EVERY_FILE}) == len(EVERY_FILE)
    for file in EVERY_FILE:
        assert all(re.fullmatch(r"https://[^\s+]+", url) for url in file.urls), file.name
        assert file.md5 is None or re.fullmatch(r"[0-9a-f]{32}", file.md5), file.name
        assert file.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", file.sha256), file.name
        assert file.terms, file.name


def test_what_the_gdc_states_is_enforced_and_what_xena_states_is_advice() -> None:
    assert all(file.pinned for file in (*tcga.LABEL_FILES, tcga.ANNOTATION_V36))
    assert not any(file.pinned for file in (tcga.TPM, tcga.COUNTS, tcga.ANNOTATION_V23, *tcga.ALTERNATIVES))


@pytest.mark.shared
def test_the_registry_says_what_the_notes_say(shared: Path) -> None:
    notes = (shared / "tcga.md").read_text(encoding="utf-8")
    for file in EVERY_FILE:
        if file.name != schema.GENCODE_V23:
            assert file.name.split("/")[-1] in notes, file.name
        for stated in (file.md5, file.sha256, f"{file.bytes:,}" if file.bytes else None):
            assert stated is None or stated in notes, (file.name, stated)
        if file.urls[0].startswith(GDC_API):
            assert file.urls[0].rsplit("/", 1)[1] in notes, file.name
        assert any(url.rsplit("/", 1)[0].removeprefix("https://") in notes for url in file.urls[:1]) or (
            "ebi.ac.uk" in file.urls[0] or GDC_API in file.urls[0]
        )


def test_the_files_of_each_expression_source() -> None:
    labels = [schema.MC3_MAF, schema.CDR_XLSX, schema.SAMPLE_QUALITY, schema.ABSOLUTE_PURITY]
    toil = [schema.XENA_TPM, schema.XENA_COUNTS, schema.GENCODE_V23]
    assert [file.name for file in files_for("xena_toil")] == toil + labels
    assert [file.name for file in files_for("gdc_star")] == [schema.GENCODE_V36, *labels]
    with pytest.raises(UserError, match=r"'firehose' is not known; expected one of xena_toil, gdc_star"):
        files_for("firehose")  # type: ignore[arg-type]


def test_the_raw_folder_of_xena(stand: Stand) -> None:
    source = stand.fetch()
    names = sorted(file.name for file in files_for("xena_toil"))
    assert stand.names() == sorted([*names, "source.json"])
    assert json.loads((stand.raw / "source.json").read_text()) == source
    assert (source["source"], source["expression"]) == ("tcga", "xena_toil")
    assert sorted(source["files"]) == names
    maf = source["files"][schema.MC3_MAF]
    assert maf["url"] == "https://api.gdc.cancer.gov/data/1c8cfe5f-e52d-41ba-94da-f15ea1337efc"
    assert maf["bytes"] == (stand.raw / schema.MC3_MAF).stat().st_size
    locked = json.loads(stand.lock.path.read_text())
    assert sorted(url.rsplit("/", 1)[1] for url in locked) == sorted(
        [schema.XENA_TPM, schema.XENA_COUNTS, schema.GENCODE_V23]
    )


def test_a_second_fetch_works_offline_and_writes_the_same(stand: Stand) -> None:
    stand.fetch()
    before = (stand.raw / "source.json").read_bytes()
    asked = len(stand.server.log)
    stand.fetch()
    assert len(stand.server.log) == asked
    assert (stand.raw / "source.json").read_bytes() == before


def test_a_mirror_leaves_the_same_record(stand: Stand) -> None:
    first = stand.fetch()
    for path in (stand.raw / schema.XENA_TPM, stand.raw / "source.json"):
        path.unlink()
    official = stand.path(tcga.TPM.urls[0])
    stand.server.files[stand.path(tcga.TPM.urls[1])] = stand.server.files.pop(official)
    assert stand.fetch() == first
    assert stand.server.asked(stand.path(tcga.TPM.urls[1]))


def test_the_raw_folder_of_the_gdc(stand: Stand) -> None:
    source = stand.fetch("gdc_star", projects=["BRCA"], workers=2)
    manifest = source["files"][schema.STAR_MANIFEST]
    assert manifest["url"] == "https://api.gdc.cancer.gov/files"
    assert manifest["sha256"] == hashlib.sha256((stand.raw / schema.STAR_MANIFEST).read_bytes()).hexdigest()
    assert len([name for name in stand.names() if name.endswith("counts.tsv")]) == 2
    assert schema.GENCODE_V36 in source["files"]
    assert schema.XENA_TPM not in source["files"]


def test_switching_the_expression_removes_the_other_files(stand: Stand) -> None:
    stand.fetch("gdc_star")
    (stand.raw / "mine.txt").write_text("kept")
    asked = len(stand.server.asked(stand.path(tcga.MC3.urls[0])))
    source = stand.fetch("xena_toil")
    assert stand.names() == sorted([*source["files"], "mine.txt", "source.json"])
    assert len(stand.server.asked(stand.path(tcga.MC3.urls[0]))) == asked  # kept, not fetched again


def test_unfinished_files_of_the_other_expression_go_too(stand: Stand) -> None:
    stand.raw.mkdir()
    (stand.raw / f"{schema.GENCODE_V36}.partial").write_bytes(b"part")
    stand.fetch()
    assert not list(stand.raw.glob("*.partial"))


def test_simulated_files_are_never_taken_for_official_ones(stand: Stand) -> None:
    stand.raw.mkdir()
    files = {}
    for name in (schema.XENA_TPM, schema.MC3_MAF, "truth.json"):
        data = b"\x1f\x8bsimulated"
        (stand.raw / name).write_bytes(data)
        files[name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "url": None}
    simulated = {"source": "simulated", "expression": "xena_toil", "files": files}
    (stand.raw / "source.json").write_text(json.dumps(simulated))
    source = stand.fetch()
    assert (stand.raw / schema.XENA_TPM).read_bytes() == stand.server.files[stand.path(tcga.TPM.urls[0])]
    assert stand.names() == sorted([*source["files"], "source.json"])


def test_a_file_put_there_by_hand_is_used(stand: Stand) -> None:
    stand.raw.mkdir()
    (stand.raw / schema.XENA_TPM).write_bytes(stand.server.files[stand.path(tcga.TPM.urls[0])])
    stand.fetch()
    assert not stand.server.asked(stand.path(tcga.TPM.urls[0]))


def test_a_labs_files_are_removed(stand: Stand) -> None:
    (stand.raw / "files").mkdir(parents=True)
    (stand.raw / "files" / "expression.tsv").write_text("gene\n")
    (stand.raw / "files.json").write_text("{}")
    (stand.raw / "source.json").write_text('{"source": "files", "expression": null, "files": {}}')
    source = stand.fetch()
    assert stand.names() == sorted([*source["files"], "source.json"])


def test_a_failure_leaves_no_source_json(stand: Stand) -> None:
    stand.server.files[stand.path(tcga.CDR.urls[0])] = b"\x1f\x8bwrong"
    with pytest.raises(UserError, match=r"TCGA-CDR-SupplementalTableS1\.xlsx could not be downloaded"):
        stand.fetch()
    assert "source.json" not in stand.names()
    assert schema.CDR_XLSX not in stand.names()
    assert schema.MC3_MAF in stand.names()  # the others are finished and kept
