"""scGPT checkpoints without anything learned, in the released layout: args.json, best_model.pt and vocab.json."""

from __future__ import annotations

import json
import shutil
from collections import OrderedDict
from pathlib import Path

import pandas as pd
import torch

from bulkprobe.nn.files import read_torch, tensors_of
from bulkprobe.untrained.draws import Draw, vocabulary_of

SHARPNESS = 2.0  # of queries, keys and values: attention that picks genes, so that samples differ after two layers
SPECIALS = ("<pad>", "<cls>", "<eoc>")
# Entries of args.json that say how a release was trained and that reading a sample needs, as whole-human has them.
ARGS = {
    "pad_token": "<pad>",
    "input_style": "binned",
    "input_emb_style": "continuous",
    "n_bins": 51,
    "max_seq_len": 1200,
    "trunc_by_sample": True,
    "no_cls": True,
    "fast_transformer": True,
    "dropout": 0.2,
    "n_layers_cls": 3,
    "mask_value": -1,
    "pad_value": -2,
    "USE_CLS": False,
    "MVC": True,
}


def write(
    folder: Path, genes: pd.DataFrame, seed: int, *, width: int = 32, depth: int = 2, heads: int = 2, hidden: int = 32
) -> None:
    """Write a random checkpoint whose vocabulary are the symbols of `genes`."""
    symbols = [*vocabulary_of(genes, "symbol")["symbol"], *SPECIALS]
    draw = Draw(seed)
    order = draw.rng("vocab.json").permutation(len(symbols)).tolist()  # released vocabularies are in no order either
    sizes = {"embsize": width, "nlayers": depth, "nheads": heads, "d_hid": hidden}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "args.json").write_text(json.dumps({**ARGS, **sizes}, indent=2), encoding="utf-8")
    (folder / "vocab.json").write_text(json.dumps({symbols[i]: i for i in order}, indent=2), encoding="utf-8")
    shapes = _shapes(len(symbols), width, depth, hidden)
    tensors = OrderedDict((name, _tensor(draw, name, shape)) for name, shape in shapes.items())
    for name in (name for name in tensors if name.endswith("Wqkv.weight")):
        tensors[name] *= SHARPNESS
    torch.save(tensors, folder / "best_model.pt")


def twin(released: Path, folder: Path, seed: int) -> None:
    """Write a release again with every tensor drawn anew; vocabulary and args.json are kept, and there is no prior."""
    path = released / "best_model.pt"
    draw = Draw(seed)
    folder.mkdir(parents=True, exist_ok=True)
    drawn = OrderedDict(
        (name, _tensor(draw, name, tuple(tensor.shape))) for name, tensor in tensors_of(read_torch(path), path).items()
    )
    torch.save(drawn, folder / "best_model.pt")
    for name in ("args.json", "vocab.json"):
        shutil.copyfile(released / name, folder / name)


def _shapes(tokens: int, width: int, depth: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the whole-human release."""

    def linear(name: str, n_out: int, n_in: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (n_out, n_in), f"{name}.bias": (n_out,)}

    def norm(name: str) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (width,), f"{name}.bias": (width,)}

    shapes: dict[str, tuple[int, ...]] = {
        "flag_encoder.weight": (2, width),
        "encoder.embedding.weight": (tokens, width),
    }
    shapes |= norm("encoder.enc_norm")
    shapes |= linear("value_encoder.linear1", width, 1) | linear("value_encoder.linear2", width, width)
    shapes |= norm("value_encoder.norm")
    for layer in range(depth):
        block = f"transformer_encoder.layers.{layer}"
        shapes |= linear(f"{block}.self_attn.Wqkv", 3 * width, width)
        shapes |= linear(f"{block}.self_attn.out_proj", width, width)
        shapes |= linear(f"{block}.linear1", hidden, width) | linear(f"{block}.linear2", width, hidden)
        shapes |= norm(f"{block}.norm1") | norm(f"{block}.norm2")
    shapes |= (
        linear("decoder.fc.0", width, width) | linear("decoder.fc.2", width, width) | linear("decoder.fc.4", 1, width)
    )
    shapes |= linear("mvc_decoder.gene2query", width, width) | {"mvc_decoder.W.weight": (width, width)}
    return shapes


def _tensor(draw: Draw, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    if len(shape) == 2:
        # An embedding's rows are normalised next, so their scale is free.
        return draw.normal(name, shape, 1.0) if "embedding" in name else draw.linear(name, shape)
    is_scale = name.endswith(".weight")
    return draw.normal(name, shape, 0.1, mean=1.0 if is_scale else 0.0)
