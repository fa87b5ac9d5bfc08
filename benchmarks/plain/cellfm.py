"""CellFM as its authors' tutorial computes it: padded batches, every layer for every token."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bulkprobe.encoders.cellfm import NOMENCLATURE, load
from bulkprobe.preprocess.draws import stream_of, weighted_orders
from bulkprobe.preprocess.hgnc import current_symbols, read_nomenclature

BATCH = 16
LENGTH = 2048  # genes a sample is cut or padded to


class Layer(nn.Module):
    def __init__(self, width: int, heads: int, depth: int) -> None:
        super().__init__()
        self.heads, self.alpha = heads, (2 * depth) ** 0.25
        for name in ("k", "v", "q", "u", "o", "left", "right", "down"):
            setattr(self, name, nn.Linear(width, width, bias=False))
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-7), nn.LayerNorm(width, eps=1e-7)

    def forward(self, x: Tensor, mask: Tensor, length: Tensor) -> Tensor:
        batch, n, width = x.shape
        q, k, v, u = (f(x).view(batch, n, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v, self.u))
        q, k, u, v = torch.relu(q), torch.relu(k) * mask[:, None, :, None], F.silu(u), v * length
        root = q.shape[-1] ** 0.5
        mixed = (q / root) @ ((k / root).transpose(-1, -2) @ v)
        mixed = mixed / (torch.linalg.vector_norm(mixed, dim=-1, keepdim=True) / root).clamp_min(1e-12) * u
        x = self.norm1(self.alpha * x + self.o(mixed.transpose(1, 2).reshape(batch, n, width)))
        return self.norm2(self.alpha * x + self.down(self.left(x) * self.right(x)))


def prepare(folder: Path, genes: pd.DataFrame) -> Callable[[np.ndarray, list[str]], np.ndarray]:
    """Return the function from counts (n, n_genes) and sample ids to CLS vectors (n, width), by our seeded draw."""
    network, table, vocabulary = load(folder)
    width = table.shape[1]
    layers = []
    for ours in network.stack():
        layer = Layer(width, ours.heads, len(network.layers)).requires_grad_(False).eval()
        parts = [*ours.kvqu.weight.chunk(4), ours.out.weight, *ours.gate.weight.chunk(2), ours.down.weight]
        for name, weight in zip(("k", "v", "q", "u", "o", "left", "right", "down"), parts, strict=True):
            getattr(layer, name).weight.copy_(weight)
        layer.norm1.load_state_dict(ours.norm1.state_dict())
        layer.norm2.load_state_dict(ours.norm2.state_dict())
        layers.append(layer)
    nomenclature = read_nomenclature(folder / "csv" / NOMENCLATURE)
    names = current_symbols(list(genes["symbol"]), list(genes["ensembl_id"]), vocabulary, nomenclature)
    panel = sorted((name, column) for column, name in enumerate(names) if name in vocabulary)
    columns = [column for _, column in panel]
    rows = np.array([vocabulary[name] for name, _ in panel])

    def read(counts: np.ndarray, sample: str) -> tuple[np.ndarray, np.ndarray, int]:
        """Ids and values (LENGTH,) of one sample, and how many of them are genes."""
        capped = np.round(counts / np.float32(max(1, counts.sum(dtype=np.float64) / 1e5)))[columns]
        values = np.log1p(capped / (capped.sum() / np.float32(1e4)))
        kept = values.nonzero()[0]
        if len(kept) > LENGTH:
            times = stream_of(0, sample).standard_exponential((1, len(table)))[:, rows[kept]]
            kept = np.sort(kept[weighted_orders(times, np.log1p(values[kept]))[0][:LENGTH]])
        ids, padded = np.zeros(LENGTH, np.int64), np.zeros(LENGTH, np.float32)
        ids[: len(kept)], padded[: len(kept)] = rows[kept], values[kept]
        return ids, padded, len(kept)

    @torch.inference_mode()
    def embed(counts: np.ndarray, samples: list[str]) -> np.ndarray:
        out = []
        for start in range(0, len(counts), BATCH):
            batch = [
                read(*one) for one in zip(counts[start : start + BATCH], samples[start : start + BATCH], strict=True)
            ]
            ids, values, sizes = (torch.from_numpy(np.stack(part)) for part in zip(*batch, strict=True))
            mask = (torch.arange(LENGTH + 1) <= sizes[:, None]).float()
            value = network.value
            raised = F.leaky_relu(value.up(values[..., None]), 0.2)
            expression = value.table(torch.softmax(value.mix(raised) + value.keep * raised, -1))
            x = torch.cat([network.cls_token.expand(len(ids), 1, width), table[ids] + expression], 1) * mask[..., None]
            for layer in layers:
                x = layer(x, mask, sizes.float().rsqrt().view(-1, 1, 1, 1))
            out.append(x[:, 0].numpy())
        return np.concatenate(out)

    return embed
