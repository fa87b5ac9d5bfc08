"""scLong without anything learned. Prior, and kept in a twin: the vocabulary, the GO graph and gene2vec."""

from __future__ import annotations

import io
import pickle
import shutil
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.storage import TypedStorage, _load_from_bytes

from bulkprobe.errors import UserError
from bulkprobe.foreign import refusing
from bulkprobe.nn.files import existing, read_torch, tensors_of
from bulkprobe.untrained.draws import MOST_GENES, Draw, vocabulary_of

SETTINGS = "gocont_4096_48m_pretrain_1b_mix.pkl"
STAMP = "2024-02-05_16-23-37"  # part of the released file's name, and its `epoch`
TENSORS_FILE = f"gocont_4096_48m_pretrain_1b_mix_{STAMP}.pth"
GENES = "selected_genes_27k.txt"
GENE2VEC = "selected_gene2vec_27k.npy"
GRAPH = "human_ens_gene2go_graph.csv"

VALUE_WIDTH = 50  # as released
TOP_SHARE = 4096 / 27874  # of the genes go through the large encoder
ANNOTATED = 0.7  # share of genes with GO terms
LINKS = 8  # other genes that each of them is linked with, before links are made mutual
MOST_LINKS = 21  # a gene hears at most so many, itself included
GENE2VEC_SD = 0.3

Sizes = tuple[int, int, int]  # layers, heads, width of a head


