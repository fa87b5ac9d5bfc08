"""Stage `fetch`: raw files from the simulator, the official TCGA servers, or a lab's own tables."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from bulkprobe.errors import some
from bulkprobe.files import remove_folder, write_json
from bulkprobe.params import Params, load_params
from bulkprobe.stages import paths
from bulkprobe.stages.running import run_stage


def main() -> str:
    """Fill `data/raw` and say in `data/truth` what is planted, if anything is."""
    params = load_params()
    source = params.cohort.source
    paths.RAW.mkdir(parents=True, exist_ok=True)
    if source == "simulated":
        from bulkprobe.sources.simulate_files import fetch_simulated

        size = params.cohort.simulated
        fetch_simulated(paths.RAW, paths.TRUTH, patients=size.patients, genes=size.genes, seed=params.base.seed)
        return f"simulated raw files are in {paths.RAW}, the planted truth in {paths.TRUTH}"
    if source == "tcga":
        fetch_official(params)
    else:
        from bulkprobe.cohort.schema import FilesConfig
        from bulkprobe.sources.files import fetch_files

        config = FilesConfig.from_mapping(params.cohort.files)
        single = [path for path in (config.samples, config.survival, config.genes) if path is not None]
        warn_of_untracked([*config.expression, *config.mutations, *single])
        remove_folder(paths.RAW)
        fetch_files(config, paths.RAW)
    remove_folder(paths.TRUTH)
    write_json(paths.TRUTH / "truth.json", {"simulated": False})
    return f"raw files are in {paths.RAW}"


def warn_of_untracked(tables: Iterable[str]) -> None:
    """Say which tables DVC does not watch: the stage depends on `data/inputs` and on nothing outside it."""
    inputs = paths.INPUTS.resolve()
    outside = [table for table in tables if inputs not in Path(table).resolve().parents]
    if outside:
        print(
            f"note: {some(outside)} lie outside {paths.INPUTS}, so `dvc repro` does not notice when they change; "
            f"`dvc import-url TABLE {paths.INPUTS}/` pins a table by its hash",
            file=sys.stderr,
        )


def fetch_official(params: Params) -> None:
    """Download the official files; finished ones are kept, a broken download is taken up where it stopped."""
    from bulkprobe.sources.lock import HashLock
    from bulkprobe.sources.tcga import fetch_tcga

    fetch_tcga(
        paths.RAW,
        params.cohort.tcga.expression,
        lock=HashLock(paths.SOURCE_LOCK),
        workers=params.fetch.workers,
        retries=params.fetch.retries,
        projects=params.cohort.tcga.projects,
    )


if __name__ == "__main__":
    run_stage(main)
