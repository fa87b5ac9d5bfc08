"""scLong: every gene is a token; the highest values go through a large encoder, all others through a small one.

Bai et al. 2026, Nature Communications, 10.1038/s41467-026-69102-y. Followed: BaiDing1234/scLong @ 41b7202, `embed.py`.
Release 1b_mix (4,096 of 27,874 genes through 42 layers). No licence is stated for code or weights.

Input: unversioned Ensembl ids; counts scaled to 10,000 over *all* genes of the cohort, then ln(1 + x). A gene that the
cohort lacks is a zero like one that is not expressed. From TPM likewise, which the authors do not describe.
Sample embedding: none is published; ours is the mean of the decoder's states over the genes that the cohort measures.

Deviation: `embed.py` runs four samples at a time, and its attention subtracts the largest key of all four, so that a
cell's states depend on its neighbours in the file. Here a sample is alone, which equals upstream with one at a time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bulkprobe.encoders.base import (
    COUNT_SCALES,
    Card,
    CohortView,
    Release,
    WeightFile,
    Weights,
    input_layer,
    need_weights,
    resolve_options,
)
from bulkprobe.errors import UserError, some
from bulkprobe.nn.files import PLAIN, TENSORS, existing, is_whole, read_pickle, read_torch, tensors_of
from bulkprobe.nn.gene_graph import normalised, spread
from bulkprobe.nn.performer import Performer
from bulkprobe.nn.pooling import pool
from bulkprobe.nn.rename import load_strict, parameters_of, rename, stack
from bulkprobe.nn.samples import Sample, Samples, Tokens, one_thread
from bulkprobe.preprocess.vocabulary import Alignment, align, gene_names, require_coverage

TARGET_SUM = 10_000.0  # counts a sample, upstream's preprocess.py
VALUE_WIDTH = 50  # hidden width of the perceptron that reads a value
SETTINGS = "gocont_4096_48m_pretrain_1b_mix.pkl"  # constructor arguments, and the gene graph
TENSORS_FILE = "gocont_4096_48m_pretrain_1b_mix_2024-02-05_16-23-37.pth"
GENES = "selected_genes_27k.txt"
GENE2VEC = "selected_gene2vec_27k.npy"  # where pre-training started from; read for untrained twins only

# What the settings may say beside sizes. Any other value is another model; None: says nothing about the numbers.
SWITCHES: dict[str, Any] = {
    "g2v_position_emb": True,
    "mask_token_thres": -1,  # values up to here are masked: expression never is
    "go_use_gene2vec": None,
    "gene2vec_file": None,
    "device": None,
    "G_go": None,
    "G_go_weight": None,
}


@dataclass(frozen=True)
class Stack:
    """Size of one Performer."""

    depth: int
    heads: int
    head_width: int

    def build(self, width: int) -> nn.ModuleList:
        """Make its blocks for tokens of `width`; m = h ln h random features, the default of the method."""
        features = int(self.head_width * math.log(self.head_width))
        block = (width, self.heads, self.head_width, features)
        return nn.ModuleList(Performer(*block, qkv_bias=False, key_max="sample") for _ in range(self.depth))


@dataclass(frozen=True)
class Config:
    """Sizes of the model. `positions`: the genes and one for padding; `top`: how many the large encoder reads."""

    positions: int
    top: int
    width: int
    large_width: int
    graph_layers: int
    mini: Stack
    large: Stack
    decoder: Stack

    @classmethod
    def of(cls, settings: Mapping[str, Any], source: Path) -> Config:
        """Read the constructor arguments of a release; UserError where they are those of another model."""
        names = ["max_seq_len", "top_seq_len", "base_dim", "large_dim", "go_num_layers"]
        names += [
            f"{part}_{size}" for part in ("mini_enc", "large_enc", "dec") for size in ("depth", "heads", "dim_head")
        ]
        if lacking := [name for name in names if not isinstance(settings.get(name), int) or settings[name] < 1]:
            raise UserError(f"{source} gives no size for {some(lacking)}: expected the settings as released")
        for name in sorted(set(settings) - set(names)):
            if name not in SWITCHES or SWITCHES[name] not in (None, settings[name]):
                raise UserError(f"{source} sets {name} to {str(settings[name])[:40]}: that is not the released model")
        positions, top, width, large_width, graph_layers, *sizes = (settings[name] for name in names)
        if top >= positions:
            raise UserError(f"{source}: top_seq_len {top} leaves none of {positions} positions to the small encoder")
        return cls(positions, top, width, large_width, graph_layers, *(Stack(*sizes[i : i + 3]) for i in (0, 3, 6)))


def read_vocabulary(folder: Path) -> list[str]:
    """Return the Ensembl ids of the positions; the last position, padding, has none."""
    path = existing(folder / GENES)
    genes = path.read_text(encoding="utf-8", errors="replace").split()
    if len(set(genes)) != len(genes):
        raise UserError(f"{path} lists a gene twice: expected one Ensembl id a line, as released")
    return genes


def tokenise(values: np.ndarray, genes: Alignment) -> np.ndarray:
    """Return ln(1 + counts per 10,000), 0 for genes that the cohort lacks: (n_vocabulary,) float32."""
    total = float(values.sum(dtype=np.float64))
    if not total > 0:
        raise UserError("it has no reads at all: drop it, or check its counts")
    logged = genes.gather(np.log1p(values * (TARGET_SUM / total)))
    if not logged.any():
        raise UserError(f"none of the {genes.n_measured} genes that scLong knows is expressed: check its counts")
    return logged


class GeneTable(nn.Module):
    """What is known of a gene beforehand: its own vector, and its neighbours in a graph of shared GO terms."""

    own: Tensor
    sources: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.register_buffer("own", torch.empty(config.positions, config.width))
        self.register_buffer("sources", torch.empty(config.positions, config.width))
        self.layers = nn.ModuleList(nn.Linear(config.width, config.width) for _ in range(config.graph_layers))

    @one_thread()
    def forward(self, edges: Tensor, weights: Tensor) -> Tensor:
        """Return (positions, width) from edges (2: from, to; n_edges) and their weights.

        Simplified graph convolution (Wu et al. 2019, 1902.07153): a gene reaches itself only where the edges say so,
        and one that none reaches gets the bias. Products are in double precision, since they are computed once.
        """
        graph, vectors = normalised(edges[1], edges[0], weights, len(self.own)), self.sources
        for i, layer in enumerate(self.layers):
            vectors = layer.double()(spread(graph, torch.relu(vectors) if i else vectors).double())
        return (self.own.double() + vectors).float()


class ScLong(nn.Module):
    """Values of all positions to decoder states. `genes` (positions, width): the gene table, filled in by `load`."""

    genes: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.width
        self.value_in = nn.Linear(1, VALUE_WIDTH)
        self.value_out = nn.Linear(VALUE_WIDTH, width)
        self.value_norm = nn.LayerNorm(width)
        self.table = GeneTable(config)
        self.register_buffer("genes", torch.empty(config.positions, width), persistent=False)
        self.mini = config.mini.build(width)
        self.to_large = nn.Linear(width, config.large_width)
        self.large_norm = nn.LayerNorm(config.large_width)
        self.large = config.large.build(config.large_width)
        self.from_large = nn.Linear(config.large_width, width)
        self.from_large_norm = nn.LayerNorm(width)
        self.decoder = config.decoder.build(width)
        self.decoder_norm = nn.LayerNorm(width)

    def forward(self, values: Tensor, top: Tensor, kept: Tensor | None = None) -> Tensor:
        """Return (positions, width), or only rows `kept`, from values (positions,) and the places of the highest."""
        states = self.value_norm(self.value_out(torch.relu(self.value_in(values[:, None])))) + self.genes
        rest = torch.ones_like(values, dtype=torch.bool)
        rest[top] = False
        high, low = self.large_norm(self.to_large(states[top])).float(), states[rest]
        for block in self.large:
            high = block(high)  # (top, large width)
        for block in self.mini:
            low = block(low)  # (positions - top, width)
        states[top] = self.from_large_norm(self.from_large(high)).float()  # also under bfloat16: sums stay float32
        states[rest] = low
        states += self.genes
        for block in self.decoder[:-1]:
            states = block(states)
        states = self.decoder[-1](states, kept)
        normed: Tensor = self.decoder_norm(states)
        return normed


def _performer_keys(theirs: str, ours: str) -> dict[str, str]:
    attention, feed = f"{theirs}.net.layers.{{}}.0", f"{theirs}.net.layers.{{}}.1"
    return {
        f"{attention}.norm.*": f"{ours}.{{}}.norm1.*",
        f"{attention}.fn.fast_attention.projection_matrix": f"{ours}.{{}}.projection",
        **{f"{attention}.fn.to_{part}.weight": f"{ours}.{{}}.{part}.weight" for part in "qkv"},
        f"{attention}.fn.to_out.*": f"{ours}.{{}}.out.*",
        f"{feed}.norm.*": f"{ours}.{{}}.norm2.*",
        f"{feed}.fn.fn.w1.*": f"{ours}.{{}}.up.*",
        f"{feed}.fn.fn.w2.*": f"{ours}.{{}}.down.*",
    }


KEYS = {
    "token_emb.fc1.*": "value_in.*",
    "token_emb.fc2.*": "value_out.*",
    "token_norm.*": "value_norm.*",
    "pos_emb.emb.weight": "table.own",
    "go_conv.emb.weight": "table.sources",
    "go_conv.sim_layers.{}.lin.*": "table.layers.{}.*",
    **_performer_keys("mini_encoder", "mini"),
    "base_to_large.*": "to_large.*",
    "large_in_norm.*": "large_norm.*",
    **_performer_keys("large_encoder", "large"),
    "large_to_base.*": "from_large.*",
    "large_to_base_out_norm.*": "from_large_norm.*",
    **_performer_keys("decoder", "decoder"),
    "decode_norm.*": "decoder_norm.*",
}
IGNORED = {
    "mask_emb.weight": "stands for a masked value in pre-training",
    "exp_to_out.*": "reconstructs expression in pre-training",
    "mini_encoder.calls_since_last_redraw": "a counter of pre-training",
    "large_encoder.calls_since_last_redraw": "a counter of pre-training",
    "decoder.calls_since_last_redraw": "a counter of pre-training",
}


def read_state(folder: Path) -> dict[str, Tensor]:
    """Return the tensors under our names; the training state in the same file (12 GB in all) stays on disk."""
    path = existing(folder / TENSORS_FILE)
    state = rename(tensors_of(read_torch(path), path, "model_state_dict"), KEYS, IGNORED, path)
    for part in ("mini", "large", "decoder"):
        stack(state, tuple(f"{part}.{{}}.{name}.weight" for name in "qkv"), f"{part}.{{}}.qkv.weight")
    return state


def load(folder: Path) -> tuple[Config, ScLong]:
    """Read a checkpoint folder; UserError where a file is missing or does not fit."""
    path = folder / SETTINGS
    settings = read_pickle(path, PLAIN | TENSORS)
    if not isinstance(settings, Mapping):
        raise UserError(f"{path} holds no settings: expected the constructor's arguments as released")
    config = Config.of(settings, path)
    edges, weights = settings.get("G_go"), settings.get("G_go_weight")
    if not (isinstance(edges, Tensor) and isinstance(weights, Tensor) and is_whole(edges) and is_whole(weights)) or (
        weights.ndim != 1 or edges.shape != (2, len(weights))
    ):
        raise UserError(f"{path} has no gene graph G_go (2, n) and G_go_weight (n,): expected the settings as released")
    if len(weights) and not 0 <= int(edges.min()) <= int(edges.max()) < config.positions:
        raise UserError(f"{path}: the gene graph names positions outside 0 to {config.positions - 1}")
    with torch.device("meta"):
        model = ScLong(config)
    load_strict(model, read_state(folder), folder / TENSORS_FILE)
    model.genes = model.table(edges, weights)
    return config, model


def gene_vectors(folder: Path) -> tuple[list[str], np.ndarray]:
    """Return the genes and each one's own input vector (n_genes, width), float32; the graph has no part in it."""
    genes = read_vocabulary(folder)
    own = read_state(folder).get("table.own")
    if own is None or len(own) != len(genes) + 1:
        raise UserError(f"{folder / TENSORS_FILE} has no vector for each of the {len(genes)} genes of {GENES}")
    return genes, own[:-1].float().numpy()


