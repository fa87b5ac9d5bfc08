"""Where the pipeline keeps its files, relative to the project's top folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

INPUTS = Path("data/inputs")
RAW = Path("data/raw")
TRUTH = Path("data/truth")
COHORT = Path("data/cohort")
MODELS = Path("models")
SPLITS = Path("data/splits.parquet")
EMBEDDINGS = Path("data/embeddings")
PREDICTIONS = Path("data/predictions")
GENE_SETS = Path("data/gene_sets")
METRICS = Path("metrics")
SUMMARY = METRICS / "summary.json"
HEADLINE = METRICS / "headline.json"
COMPARE = METRICS / "compare.json"
REPORT = METRICS / "report.html"
PLOTS = METRICS / "plots"
FIGURES = METRICS / "figures"
TABLES = METRICS / "tables"
METHODS = METRICS / "methods.md"
REFERENCES = METRICS / "references.bib"
# Hashes of downloads that their publishers do not state, kept in git from the first download on.
SOURCE_LOCK = Path("data/sources.lock.json")


def weights_path(encoder: str) -> Path:
    """Where an encoder's checkpoint is kept, below it a folder named after the release."""
    return MODELS / encoder


def store_path(encoder: str) -> Path:
    """The embedding store of an encoder."""
    return EMBEDDINGS / f"{encoder}.zarr"


def metrics_path(task: str, encoder: str) -> Path:
    """The metrics of an encoder on a task."""
    return METRICS / task / f"{encoder}.json"


def written(task: str, encoders: Iterable[str]) -> dict[str, Path]:
    """The metrics of encoders on a task, of those that have any."""
    return {name: path for name in encoders if (path := metrics_path(task, name)).is_file()}


def predictions_path(task: str, encoder: str) -> Path:
    """The predictions of an encoder on a task.

    `<encoder>.parquet` is a folder with one file a task, which `pandas.read_parquet` reads as one table: two DVC
    stages cannot write one file.
    """
    return PREDICTIONS / f"{encoder}.parquet" / f"{task}.parquet"
