"""Geneformer's released layout with nothing learned in it."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from bulkprobe.files import read_json
from bulkprobe.nn.files import first_existing, read_safetensors, read_torch, tensors_of
from bulkprobe.untrained.draws import Draw, vocabulary_of

# Model folder, dictionaries' folder and generation, special tokens, positions.
LAYOUTS: dict[str, tuple[str, str, str, tuple[str, ...], int]] = {
    "V1": ("Geneformer-V1-10M", "geneformer/gene_dictionaries_30m", "gc30M", ("<pad>", "<mask>"), 2048),
    "V2": ("Geneformer-V2-104M", "geneformer", "gc104M", ("<pad>", "<mask>", "<cls>", "<eos>"), 4096),
}
SHARPNESS = 1.5  # of the attention: spread of its logits, so that the mean over all tokens is not all it sees
WAVES = 4.0  # periods along the positions: genes of like rank are seen alike, as in the released models


def write(
    folder: Path,
    genes: pd.DataFrame,
    seed: int,
    *,
    version: Literal["V1", "V2"] = "V2",
    width: int = 32,
    depth: int = 2,
    heads: int = 2,
    hidden: int | None = None,
    positions: int | None = None,
) -> None:
    """Write a random checkpoint whose vocabulary are the cohort's genes; `hidden` is 4 (V1: 2) times the width."""
    home, place, generation, special, longest = LAYOUTS[version]
    named = vocabulary_of(genes, "ensembl")
    names = [str(name) for name in named.ensembl_id]
    draw = Draw(seed)
    config = {
        "architectures": ["BertForMaskedLM"],
        "hidden_act": "relu",
        "hidden_size": width,
        "initializer_range": 0.02,
        "intermediate_size": hidden or width * (2 if version == "V1" else 4),
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": positions or longest,
        "model_type": "bert",
        "num_attention_heads": heads,
        "num_hidden_layers": depth,
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "type_vocab_size": 2,
        "vocab_size": len(special) + len(names),
    }
    (folder / home).mkdir(parents=True, exist_ok=True)
    (folder / place).mkdir(parents=True, exist_ok=True)
    _write_json(folder / home / "config.json", config)
    if version == "V2":
        _write_json(folder / home / "generation_config.json", {"_from_model_config": True, "pad_token_id": 0})
    _write_tensors(
        folder / home, {name: _tensor(draw, name, shape) for name, shape in _shapes(config, version).items()}
    )

    kind = np.int16 if version == "V1" else int
    tokens = {name: token if token < len(special) else kind(token) for token, name in enumerate((*special, *names))}
    medians = dict(zip(names, np.exp(draw.rng("medians").normal(1.0, 0.8, len(names))), strict=True))
    mapping = {name.upper(): name for name in names}
    if version == "V2":  # its mapping also knows symbols
        symbols = {str(s).upper(): n for s, n in zip(named.symbol, names, strict=True) if isinstance(s, str) and s}
        mapping = {**symbols, **mapping}
    for stem, content in (
        ("token_dictionary", tokens),
        ("gene_median_dictionary", medians),
        ("ensembl_mapping_dict", mapping),
    ):
        (folder / place / f"{stem}_{generation}.pkl").write_bytes(pickle.dumps(content, protocol=4))


def twin(released: Path, folder: Path, seed: int) -> None:
    """Copy a release and draw every tensor again, as its authors' training began (BERT: normal, 0.02).

    Kept as priors: vocabulary, id mapping and the genes' median expression in the training corpus.
    """
    config_path = first_existing(released, "config.json", "*/config.json")
    source = first_existing(config_path.parent, "model.safetensors", "pytorch_model.bin")
    state = read_safetensors(source) if source.suffix == ".safetensors" else tensors_of(read_torch(source), source)
    std = float(read_json(config_path).get("initializer_range", 0.02))
    draw = Draw(seed)
    shutil.copytree(released, folder, ignore=shutil.ignore_patterns("model.safetensors", "*.bin"), dirs_exist_ok=True)
    redrawn = {
        name: value if not value.is_floating_point() else _as_bert(draw, name, tuple(value.shape), std)
        for name, value in state.items()
        if not name.startswith("cls.predictions.decoder.")  # tied to others; .safetensors leave it out
    }
    _write_tensors(folder / config_path.parent.relative_to(released), redrawn)


def _shapes(config: Mapping[str, Any], version: str) -> dict[str, tuple[int, ...]]:
    """Return the released names of all tensors with their shapes."""
    size, longest = config["vocab_size"], config["max_position_embeddings"]
    width, hidden = config["hidden_size"], config["intermediate_size"]
    linear: dict[str, tuple[int, int]] = {"cls.predictions.transform.dense": (width, width)}
    norms = ["bert.embeddings.LayerNorm", "cls.predictions.transform.LayerNorm"]
    for i in range(config["num_hidden_layers"]):
        layer = f"bert.encoder.layer.{i}"
        square = ("self.query", "self.key", "self.value", "output.dense")
        linear |= {f"{layer}.attention.{part}": (width, width) for part in square}
        linear |= {f"{layer}.intermediate.dense": (hidden, width), f"{layer}.output.dense": (width, hidden)}
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    shapes: dict[str, tuple[int, ...]] = {
        "bert.embeddings.word_embeddings.weight": (size, width),
        "bert.embeddings.position_embeddings.weight": (longest, width),
        "bert.embeddings.token_type_embeddings.weight": (2, width),
        "cls.predictions.bias": (size,),
    }
    if version == "V1":
        shapes["bert.embeddings.position_ids"] = (1, longest)
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name in norms:
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    return shapes


def _tensor(draw: Draw, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """One tensor of a stand-in, on scales that let samples differ."""
    if name.endswith("position_ids"):
        return torch.arange(shape[1])[None]
    if name.endswith("position_embeddings.weight"):
        rng = draw.rng(name)
        periods, phase = rng.uniform(0.0, WAVES, shape[1]), rng.uniform(0.0, 2 * np.pi, shape[1])
        along = np.arange(shape[0])[:, None] / shape[0]
        return torch.from_numpy(np.cos(2 * np.pi * periods * along + phase).astype(np.float32))
    if name.endswith("LayerNorm.weight"):
        return draw.normal(name, shape, 0.05, 1.0)
    if name.endswith("bias") or "token_type" in name:
        return draw.normal(name, shape, 0.05)
    if name.endswith("word_embeddings.weight"):
        return draw.normal(name, shape, 1.0)
    return draw.linear(name, shape) * (SHARPNESS if ".query." in name else 1.0)


def _as_bert(draw: Draw, name: str, shape: tuple[int, ...], std: float) -> torch.Tensor:
    """One tensor as BERT's training starts from."""
    if name.endswith("bias"):
        return torch.zeros(shape)
    if "LayerNorm" in name:
        return torch.ones(shape)
    drawn = draw.normal(name, shape, std)
    if name.endswith("word_embeddings.weight"):
        drawn[0] = 0  # the padding token
    return drawn


def _write_tensors(folder: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    from safetensors.torch import save_file

    save_file(
        {name: value.contiguous() for name, value in tensors.items()}, folder / "model.safetensors", {"format": "pt"}
    )


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
