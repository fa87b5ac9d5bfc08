"""bulkformer-latest (V1 Plus, announced 9 October 2026): another network than the original BulkFormers, and its files.

Followed: KangBoming/BulkFormer @ 3c5a9a88ed6752fe205d4ff00876adfdf6030844 (`utils/latest`). Six files lie side by side:
model.pt (tensors with their configuration), model_config.json, gene_vocab.csv, edge_index.pt, edge_weight.pt,
manifest.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bulkprobe.errors import UserError, some
from bulkprobe.foreign import MOST_JSON_BYTES, bytes_of
from bulkprobe.nn.files import existing, one_line, read_torch, tensors_of
from bulkprobe.nn.gene_graph import normalised, read_edges, spread
from bulkprobe.nn.performer import Performer, parts
from bulkprobe.nn.performer_pytorch import COUNTER, join_queries_keys_values, layer_keys, without_doubles
from bulkprobe.nn.rename import depth_of, load_strict, rename
from bulkprobe.nn.waves import ABSENT, frequencies, waves

ARCHITECTURE = "BulkFormerV1Plus-v1"
KEYS = {
    "gene_embedding.weight": "genes",
    "expression_scale": "expression_scale",
    "input_norm.*": "norm_in.*",
    "graph_block.norm.*": "norm_graph.*",
    "graph_block.input_projection.weight": "graph_in.weight",
    "graph_block.convolution.lin.weight": "graph_mix.weight",
    "graph_block.output_projection.weight": "graph_out.weight",
    "graph_block.residual_scale": "graph_scale",
    "pre_performer_norm.*": "norm_performer.*",
    **layer_keys("performer.net.layers.{}", "performers.{}"),
    "output_norm.*": "norm_out.*",
}
IGNORED = {
    "expression_head.*": "predicts expression; not part of an embedding",
    "performer.proj_updater.calls_since_last_redraw": COUNTER,
}
# Of the released configuration, what is read; sizes are read from the tensors.
READ = {
    "heads",
    "expression_base",
    "mask_value",
    "mask_ratio_scaling_enabled",
    "mask_ratio_reference",
    "mask_ratio_max_scale",
    "mask_ratio_min_visible_fraction",
}
UNREAD = {
    *("num_genes", "dim", "depth", "dim_head", "ff_mult", "nb_features", "graph_hidden_dim"),  # sizes
    *("dropout", "attention_dropout", "graph_dropout"),  # training
    *("graph_scale_init", "expression_scale_init", "fix_performer_projection_matrices"),  # before training
}


class LatestNetwork(nn.Module):
    """From ln(1 + TPM) of all genes to the state of each gene."""

    def __init__(self, n_genes: int, width: int, depth: int, heads: int, features: int, graph_width: int) -> None:
        super().__init__()
        self.genes = nn.Parameter(torch.empty(n_genes, width))
        self.expression_scale = nn.Parameter(torch.empty(()))
        self.norm_in = nn.LayerNorm(width)
        self.norm_graph = nn.LayerNorm(width)
        self.graph_in = nn.Linear(width, graph_width, bias=False)
        self.graph_mix = nn.Linear(graph_width, graph_width, bias=False)
        self.graph_out = nn.Linear(graph_width, width, bias=False)
        self.graph_scale = nn.Parameter(torch.empty(width))
        self.norm_performer = nn.LayerNorm(width)
        self.performers = nn.ModuleList(
            Performer(width, heads, width // heads, features, qkv_bias=True, key_max="head") for _ in range(depth)
        )
        self.norm_out = nn.LayerNorm(width)

    config: Mapping[str, Any]
    frequencies: Tensor
    gene_tokens: Tensor  # (n_genes, width)
    adjacency: Tensor

    def prepare(self, config: Mapping[str, Any], adjacency: Tensor, device: str) -> None:
        """Compute what no sample changes."""
        self.config = config
        self.to(device)
        width = self.genes.shape[1]
        self.frequencies = frequencies(width, float(config["expression_base"])).to(device)
        self.gene_tokens = F.rms_norm(self.genes, (width,), eps=1e-8)
        self.adjacency = adjacency.to(device)

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the states (n_genes, width) of all genes or (n_rows, width) of those in `rows`, from x (n_genes,)."""
        gain = self.expression_scale * 2.0**0.5 * self._correction(x)
        h = torch.empty_like(self.gene_tokens)  # (gene, width)
        for part, values, tokens in zip(parts(h), parts(x), parts(self.gene_tokens), strict=True):
            part.copy_(self.norm_in(tokens + gain * waves(values, self.frequencies)))
        update = spread(self.adjacency, self.graph_mix(self.graph_in(self.norm_graph(h))))
        h += self.graph_scale * self.graph_out(F.gelu(update))
        h = self.norm_performer(h)
        for layer in self.performers[:-1]:
            h = layer(h)
        return self.norm_out(self.performers[-1](h, rows))  # type: ignore[no-any-return]

    def _correction(self, x: Tensor) -> float:
        """How much louder expression is made the fewer genes are measured."""
        if not self.config["mask_ratio_scaling_enabled"]:
            return 1.0
        measured = float((x != ABSENT).float().mean())
        usual = 1.0 - float(self.config["mask_ratio_reference"])
        scale = usual / max(measured, float(self.config["mask_ratio_min_visible_fraction"]))
        return min(scale, float(self.config["mask_ratio_max_scale"]))


