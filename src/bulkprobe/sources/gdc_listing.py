"""The GDC's listing of STAR counts files: asking for it, and `gdc_star/manifest.tsv`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from bulkprobe.errors import UserError, some
from bulkprobe.foreign import MOST_JSON_BYTES, bytes_of
from bulkprobe.sources.client import Client, Interrupted, Refused
from bulkprobe.sources.schema import STAR_COLUMNS

GDC_API = "https://api.gdc.cancer.gov"
MOST_BYTES = 1 << 28  # of a counts file, which has 4 MB
PAGE_FILES = 1000  # files asked for per page of the listing
PROJECTS = tuple(
    f"TCGA-{code}"
    for code in (
        *("ACC", "BLCA", "BRCA", "CESC", "CHOL", "COAD", "DLBC", "ESCA", "GBM", "HNSC", "KICH"),
        *("KIRC", "KIRP", "LAML", "LGG", "LIHC", "LUAD", "LUSC", "MESO", "OV", "PAAD", "PCPG"),
        *("PRAD", "READ", "SARC", "SKCM", "STAD", "TGCT", "THCA", "THYM", "UCEC", "UCS", "UVM"),
    )
)
CONDITIONS = {
    "data_category": "Transcriptome Profiling",
    "data_type": "Gene Expression Quantification",
    "analysis.workflow_type": "STAR - Counts",
    "access": "open",
}
FIELDS = (
    *("file_id", "file_name", "md5sum", "file_size", "cases.submitter_id", "cases.project.project_id"),
    *("cases.samples.submitter_id", "cases.samples.sample_type", "associated_entities.entity_submitter_id"),
)
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# Names become paths and fields of a table: no separators, no leading dot.
_FILE_NAME = re.compile(r"\w[\w.+-]{0,199}", re.ASCII)
_SIZE = re.compile(r"[0-9]{1,15}")
_MD5 = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class StarFile:
    """One row of the manifest: the counts file of one aliquot (size in bytes; columns of `STAR_COLUMNS`)."""

    file_id: str
    file_name: str
    md5: str
    size: int
    sample_barcode: str
    aliquot_barcode: str
    project: str
    sample_type: str

    @property
    def path(self) -> str:
        """Where the file stands below `gdc_star/`, and its name in the GDC's archives."""
        return f"{self.file_id}/{self.file_name}"

    @property
    def usable(self) -> bool:
        """Whether id, name, md5 and size have the form that paths, checks and memory rely on."""
        named = UUID.fullmatch(self.file_id) and _FILE_NAME.fullmatch(self.file_name)
        return bool(named and _MD5.fullmatch(self.md5) and 0 <= self.size <= MOST_BYTES)


def project_ids(projects: Sequence[str] | None) -> tuple[str, ...]:
    """Return sorted GDC project ids for cancer types ("BRCA") or ids ("TCGA-BRCA"); None is all 33."""
    if projects is None:
        return PROJECTS
    ids = sorted({name if name.startswith("TCGA-") else f"TCGA-{name}" for name in projects})
    unknown = [name for name in ids if name not in PROJECTS]
    if unknown or not ids:
        raise UserError(
            f"Unknown TCGA projects: {some(unknown) or 'none given'}; expected some of {', '.join(PROJECTS)}."
        )
    return tuple(ids)


