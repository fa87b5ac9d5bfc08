"""Toy: a bag of genes. log1p of counts per ten thousand, times a learned matrix.

Paper: none. Input: counts, Ensembl ids. One vector a sample: the projection, published.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bulkprobe.encoders.base import (
    Card,
    CohortView,
    Release,
    WeightFile,
    Weights,
    input_layer,
    need_weights,
    resolve_options,
)
from bulkprobe.nn.files import existing, read_torch, tensors_of
from bulkprobe.nn.rename import load_strict, parameters_of, rename
from bulkprobe.nn.samples import Sample, Samples, Tokens
from bulkprobe.preprocess.vocabulary import align, gene_names, require_coverage

TARGET_SUM = 10_000.0  # counts a sample
KEYS = {"projection.weight": "weight"}
IGNORED = {"head.*": "pre-training head"}
CARD = Card(
    name="toy",
    title="Toy bag of genes",
    kind="foundation",
    pooling="projection of all genes (published)",
    scales=("counts", "counts_without_lengths", "rsem_normalised"),
    pretraining="nothing",
    trained_on="bulk",
    reads="ln(1 + counts per 10,000)",
    gene_ids="Ensembl",
    defaults={"pooling": "published", "min_coverage": 0.2},
    choices={"pooling": ("published",)},
    releases=(Release("v1", (WeightFile("toy.pt"), WeightFile("genes.txt")), 16, 1000),),
)


class Network(nn.Linear):
    """The matrix."""


def read(folder: Path) -> tuple[list[str], Network]:
    """Read the vocabulary and the weights."""
    genes = existing(folder / "genes.txt").read_text(encoding="utf-8").split()
    path = folder / "toy.pt"
    state = rename(tensors_of(read_torch(path), path), KEYS, IGNORED, path)
    with torch.device("meta"):
        network = Network(len(genes), len(state["weight"]), bias=False)
    load_strict(network, state, path)
    return genes, network


def gene_vectors(folder: Path) -> tuple[list[str], np.ndarray]:
    """Return the genes and their columns of the matrix."""
    genes, network = read(folder)
    return genes, network.weight.numpy().T


class Toy:
    """The toy as an encoder."""

    card = CARD

    def start(self, cohort: CohortView, options: Mapping[str, Any], weights: Weights | None = None) -> Samples:
        """Prepare for a cohort."""
        chosen = resolve_options(CARD, options)
        given = need_weights(CARD, weights)
        layer = input_layer(CARD, cohort, "counts")
        genes, network = read(given.folder)
        names = gene_names(cohort.var, "ensembl")
        found = align(names, {gene: place for place, gene in enumerate(genes)}, "first")
        require_coverage(CARD.name, found, chosen["min_coverage"], "Ensembl ids", names)

        def log(values: np.ndarray) -> np.ndarray:
            return np.log1p(values * (TARGET_SUM / max(float(values.sum(dtype=np.float64)), 1.0)))

        def encode(values: np.ndarray, sample: Sample) -> Tensor:
            projected: Tensor = network(torch.from_numpy(found.gather(log(values))))
            return projected

        def tokens(values: np.ndarray, sample: Sample) -> Tokens:
            return Tokens(found.columns, log(values)[found.columns])

        attributes = {
            **found.attributes(),
            "parameters_used": parameters_of(network),
            "probe_transform": {"kind": "none"},
        }
        where = (given.device, given.precision)
        return Samples(network.out_features, layer, attributes, encode, tokens, *where, known=found.columns)


ENCODER = Toy()
