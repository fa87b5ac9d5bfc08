"""Gene sets: hostile GMT files, downloads from a server on 127.0.0.1, planted modules, a user's file."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from server import Fault, FaultServer, session

from bulkprobe.errors import UserError
from bulkprobe.files import read_json, write_json
from bulkprobe.sources import gene_sets, gmt
from bulkprobe.sources.gene_sets import COLLECTIONS, fetch_gene_sets
from bulkprobe.sources.gmt import GeneSet, id_kind, read_gmt, write_gmt
from bulkprobe.sources.lock import HashLock

GMT = b"HALLMARK_A\thttp://a\tTP53\tKRAS\tTP53\nHALLMARK_B\thttp://b\tEGFR\tBAP1\n"


def written(tmp_path: Path, content: bytes, name: str = "sets.gmt") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def test_a_gene_counts_once_a_set(tmp_path: Path) -> None:
    found = read_gmt(written(tmp_path, GMT))
    assert found[0] == GeneSet("HALLMARK_A", "http://a", ("TP53", "KRAS"))
    assert [one.name for one in found] == ["HALLMARK_A", "HALLMARK_B"]
    assert id_kind(found) == "symbol"


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + GMT,
        GMT.replace(b"\n", b"\r\n"),
        GMT.replace(b"\n", b"\n\n"),
        GMT.replace(b"KRAS", b" KRAS \t"),
        GMT.rstrip(b"\n"),
        gzip.compress(GMT, mtime=0),
    ],
    ids=["bom", "crlf", "blank lines", "spaces and empty fields", "no last newline", "gzip under another name"],
)
def test_harmless_differences(tmp_path: Path, content: bytes) -> None:
    assert read_gmt(written(tmp_path, content)) == read_gmt(written(tmp_path, GMT, "plain.gmt"))


def test_ensembl_ids_lose_their_version_and_then_their_doubles(tmp_path: Path) -> None:
    found = read_gmt(written(tmp_path, b"A\t\tENSG00000141510.17\tENSG00000141510.2\tENSG00000133703\n"))
    assert found[0].genes == ("ENSG00000141510", "ENSG00000133703")
    assert id_kind(found) == "ensembl"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no gene set"),
        (b"\n \n", "holds no gene set"),
        (b"A\td\tTP53\nA\td\tKRAS\n", r"line 2: the set 'A' stands there twice"),
        (b"A\td\tTP53\nB\td\n", r"line 2: the set 'B' has no genes"),
        (b"A\td\t\t \t\n", r"line 1: the set 'A' has no genes"),
        (b"TP53 KRAS\n", r"line 1: 'TP53 KRAS' has no tabs"),
        (b"\td\tTP53\n", r"line 1: the set has no name"),
        (b"<!DOCTYPE html><html>\n", "is a web page or XML"),
        (b"A\td\tTP\x0053\n", "line 1: binary"),
        (b"A\td\tTP53\nB\td\t\xff\xfe\n", "line 2: not UTF-8 text"),
        (gzip.compress(GMT * 2000, mtime=0)[:40], "is damaged"),
        (b"\x1f\x8b\x08" + bytes(40), "is damaged"),
        (b"A\td\t" + b"\t".join(b"G%d" % k for k in range(1200)) + b"\n", "more than 1,000 different genes"),
        (b"A\td\t" + b"G" * 200_000, "binary or without end"),
    ],
)
def test_what_is_no_gmt_is_refused(
    tmp_path: Path, content: bytes, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gmt, "MOST_GENES", 1000)
    monkeypatch.setattr(gmt, "MOST_BYTES", 100_000)
    with pytest.raises(UserError, match=message):
        read_gmt(written(tmp_path, content))


def test_written_sets_are_read_again(tmp_path: Path) -> None:
    sets = [GeneSet("A", "", ("TP53", "KRAS")), GeneSet("B", "the second", ("EGFR",))]
    write_gmt(tmp_path / "a.gmt", sets)
    assert read_gmt(tmp_path / "a.gmt") == sets


# ---------------------------------------------------------------- bringing them


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    with FaultServer() as running:
        running.files["/h.gmt"] = GMT
        moved = {name: replace(file, urls=(f"{running.url}/h.gmt",)) for name, file in COLLECTIONS.items()}
        monkeypatch.setattr(gene_sets, "COLLECTIONS", moved)
        yield running


@pytest.fixture
def fetch(tmp_path: Path) -> Any:
    def run(collection: str) -> dict[str, Any]:
        return fetch_gene_sets(
            collection, tmp_path / "gene_sets", truth=tmp_path / "truth", incoming=tmp_path / "incoming",
            lock=HashLock(tmp_path / "lock.json"), progress=False, retries=1, backoff=0.0, timeout=(2.0, 2.0),
            session=session(),
        )  # fmt: skip

    return run


def test_official_addresses() -> None:
    base = "https://data.broadinstitute.org/gsea-msigdb/msigdb/release/2024.1.Hs/"
    assert {name: file.urls for name, file in COLLECTIONS.items()} == {
        "hallmark": (f"{base}h.all.v2024.1.Hs.symbols.gmt",),
        "reactome": (f"{base}c2.cp.reactome.v2024.1.Hs.symbols.gmt",),
        "go": (f"{base}c5.go.bp.v2024.1.Hs.symbols.gmt",),
    }


def test_a_collection_is_downloaded_with_its_provenance(server: FaultServer, fetch: Any, tmp_path: Path) -> None:
    found = fetch("hallmark")
    assert found == read_json(tmp_path / "gene_sets" / "provenance.json")
    assert (found["collection"], found["n_sets"], found["ids"]) == ("hallmark", 2, "symbol")
    assert found["source"]["name"] == "h.all.v2024.1.Hs.symbols.gmt"
    assert found["source"]["release"] == "MSigDB 2024.1.Hs"
    assert found["source"]["sha256"] == hashlib.sha256(GMT).hexdigest()
    assert "CC BY 4.0" in found["source"]["licence"]
    sets = (tmp_path / "gene_sets" / "sets.gmt").read_bytes()
    assert found["sha256"] == hashlib.sha256(sets).hexdigest()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gene_sets", "lock.json"]


def test_a_cut_download_is_continued(server: FaultServer, fetch: Any) -> None:
    server.faults["/h.gmt"] = [Fault(cut=30)]
    assert fetch("reactome")["n_sets"] == 2


def test_a_changed_file_is_refused_and_what_was_there_stays(server: FaultServer, fetch: Any, tmp_path: Path) -> None:
    fetch("hallmark")
    server.files["/h.gmt"] = GMT + b"C\td\tMYC\n"
    with pytest.raises(UserError, match="recorded sha256"):
        fetch("hallmark")
    assert len(read_gmt(tmp_path / "gene_sets" / "sets.gmt")) == 2


def test_an_error_message_is_neither_kept_nor_recorded(server: FaultServer, fetch: Any, tmp_path: Path) -> None:
    server.files["/h.gmt"] = b'{"error": "quota"}'
    with pytest.raises(UserError, match="has no tabs"):
        fetch("hallmark")
    assert not (tmp_path / "gene_sets").exists()
    server.files["/h.gmt"] = GMT
    assert fetch("hallmark")["n_sets"] == 2


def test_no_network_is_one_sentence(fetch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = {"go": replace(COLLECTIONS["go"], urls=("http://127.0.0.1:9/go.gmt",))}
    monkeypatch.setattr(gene_sets, "COLLECTIONS", gone)
    with pytest.raises(UserError, match=r"c5\.go\.bp\.v2024\.1\.Hs\.symbols\.gmt is not in .* connect to the"):
        fetch("go")


def test_planted_sets_are_the_genes_with_a_loading(fetch: Any, tmp_path: Path) -> None:
    write_json(tmp_path / "truth" / "truth.json", {"simulated": True})
    table = pd.DataFrame(
        {"TP53": [0.0, 1.5, 0.2], "empty": 0.0, "module_1": [-1.0, 0.0, 0.0]}, index=["E1", "E2", "E3"]
    )
    table.to_parquet(tmp_path / "truth" / "modules.parquet")
    assert fetch("planted")["collection"] == "planted"
    sets = read_gmt(tmp_path / "gene_sets" / "sets.gmt")
    assert {one.name: one.genes for one in sets} == {"TP53": ("E2", "E3"), "module_1": ("E1",)}


def test_nothing_is_planted_in_a_real_cohort(fetch: Any, tmp_path: Path) -> None:
    write_json(tmp_path / "truth" / "truth.json", {"simulated": False})
    with pytest.raises(UserError, match=r"collection is planted, but this cohort is not simulated.*hallmark"):
        fetch("planted")


def test_a_users_file(fetch: Any, tmp_path: Path) -> None:
    path = written(tmp_path, gzip.compress(GMT), "mine.gmt.gz")
    found = fetch(str(path))
    assert (found["collection"], found["source"]["name"], found["n_sets"]) == ("file", "mine.gmt.gz", 2)
    assert str(tmp_path) not in (tmp_path / "gene_sets" / "provenance.json").read_text()


@pytest.mark.parametrize(
    ("collection", "message"),
    [
        ("halmark", "no collection and no .gmt file; did you mean 'hallmark'"),
        ("sets.txt", "no collection and no .gmt file; choose planted, hallmark, reactome, go"),
        ("data/inputs/none.gmt", "no such file: correct the path"),
    ],
)
def test_an_unknown_collection_is_refused(fetch: Any, collection: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        fetch(collection)
