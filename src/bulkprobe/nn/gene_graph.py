"""Convolution over a fixed graph of genes (Kipf & Welling 2017, 1609.02907): weighted, directed, no loops added."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from bulkprobe.errors import UserError
from bulkprobe.nn.files import is_whole, read_torch


def read_edges(index_path: Path, weight_path: Path, n_genes: int) -> tuple[Tensor, Tensor]:
    """Read the released edges: (2, n_edges) places in the vocabulary, and their positive weights (n_edges,) float32."""
    index, weights = read_torch(index_path), read_torch(weight_path)
    sound = isinstance(index, Tensor) and index.ndim == 2 and len(index) == 2 and not index.is_floating_point()
    if not sound:
        raise UserError(f"{index_path} holds no graph as released: expected one tensor (2, edges) of whole numbers")
    if not isinstance(weights, Tensor) or weights.shape != index.shape[1:]:
        have = tuple(weights.shape) if isinstance(weights, Tensor) else type(weights).__name__
        raise UserError(f"{weight_path} is {have}, but {index_path.name} has {index.shape[1]} edges: one weight each")
    if not is_whole(index) or not is_whole(weights):
        raise UserError(f"{index_path} or {weight_path.name} claims more edges than it has: fetch it again")
    if index.numel() and not (0 <= int(index.min()) and int(index.max()) < n_genes):
        raise UserError(
            f"{index_path} names gene {int(index.max())} where the vocabulary has {n_genes} genes: graph and "
            "checkpoint are of different releases"
        )
    if not bool(((weights > 0) & weights.isfinite()).all()):
        raise UserError(f"{weight_path} has weights that are not positive: fetch it again")
    return index.long(), weights.float()


def normalised(targets: Tensor, sources: Tensor, weights: Tensor, n_genes: int) -> Tensor:
    """Return the sparse (n_genes, n_genes) matrix w_ij / sqrt(d_i d_j), row i the gene that receives from genes j.

    d_i is the sum of the weights that gene i receives; a gene that receives nothing sends nothing either (d = 0
    counts as infinite), in line with torch_geometric. Edges that stand twice add up.
    """
    degree = torch.zeros(n_genes, dtype=torch.float64).index_add_(0, targets, weights.double())
    scale = torch.where(degree > 0, degree, torch.inf).rsqrt()
    values = (scale[targets] * weights * scale[sources]).float()
    places = torch.stack([targets, sources])
    return torch.sparse_coo_tensor(places, values, (n_genes, n_genes), check_invariants=True).coalesce()


def spread(adjacency: Tensor, messages: Tensor) -> Tensor:
    """Return adjacency @ messages, (n_genes, width), in float32 also where the rest is computed in bfloat16."""
    with torch.autocast(messages.device.type, enabled=False):
        received: Tensor = torch.sparse.mm(adjacency, messages.float())
    return received
