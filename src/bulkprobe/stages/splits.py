"""Stage `splits`: who is trained on and who is tested, once for all encoders."""

from __future__ import annotations

from bulkprobe.cohort.read import read_cohort
from bulkprobe.files import atomic_path
from bulkprobe.params import load_params
from bulkprobe.stages import paths
from bulkprobe.stages.running import run_stage
from bulkprobe.stages.tasks import make_splits


def main() -> str:
    """Write `data/splits.parquet`."""
    params = load_params()
    cohort = read_cohort(paths.COHORT)
    table = make_splits(cohort, params)
    with atomic_path(paths.SPLITS) as aside:
        table.to_parquet(aside, index=False)
    return f"{params.splits.n_splits} splits of {table.label.nunique()} labels are in {paths.SPLITS}"


if __name__ == "__main__":
    run_stage(main)
