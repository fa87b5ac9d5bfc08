"""scBERT checkpoints without anything learned: `panglao_pretrain.pth` and the gene list `panglao_10000.h5ad`."""

from __future__ import annotations

import math
import shutil
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from bulkprobe.errors import UserError
from bulkprobe.nn.files import first_existing, read_torch, tensors_of
from bulkprobe.nn.rename import depth_of
from bulkprobe.untrained.draws import Draw, vocabulary_of

CHECKPOINT = "panglao_pretrain.pth"
GENES = "panglao_10000.h5ad"
N_TOKENS = 7  # bins 0 to 5, and the mask
LAYER = "performer.net.layers.{}"


def write(
    folder: Path,
    genes: pd.DataFrame,
    seed: int,
    *,
    width: int = 32,
    depth: int = 1,
    heads: int = 2,
    head_width: int = 12,
    features: int | None = None,
) -> None:
    """Write a random checkpoint whose vocabulary is the symbols of `genes`; released: 200, 6, 10, 64, 266.

    `features` is whole(head_width · ln head_width) where it is not given, as upstream sets it. Upstream takes a width
    only if `heads` divides it.
    """
    symbols = vocabulary_of(genes, "symbol").symbol.tolist()
    draw = Draw(seed)
    positions = torch.zeros(len(symbols) + 1, width, dtype=torch.float64)  # the last row, of no gene, stays zero
    positions[:-1] = draw.normal("pos_emb.emb.weight", (len(symbols), width), 0.5)
    chosen = int(head_width * math.log(head_width)) if features is None else features
    folder.mkdir(parents=True, exist_ok=True)
    _save(folder, _tensors(draw, positions, N_TOKENS, depth, heads, head_width, chosen))
    _write_gene_list(folder / GENES, symbols)


def twin(released: Path, folder: Path, seed: int) -> None:
    """Write a release once more with its tensors drawn again.

    Kept are the list of genes and, as a prior, the gene2vec vectors of `pos_emb` (trained by others on co-expression,
    frozen in scBERT). Everything else is drawn, the random projections of the attention included.
    """
    path = first_existing(released, CHECKPOINT, "*.pth")
    listed = first_existing(released, GENES, "*.h5ad")
    state = tensors_of(read_torch(path), path, "model_state_dict")
    try:
        projection = state[f"{LAYER.format(0)}.0.fn.fast_attention.projection_matrix"]
        heads = len(state[f"{LAYER.format(0)}.0.fn.to_q.weight"]) // projection.shape[1]
        tokens, positions = len(state["token_emb.weight"]), state["pos_emb.emb.weight"]
    except KeyError as problem:
        raise UserError(f"{path} has no tensor {problem}, so it is not laid out as scBERT's release") from None
    depth = depth_of(state, LAYER, path)
    folder.mkdir(parents=True, exist_ok=True)
    _save(
        folder,
        _tensors(Draw(seed), positions.clone(), tokens, depth, heads, projection.shape[1], projection.shape[0]),
    )
    shutil.copyfile(listed, folder / listed.name)


def _tensors(
    draw: Draw, positions: Tensor, tokens: int, depth: int, heads: int, head_width: int, features: int
) -> OrderedDict[str, Tensor]:
    width, inner = positions.shape[1], heads * head_width
    state: OrderedDict[str, Tensor] = OrderedDict()

    def linear(name: str, rows: int, columns: int, *, bias: bool = True) -> None:
        state[f"{name}.weight"] = draw.linear(f"{name}.weight", (rows, columns))
        if bias:
            state[f"{name}.bias"] = draw.normal(f"{name}.bias", (rows,), 0.1)

    def norm(name: str) -> None:
        state[f"{name}.weight"] = draw.normal(f"{name}.weight", (width,), 0.1, 1.0)
        state[f"{name}.bias"] = draw.normal(f"{name}.bias", (width,), 0.1)

    state["token_emb.weight"] = draw.normal("token_emb.weight", (tokens, width), 1.0)
    state["pos_emb.emb.weight"] = positions
    state["performer.calls_since_last_redraw"] = torch.tensor(0)
    for number in range(depth):
        layer = LAYER.format(number)
        norm(f"{layer}.0.norm")
        projection = f"{layer}.0.fn.fast_attention.projection_matrix"
        state[projection] = draw.orthogonal_features(projection, features, head_width)
        for part in ("to_q", "to_k", "to_v"):
            linear(f"{layer}.0.fn.{part}", inner, width, bias=False)
        linear(f"{layer}.0.fn.to_out", width, inner)
        norm(f"{layer}.1.norm")
        linear(f"{layer}.1.fn.fn.w1", 4 * width, width)
        linear(f"{layer}.1.fn.fn.w2", width, 4 * width)
    norm("norm")
    linear("to_out", tokens, width)
    return state


def _save(folder: Path, state: OrderedDict[str, Tensor]) -> None:
    """Nest the tensors as upstream's training does, with an optimiser that has not stepped."""
    content = {
        "epoch": 0,
        "model_state_dict": state,
        "optimizer_state_dict": {"state": {}, "param_groups": []},
        "scheduler_state_dict": {},
        "losses": 0.0,
    }
    torch.save(content, folder / CHECKPOINT)


def _write_gene_list(path: Path, symbols: Sequence[str]) -> None:
    """Write an AnnData of one empty cell whose genes are the vocabulary in its order."""
    import anndata
    from scipy import sparse

    cell = sparse.csr_matrix((1, len(symbols)), dtype="float32")
    table = anndata.AnnData(
        cell, obs=pd.DataFrame(index=["0"]), var=pd.DataFrame(index=pd.Index(list(symbols), dtype=object))
    )
    table.uns["log1p"] = {"base": 2}
    table.write_h5ad(path)
