"""Performer blocks (Choromanski et al. 2021, 2009.14794), as scBERT, scLong and BulkFormer use them.

With the checkpoint's own projection P (m, head width) and c = head_width^-1/4, the features of a query or key u are
    query: exp(c u P' - c² |u|² / 2 - max over m) + 1e-4        key: exp(c u P' - c² |u|² / 2 - M) + 1e-4
M is the largest c u P' over all tokens and features, of a head (performer-pytorch 1.1.4) or of all heads of the sample
(scBERT, scLong). The 1e-4 makes M matter.

The features are never held for all tokens at once. Keys are summed by chunks, each scaled by its own maximum and
brought to M at the end; 1e-4 enters as 1e-4 times a sum of values. What remains is exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-4  # of the kernel features
CHUNK = 2048  # tokens whose features are held at a time


class Performer(nn.Module):
    """A pre-norm block on one sample's tokens: x += attention(norm1(x)); x += down(gelu(up(norm2(x)))), exact GELU.

    `key_max`: over what the keys' maximum M is taken, "head" or "sample".
    """

    def __init__(
        self,
        width: int,
        heads: int,
        head_width: int,
        features: int,
        *,
        qkv_bias: bool,
        key_max: Literal["head", "sample"],
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        inner = heads * head_width
        self.heads, self.key_max = heads, key_max
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * inner, bias=qkv_bias)
        self.out = nn.Linear(inner, width)
        self.register_buffer("projection", torch.empty(features, head_width))
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden or 4 * width)
        self.down = nn.Linear(hidden or 4 * width, width)

    projection: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, width) from (n, width); x is overwritten."""
        self._attend(x)
        for part in _parts(x):
            part += self.down(F.gelu(self.up(self.norm2(part))))
        return x

    def _attend(self, x: Tensor) -> None:
        n = len(x)
        qkv = torch.cat([self.qkv(self.norm1(part)) for part in _parts(x)]).float()
        q, k, v = qkv.view(n, 3, self.heads, -1).permute(1, 2, 0, 3)  # each (heads, n, head width)
        scale = q.shape[-1] ** -0.25
        projection = (self.projection.float() * scale).T.contiguous()  # (head width, m)
        tables, peaks = zip(*(_summed_keys(k[h], v[h], projection, scale) for h in range(self.heads)), strict=True)
        peak = torch.stack(peaks)
        shared = peak.max() if self.key_max == "sample" else peak
        factors = torch.exp(peak - shared)
        mixed = torch.empty_like(q[0]).new_empty(n, self.heads, q.shape[-1])
        for h in range(self.heads):
            # Values and, as a last column, ones: numerator and denominator in one product.
            flat = torch.cat([v[h].sum(0), v.new_tensor([float(n)])])
            table = tables[h] * factors[h] + EPS * flat  # (m, head width + 1)
            _attend_queries(q[h], table, projection, scale, mixed[:, h])
        for part, heads in zip(_parts(x), _parts(mixed.view(n, -1)), strict=True):
            part += self.out(heads)


def _parts(x: Tensor) -> Iterator[Tensor]:
    return (x[start : start + CHUNK] for start in range(0, len(x), CHUNK))


def _summed_keys(k: Tensor, v: Tensor, projection: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Σ exp(c k P' - c² |k|² / 2 - peak) [v, 1] over the tokens, (m, head width + 1), and the peak."""
    total = k.new_zeros(projection.shape[1], v.shape[1] + 1)
    peak = k.new_tensor(-torch.inf)
    for keys, values in zip(_parts(k), _parts(v), strict=True):
        features = keys @ projection
        new = torch.maximum(peak, features.max())
        features -= 0.5 * scale * scale * keys.square().sum(1, keepdim=True) + new
        features.exp_()
        total *= torch.exp(peak - new)
        total += features.T @ torch.cat([values, values.new_ones(len(values), 1)], dim=1)
        peak = new
    return total, peak


def _attend_queries(q: Tensor, table: Tensor, projection: Tensor, scale: float, out: Tensor) -> None:
    """Write (features of q · values) / (features of q · ones) into `out` (n, head width)."""
    constant = EPS * table.sum(0)
    for queries, target in zip(_parts(q), _parts(out), strict=True):
        features = queries @ projection
        features -= 0.5 * scale * scale * queries.square().sum(1, keepdim=True) + features.amax(1, keepdim=True)
        both = features.exp_() @ table + constant
        target.copy_(both[:, :-1] / both[:, -1:])
