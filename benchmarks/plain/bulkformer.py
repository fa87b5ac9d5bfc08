"""The original BulkFormer as its notebook runs it: batches of four, every intermediate of the attention held at once.

The counts are a pandas frame, made to ln(1 + TPM) and put into the order of the vocabulary for all samples together.
Each forward pass computes the gene branch anew, holds the kernel features of all queries and keys of a batch, and runs
the head that predicts expression, whose result is not asked for. The states of all genes go to numpy, where those of
the measured genes are gathered and averaged.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

BATCH = 4
ABSENT = -10.0


def mlp(width_in: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width_in, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))


class Waves(nn.Module):
    """Sines and cosines of expression."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inv_freq = nn.Parameter(torch.empty(width // 2), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        phase = x[..., None] * self.inv_freq
        found = torch.cat([torch.sin(phase), torch.cos(phase)], dim=-1)
        absent = torch.nonzero(x == ABSENT)
        found[absent[:, 0], absent[:, 1]] = 0
        return found


class Attention(nn.Module):
    """Linear attention with random features; (batch, head, token, feature) tensors are all materialised."""

    def __init__(self, width: int, features: int, head_width: int) -> None:
        super().__init__()
        self.heads = width // head_width
        self.fast_attention = nn.Module()
        self.fast_attention.register_buffer("projection_matrix", torch.empty(features, head_width))
        self.to_q, self.to_k, self.to_v, self.to_out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        b, n, width = x.shape
        q, k, v = (layer(x).view(b, n, self.heads, -1).transpose(1, 2) for layer in (self.to_q, self.to_k, self.to_v))
        q, k = self.kernel(q, (-1,)), self.kernel(k, (-1, -2))
        context = torch.einsum("bhnm,bhnd->bhmd", k, v)
        share = 1.0 / torch.einsum("bhnm,bhm->bhn", q, k.sum(dim=-2))
        mixed = torch.einsum("bhmd,bhnm,bhn->bhnd", context, q, share)
        return self.to_out(mixed.transpose(1, 2).reshape(b, n, width))

    def kernel(self, u: Tensor, over: tuple[int, ...]) -> Tensor:
        matrix = self.fast_attention.projection_matrix
        scale = u.shape[-1] ** -0.25
        matrices = matrix.repeat(*u.shape[:2], 1, 1)  # one for each sample and head
        projected = torch.einsum("bhnd,bhmd->bhnm", scale * u, matrices)
        size = (u**2).sum(dim=-1, keepdim=True) / 2.0 * scale**2
        peak = projected.amax(dim=over, keepdim=True)
        return len(matrix) ** -0.5 * (torch.exp(projected - size - peak) + 1e-4)