def write(
    folder: Path,
    genes: pd.DataFrame,
    seed: int,
    *,
    width: int = 32,
    large_width: int = 48,
    mini: Sizes = (1, 1, 12),
    large: Sizes = (1, 2, 16),
    decoder: Sizes = (1, 1, 12),
    graph_layers: int = 1,
    top: int | None = None,
    most_genes: int = MOST_GENES,
) -> None:
    """Write a small random checkpoint whose vocabulary is made of `genes` (ensembl_id, symbol, length).

    As released: width 200, large_width 1280, mini and decoder (2, 8, 64), large (42, 32, 64), top 4096 of 27,874 genes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draw = Draw(seed)
    vocabulary = vocabulary_of(genes, "ensembl", most_genes)["ensembl_id"].tolist()
    (folder / GENES).write_text("".join(f"{gene}\n" for gene in vocabulary), encoding="utf-8")
    gene2vec = draw.normal("gene2vec", (len(vocabulary), width), GENE2VEC_SD).numpy()
    np.save(folder / GENE2VEC, gene2vec)
    links = _links(len(vocabulary), draw)
    names = np.array(vocabulary)
    table = {"source": names[links.source], "target": names[links.target], "importance": links.importance}
    pd.DataFrame(table).to_csv(folder / GRAPH, index=False, lineterminator="\n")
    heard = links.sort_values(["target", "importance"], ascending=[True, False], kind="stable")
    heard = heard.groupby("target", sort=False).head(MOST_LINKS)
    settings = {
        "max_seq_len": len(vocabulary) + 1,
        "top_seq_len": max(1, round(TOP_SHARE * len(vocabulary))) if top is None else top,
        "base_dim": width,
        **dict(zip(("mini_enc_depth", "mini_enc_heads", "mini_enc_dim_head"), mini, strict=True)),
        "large_dim": large_width,
        **dict(zip(("large_enc_depth", "large_enc_heads", "large_enc_dim_head"), large, strict=True)),
        **dict(zip(("dec_depth", "dec_heads", "dec_dim_head"), decoder, strict=True)),
        "mask_token_thres": -1,
        "g2v_position_emb": True,
        "G_go": torch.from_numpy(heard[["source", "target"]].to_numpy(np.int64).T.copy()),
        "G_go_weight": torch.from_numpy(heard.importance.to_numpy(np.float32)),
        "go_num_layers": graph_layers,
        "device": "cuda",
        "go_use_gene2vec": True,
        "gene2vec_file": GENE2VEC,
    }
    with (folder / SETTINGS).open("wb") as handle:
        _Pickler(handle, pickle.HIGHEST_PROTOCOL).dump(settings)
    shapes = _shapes(len(vocabulary) + 1, width, large_width, mini, large, decoder, graph_layers)
    state = OrderedDict((name, _drawn(name, shape, draw)) for name, shape in shapes.items())
    for name in ("pos_emb.emb.weight", "go_conv.emb.weight"):  # as if training had moved them a little
        state[name] = _start(name, gene2vec) + draw.normal(name, shapes[name], GENE2VEC_SD / 3)
    _save(folder, state)


def twin(released: Path, folder: Path, seed: int) -> None:
    """Write a release once more without what it learned.

    The gene list and the settings with the GO graph are copied. The two gene tables are gene2vec, where pre-training
    started from; everything else is drawn, the attention's random features too.
    """
    path = existing(released / TENSORS_FILE)
    old = tensors_of(read_torch(path), path, "model_state_dict")
    prior = existing(released / GENE2VEC)
    with refusing(f"{prior} is no array", "fetch it again"):  # mapped: only so is its header measured against the file
        start = np.array(np.load(prior, mmap_mode="r", allow_pickle=False))
    folder.mkdir(parents=True, exist_ok=True)
    for name in (SETTINGS, GENES, GENE2VEC):
        shutil.copyfile(existing(released / name), folder / name)
    state: OrderedDict[str, Tensor] = OrderedDict()
    for name, value in old.items():
        if name in ("pos_emb.emb.weight", "go_conv.emb.weight"):
            state[name] = _start(name, start)
            if state[name].shape != value.shape:
                shapes = f"{tuple(value.shape)}, {GENE2VEC} with padding {tuple(state[name].shape)}"
                raise UserError(f"{path}: {name} is {shapes}; the files are of different releases")
        else:
            state[name] = _drawn(name, tuple(value.shape), Draw(seed))
    _save(folder, state)


class _Pickler(pickle.Pickler):
    """A pickler whose tensors have the same bytes in every process (torch's own writes addresses)."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, TypedStorage):
            return NotImplemented
        content = io.BytesIO()
        torch.save(value, content)
        return _load_from_bytes, (content.getvalue(),)


def _links(n: int, draw: Draw) -> pd.DataFrame:
    """Mutual links between genes by number, as the released graph has them: importance above 0.1, 1 with itself."""
    rng = draw.rng("graph")
    annotated = np.sort(rng.permutation(n)[: max(1, round(ANNOTATED * n))])
    pairs = np.stack([np.repeat(annotated, LINKS), rng.choice(annotated, LINKS * len(annotated))])
    pairs = np.unique(np.sort(pairs[:, pairs[0] != pairs[1]], axis=0), axis=1)
    importance = np.round(0.1 + 0.9 * rng.random(pairs.shape[1]) ** 2, 6).clip(min=0.100001)
    source = np.concatenate([annotated, pairs[0], pairs[1]])
    target = np.concatenate([annotated, pairs[1], pairs[0]])
    weight = np.concatenate([np.ones(len(annotated)), importance, importance])
    return pd.DataFrame({"source": source, "target": target, "importance": weight})


def _shapes(
    n: int, width: int, large_width: int, mini: Sizes, large: Sizes, decoder: Sizes, graph_layers: int
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the released state dict, in its order."""

    def affine(name: str, out: int, inside: int | None = None) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (out,) if inside is None else (out, inside), f"{name}.bias": (out,)}

    def performer(name: str, size: Sizes, d: int) -> dict[str, tuple[int, ...]]:
        depth, heads, head_width = size
        inner = heads * head_width
        found: dict[str, tuple[int, ...]] = {f"{name}.calls_since_last_redraw": ()}
        for i in range(depth):
            layer = f"{name}.net.layers.{i}"
            found |= affine(f"{layer}.0.norm", d)
            features = int(head_width * np.log(head_width))
            found[f"{layer}.0.fn.fast_attention.projection_matrix"] = (features, head_width)
            found |= {f"{layer}.0.fn.to_{part}.weight": (inner, d) for part in "qkv"}
            found |= affine(f"{layer}.0.fn.to_out", d, inner) | affine(f"{layer}.1.norm", d)
            found |= affine(f"{layer}.1.fn.fn.w1", 4 * d, d) | affine(f"{layer}.1.fn.fn.w2", d, 4 * d)
        return found

    found = affine("token_emb.fc1", VALUE_WIDTH, 1) | affine("token_emb.fc2", width, VALUE_WIDTH)
    found |= affine("token_norm", width)
    found |= {"mask_emb.weight": (1, width), "pos_emb.emb.weight": (n, width), "go_conv.emb.weight": (n, width)}
    for i in range(graph_layers):
        found |= affine(f"go_conv.sim_layers.{i}.lin", width, width)
    found |= performer("mini_encoder", mini, width)
    found |= affine("base_to_large", large_width, width) | affine("large_in_norm", large_width)
    found |= performer("large_encoder", large, large_width)
    found |= affine("large_to_base", width, large_width) | affine("large_to_base_out_norm", width)
    found |= performer("decoder", decoder, width)
    return found | affine("decode_norm", width) | affine("exp_to_out", 1, width)


def _drawn(name: str, shape: tuple[int, ...], draw: Draw) -> Tensor:
    if name.endswith("calls_since_last_redraw"):
        return torch.zeros(shape, dtype=torch.int64)
    if name.endswith("projection_matrix"):
        return draw.orthogonal_features(name, *shape)
    if "norm." in name:
        return draw.normal(name, shape, 0.1, 1.0 if name.endswith("weight") else 0.0)
    if name.endswith("bias"):
        return draw.normal(name, shape, 1.0 if name == "token_emb.fc1.bias" else 0.1)  # kinks at different values
    return draw.linear(name, shape)


def _start(name: str, gene2vec: np.ndarray) -> Tensor:
    """Gene2vec with zeros for padding; the positions' table is float64 in the release."""
    table = np.concatenate([gene2vec, np.zeros((1, gene2vec.shape[1]))])
    return torch.from_numpy(table) if name == "pos_emb.emb.weight" else torch.from_numpy(table).float()


def _save(folder: Path, state: Mapping[str, Tensor]) -> None:
    training: dict[str, Any] = {f"{part}_state_dict": {} for part in ("optimizer", "scheduler", "scaler")}
    torch.save({"epoch": STAMP, "model_state_dict": state, **training, "losses": 0.0}, folder / TENSORS_FILE)
