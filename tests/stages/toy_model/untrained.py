"""The toy's released layout without anything learned."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import torch

from bulkprobe.untrained.draws import Draw, vocabulary_of


def write(folder: Path, genes: pd.DataFrame, seed: int, *, width: int = 16) -> None:
    """Write genes.txt and toy.pt."""
    names = vocabulary_of(genes, "ensembl")["ensembl_id"].tolist()
    (folder / "genes.txt").write_text("\n".join(names), encoding="utf-8")
    draw = Draw(seed)
    tensors = {"projection.weight": draw.linear("projection.weight", (width, len(names)))}
    torch.save({**tensors, "head.bias": draw.normal("head.bias", (3,), 1.0)}, folder / "toy.pt")


def twin(released: Path, folder: Path, seed: int) -> None:
    """Draw the matrix again; the vocabulary stays."""
    shutil.copyfile(released / "genes.txt", folder / "genes.txt")
    state = torch.load(released / "toy.pt", weights_only=True)
    draw = Draw(seed)
    torch.save({name: draw.normal(name, value.shape, 0.1) for name, value in state.items()}, folder / "toy.pt")
