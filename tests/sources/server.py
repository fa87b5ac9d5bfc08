"""A web server on 127.0.0.1 that misbehaves on demand, and speaks the two calls of the GDC's API."""

from __future__ import annotations

import hashlib
import io
import json
import re
import socket
import tarfile
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import requests

from bulkprobe.sources.schema import SourceFile

DATA = np.random.default_rng(0).bytes(300_000)
PATH = "/data.bin"


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one answer: any of these together."""

    cut: int | None = None  # close the connection after so many bytes of the body
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None  # other bytes, same address
    ignore_range: bool = False
    ignore_if_range: bool = False
    most: int | None = None  # bytes that one answer to a Range brings
    chunked: bool = False  # no Content-Length: chunks of 1000 bytes


@dataclass(frozen=True)
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    json: Any

    @property
    def range(self) -> str | None:
        return self.headers.get("range")


class FaultServer:
    """Serves `files` by path; each request of a path uses up one entry of `faults[path]` first."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}
        self.content_types: dict[str, str] = {}
        self.faults: dict[str, list[Fault | None]] = defaultdict(list)
        self.always: dict[str, Fault] = {}
        self.posts: dict[str, Callable[[Any], tuple[int, bytes]]] = {}
        self.log: list[Asked] = []
        self.guard = threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"owner": self}))
        self.http.handle_error = lambda *_: None  # type: ignore[method-assign]  # cut connections are meant
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}"

    def asked(self, path: str) -> list[Asked]:
        return [request for request in self.log if request.path == path]

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


class _Handler(BaseHTTPRequestHandler):
    owner: FaultServer
    protocol_version = "HTTP/1.1"
    timeout = 5

    def do_GET(self) -> None:
        fault = self._arrive(None)
        body = self.owner.files.get(self.path)
        if body is None:
            self._send(404, b"<html>nothing here</html>", {"Content-Type": "text/html"}, fault)
            return
        body = fault.body if fault.body is not None else body
        headers = {"Content-Type": self.owner.content_types.get(self.path, "application/octet-stream")}
        etag = self.owner.etags.get(self.path)
        if etag:
            headers["ETag"] = etag
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if_range = self.headers.get("If-Range")
        stale = if_range is not None and if_range != etag and not fault.ignore_if_range
        if wanted is None or fault.ignore_range or stale:
            self._send(200, body, headers, fault)
            return
        start = int(wanted[1])
        if start >= len(body):
            self._send(416, b"", {"Content-Range": f"bytes */{len(body)}"}, fault)
            return
        end = min(len(body), start + (fault.most or len(body)))
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(body)}"
        self._send(206, body[start:end], headers, fault)

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fault = self._arrive(question)
        status, body = self.owner.posts[self.path](question)
        self._send(status, fault.body if fault.body is not None else body, {}, fault)

    def _arrive(self, question: Any) -> Fault:
        headers = {name.lower(): value for name, value in self.headers.items()}
        with self.owner.guard:
            self.owner.log.append(Asked(self.command, self.path, headers, question))
            queue = self.owner.faults[self.path]
            return (queue.pop(0) if queue else self.owner.always.get(self.path)) or Fault()

    def _send(self, status: int, body: bytes, headers: dict[str, str], fault: Fault) -> None:
        self.send_response(fault.status or status)
        length = {"Transfer-Encoding": "chunked"} if fault.chunked else {"Content-Length": str(len(body))}
        if fault.chunked:
            pieces = [body[i : i + 1000] for i in range(0, len(body), 1000)]
            body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])
        for name, value in {**headers, **fault.headers, **length}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body if fault.cut is None else body[: fault.cut])
        if fault.cut is not None:
            self.wfile.flush()
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""


def session() -> requests.Session:
    """Return a session that leaves the environment's proxies aside."""
    made = requests.Session()
    made.trust_env = False
    return made


def pinned(*urls: str, data: bytes = DATA, name: str = "data.bin") -> SourceFile:
    return SourceFile(name, urls, len(data), hashlib.sha256(data).hexdigest(), hashlib.md5(data).hexdigest())


def unpinned(*urls: str, name: str = "data.bin") -> SourceFile:
    return SourceFile(name, urls)


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def unused_address() -> str:
    """Return an address on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


class FakeGdc:
    """Puts `/gdc/files`, `/gdc/data` and `/gdc/data/<id>` on a server, for some counts files."""

    def __init__(self, server: FaultServer, barcodes: dict[str, str], size: int = 2000) -> None:
        self.server = server
        self.entries: dict[str, dict[str, Any]] = {}
        self.bytes: dict[str, bytes] = {}
        self.extra_members: list[tarfile.TarInfo] = []
        self.spoilt: dict[str, bytes] = {}  # what archives hold instead of the file
        for number, (barcode, project) in enumerate(barcodes.items()):
            self.add(number, barcode, project, size)
        server.posts["/gdc/files"] = self.list_files
        server.posts["/gdc/data"] = self.archive

    @property
    def api(self) -> str:
        return f"{self.server.url}/gdc"

    def add(self, number: int, barcode: str, project: str, size: int = 2000) -> str:
        # Ids in another order than barcodes, so that sorting shows.
        file_id = f"{(number * 7919) % 9973:08x}-0000-4000-8000-{number:012x}"
        content = f"# gene-model: GENCODE v36\n{barcode}\n".encode() * (size // 50 + number)
        kinds = {"01": "Primary Tumor", "11": "Solid Tissue Normal"}
        self.bytes[file_id] = content
        self.server.files[f"/gdc/data/{file_id}"] = content
        self.entries[file_id] = {
            "id": file_id,
            "file_id": file_id,
            "file_name": f"{number:04d}.rna_seq.augmented_star_gene_counts.tsv",
            "md5sum": hashlib.md5(content).hexdigest(),
            "file_size": len(content),
            "cases": [
                {
                    "submitter_id": barcode[:12],
                    "project": {"project_id": project},
                    "samples": [{"submitter_id": barcode[:16], "sample_type": kinds[barcode[13:15]]}],
                }
            ],
            "associated_entities": [{"entity_submitter_id": barcode}],
        }
        return file_id

    def list_files(self, question: dict[str, Any]) -> tuple[int, bytes]:
        conditions = {c["content"]["field"]: c["content"]["value"] for c in question["filters"]["content"]}
        assert conditions["analysis.workflow_type"] == ["STAR - Counts"]
        assert conditions["access"] == ["open"]
        projects = conditions["cases.project.project_id"]
        hits = [e for _, e in sorted(self.entries.items()) if e["cases"][0]["project"]["project_id"] in projects]
        start = question["from"]
        page = hits[start : start + question["size"]]
        data = {"hits": page, "pagination": {"total": len(hits), "from": start, "count": len(page)}}
        return 200, json.dumps({"data": data, "warnings": {}}).encode()

    def archive(self, question: dict[str, Any]) -> tuple[int, bytes]:
        if any(file_id not in self.entries for file_id in question["ids"]):
            return 404, b"{}"
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=0) as archive:
            members = [("MANIFEST.txt", b"id\tfilename\tmd5\tsize\tstate\n")]
            for file_id in question["ids"]:
                name = f"{file_id}/{self.entries[file_id]['file_name']}"
                members += [(name, self.spoilt.get(file_id, self.bytes[file_id]))]
                members += [(f"{file_id}/annotations.txt", b"not asked for")]
            for name, content in members:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            for info in self.extra_members:
                archive.addfile(info, io.BytesIO(b"\0" * info.size))
        return 200, packed.getvalue()
