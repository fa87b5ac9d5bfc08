"""Performer blocks (Choromanski et al. 2021, 2009.14794), as scBERT, scLong and BulkFormer use them.

With the checkpoint's own projection P (m, head width) and c = head_width^-1/4, the features of a query or key u are
    query: exp(c u P' - c² |u|² / 2 - max over m) + 1e-4        key: exp(c u P' - c² |u|² / 2 - M) + 1e-4
M is the largest c u P' over all tokens and features, of a head (performer-pytorch 1.1.4) or of all heads of the sample
(scBERT, scLong). The 1e-4 makes M matter.

The features are never held for all tokens at once. Keys are summed by chunks, each scaled by its own maximum and
brought to M at the end; 1e-4 enters as 1e-4 times a sum of values. What remains is exact. Features are float32 also
under autocast: what an exponent loses by rounding becomes a relative error of the kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-4  # of the kernel features
CHUNK = 512  # tokens whose features are held at a time on the CPU: half a megabyte, which stays in its cache


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

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return (n, width) from (n, width), which is overwritten; with `rows` (indices) only those, (rows, width).

        All tokens are read as keys and values in either case.
        """
        mixed = self._attend(x, rows)
        kept = x if rows is None else x[rows]
        for part, heads in zip(parts(kept), parts(mixed), strict=True):
            part += self.out(heads)
            part += self.down(F.gelu(self.up(self.norm2(part))))
        return kept

    def _attend(self, x: Tensor, rows: Tensor | None) -> Tensor:
        """Return the heads' outputs side by side, (n or rows, heads · head width), float32."""
        n, inner = len(x), self.qkv.out_features // 3
        if rows is None:
            q, k, v = self._project(x, 0, 3 * inner).view(n, 3, self.heads, -1).permute(1, 2, 0, 3)
        else:
            q = self._project(x[rows], 0, inner).view(len(rows), self.heads, -1).transpose(0, 1)
            k, v = self._project(x, inner, 3 * inner).view(n, 2, self.heads, -1).permute(1, 2, 0, 3)
        with torch.autocast(x.device.type, enabled=False):
            return self._mix(q, k, v)

    def _project(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Return columns of queries, keys and values, (n, stop - start) float32."""
        weight, bias = self.qkv.weight[start:stop], None if self.qkv.bias is None else self.qkv.bias[start:stop]
        found = x.new_empty(len(x), stop - start, dtype=torch.float32)
        for part, target in zip(parts(x), parts(found), strict=True):
            target.copy_(F.linear(self.norm1(part), weight, bias))
        return found

    def _mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of each head: (heads, n, head width) → (n, heads · head width)."""
        scale = q.shape[-1] ** -0.25
        projection = (self.projection.float() * scale).T.contiguous()  # (head width, m)
        tables, peaks = zip(*(_summed_keys(k[h], v[h], projection, scale) for h in range(self.heads)), strict=True)
        peak = torch.stack(peaks)
        shared = peak.max() if self.key_max == "sample" else peak
        factors = torch.exp(peak - shared)
        mixed = q.new_empty(q.shape[1], self.heads, q.shape[-1])
        for h in range(self.heads):
            # Values and, as a last column, ones: numerator and denominator from one set of features.
            flat = torch.cat([v[h].sum(0), v.new_tensor([float(v.shape[1])])])
            table = tables[h] * factors[h] + EPS * flat  # (m, head width + 1)
            _attend_queries(q[h], table, projection, scale, mixed[:, h])
        return mixed.flatten(1)


def parts(x: Tensor) -> Iterator[Tensor]:
    """Views of x, row after row: as many rows on the CPU as its cache holds the features of; all on a GPU."""
    size = CHUNK if x.device.type == "cpu" else len(x)
    return (x[start : start + size] for start in range(0, len(x), size or 1))


def _summed_keys(k: Tensor, v: Tensor, projection: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Σ exp(c k P' - c² |k|² / 2 - peak) [v, 1] over the tokens, (m, head width + 1), and the peak."""
    values_sum = k.new_zeros(projection.shape[1], v.shape[1])
    ones_sum = k.new_zeros(projection.shape[1])
    peak = k.new_tensor(-torch.inf)
    for keys, values in zip(parts(k), parts(v), strict=True):
        features = keys @ projection
        new = torch.maximum(peak, features.max())
        features -= 0.5 * scale * scale * keys.square().sum(1, keepdim=True) + new
        features.exp_()
        decay = torch.exp(peak - new)
        values_sum *= decay
        ones_sum *= decay
        values_sum.addmm_(features.T, values)
        ones_sum += features.sum(0)
        peak = new
    return torch.cat([values_sum, ones_sum[:, None]], dim=1), peak


def _attend_queries(q: Tensor, table: Tensor, projection: Tensor, scale: float, out: Tensor) -> None:
    """Write (features of q · values) / (features of q · ones) into `out` (n, head width)."""
    values, ones = table[:, :-1].contiguous(), table[:, -1].contiguous()
    constant = EPS * table.sum(0)
    for queries, target in zip(parts(q), parts(out), strict=True):
        features = queries @ projection
        features -= 0.5 * scale * scale * queries.square().sum(1, keepdim=True) + features.amax(1, keepdim=True)
        features.exp_()
        weight = torch.mv(features, ones) + constant[-1]
        torch.div(torch.addmm(constant[:-1], features, values), weight[:, None], out=target)
