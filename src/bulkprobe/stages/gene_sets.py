"""Stage `gene_sets`: the sets that stage biology looks for in gene vectors, in `data/gene_sets`."""

from __future__ import annotations

import sys
from pathlib import Path

from bulkprobe.params import load_params
from bulkprobe.sources.gene_sets import COLLECTIONS, PLANTED, fetch_gene_sets
from bulkprobe.sources.lock import HashLock
from bulkprobe.stages import paths
from bulkprobe.stages.running import run_stage

INCOMING = paths.GENE_SETS.parent / ".incoming" / paths.GENE_SETS.name


def main() -> str:
    """Write `data/gene_sets/sets.gmt` and `provenance.json`."""
    params = load_params()
    collection = params.gene_sets.collection
    found = fetch_gene_sets(
        collection,
        paths.GENE_SETS,
        truth=paths.TRUTH,
        incoming=INCOMING,
        lock=HashLock(paths.SOURCE_LOCK),
        retries=params.fetch.retries,
    )
    if collection not in (PLANTED, *COLLECTIONS) and paths.INPUTS.resolve() not in Path(collection).resolve().parents:
        print(
            f"note: {collection} lies outside {paths.INPUTS}, so `dvc repro` does not notice when it changes",
            file=sys.stderr,
        )
    return f"{paths.GENE_SETS} holds {found['n_sets']} gene sets of {found['source']['name']}"


if __name__ == "__main__":
    run_stage(main)
