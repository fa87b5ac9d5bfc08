"""Checkpoints without anything learned, in the released layouts: stand-ins, and untrained twins of released weights."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import pandas as pd
from safetensors import SafetensorError

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
FULL = ("iostream error", "inline_container", "I/O error", "IoError", "requested and")  # torch, safetensors, NumPy


def write_untrained(model: str, folder: Path, genes: pd.DataFrame, seed: int) -> None:
    """Write a small random checkpoint of a model in the released layout, its vocabulary made of `genes`."""
    with _writing(folder):
        import_module(WRITERS[model]).write(folder, genes, seed)


def write_twin(model: str, released: Path, folder: Path, seed: int) -> None:
    """Write a release once more with its tensors drawn again: same sizes, vocabulary, graph and priors."""
    with _writing(folder):
        import_module(WRITERS[model]).twin(released, folder, seed)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Say as an OSError what torch, safetensors and NumPy say in their own ways where a file cannot be written."""
    try:
        yield
    except (RuntimeError, SafetensorError, OSError) as problem:
        said = " ".join(str(problem).split())
        if not any(word in said for word in FULL) or getattr(problem, "errno", None) is not None:
            raise
        raise OSError(
            errno.EIO, f"a file could not be written whole, is there room? ({said[:80]})", folder
        ) from problem