def query_star(
    client: Client, projects: Sequence[str], *, api: str = GDC_API, page_files: int = PAGE_FILES
) -> list[StarFile]:
    """Ask the GDC for every open STAR counts file of the projects, sorted by project, barcode, file id.

    Raises UserError when the GDC cannot be reached, when its pages contradict each other, and when an
    entry lacks what the manifest needs.
    """
    conditions = {"cases.project.project_id": list(projects), **{k: [v] for k, v in CONDITIONS.items()}}
    filters = [{"op": "in", "content": {"field": name, "value": v}} for name, v in conditions.items()]
    rows: dict[str, StarFile] = {}
    total: int | None = None
    while total is None or len(rows) < total:
        question = {
            "filters": {"op": "and", "content": filters},
            "fields": ",".join(FIELDS),
            "format": "JSON",
            "size": page_files,
            "from": len(rows),
            "sort": "file_id:asc",  # without an order, pages may overlap
        }
        hits, answered = _page(client, f"{api}/files", question)
        new = {row.file_id: row for row in map(_row, hits)}
        if len(new) < len(hits) or new.keys() & rows.keys() or not new or total not in (None, answered):
            raise UserError(
                f"The GDC's listing does not add up at file {len(rows)} of {answered}: "
                "it may be changing just now, run again later."
            )
        total = answered
        rows |= new
    return sorted(rows.values(), key=lambda row: (row.project, row.aliquot_barcode, row.file_id))


def manifest_text(rows: Iterable[StarFile]) -> str:
    """Return the tab-separated text of the manifest."""
    lines = (map(str, astuple(row)) for row in rows)
    return "".join("\t".join(line) + "\n" for line in (STAR_COLUMNS, *lines))


def read_manifest(path: Path) -> list[StarFile]:
    """Read `gdc_star/manifest.tsv`; a damaged one is a UserError."""
    text = bytes_of(path).decode(errors="replace")
    header, *lines = [line.split("\t") for line in text.splitlines()] or [[]]
    if tuple(header) == STAR_COLUMNS and all(len(x) == len(header) and _SIZE.fullmatch(x[3]) for x in lines):
        rows = [StarFile(x[0], x[1], x[2], int(x[3]), x[4], x[5], x[6], x[7]) for x in lines]
        if all(row.usable for row in rows):
            return rows
    raise UserError(
        f"{path} is not a listing of GDC files (columns {', '.join(STAR_COLUMNS)}): delete it and run again."
    )


def _page(client: Client, url: str, question: dict[str, Any]) -> tuple[list[dict[str, Any]], int]:
    """Return the entries of one page of the listing, and how many there are on all pages."""

    def ask() -> tuple[list[dict[str, Any]], int]:
        with client.open("POST", url, json=question) as response:
            body = bytearray()
            for block in client.blocks(response):
                body += block
                if len(body) > MOST_JSON_BYTES:
                    raise Refused(f"the answer has more than {MOST_JSON_BYTES:,} bytes")
        try:
            data = json.loads(body)["data"]
            return list(data["hits"]), int(data["pagination"]["total"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise Interrupted("the answer is not a listing") from error

    try:
        return client.retry(ask)
    except (Interrupted, Refused) as error:
        raise UserError(f"The GDC does not list its files ({url}: {error}): try again later.") from error


def _row(hit: dict[str, Any]) -> StarFile:
    try:
        (entity,) = hit["associated_entities"]
        (case,) = hit["cases"]
        aliquot = str(entity["entity_submitter_id"])
        (sample,) = [s for s in case["samples"] if aliquot.startswith(s["submitter_id"])]
        row = StarFile(
            file_id=hit["file_id"],
            file_name=hit["file_name"],
            md5=hit["md5sum"],
            size=int(hit["file_size"]),
            sample_barcode=sample["submitter_id"],
            aliquot_barcode=aliquot,
            project=case["project"]["project_id"],
            sample_type=sample["sample_type"],
        )
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
        identifier = hit.get("file_id") if isinstance(hit, dict) else hit
        raise UserError(
            f"The GDC's entry of file {str(identifier)[:60]} lacks what the manifest needs "
            f"({type(error).__name__}: {str(error)[:200]}): its API has changed, report this."
        ) from error
    texts = (row.file_id, row.file_name, row.md5, row.sample_barcode, row.project, row.sample_type)
    whole = all(isinstance(text, str) and text.isprintable() for text in texts)  # fields of a table: no tabs, no lines
    if not whole or not row.aliquot_barcode.isprintable() or not row.usable:
        named = f"{str(row.file_id)[:60]!r} named {str(row.file_name)[:100]!r}"
        raise UserError(f"The GDC's entry {named} cannot be a file here: report this.")
    return row
