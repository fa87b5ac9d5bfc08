"""The post-norm transformer block that scGPT, Geneformer and scFoundation share (Vaswani et al. 2017, 1706.03762)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHUNK = 4096  # tokens that go through the feed-forward layers at a time


class PostNormBlock(nn.Module):
    """One block on one sample's tokens: x = norm1(x + attention(x)); x = norm2(x + down(relu(up(x)))).

    Full bidirectional softmax attention without a mask: a sample is never padded. `qkv` holds the rows of queries,
    keys and values one after the other; heads are runs of width / heads columns.
    """

    def __init__(self, width: int, heads: int, hidden: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.norm2 = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Tensor, rows: int | None = None) -> Tensor:
        """Return (n, width) from (n, width); with `rows`, only the first so many rows (the others are still read)."""
        n, width = x.shape
        if rows is None:
            q, k, v = self.qkv(x).view(n, 3, self.heads, -1).unbind(1)
            kept = x
        else:
            kept = x[:rows]
            q = F.linear(kept, self.qkv.weight[:width], self.qkv.bias[:width]).view(rows, self.heads, -1)
            k, v = F.linear(x, self.qkv.weight[width:], self.qkv.bias[width:]).view(n, 2, self.heads, -1).unbind(1)
        mixed = F.scaled_dot_product_attention(*(part.transpose(0, 1)[None] for part in (q, k, v)))
        del q, k, v  # three numbers a token and column less while the feed-forward layers are at work
        kept = self.norm1(kept + self.out(mixed[0].transpose(0, 1).reshape(-1, width)))
        del mixed
        return torch.cat([self.norm2(part + self.down(self.up(part).relu_())) for part in kept.split(CHUNK)])
