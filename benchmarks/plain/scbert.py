"""scBERT as its authors' scripts run it, for timing: one sample a call, every feature of every head held at once.

The states of all positions pass through all layers, in batches of one with a batch dimension; keys, queries and values
are three products; the feature maps are written out as the formula reads. Not timed: upstream's alignment of genes,
which looks every symbol up in a list and assigns sparse columns once a data set.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

BATCH = 1
EPS = 1e-4
BINS = 5


class FeatureAttention(nn.Module):
    """Attention by random features of the softmax kernel."""

    def __init__(self, width: int, heads: int, head_width: int, features: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, heads * head_width, bias=False)
        self.to_k = nn.Linear(width, heads * head_width, bias=False)
        self.to_v = nn.Linear(width, heads * head_width, bias=False)
        self.to_out = nn.Linear(heads * head_width, width)
        self.register_buffer("projection_matrix", torch.empty(features, head_width))

    projection_matrix: Tensor

    def features(self, u: Tensor, query: bool) -> Tensor:
        """exp(c u P' - c² |u|² / 2 - maximum) + 1e-4, over √m: (batch, heads, n, head width) → (batch, heads, n, m)."""
        c = u.shape[-1] ** -0.25
        product = (c * u) @ self.projection_matrix.T
        half_norm = c * c * u.square().sum(-1, keepdim=True) / 2
        maximum = product.amax(-1, keepdim=True) if query else product.max()
        return (torch.exp(product - half_norm - maximum) + EPS) / len(self.projection_matrix) ** 0.5

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n, width) → the same shape."""
        batch, n, _ = x.shape
        q, k, v = (
            linear(x).view(batch, n, self.heads, -1).transpose(1, 2) for linear in (self.to_q, self.to_k, self.to_v)
        )
        queries, keys = self.features(q, True), self.features(k, False)
        summed = keys.transpose(-1, -2) @ v  # (batch, heads, m, head width)
        weights = queries @ keys.sum(-2)[..., None]  # (batch, heads, n, 1)
        mixed = queries @ summed / weights
        found: Tensor = self.to_out(mixed.transpose(1, 2).reshape(batch, n, -1))
        return found


class Layer(nn.Module):
    """A pre-norm layer."""

    def __init__(self, width: int, hidden: int, heads: int, head_width: int, features: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = FeatureAttention(width, heads, head_width, features)
        self.feed = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(0.0), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n, width) → the same shape."""
        x = x + self.attention(self.norm1(x))
        return x + self.feed(self.norm2(x))


def prepare(folder: Path, genes: pd.DataFrame) -> Callable[[np.ndarray, list[str]], np.ndarray]:
    """Return a function from counts (n, n_genes) and sample ids to embeddings (n, width)."""
    with h5py.File(folder / "panglao_10000.h5ad") as file:
        model_genes = [name.decode() for name in file["var"][file["var"].attrs["_index"]][:]]
    first: dict[str, int] = {}
    for column, symbol in enumerate(genes["symbol"]):
        first.setdefault(symbol, column)
    measured = np.array([symbol in first for symbol in model_genes])
    columns = np.array([first[symbol] for symbol in model_genes if symbol in first])

    state = torch.load(folder / "panglao_pretrain.pth", map_location="cpu", weights_only=True)["model_state_dict"]
    prefix = "performer.net.layers"
    depth = len({name.split(".")[3] for name in state if name.startswith(prefix)})
    features, head_width = state[f"{prefix}.0.0.fn.fast_attention.projection_matrix"].shape
    hidden, width = state[f"{prefix}.0.1.fn.fn.w1.weight"].shape
    heads = len(state[f"{prefix}.0.0.fn.to_q.weight"]) // head_width
    layers = []
    for number in range(depth):
        layer = Layer(width, hidden, heads, head_width, features)
        ours = {}
        for name in layer.state_dict():
            theirs = name
            for new, old in (
                ("norm1.", "0.norm."),
                ("norm2.", "1.norm."),
                ("attention.projection_matrix", "0.fn.fast_attention.projection_matrix"),
                ("attention.", "0.fn."),
                ("feed.0.", "1.fn.fn.w1."),
                ("feed.3.", "1.fn.fn.w2."),
            ):
                if name.startswith(new):
                    theirs = old + name.removeprefix(new)
                    break
            ours[name] = state[f"{prefix}.{number}.{theirs}"]
        layer.load_state_dict(ours)
        layers.append(layer)
    stack = nn.Sequential(*layers, nn.LayerNorm(width)).eval()
    stack[-1].load_state_dict({"weight": state["norm.weight"], "bias": state["norm.bias"]})
    bins = nn.Embedding.from_pretrained(state["token_emb.weight"])
    positions = nn.Embedding.from_pretrained(state["pos_emb.emb.weight"])

    def embed(counts: np.ndarray, ids: list[str]) -> np.ndarray:
        aligned = np.zeros((len(counts), len(model_genes)), np.float32)
        aligned[:, measured] = counts[:, columns]
        scaled = aligned / (aligned.sum(axis=1, keepdims=True, dtype=np.float64) / 1e4).astype(np.float32)
        logged = (np.log1p(scaled) / np.log(2)).astype(np.float32)
        vectors = []
        with torch.no_grad():
            for row in logged:
                tokens = torch.from_numpy(np.append(np.minimum(row, BINS), 0)).long()[None]
                x = bins(tokens)
                x += positions(torch.arange(tokens.shape[1]))
                states = stack(x)[0, :-1]
                vectors.append(states[torch.from_numpy(measured)].mean(dim=0).numpy())
        return np.stack(vectors)

    return embed
