"""scGPT's published procedure read plainly: batches of 64, padding, PyTorch's own encoder, every state of every layer.

The draws are ours, so that both sides read the same genes and give the same answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from bulkprobe.encoders.scgpt import Draws
from bulkprobe.nn.samples import Sample

BATCH = 64
MAX_LENGTH = 1200
EDGES = np.linspace(0, 1, 50)


class Genes(nn.Module):
    """Embedding, then LayerNorm."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        self.enc_norm = nn.LayerNorm(width)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.enc_norm(self.embedding(ids))


class Values(nn.Module):
    """Two linear layers and LayerNorm, of every token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(1, width), nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.norm(self.linear2(torch.relu(self.linear1(values.unsqueeze(-1).clamp(max=512)))))


class Plain(nn.Module):
    """The network with the released names of its tensors."""

    def __init__(self, tokens: int, width: int, depth: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.encoder, self.value_encoder = Genes(tokens, width), Values(width)
        layer = nn.TransformerEncoderLayer(width, heads, hidden, dropout, batch_first=True)
        self.transformer_encoder = nn.TransformerEncoder(layer, depth)

    def forward(self, ids: torch.Tensor, values: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        tokens = self.encoder(ids) + self.value_encoder(values)
        return self.transformer_encoder(tokens, src_key_padding_mask=padding)


def prepare(folder: Path, genes: pd.DataFrame) -> Callable[[np.ndarray, Sequence[str]], np.ndarray]:
    """Load a checkpoint; the result turns counts (n, n_genes) and sample ids into vectors (n, width)."""
    args = json.loads((folder / "args.json").read_text(encoding="utf-8"))
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    sizes = args["embsize"], args["nlayers"], args["nheads"], args["d_hid"], args["dropout"]
    network = Plain(len(vocabulary), *sizes).eval()
    released = torch.load(folder / "best_model.pt", map_location="cpu", weights_only=True)
    state = {name.replace("self_attn.Wqkv.", "self_attn.in_proj_"): value for name, value in released.items()}
    network.load_state_dict({name: state[name] for name in network.state_dict()})
    ids = np.array([vocabulary.get(symbol, -1) for symbol in genes["symbol"]])
    known = np.flatnonzero(ids >= 0)
    # Ascending ids, since the draws are numbered that way.
    known = known[np.argsort(ids[known], kind="stable")]
    draws = Draws(0, "sample_id", len(vocabulary))

    def one(row: np.ndarray, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        expressed = np.flatnonzero(row)
        ties, keys = draws(Sample(name, 0), 0, ids[known[expressed]])
        edges = np.quantile(row[expressed], EDGES)
        left, right = np.digitize(row[expressed], edges), np.digitize(row[expressed], edges, right=True)
        bins = np.ceil(ties * (right - left) + left)
        tokens = torch.from_numpy(np.insert(ids[known[expressed]], 0, vocabulary["<cls>"]))
        values = torch.from_numpy(np.insert(bins, 0, args["pad_value"])).float()
        if len(tokens) > MAX_LENGTH:
            kept = torch.from_numpy(np.insert(np.argsort(keys)[: MAX_LENGTH - 1] + 1, 0, 0))
            tokens, values = tokens[kept], values[kept]
        return tokens, values

    def embed(counts: np.ndarray, names: Sequence[str]) -> np.ndarray:
        matched = counts[:, known].astype(np.float32)
        found = []
        for start in range(0, len(counts), BATCH):
            part = slice(start, start + BATCH)
            pairs = [one(row, name) for row, name in zip(matched[part], names[part], strict=True)]
            tokens = nn.utils.rnn.pad_sequence(
                [t for t, _ in pairs], batch_first=True, padding_value=vocabulary["<pad>"]
            )
            values = nn.utils.rnn.pad_sequence([v for _, v in pairs], batch_first=True, padding_value=args["pad_value"])
            with torch.no_grad():
                found.append(network(tokens, values, tokens.eq(vocabulary["<pad>"]))[:, 0].numpy())
        vectors = np.concatenate(found)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return embed