@dataclass(frozen=True)
class LatestFiles:
    """What the six files hold: genes in the order of the vocabulary, their lengths in bp, and the network."""

    names: list[str]
    lengths: dict[str, float]
    network: LatestNetwork


def read_latest(folder: Path, device: str) -> LatestFiles:
    """Read a folder that holds model_config.json; UserError where its files do not fit each other."""
    path = folder / "model.pt"
    content = read_torch(path)
    state = tensors_of(content, path, "model")
    if content.get("architecture") != ARCHITECTURE:
        raise UserError(f"{path} is of architecture {content.get('architecture')!r}, expected {ARCHITECTURE!r}")
    config = _config(folder / "model_config.json", content.get("model_config"), path)
    state = rename(without_doubles(state, path), KEYS, IGNORED, path)
    join_queries_keys_values(state, "performers.{}")
    depth = depth_of(state, "performers.{}", path)
    for name in ("genes", "performers.0.projection", "graph_mix.weight"):
        if name not in state:
            raise UserError(f"{path} lacks the tensor that becomes {name}: it is not laid out as released")
    n_genes, width = state["genes"].shape
    features, head_width = state["performers.0.projection"].shape
    heads = config["heads"]
    if heads * head_width != width:
        raise UserError(f"{path}: {heads} heads of width {head_width} do not make the width {width}")
    with torch.device("meta"):
        network = LatestNetwork(n_genes, width, depth, heads, features, len(state["graph_mix.weight"]))
    load_strict(network, {name: value.float() for name, value in state.items()}, path)
    names, lengths = _vocabulary(folder / "gene_vocab.csv", n_genes)
    (sources, targets), weights = read_edges(folder / "edge_index.pt", folder / "edge_weight.pt", n_genes)
    network.prepare(config, normalised(targets, sources, weights, n_genes), device)
    return LatestFiles(names, lengths, network)


def _config(path: Path, of_tensors: object, checkpoint: Path) -> dict[str, Any]:
    try:
        content = json.loads(bytes_of(existing(path), MOST_JSON_BYTES).decode())
    except (ValueError, RecursionError) as problem:
        raise UserError(f"{path} is no JSON: {one_line(problem)}; fetch it again") from None
    config = content.get("model") if isinstance(content, dict) else None
    if not isinstance(config, dict) or config != of_tensors:
        raise UserError(
            f"{path} and {checkpoint.name} disagree about the configuration: they are of different releases"
        )
    strange, missing = set(config) - READ - UNREAD, READ - set(config)
    if strange or missing:
        raise UserError(
            f"{path} has other settings than {ARCHITECTURE}; unknown: {some(sorted(strange)) or 'none'}, "
            f"missing: {some(sorted(missing)) or 'none'}"
        )
    if words := [key for key in sorted(READ) if not isinstance(config[key], int if key == "heads" else int | float)]:
        raise UserError(f"{path}: {some(words)} should be numbers as in the release; fetch it again")
    if float(config["mask_value"]) != ABSENT:
        raise UserError(f"{path}: mask_value is {config['mask_value']}, expected {ABSENT}")
    return config


def _vocabulary(path: Path, n_genes: int) -> tuple[list[str], dict[str, float]]:
    try:
        columns = ["vocab_index", "canonical_ensg", "gene_length_bp"]
        table = pd.read_csv(existing(path), usecols=columns, dtype={"gene_length_bp": float})
    except ValueError as problem:
        raise UserError(f"{path} is no vocabulary as released: {one_line(problem)}") from None
    names = [str(name) for name in table.canonical_ensg]
    if table.vocab_index.tolist() != list(range(n_genes)) or len(set(names)) != n_genes:
        raise UserError(f"{path} lists {len(set(names))} genes in {len(table)} rows, the checkpoint has {n_genes}")
    lengths = table.gene_length_bp
    if not (lengths > 0).all():
        raise UserError(f"{path} has genes without a length: fetch it again")
    return names, dict(zip(names, lengths, strict=True))
