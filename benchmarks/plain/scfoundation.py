"""scFoundation as its script runs it: one sample at a time through PyTorch's encoder layers with a padding mask.

The values are a pandas frame, aligned by symbol and normalised for all samples together; each sample is turned into a
Python list, its expressed genes are found by a top-k over place weights that are listed in Python, once for the values
and once for the places. Nothing is padded, yet every layer gets an all-false padding mask. The decoder is loaded with
the checkpoint, but a sample embedding does not run it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

BATCH = 1


class Values(nn.Module):
    """The value embedding; its submodules are called as in the checkpoint."""

    def __init__(self, settings: dict) -> None:
        super().__init__()
        bins, width = settings["bin_num"], settings["encoder"]["hidden_dim"]
        self.alpha, self.ids = settings["bin_alpha"], (settings["mask_token_id"], settings["pad_token_id"])
        self.mlp, self.mlp2 = nn.Linear(1, bins), nn.Linear(bins, bins)
        self.emb, self.emb_mask, self.emb_pad = (
            nn.Embedding(bins, width),
            nn.Embedding(1, width),
            nn.Embedding(1, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        near = nn.functional.leaky_relu(self.mlp(x[..., None]), 0.1)
        found = torch.softmax(self.mlp2(near) + self.alpha * near, dim=-1) @ self.emb.weight
        for number, table in zip(self.ids, (self.emb_mask, self.emb_pad), strict=True):
            found[x == number] = table.weight[0]
        return found


class Encoder(nn.Module):
    """The encoder half; its submodules are called as in the checkpoint."""

    def __init__(self, settings: dict) -> None:
        super().__init__()
        sizes = settings["encoder"]
        width = sizes["hidden_dim"]
        self.token_emb = Values(settings)
        self.pos_emb = nn.Embedding(settings["seq_len"] + 1, width)
        self.encoder = nn.Module()
        self.encoder.transformer_encoder = nn.ModuleList(
            nn.TransformerEncoderLayer(width, sizes["heads"], 4 * width, batch_first=True)
            for _ in range(sizes["depth"])
        )
        self.encoder.norm = nn.LayerNorm(width)

    def forward(self, values: Tensor, places: Tensor, padded: Tensor) -> Tensor:
        x = self.token_emb(values) + self.pos_emb(places)
        for layer in self.encoder.transformer_encoder:
            x = layer(x, src_key_padding_mask=padded)
        return self.encoder.norm(x)


def expressed(values: Tensor, kept: Tensor, pad: int) -> tuple[Tensor, Tensor]:
    """Gather the kept entries of each row in order, filled up with `pad`, and which of them are padding."""
    most = int(kept.sum(1).max())
    rank = torch.tensor([float(place) for place in range(values.shape[1], 0, -1)])
    rank = torch.hstack([torch.where(kept, rank, -torch.inf), torch.zeros(len(values), most)])
    filled = torch.hstack([values, torch.full((len(values), most), pad, dtype=values.dtype)])
    found = filled.gather(1, rank.topk(most).indices)
    return found, found == pad


def prepare(folder: Path, genes: pd.DataFrame) -> Callable[[np.ndarray, list[str]], np.ndarray]:
    """Read a checkpoint folder; return a function from counts (n, n_genes) and ids to embeddings (n, 4 x width)."""
    symbols = pd.read_csv(folder / "OS_scRNA_gene_index.19264.tsv", sep="\t", keep_default_na=False)[
        "gene_name"
    ].tolist()
    released = torch.load(folder / "models.ckpt", map_location="cpu", weights_only=True)["cell"]
    config = released["config"]
    settings = {**config["model_config"][config["model"]], **config["dataset_config"]["rnaseq"]}
    model = Encoder(settings).eval()
    state = {name.removeprefix("model."): value for name, value in released["state_dict"].items()}
    model.load_state_dict({name: state[name] for name in model.state_dict()})
    pad = settings["pad_token_id"]

    def embed(counts: np.ndarray, ids: list[str]) -> np.ndarray:
        frame = pd.DataFrame(counts.astype(np.float64), index=ids, columns=genes["symbol"].tolist())
        absent = sorted(set(symbols) - set(frame.columns))
        frame = pd.concat([frame, pd.DataFrame(0.0, index=ids, columns=absent)], axis=1)[symbols]
        sizes = frame.sum(axis=1)
        logs = np.log1p(frame.div(sizes / sizes[sizes > 0].median(), axis=0))
        vectors = []
        for row in range(len(logs)):
            with torch.no_grad():
                depth = float(np.log10(logs.iloc[row].sum()))
                values = torch.tensor([*logs.iloc[row].tolist(), depth, depth])[None]
                kept = values > 0
                read, padded = expressed(values, kept, pad)
                places, _ = expressed(torch.arange(values.shape[1])[None], kept, pad)
                states = model(read, places, padded)
                inside = states[:, :-2]
                parts = [states[:, -1], states[:, -2], inside.max(dim=1).values, inside.mean(dim=1)]
                vectors.append(torch.cat(parts, dim=1)[0].numpy())
        return np.stack(vectors)

    return embed