BY_HAND = (
    "open https://mbzuaiac-my.sharepoint.com/:f:/g/personal/ding_bai_mbzuai_ac_ae/"
    "EpvKzQW4hI5Bnb88-iM7vE0B_e2_U5r_ZGXb_FILCLTw3Q?e=TAmKk5 in a browser and download"
)
CARD = Card(
    name="sclong",
    title="scLong",
    kind="foundation",
    pooling="published: none; mean of the decoder's states over the positions asked for",
    published=False,
    scales=(*COUNT_SCALES, "tpm"),
    pretraining="48 million human single cells; the authors name no bulk",
    saw_tcga=False,
    trained_on="single cells",
    priors=(
        "a graph of genes that share Gene Ontology terms, in every forward pass; gene2vec (gene vectors from "
        "co-expression), where two gene tables started"
    ),
    circular={
        "coexpression": "its gene tables started from gene2vec, made of co-expression",
        "go": "genes that share Gene Ontology terms are neighbours in its graph",
    },
    reads="ln(1 + counts per 10,000)",
    paper="Bai et al. 2026, Nature Communications, 10.1038/s41467-026-69102-y",
    upstream="BaiDing1234/scLong @ 41b72021540918e4386c4f2264351d7a6cbeed99",
    licence_code="none stated",
    licence_weights="none stated",
    redistribute=False,
    gene_ids="ensembl",
    limits="all 27,874 genes, coding or not; the 4,096 highest values go through the large encoder",
    quirks=(
        "not followed: embed.py's batches of four, in which the attention's largest key is taken over all four samples",
        "followed: that largest key is taken over all heads of a sample",
        "followed: a gene that the cohort lacks is a zero, and the padding position is read like a gene",
        "followed: which of equal values the large encoder reads is decided by torch.topk on the CPU",
        "followed: of a gene that stands twice in the input the last column counts",
        "not followed: embed.py matches versioned Ensembl ids with nothing; versions are cut off here",
    ),
    defaults={"pooling": "published", "positions": "measured", "input": "counts", "min_coverage": 0.2},
    choices={
        "pooling": ("published", "mean", "max", "median"),
        "positions": ("measured", "all", "expressed"),
        "input": ("counts", "tpm"),
    },
    releases=(
        Release(
            name="1b_mix",
            files=tuple(WeightFile(name, by_hand=BY_HAND) for name in (TENSORS_FILE, SETTINGS, GENES, GENE2VEC)),
            width=200,
            parameters=1_006_086_461,
            samples=48_000_000,
            note="about 12 GB, since the training state stands in the same file; the authors publish no hashes",
        ),
    ),
    # Positions and depth are fixed, so the number of expressed genes does not enter. 4,096 tokens through the large
    # encoder 8.9e12, the others and the decoder 0.26e12.
    flop=lambda expressed: 9.1e12,
    memory=lambda expressed: 0.45e9,  # queries, keys and values of all positions
)


