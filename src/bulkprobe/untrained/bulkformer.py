"""BulkFormer checkpoints that have learned nothing, of both families."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bulkprobe.nn.files import existing, first_existing, read_torch, tensors_of
from bulkprobe.nn.waves import frequencies
from bulkprobe.untrained.draws import MOST_GENES, Draw, vocabulary_of

ORIGINAL_FILE = "model/BulkFormer_147M.pt"  # the name of the default release
RELEASED_HEADS = 8
NARROWEST_HEAD = 12  # of a stand-in that has fewer
SUMMARIES = 3  # numbers of a sample beside each gene's state
ESM2_WIDTH = 4  # of the protein table, which nothing reads; the release has 1,280
LATEST_ARCHITECTURE = "BulkFormerV1Plus-v1"
LATEST_FILES = ("model.pt", "model_config.json", "gene_vocab.csv", "edge_index.pt", "edge_weight.pt")


def write(
    folder: Path, genes: pd.DataFrame, seed: int, *, family: Literal["original", "latest"] = "original", **sizes: int
) -> None:
    """Write a small BulkFormer; the vocabulary is made of `genes` (ensembl_id, symbol, length)."""
    (write_latest if family == "latest" else write_original)(folder, genes, seed, **sizes)


def write_original(
    folder: Path,
    genes: pd.DataFrame,
    seed: int,
    *,
    width: int = 24,
    depth: int = 1,
    blocks: int = 1,
    heads: int = 0,
    features: int = 0,
    edges_per_gene: int = 10,
    most_genes: int = MOST_GENES,
) -> None:
    """Write an original BulkFormer; heads and features follow from the width, as in the releases, where they are 0."""
    heads = heads or max(1, min(RELEASED_HEADS, width // NARROWEST_HEAD))
    draw = Draw(seed)
    vocabulary = vocabulary_of(genes, "ensembl", most_genes).sort_values("ensembl_id")
    n = len(vocabulary)
    head_width = width // heads
    features = features or int(head_width * np.log(head_width))
    shapes = _original_shapes(n, width, blocks, depth, head_width, features)
    state = {f"module.{name}": value for name, value in _state(draw, shapes).items()}
    (folder / "model").mkdir(parents=True, exist_ok=True)
    (folder / "data").mkdir(exist_ok=True)
    torch.save(OrderedDict(state), folder / ORIGINAL_FILE)
    index, weights = _edges(draw, n, edges_per_gene)
    torch.save(index, folder / "data/G_tcga.pt")
    torch.save(weights, folder / "data/G_tcga_weight.pt")
    torch.save(draw.normal("esm2", (n, ESM2_WIDTH), 1.0), folder / "data/esm2_feature_concat.pt")
    torch.save(list(range(0, n, 5)), folder / "data/interested_gene_list.pt")
    lengths = vocabulary.length.to_numpy(dtype=np.float64)
    info = {
        "gene_symbol": vocabulary.symbol.to_numpy(),
        "ensg_id": vocabulary.ensembl_id.to_numpy(),
        "gene_type": "protein_coding",
        "gene_length": np.nan_to_num(lengths, nan=1000.0).astype(np.int64),
        "ensp_id": "",
        "protein_length": "",
    }
    pd.DataFrame(info).to_csv(folder / "data/bulkformer_gene_info.csv", index=False)
    known = genes.dropna(subset=["ensembl_id", "length"]).drop_duplicates("ensembl_id")
    table = pd.DataFrame({"ensg_id": known.ensembl_id, "length": known.length.astype(np.int64)})
    table.to_csv(folder / "data/gene_length_df.csv", index=False)


def write_latest(
    folder: Path,
    genes: pd.DataFrame,
    seed: int,
    *,
    width: int = 24,
    depth: int = 2,
    heads: int = 2,
    features: int = 16,
    graph_width: int = 12,
    edges_per_gene: int = 10,
    most_genes: int = MOST_GENES,
) -> None:
    """Write a bulkformer-latest."""
    draw = Draw(seed)
    vocabulary = vocabulary_of(genes, "ensembl", most_genes).sort_values("ensembl_id")
    n = len(vocabulary)
    folder.mkdir(parents=True, exist_ok=True)
    table = {
        "vocab_index": range(n),
        "canonical_ensg": vocabulary.ensembl_id.to_numpy(),
        "gene_symbol": vocabulary.symbol.to_numpy(),
        "gene_length_bp": np.nan_to_num(vocabulary.length.to_numpy(dtype=np.float64), nan=1000.0).astype(np.int64),
    }
    pd.DataFrame(table).to_csv(folder / "gene_vocab.csv", index=False)
    index, weights = _edges(draw, n, edges_per_gene)
    pairs, first = np.unique(index.sort(0).values.numpy(), axis=1, return_index=True)
    apart = pairs[0] != pairs[1]
    both = torch.from_numpy(np.concatenate([pairs[:, apart], pairs[::-1, apart]], axis=1))
    torch.save(both.contiguous(), folder / "edge_index.pt")
    torch.save(weights[np.tile(first[apart], 2)], folder / "edge_weight.pt")
    config: dict[str, Any] = {
        "num_genes": n,
        "dim": width,
        "depth": depth,
        "heads": heads,
        "dim_head": width // heads,
        "ff_mult": 4,
        "nb_features": features,
        "dropout": 0.1,
        "attention_dropout": 0.05,
        "graph_hidden_dim": graph_width,
        "graph_dropout": 0.1,
        "graph_scale_init": 0.01,
        "expression_base": 100.0,
        "expression_scale_init": 1.0,
        "mask_value": -10.0,
        "mask_ratio_scaling_enabled": True,
        "mask_ratio_reference": 0.1,
        "mask_ratio_max_scale": 2.0,
        "mask_ratio_min_visible_fraction": 0.05,
        "fix_performer_projection_matrices": True,
    }
    state = _state(draw, _latest_shapes(n, width, depth, width // heads, features, graph_width))
    _save_latest(folder, state, config, {"stage": "untrained", "seed": seed})


def twin(released: Path, folder: Path, seed: int) -> None:
    """Write a release once more with everything learned drawn again, projections of the attention included.

    What is kept: vocabulary, gene lengths, graph, ESM2 table, frequencies of the expression waves, configuration.
    """
    draw = Draw(seed)
    shutil.copytree(released, folder, dirs_exist_ok=True)
    configs = [path for place in ("", "*/", "*/*/") for path in sorted(folder.glob(f"{place}model_config.json"))]
    if configs:
        path = existing(configs[0].parent / "model.pt")
        content = read_torch(path)
        state = _drawn_again(draw, tensors_of(content, path, "model"))
        path.unlink()
        _save_latest(path.parent, state, content["model_config"], {"stage": "untrained", "seed": seed})
        return
    path = first_existing(folder, "model/[Bb]ulk[Ff]ormer*.pt", "[Bb]ulk[Ff]ormer*.pt")
    state = _drawn_again(draw, tensors_of(read_torch(path), path))
    path.unlink()
    torch.save(OrderedDict(state), path)


def _original_shapes(
    n: int, width: int, blocks: int, depth: int, head_width: int, features: int
) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "gene_emb_onehot_layer.weight": (n, width),
        **_mlp_shapes("gene_emb_proj", width, width),
        "expr_emb.inv_freq": (width // 2,),
        **_mlp_shapes("x_proj", width, width),
    }
    for block in (f"gb_formers.{i}" for i in range(blocks)):
        shapes |= {f"{block}.g.bias": (width,), f"{block}.g.lin.weight": (width, width)}
        for i in range(depth):
            shapes |= _performer_shapes(f"{block}.f.{i}", 1, width, head_width, features)
        shapes |= _norm_shapes(f"{block}.layernorm", width)
    return shapes | {
        **_norm_shapes("layernorm", width),
        **_mlp_shapes("global_expr_proj", n, width),
        **_norm_shapes("head.0", width + SUMMARIES),
        "head.1.weight": (width, width + SUMMARIES),
        "head.1.bias": (width,),
        "head.3.weight": (1, width),
        "head.3.bias": (1,),
    }


def _latest_shapes(
    n: int, width: int, depth: int, head_width: int, features: int, graph_width: int
) -> dict[str, tuple[int, ...]]:
    return {
        "expression_scale": (),
        "gene_embedding.weight": (n, width),
        **_norm_shapes("input_norm", width),
        "graph_block.residual_scale": (width,),
        **_norm_shapes("graph_block.norm", width),
        "graph_block.input_projection.weight": (graph_width, width),
        "graph_block.convolution.lin.weight": (graph_width, graph_width),
        "graph_block.output_projection.weight": (width, graph_width),
        **_norm_shapes("pre_performer_norm", width),
        **_performer_shapes("performer", depth, width, head_width, features),
        **_norm_shapes("output_norm", width),
        "expression_head.0.weight": (width, width),
        "expression_head.0.bias": (width,),
        "expression_head.3.weight": (1, width),
        "expression_head.3.bias": (1,),
    }


def _norm_shapes(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _mlp_shapes(name: str, width_in: int, width: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{name}.0.weight": (4 * width, width_in),
        f"{name}.0.bias": (4 * width,),
        f"{name}.2.weight": (width, 4 * width),
        f"{name}.2.bias": (width,),
    }


def _performer_shapes(name: str, depth: int, width: int, head_width: int, features: int) -> dict[str, tuple[int, ...]]:
    """One Performer of performer-pytorch: its layers, the redraw counter, and the layers once more."""
    layers: dict[str, tuple[int, ...]] = {}
    for i in range(depth):
        attention, dense = f"layers.{i}.0", f"layers.{i}.1"
        layers |= _norm_shapes(f"{attention}.norm", width)
        layers[f"{attention}.fn.fast_attention.projection_matrix"] = (features, head_width)
        for part in ("to_q", "to_k", "to_v", "to_out"):
            layers |= {f"{attention}.fn.{part}.weight": (width, width), f"{attention}.fn.{part}.bias": (width,)}
        layers |= _norm_shapes(f"{dense}.norm", width)
        layers |= {f"{dense}.fn.fn.w1.weight": (4 * width, width), f"{dense}.fn.fn.w1.bias": (4 * width,)}
        layers |= {f"{dense}.fn.fn.w2.weight": (width, 4 * width), f"{dense}.fn.fn.w2.bias": (width,)}
    return {
        **{f"{name}.net.{key}": shape for key, shape in layers.items()},
        f"{name}.proj_updater.calls_since_last_redraw": (),
        **{f"{name}.proj_updater.instance.{key}": shape for key, shape in layers.items()},
    }


def _state(draw: Draw, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        first = name.replace(".proj_updater.instance.", ".net.")
        state[name] = state[first] if first in state else _tensor(draw, name, shape)
    return state


def _drawn_again(draw: Draw, released: Mapping[str, Tensor]) -> dict[str, Tensor]:
    plain = {name: name.removeprefix("module.") for name in released}
    drawn = _state(draw, {plain[name]: tuple(value.shape) for name, value in released.items()})
    kept = ("inv_freq", "calls_since_last_redraw")
    return {
        name: value.clone() if name.endswith(kept) else drawn[plain[name]].to(value.dtype)
        for name, value in released.items()
    }


def _tensor(draw: Draw, name: str, shape: tuple[int, ...]) -> Tensor:
    if name.endswith("calls_since_last_redraw"):
        return torch.tensor(347)
    if name.endswith("inv_freq"):
        return frequencies(2 * shape[0], 100.0)
    if name.endswith("projection_matrix"):
        return draw.orthogonal_features(name, *shape)
    if name == "expression_scale":
        return torch.tensor(1.3)
    if name.endswith("residual_scale"):
        return draw.normal(name, shape, 0.5)
    if name in ("gene_emb_onehot_layer.weight", "gene_embedding.weight"):
        return draw.normal(name, shape, 1.0)
    if len(shape) == 2:
        # What all genes of a sample share must not drown what tells them apart.
        return draw.linear(name, shape) * (0.25 if name == "global_expr_proj.2.weight" else 1.0)
    norm = name.endswith(".weight")  # only a norm has a weight of one axis
    return draw.normal(name, shape, 0.1, 1.0 if norm else 0.0)


def _edges(draw: Draw, n: int, per_gene: int) -> tuple[Tensor, Tensor]:
    """Directed edges (2, n_edges) and weights: each gene but every 50th is at the head of `per_gene` of them."""
    rng = draw.rng("graph")
    heads = np.repeat(np.arange(n)[np.arange(n) % 50 != 0] if n > 1 else np.arange(n), min(per_gene, n))
    tails = rng.integers(0, n, len(heads))
    weights = rng.uniform(0.3, 1.0, len(heads)).astype(np.float32)
    return torch.from_numpy(np.stack([heads, tails])), torch.from_numpy(weights)


def _save_latest(
    folder: Path, state: Mapping[str, Tensor], config: Mapping[str, Any], history: Mapping[str, Any]
) -> None:
    """Write the checkpoint, its configuration, and the manifest with sizes and hashes of all five files."""
    content = {
        "architecture": LATEST_ARCHITECTURE,
        "model_config": dict(config),
        "checkpoint_metadata": dict(history),
        "model": OrderedDict(state),
    }
    torch.save(content, folder / "model.pt")
    _write_json(folder / "model_config.json", {"architecture": LATEST_ARCHITECTURE, "model": dict(config)})
    learned = [
        value for name, value in state.items() if ".proj_updater." not in name and "projection_matrix" not in name
    ]
    contents = {name: (folder / name).read_bytes() for name in LATEST_FILES}
    manifest = {
        "format_version": 1,
        "architecture": LATEST_ARCHITECTURE,
        "release_name": "bulkformer-latest",
        "checkpoint_metadata": dict(history),
        "trainable_parameters": sum(value.numel() for value in learned),
        "files": {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in contents.items()
        },
    }
    _write_json(folder / "manifest.json", manifest)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
