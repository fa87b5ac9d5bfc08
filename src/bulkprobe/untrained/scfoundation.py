"""scFoundation's layout without anything learned."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pandas as pd
import torch

from bulkprobe.errors import UserError
from bulkprobe.nn.files import existing, read_torch, tensors_of
from bulkprobe.untrained.draws import Draw, vocabulary_of

CHECKPOINT = "models.ckpt"
VOCABULARY = "OS_scRNA_gene_index.19264.tsv"
N_GENES = 19_264  # upstream's code counts on it, so a shorter list is filled up
SUB_MODELS = ("cell", "gene", "rde")
SHARED = "model.pos_emb.weight"  # by far the largest tensor at a small width: one for all three sub-models


def write(
    folder: Path,
    genes: pd.DataFrame,
    seed: int,
    *,
    width: int = 16,
    depth: int = 1,
    heads: int = 1,
    bins: int = 20,
    bin_alpha: float = 1.0,
    decoder_width: int = 16,
    decoder_depth: int = 1,
    decoder_heads: int = 2,
    head_width: int = 8,
) -> None:
    """Write a random checkpoint: `models.ckpt` with three sub-models, and the gene list.

    The list holds the symbols of `genes` in their order, filled up to 19,264 with names that no gene has. The
    released sizes are 768, 12, 12, 100, 1.0, 512, 6, 8, 64.
    """
    folder.mkdir(parents=True, exist_ok=True)
    symbols = vocabulary_of(genes, "symbol", N_GENES)["symbol"].tolist()
    symbols += [f"UNUSED{number}" for number in range(len(symbols), N_GENES)]
    lines = ["gene_name\tindex", *(f"{symbol}\t{place}" for place, symbol in enumerate(symbols))]
    (folder / VOCABULARY).write_text("\n".join(lines) + "\n", encoding="utf-8")
    half = {"seq_len": N_GENES + 2, "norm_first": False}
    model = {
        "gene_num": N_GENES + 2,
        "seq_len": N_GENES + 2,
        "encoder": {
            "hidden_dim": width, "depth": depth, "heads": heads, "dim_head": width // heads,
            "module_type": "transformer", **half,
        },
        "decoder": {
            "hidden_dim": decoder_width, "depth": decoder_depth, "heads": decoder_heads, "dim_head": head_width,
            "module_type": "performer", **half,
        },
        "n_class": 104, "pad_token_id": 103, "mask_token_id": 102, "bin_num": bins, "bin_alpha": bin_alpha,
        "rawcount": True, "mask_gene_name": False, "model": "mae_autobin",
    }  # fmt: skip
    data = {
        "num_tokens": 13, "bin_num": bins, "bin_type": "auto_bin", "value_mask_prob": 0.3, "zero_mask_prob": 0.03,
        "replace_prob": 0.8, "random_token_prob": 0.1, "mask_ignore_token_ids": [0], "decoder_add_zero": True,
        "mae_encoder_max_seq_len": 15000,
    }  # fmt: skip
    config = {
        "model": "mae_autobin", "model_config": {"mae_autobin": model}, "dataset_config": {"rnaseq": data},
    }  # fmt: skip
    draw = Draw(seed)
    shapes = {
        **_encoder(width, depth, bins),
        **_decoder(width, decoder_width, decoder_depth, decoder_heads, head_width),
    }
    shared = _drawn(draw, SHARED, SHARED, shapes[SHARED])
    content = {}
    for key in SUB_MODELS:
        state = {n: shared if n == SHARED else _drawn(draw, f"{key}.{n}", n, shape) for n, shape in shapes.items()}
        content[key] = {"config": config, "state_dict": state}
    torch.save(content, folder / CHECKPOINT)


def twin(released: Path, folder: Path, seed: int) -> None:
    """Write a release with its tensors drawn again.

    Kept: sizes, the gene list (scFoundation has no other prior), and the decoder's counter. Drawn again: every tensor
    of the three sub-models, also the random features of the decoder's attention.
    """
    source = existing(released / CHECKPOINT)
    found, draw = read_torch(source), Draw(seed)
    content = {}
    for key in SUB_MODELS:
        state = tensors_of(found, source, key, "state_dict")
        if "config" not in found[key]:
            raise UserError(f"{source} has no configuration of {key!r}, so it is not laid out as released")
        drawn = {
            name: _drawn(draw, f"{key}.{name}", name, tuple(value.shape)).to(value.dtype)
            if value.is_floating_point()
            else value.clone()
            for name, value in state.items()
        }
        content[key] = {"config": found[key]["config"], "state_dict": drawn}
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(existing(released / VOCABULARY), folder / VOCABULARY)
    torch.save(content, folder / CHECKPOINT)


def _encoder(width: int, depth: int, bins: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what a sample embedding needs, and the two vectors that training alone needs."""
    layer = "model.encoder.transformer_encoder"
    shapes: dict[str, tuple[int, ...]] = {
        **_linear("model.token_emb.mlp", bins, 1),
        **_linear("model.token_emb.mlp2", bins, bins),
        "model.token_emb.emb.weight": (bins, width),
        "model.token_emb.emb_mask.weight": (1, width),
        "model.token_emb.emb_pad.weight": (1, width),
        SHARED: (N_GENES + 3, width),
    }
    for i in range(depth):
        shapes |= {
            f"{layer}.{i}.self_attn.in_proj_weight": (3 * width, width),
            f"{layer}.{i}.self_attn.in_proj_bias": (3 * width,),
            **_linear(f"{layer}.{i}.self_attn.out_proj", width, width),
            **_linear(f"{layer}.{i}.linear1", 4 * width, width),
            **_linear(f"{layer}.{i}.linear2", width, 4 * width),
            **_norm(f"{layer}.{i}.norm1", width),
            **_norm(f"{layer}.{i}.norm2", width),
        }
    return shapes | _norm("model.encoder.norm", width)