class Encoder:
    """scLong as an encoder."""

    card = CARD

    def start(self, cohort: CohortView, options: Mapping[str, Any], weights: Weights | None = None) -> Samples:
        """Prepare for a cohort; `positions` says over which tokens the pooling runs, padding never being one."""
        chosen, given = resolve_options(CARD, options), need_weights(CARD, weights)
        layer = input_layer(CARD, cohort, chosen["input"])
        config, model = load(given.folder)
        vocabulary = read_vocabulary(given.folder)
        if len(vocabulary) + 1 != config.positions:
            raise UserError(
                f"{given.folder / GENES} lists {len(vocabulary)} genes, expected {config.positions - 1}: the files are "
                "of different releases"
            )
        names = gene_names(cohort.var, "ensembl")
        genes = align(names, {gene: place for place, gene in enumerate(vocabulary)}, "last")
        require_coverage(CARD.name, genes, chosen["min_coverage"], "Ensembl gene ids", names)
        how = "mean" if chosen["pooling"] == "published" else chosen["pooling"]
        model.to(given.device)

        def run(row: np.ndarray, kept: np.ndarray) -> Tensor:
            logged = torch.from_numpy(np.append(row, np.float32(0)))  # padding is last
            top = logged.topk(config.top).indices  # on the CPU: how ties are cut must not depend on the device
            places = torch.from_numpy(kept)
            hidden: Tensor = model(logged.to(given.device), top.to(given.device), places.to(given.device))
            return hidden

        def encode(values: np.ndarray, sample: Sample) -> Tensor:
            row = tokenise(values, genes)
            pooled = {"measured": genes.measured(), "expressed": row > 0, "all": row >= 0}
            return pool(run(row, np.flatnonzero(pooled[chosen["positions"]])), how)

        def states(values: np.ndarray, sample: Sample) -> tuple[np.ndarray, Tensor]:
            return genes.columns, run(tokenise(values, genes), genes.places)

        def tokens(values: np.ndarray, sample: Sample) -> Tokens:
            return Tokens(genes.columns, tokenise(values, genes)[genes.places])

        attributes = {
            **genes.attributes(),
            "input_layer": layer,
            "target_sum": TARGET_SUM,
            "values": "ln(1 + counts per 10,000 over all genes of the cohort)",
            "large_encoder_reads": config.top,
            "pooling": how,
            "positions": chosen["positions"],
            "parameters_used": parameters_of(model),
            "probe_transform": {"kind": "none"},
        }
        where = (given.device, given.precision, given.threads)
        return Samples(config.width, layer, attributes, encode, tokens, *where, known=genes.columns, states=states)


ENCODER = Encoder()
