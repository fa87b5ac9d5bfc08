"""Gene sets for stage biology: the simulator's own, MSigDB's collections of one pinned release, or a user's file."""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Unpack

import pyarrow.parquet

from bulkprobe.errors import UserError
from bulkprobe.files import atomic_folder, file_hash, read_json, write_json
from bulkprobe.sources.client import HttpOptions
from bulkprobe.sources.download import download_all
from bulkprobe.sources.gmt import GeneSet, id_kind, read_gmt, write_gmt
from bulkprobe.sources.lock import HashLock
from bulkprobe.sources.schema import SourceFile

SETS, PROVENANCE = "sets.gmt", "provenance.json"
PLANTED = "planted"
RELEASE = "2024.1.Hs"
MSIGDB = "https://data.broadinstitute.org/gsea-msigdb/msigdb/release"
TERMS = (
    "CC BY 4.0, © Broad Institute, MIT and Regents of the University of California "
    "(gsea-msigdb.org/gsea/msigdb_license_terms.jsp); cite Liberzon 2011 doi:10.1093/bioinformatics/btr260"
)


def _file(stem: str, cite: str) -> SourceFile:
    """MSigDB publishes no hashes: they are recorded at the first download."""
    name = f"{stem}.v{RELEASE}.symbols.gmt"
    return SourceFile(name, (f"{MSIGDB}/{RELEASE}/{name}",), terms=f"{TERMS} and {cite}")


COLLECTIONS: Mapping[str, SourceFile] = MappingProxyType(
    {
        "hallmark": _file("h.all", "Liberzon 2015 doi:10.1016/j.cels.2015.12.004"),
        "reactome": _file("c2.cp.reactome", "Milacic 2024 doi:10.1093/nar/gkad1025"),
        "go": _file("c5.go.bp", "Ashburner 2000 doi:10.1038/75556"),
    }
)


def fetch_gene_sets(
    collection: str,
    folder: Path,
    *,
    truth: Path,
    incoming: Path,
    lock: HashLock | None = None,
    progress: bool = True,
    **http: Unpack[HttpOptions],
) -> dict[str, Any]:
    """Bring a collection into `folder` as sets.gmt and provenance.json, and return the latter's content.

    truth: what the simulator planted, for `planted`. incoming: where a download waits, outside `folder`, so that a
    broken one is continued. Raises UserError where the sets cannot be had; then `folder` stays as it was.
    """
    if collection == PLANTED:
        sets, source = _planted(truth), {"name": "the simulated cohort's own modules"}
    elif collection in COLLECTIONS:
        file = COLLECTIONS[collection]
        known = lock if lock is not None and lock.get(file.lock_key) else None
        record = download_all([file], incoming, workers=1, lock=known, progress=progress, **http)[file.name]
        try:
            sets = read_gmt(incoming / file.name)
        except UserError:
            shutil.rmtree(incoming)  # what is no GMT must not be taken for the finished download
            raise
        if lock is not None:  # only now: a server's error page must not become what later downloads are held to
            lock.record(file.lock_key, record.sha256)
        source = {"name": file.name, "release": f"MSigDB {RELEASE}", "url": file.urls[0]}
        source |= {"licence": file.terms, "sha256": record.sha256}
    else:
        path = _given(collection)
        sets, source = read_gmt(path), {"name": path.name, "sha256": file_hash(path)}
    whole = {"name": None, "release": None, "url": None, "licence": None, "sha256": None} | source
    with atomic_folder(folder) as aside:
        write_gmt(aside / SETS, sets)
        content = {
            # A user's path says more about a machine than about the sets.
            "collection": collection if collection in (PLANTED, *COLLECTIONS) else "file",
            "source": whole,
            "sha256": file_hash(aside / SETS),
            "n_sets": len(sets),
            "ids": id_kind(sets),
        }
        write_json(aside / PROVENANCE, content)
    shutil.rmtree(incoming, ignore_errors=True)
    return content


def _planted(truth: Path) -> list[GeneSet]:
    """The genes that each of the simulator's programs loads on."""
    if not read_json(truth / "truth.json")["simulated"]:
        raise UserError(
            "gene_sets.collection is planted, but this cohort is not simulated, so nothing is planted in it: choose "
            f"{', '.join(COLLECTIONS)} or the path of a .gmt file"
        )
    table = pyarrow.parquet.read_table(truth / "modules.parquet").to_pandas()
    members = {str(name): table.index[table[name].to_numpy() != 0] for name in table.columns}
    return [GeneSet(name, "planted", tuple(map(str, genes))) for name, genes in members.items() if len(genes)]


def _given(collection: str) -> Path:
    path = Path(collection)
    if not path.name.lower().endswith((".gmt", ".gmt.gz")):
        near = difflib.get_close_matches(collection, [PLANTED, *COLLECTIONS], n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose {', '.join([PLANTED, *COLLECTIONS])}"
        raise UserError(f"gene_sets.collection is {collection!r}, which is no collection and no .gmt file; {hint}")
    if not path.is_file():
        raise UserError(f"gene_sets.collection is {collection!r}, but there is no such file: correct the path")
    return path