def _decoder(width: int, inside: int, depth: int, heads: int, head_width: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the pre-training decoder, a Performer of width `inside`."""
    shapes: dict[str, tuple[int, ...]] = {
        **_linear("model.decoder_embed", inside, width),
        **_norm("model.norm", inside),
        **_linear("model.to_final", 1, inside),
        "model.decoder.performer.calls_since_last_redraw": (),
        **_norm("model.decoder.norm", inside),
    }
    features = int(head_width * math.log(head_width))
    for i in range(depth):
        layer, inner = f"model.decoder.performer.net.layers.{i}", heads * head_width
        shapes |= {
            **_norm(f"{layer}.0.norm", inside),
            f"{layer}.0.fn.fast_attention.projection_matrix": (features, head_width),
            **_linear(f"{layer}.0.fn.to_q", inner, inside),
            **_linear(f"{layer}.0.fn.to_k", inner, inside),
            **_linear(f"{layer}.0.fn.to_v", inner, inside),
            **_linear(f"{layer}.0.fn.to_out", inside, inner),
            **_norm(f"{layer}.1.norm", inside),
            **_linear(f"{layer}.1.fn.fn.w1", 4 * inside, inside),
            **_linear(f"{layer}.1.fn.fn.w2", inside, 4 * inside),
        }
    return shapes


def _linear(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _drawn(draw: Draw, stream: str, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Draw the tensor called `name` on a scale that keeps activations and their differences between samples alive."""
    if name.endswith("calls_since_last_redraw"):
        return torch.zeros(shape, dtype=torch.int64)
    if name.endswith("projection_matrix"):
        return draw.orthogonal_features(stream, *shape)
    if name == "model.token_emb.mlp.bias":
        return draw.normal(stream, shape, 4.0)  # hinges all along the range of log values
    if name.endswith("bias"):
        return draw.normal(stream, shape, 0.1)
    if len(shape) == 1:  # a norm's weight
        return draw.normal(stream, shape, 0.1, mean=1.0)
    if ".token_emb.emb" in name or name == SHARED:
        return draw.normal(stream, shape, 1.0)
    return draw.linear(stream, shape)
