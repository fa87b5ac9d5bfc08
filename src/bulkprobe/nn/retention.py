"""CellFM's block: retention without decay (Zeng et al. 2025, after Sun et al. 2023, arXiv 2307.08621)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SMALLEST_NORM = 1e-12
ROWS_AT_ONCE = 1024  # of many tokens that are multiplied once for all samples


class RetentionLayer(nn.Module):
    """Gated linear attention with an RMS norm per head, then a bilinear feed-forward, each with norm behind (DeepNorm).

    `kvqu` holds the rows of keys, values, queries and gates one after the other, `gate` the two factors of the
    feed-forward. Upstream also divides q and k by sqrt(head width) and v by sqrt(n): the RMS norm takes that out again.
    """

    def __init__(self, width: int, heads: int, depth: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.residual = (2 * depth) ** 0.25
        self.kvqu = nn.Linear(width, 4 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.gate = nn.Linear(width, 2 * width, bias=False)
        self.down = nn.Linear(width, width, bias=False)
        self.norm2 = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Tensor, kvqu: Tensor) -> Tensor:
        """Return (n, width) from the tokens (n, width) and their product with `self.kvqu` (n, 4 width)."""
        k, v, q, u = kvqu.view(len(x), 4, self.heads, -1).unbind(1)  # (n, heads, head width)
        state = torch.einsum("nhk,nhv->hkv", torch.relu(k), v)
        return self._finish(x, torch.einsum("nhk,hkv->nhv", torch.relu(q), state), u)

    def first_row(self, x: Tensor) -> Tensor:
        """Return (1, width): only what becomes of the first token, which reads all others.

        q (k^T (x W)) is bracketed as ((q k^T) x) W, so that no values are computed.
        """
        n, width = x.shape
        parts = self.kvqu.weight.view(4, width, width)
        k = torch.relu(F.linear(x, parts[0])).view(n, self.heads, -1)
        q = torch.relu(F.linear(x[:1], parts[2])).view(self.heads, -1)
        u = F.linear(x[:1], parts[3]).view(1, self.heads, -1)
        read = torch.einsum("nhk,hk->hn", k, q) @ x  # (heads, width)
        mixed = torch.einsum("hw,hvw->hv", read, parts[1].view(self.heads, -1, width))
        return self._finish(x[:1], mixed[None], u)

    def _finish(self, x: Tensor, mixed: Tensor, u: Tensor) -> Tensor:
        size = mixed.float().square().mean(-1, keepdim=True).sqrt().clamp_min(SMALLEST_NORM)
        x = self.norm1(self.residual * x + self.out((mixed / size * F.silu(u)).flatten(1)))
        left, right = self.gate(x).chunk(2, -1)
        done: Tensor = self.norm2(self.residual * x + self.down(left * right))
        return done


def with_product(first: Tensor, table: Tensor, places: Tensor, product: nn.Linear, threads: int) -> Tensor:
    """Return rows (n, width), `first` and then `table[places]`, beside their product.

    By blocks side by side, each on one thread, so that bytes stay the same; only the result is held as a whole.
    """
    width, n = table.shape[1], len(first) + len(places)
    out = torch.empty(n, width + product.out_features, device=product.weight.device)

    def fill(start: int, part: Tensor) -> None:
        with torch.inference_mode():
            part = part.to(out.device)
            out[start : start + len(part), :width] = part
            out[start : start + len(part), width:] = product(part)

    fill(0, first)
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as workers:
        starts = range(0, len(places), ROWS_AT_ONCE)
        list(workers.map(lambda at: fill(len(first) + at, table[places[at : at + ROWS_AT_ONCE]]), starts))
    return out
