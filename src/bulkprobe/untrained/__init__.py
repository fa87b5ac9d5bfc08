"""Checkpoints without anything learned, in the released layouts: stand-ins, and untrained twins of released weights."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pandas as pd

# Model → module; imported on demand.
WRITERS = {
    "cellfm": "bulkprobe.untrained.cellfm",
    "geneformer": "bulkprobe.untrained.geneformer",
    "scbert": "bulkprobe.untrained.scbert",
    "scfoundation": "bulkprobe.untrained.scfoundation",
    "scgpt": "bulkprobe.untrained.scgpt",
    "sclong": "bulkprobe.untrained.sclong",
    "bulkformer": "bulkprobe.untrained.bulkformer",
}


def write_untrained(model: str, folder: Path, genes: pd.DataFrame, seed: int) -> None:
    """Write a small random checkpoint of a model in the released layout, its vocabulary made of `genes`."""
    import_module(WRITERS[model]).write(folder, genes, seed)


def write_twin(model: str, released: Path, folder: Path, seed: int) -> None:
    """Write a release once more with its tensors drawn again: same sizes, vocabulary, graph and priors."""
    import_module(WRITERS[model]).twin(released, folder, seed)
