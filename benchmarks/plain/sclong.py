"""scLong's published procedure read plainly: batches of four, the states of every gene to the host, then their mean.

Performer features of all tokens are held at once, the gene graph is walked twice a batch, and the expression head and
the mask are computed. One thing is ours, so that both sides give the same answer: the largest key is taken per cell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from bulkprobe.nn.files import PLAIN, TENSORS, read_pickle

BATCH = 4
RELEASE = "gocont_4096_48m_pretrain_1b_mix"


class Plain:
    """The network as functions of the released tensors, by their released names."""

    def __init__(self, state: dict[str, Tensor], settings: dict[str, object]) -> None:
        self.state, self.settings = state, settings

    def linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"))

    def norm(self, x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def features(self, x: Tensor, directions: Tensor, keys: bool) -> Tensor:
        """Random features (batch, heads, n, m), less the largest of a query or of all keys of a cell."""
        scale = x.shape[-1] ** -0.25
        raised = directions.expand(*x.shape[:2], *directions.shape).contiguous()  # one copy a head and cell
        dots = torch.einsum("bhnd,bhmd->bhnm", scale * x, raised)
        peak = dots.flatten(1).max(1).values.view(-1, 1, 1, 1) if keys else dots.max(-1, keepdim=True).values
        length = (x**2).sum(-1, keepdim=True) / 2 * scale**2
        return directions.shape[0] ** -0.5 * (torch.exp(dots - length - peak) + 1e-4)

    def performer(self, x: Tensor, name: str, depth: int, heads: int) -> Tensor:
        for i in range(depth):
            layer = f"{name}.net.layers.{i}"
            normed = self.norm(x, f"{layer}.0.norm")
            q, k, v = (
                self.linear(normed, f"{layer}.0.fn.to_{part}").unflatten(-1, (heads, -1)).transpose(1, 2)
                for part in "qkv"
            )  # (batch, heads, n, head width)
            directions = self.state[f"{layer}.0.fn.fast_attention.projection_matrix"]
            q, k = self.features(q, directions, False), self.features(k, directions, True)
            weight = 1 / torch.einsum("bhnm,bhm->bhn", q, k.sum(-2))
            table = torch.einsum("bhnm,bhnd->bhmd", k, v)
            mixed = torch.einsum("bhmd,bhnm,bhn->bhnd", table, q, weight)
            x = x + self.linear(mixed.transpose(1, 2).flatten(2), f"{layer}.0.fn.to_out")
            hidden = F.gelu(self.linear(self.norm(x, f"{layer}.1.norm"), f"{layer}.1.fn.fn.w1"))
            x = x + self.linear(hidden, f"{layer}.1.fn.fn.w2")
        return x

    def graph(self) -> Tensor:
        """Message passing over the gene graph, edge by edge as graph libraries do it: (n, width)."""
        (source, target), strength = self.settings["G_go"], self.settings["G_go_weight"]
        found = F.embedding(torch.arange(len(self.state["go_conv.emb.weight"])), self.state["go_conv.emb.weight"])
        for i in range(self.settings["go_num_layers"]):
            degree = torch.zeros(len(found)).index_add_(0, target, strength)
            root = degree.pow(-0.5)
            root.masked_fill_(root == torch.inf, 0)
            messages = (root[source] * strength * root[target])[:, None] * found[source]
            heard = torch.zeros_like(found).scatter_add_(0, target[:, None].expand_as(messages), messages)
            found = self.linear(heard, f"go_conv.sim_layers.{i}.lin")
            found = found.relu() if i + 1 < self.settings["go_num_layers"] else found
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Decoder states (batch, n, width) of values (batch, n)."""
        sizes, place = self.settings, torch.arange(x.shape[1])
        top = torch.topk(x, sizes["top_seq_len"], dim=1).indices
        masked = (x <= sizes["mask_token_thres"]).float().unsqueeze(-1)
        read = self.linear(F.relu(self.linear(x.unsqueeze(-1), "token_emb.fc1")), "token_emb.fc2")
        read = self.norm((1 - masked) * read + masked * self.state["mask_emb.weight"], "token_norm")
        read += F.embedding(place, self.state["pos_emb.emb.weight"])
        read += self.graph()
        wide = top.unsqueeze(-1).expand(-1, -1, read.shape[-1])
        is_top = torch.zeros_like(x, dtype=torch.bool).scatter_(1, top, True).unsqueeze(-1)
        high = self.norm(self.linear(read.gather(1, wide), "base_to_large"), "large_in_norm")
        low = read.masked_select(~is_top).view(len(x), -1, read.shape[-1])
        high = self.performer(high, "large_encoder", sizes["large_enc_depth"], sizes["large_enc_heads"])
        high = self.norm(self.linear(high, "large_to_base"), "large_to_base_out_norm")
        low = self.performer(low, "mini_encoder", sizes["mini_enc_depth"], sizes["mini_enc_heads"])
        merged = torch.empty_like(read).scatter_(1, wide, high).masked_scatter_(~is_top, low)
        merged += F.embedding(place, self.state["pos_emb.emb.weight"])
        merged += self.graph()
        states = self.norm(self.performer(merged, "decoder", sizes["dec_depth"], sizes["dec_heads"]), "decode_norm")
        self.linear(states, "exp_to_out")
        return states


def reindex(x: Tensor, order: Tensor, fill: Tensor) -> Tensor:
    """Take columns of x (batch, columns, …) in `order`; the place behind the last column is `fill`."""
    index = order.view(1, -1, *[1] * (x.dim() - 2)).expand(len(x), -1, *x.shape[2:])
    return torch.cat([x, fill], dim=1).gather(1, index)


def prepare(folder: Path, genes: pd.DataFrame) -> Callable[[np.ndarray, Sequence[str]], np.ndarray]:
    """Load a checkpoint; the result turns counts (n, n_genes) and sample ids into vectors (n, width)."""
    settings = read_pickle(folder / f"{RELEASE}.pkl", PLAIN | TENSORS)
    content = torch.load(next(folder.glob(f"{RELEASE}_*.pth")), map_location="cpu", weights_only=True)
    network = Plain(content["model_state_dict"], settings)
    vocabulary = [*(folder / "selected_genes_27k.txt").read_text(encoding="utf-8").split(), "PAD"]
    names = genes["ensembl_id"].tolist()
    to_model = {name: i for i, name in enumerate(names)}
    to_input = {name: i for i, name in enumerate(vocabulary)}
    inwards = torch.tensor([to_model.get(name, len(names)) for name in vocabulary])
    outwards = torch.tensor([to_input.get(name, len(vocabulary)) for name in names])
    known = np.flatnonzero(outwards.numpy() < len(vocabulary))

    def embed(counts: np.ndarray, names: Sequence[str]) -> np.ndarray:
        logged = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4).astype(np.float32)
        found = []
        for start in range(0, len(counts), BATCH):
            with torch.no_grad():
                x = torch.from_numpy(logged[start : start + BATCH])
                states = network.forward(reindex(x, inwards, torch.zeros(len(x), 1)))
                found.append(reindex(states, outwards, states.mean(1, keepdim=True)).numpy())
        return np.concatenate(found)[:, known].mean(axis=1)

    return embed