class Dense(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.w1, self.w2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(nn.functional.gelu(self.w1(x)))


class Residual(nn.Module):
    """x + part(norm(x)); `nested` as the checkpoint names it."""

    def __init__(self, width: int, part: nn.Module, nested: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.nested = nested
        self.fn = part
        if nested:
            self.fn = nn.Module()
            self.fn.fn = part

    def forward(self, x: Tensor) -> Tensor:
        part = self.fn.fn if self.nested else self.fn
        return x + part(self.norm(x))


class Block(nn.Module):
    """Norm, graph convolution, Performers."""

    def __init__(self, width: int, depth: int, features: int, head_width: int) -> None:
        super().__init__()
        self.layernorm = nn.LayerNorm(width)
        self.g = nn.Module()
        self.g.lin = nn.Linear(width, width, bias=False)
        self.g.bias = nn.Parameter(torch.empty(width))
        self.f = nn.ModuleList()
        for _ in range(depth):
            performer = nn.Module()
            performer.net = nn.Module()
            parts = (Attention(width, features, head_width), False), (Dense(width), True)
            pair = nn.ModuleList(Residual(width, part, nested) for part, nested in parts)
            performer.net.layers = nn.ModuleList([pair])
            self.f.append(performer)

    def forward(self, x: Tensor, graph: Tensor) -> Tensor:
        x = self.layernorm(x)
        messages = self.g.lin(x)
        x = x + torch.stack([torch.sparse.mm(graph, sample) for sample in messages]) + self.g.bias
        for performer in self.f:
            for layer in performer.net.layers[0]:
                x = layer(x)
        return x


class Model(nn.Module):
    """The whole network, head included."""

    def __init__(self, n: int, width: int, depth: int, features: int, head_width: int) -> None:
        super().__init__()
        self.gene_emb_onehot_layer = nn.Embedding(n, width)
        self.gene_emb_proj = mlp(width, width)
        self.expr_emb = Waves(width)
        self.x_proj = mlp(width, width)
        self.gb_formers = nn.ModuleList([Block(width, depth, features, head_width)])
        self.layernorm = nn.LayerNorm(width)
        self.global_expr_proj = mlp(n, width)
        self.head = nn.Sequential(
            nn.LayerNorm(width + 3), nn.Linear(width + 3, width), nn.ReLU(), nn.Linear(width, 1), nn.ReLU()
        )

    def forward(self, x: Tensor, absent_share: float, graph: Tensor) -> Tensor:
        b, n = x.shape
        genes = self.gene_emb_proj(self.gene_emb_onehot_layer.weight)
        h = self.x_proj(self.expr_emb(x) + genes + self.global_expr_proj(x)[:, None])
        h = self.layernorm(self.gb_formers[0](h, graph))
        measured = (x != ABSENT).float()
        mean = (x * measured).sum(dim=1) / (measured.sum(dim=1) + 1e-8)
        nonzero = (x != 0).float().mean(dim=1)
        numbers = torch.stack([torch.full((b,), absent_share), mean, nonzero], dim=1)
        states = torch.cat([h, numbers[:, None].expand(-1, n, -1)], dim=-1)
        predicted = self.head(states).squeeze(-1)
        shift = (predicted * measured).sum(dim=1) / (measured.sum(dim=1) + 1e-8) - mean
        _ = predicted - (1 - measured) * shift[:, None]
        return states


def prepare(folder: Path, genes: pd.DataFrame) -> Callable[[np.ndarray, list[str]], np.ndarray]:
    """Read a checkpoint folder; return a function from counts (n, n_genes) and ids to embeddings (n, width + 3)."""
    state = torch.load(next((folder / "model").glob("*.pt")), map_location="cpu", weights_only=True)
    state = {name.removeprefix("module."): value for name, value in state.items()}
    state = {name: value for name, value in state.items() if ".proj_updater." not in name}
    n, width = state["gene_emb_onehot_layer.weight"].shape
    performers = [value for name, value in state.items() if name.endswith("projection_matrix")]
    model = Model(n, width, len(performers), *performers[0].shape).eval()
    model.load_state_dict(state)
    rows, columns = torch.load(folder / "data/G_tcga.pt", weights_only=True)
    strengths = torch.load(folder / "data/G_tcga_weight.pt", weights_only=True)
    degree = torch.zeros(n).index_add_(0, rows, strengths)
    root = degree.pow(-0.5).masked_fill(degree == 0, 0.0)
    places = torch.stack([rows, columns])
    strengths = root[rows] * strengths * root[columns]
    graph = torch.sparse_coo_tensor(places, strengths, (n, n), check_invariants=False).coalesce()
    order = pd.read_csv(folder / "data/bulkformer_gene_info.csv")["ensg_id"].tolist()
    table = pd.read_csv(folder / "data/gene_length_df.csv")
    lengths = table.set_index("ensg_id")["length"].to_dict()

    def embed(counts: np.ndarray, ids: list[str]) -> np.ndarray:
        frame = pd.DataFrame(counts.astype(np.float64), index=ids, columns=genes["ensembl_id"].tolist())
        rates = frame / np.array([lengths.get(name, 1000) / 1000 for name in frame.columns])
        logs = np.log1p(rates.div(rates.sum(axis=1), axis=0) * 1e6)
        absent = list(set(order) - set(logs.columns))
        filled = pd.concat([logs, pd.DataFrame(ABSENT, index=ids, columns=absent)], axis=1)[order]
        measured = [place for place, name in enumerate(order) if name in frame.columns]
        values = torch.tensor(filled.to_numpy(), dtype=torch.float32)
        vectors = []
        for batch in values.split(BATCH):
            with torch.no_grad():
                states = model(batch, len(absent) / len(order), graph).numpy()
            vectors.append(np.mean(states[:, measured], axis=1))
        return np.concatenate(vectors)

    return embed
