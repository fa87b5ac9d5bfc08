"""Stage `cohort`: from raw files to one checked table of samples, labels and expression."""

from __future__ import annotations

from bulkprobe.cohort.build import build_cohort
from bulkprobe.cohort.schema import CohortRules
from bulkprobe.params import load_params
from bulkprobe.stages import paths
from bulkprobe.stages.running import run_stage


def main() -> str:
    """Build `data/cohort`."""
    params = load_params()
    build_cohort(paths.RAW, paths.COHORT, CohortRules.from_mapping(params.cohort.rules))
    return f"the cohort is in {paths.COHORT}"


if __name__ == "__main__":
    run_stage(main)
