"""Stage `fetch`: raw files from the simulator, the official TCGA servers, or a lab's own tables."""

from __future__ import annotations

import shutil

from bulkprobe.files import write_json
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

        shutil.rmtree(paths.RAW)
        fetch_files(FilesConfig.from_mapping(params.cohort.files), paths.RAW)
    shutil.rmtree(paths.TRUTH, ignore_errors=True)
    write_json(paths.TRUTH / "truth.json", {"simulated": False})
    return f"raw files are in {paths.RAW}"


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
