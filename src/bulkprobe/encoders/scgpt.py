"""scGPT: a transformer over the expressed genes of a sample, each a token with a binned value.

Cui et al. 2024, Nature Methods 21:1470-1480, 10.1038/s41592-024-02201-0. Numbers follow `embed_data` of
bowang-lab/scGPT (commit in the card). Reads gene symbols and any non-negative expression, of which only the order
within a sample counts: the values of the expressed genes are cut at their own quantiles. The vector of a sample is
published: the final state of `<cls>`, scaled to length 1.

Two steps of the published procedure draw at random: which bin a value gets that equals several edges, and which 1,199
genes are read of a sample that expresses more (on bulk: always). Upstream's draws depend on the place in the file and
on the number of loader processes. Ours hang on `draw_seed`, the sample's id and the gene alone.
"""

from __future__ import annotations

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
    whole_number,
)
from bulkprobe.errors import UserError
from bulkprobe.files import read_json as read_object
from bulkprobe.nn.files import existing, read_torch, tensors_of
from bulkprobe.nn.pooling import pool
from bulkprobe.nn.rename import load_strict, parameters_of, rename, unfilled_table
from bulkprobe.nn.samples import Sample, Samples, Tokens
from bulkprobe.nn.transformer import PostNormBlock
from bulkprobe.preprocess.draws import stream_of
from bulkprobe.preprocess.vocabulary import Alignment, align, gene_names, require_coverage

N_BINS = 51  # bins 1 to 50 of expressed genes and 0 of the others; a constant of upstream's collator, not of args.json
EPS = 1e-5  # PyTorch's default, which upstream leaves as it is
SPECIALS = ("<pad>", "<cls>", "<eoc>")  # a vocabulary that lacks one gets it at its end, in this order


def read_json(path: Path) -> dict[str, Any]:
    """Read one of a release's JSON objects."""
    return read_object(existing(path))


@dataclass(frozen=True)
class Config:
    """What args.json says; defaults are the whole-human release's."""

    width: int = 512
    depth: int = 12
    heads: int = 8
    hidden: int = 512
    cls_value: float = -2.0  # `<cls>` carries args.json's pad_value

    def __post_init__(self) -> None:
        if min(self.width, self.depth, self.heads, self.hidden) < 1 or self.width % self.heads:
            raise UserError(f"scGPT cannot have width {self.width}, {self.depth} layers and {self.heads} heads")

    @classmethod
    def read(cls, folder: Path) -> Config:
        """Read a checkpoint folder's args.json."""
        args = read_json(folder / "args.json")
        keys = {"width": "embsize", "depth": "nlayers", "heads": "nheads", "hidden": "d_hid"}
        wrong = [key for key in keys.values() if not isinstance(args.get(key), int)]
        if wrong or not isinstance(args.get("pad_value"), int | float):
            raise UserError(
                f"{folder / 'args.json'} has no number {(wrong or ['pad_value'])[0]!r}: give the released file"
            )
        return cls(**{ours: args[theirs] for ours, theirs in keys.items()}, cls_value=float(args["pad_value"]))


def read_vocabulary(folder: Path) -> dict[str, int]:
    """Return token → row of the embedding, special tokens included."""
    path = folder / "vocab.json"
    vocabulary = read_json(path)
    for token in SPECIALS:
        vocabulary.setdefault(token, len(vocabulary))
    if not all(isinstance(place, int) for place in vocabulary.values()) or set(vocabulary.values()) != set(
        range(len(vocabulary))
    ):
        raise UserError(f"{path} does not number its {len(vocabulary)} tokens 0, 1, 2, …: give the released file")
    return vocabulary


def genes_of(vocabulary: Mapping[str, int]) -> dict[str, int]:
    """Return the vocabulary without its special tokens."""
    return {token: place for token, place in vocabulary.items() if token not in SPECIALS}


def bin_values(expressed: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Return bins 1 to 50 of a sample's expressed values (n,) by 50 of their own quantiles, interpolated linearly.

    A value between two edges has one bin. One that equals m edges may have any of m bins, and its number in [0, 1)
    chooses among them evenly.
    """
    edges = np.quantile(expressed, np.linspace(0, 1, N_BINS - 1))
    below, up_to = np.searchsorted(edges, expressed, "left"), np.searchsorted(edges, expressed, "right")
    bins: np.ndarray = np.ceil(up_to - uniforms * (up_to - below)).astype(np.int64)
    return bins


@dataclass(frozen=True)
class Draws:
    """Upstream's two random steps, by numbers that hang on the seed, the sample and the gene."""

    seed: int
    by: str  # sample_id or position
    n_rows: int  # of the embedding

    def __call__(self, sample: Sample, draw: int, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return two numbers in [0, 1) for each token: one chooses its bin, the smallest of the other are read.

        places: the tokens' rows of the embedding, ascending.
        """
        stream = (
            stream_of(self.seed, sample.id)
            if self.by == "sample_id"
            else np.random.default_rng([self.seed, sample.row])
        )
        rng = stream.spawn(draw + 1)[-1]
        uniforms = rng.random((2, self.n_rows))[:, places]
        again = np.flatnonzero(places[1:] == places[:-1]) + 1  # a symbol that stands in several columns
        uniforms[:, again] = rng.random((2, len(again)))
        return uniforms[0], uniforms[1]


@dataclass(frozen=True)
class Tokeniser:
    """From a sample's values to its tokens: which genes are read, and in which bin.

    Tokens stand in the order of the vocabulary, whatever the order of the cohort's columns.
    """

    genes: Alignment
    draws: Draws
    choice: str  # sample, top or all
    most: int  # genes read

    def __call__(self, values: np.ndarray, sample: Sample, draw: int = 0) -> Tokens:
        """Return the columns and bins of the genes that are read; UserError where the sample expresses none."""
        matched = values[self.genes.columns].astype(np.float32)
        found = np.flatnonzero(matched)
        if not len(found):
            raise UserError("none of the genes that scGPT knows is expressed")
        found = found[np.lexsort((matched[found], self.genes.places[found]))]
        columns, expressed = self.genes.columns[found], matched[found]
        ties, keys = self.draws(sample, draw, self.genes.places[found])
        bins = bin_values(expressed, ties)  # over all expressed genes, before any is left out
        if self.choice == "all" or len(found) <= self.most:
            return Tokens(columns, bins)
        if self.choice == "top":
            kept = np.lexsort((columns, -expressed))[: self.most]  # of equal values the first in the input
        else:
            kept = np.argpartition(keys, self.most)[: self.most]
        kept.sort()
        return Tokens(columns[kept], bins[kept])


class ValueEncoder(nn.Module):
    """From a bin as a number to a vector. (Upstream's cap at 512 is out of the bins' reach.)"""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(1, width)
        self.down = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=EPS)

    def forward(self, values: Tensor) -> Tensor:
        """Return (n, width) from (n,)."""
        encoded: Tensor = self.norm(self.down(torch.relu(self.up(values[:, None]))))
        return encoded


class Network(nn.Module):
    """What the released tensors fill: embeddings of genes and values, and the blocks. There is no last norm."""

    def __init__(self, config: Config, n_tokens: int) -> None:
        super().__init__()
        self.genes = unfilled_table(n_tokens, config.width)
        self.gene_norm = nn.LayerNorm(config.width, eps=EPS)
        self.values = ValueEncoder(config.width)
        self.blocks = nn.ModuleList(
            PostNormBlock(config.width, config.heads, config.hidden, EPS) for _ in range(config.depth)
        )

    def gene_vectors(self, places: np.ndarray) -> Tensor:
        """Return the input vectors (n, width) of vocabulary places (n,)."""
        vectors: Tensor = self.gene_norm(self.genes.weight[torch.from_numpy(places)])
        return vectors


LAYER = "transformer_encoder.layers.{}."
KEYS = {
    "encoder.embedding.weight": "genes.weight",
    "encoder.enc_norm.*": "gene_norm.*",
    "value_encoder.linear1.*": "values.up.*",
    "value_encoder.linear2.*": "values.down.*",
    "value_encoder.norm.*": "values.norm.*",
    # As released, as PyTorch's own attention names them, and as upstream's flash wrapper of 2026 saves them.
    LAYER + "self_attn.Wqkv.*": "blocks.{}.qkv.*",
    LAYER + "self_attn.in_proj_*": "blocks.{}.qkv.*",
    LAYER + "self_attn._impl.Wqkv.*": "blocks.{}.qkv.*",
    LAYER + "self_attn.out_proj.*": "blocks.{}.out.*",
    LAYER + "self_attn._impl.out_proj.*": "blocks.{}.out.*",
    LAYER + "linear1.*": "blocks.{}.up.*",
    LAYER + "linear2.*": "blocks.{}.down.*",
    LAYER + "norm1.*": "blocks.{}.norm1.*",
    LAYER + "norm2.*": "blocks.{}.norm2.*",
}
IGNORED = {
    "flag_encoder.*": "marks perturbed genes and generated values; not added when a sample is embedded",
    "decoder.*": "pre-training head: values of masked genes from their own states",
    "mvc_decoder.*": "pre-training head: values of masked genes from <cls>",
    "cls_decoder.*": "head of the continually pre-trained release: tissue and cell type",
}


def read_network(folder: Path) -> tuple[Config, dict[str, int], Network]:
    """Read a folder in the released layout."""
    config, vocabulary = Config.read(folder), read_vocabulary(folder)
    path = folder / "best_model.pt"
    state = rename(tensors_of(read_torch(path), path), KEYS, IGNORED, path)
    with torch.device("meta"):
        network = Network(config, len(vocabulary))
    load_strict(network, state, f"{path} (sizes from args.json and vocab.json)")
    return config, vocabulary, network


def gene_vectors(folder: Path) -> tuple[list[str], np.ndarray]:
    """Return the vocabulary's symbols and their input vectors (n_genes, width), as the tutorials upstream use them."""
    _, vocabulary, network = read_network(folder)
    genes = genes_of(vocabulary)
    return list(genes), network.gene_vectors(np.array(list(genes.values()))).numpy()


@dataclass(frozen=True)
class Encode:
    """The forward pass of one sample.

    gene_table: (n_genes, width) by column of the cohort. value_table: (N_BINS, width) by bin; row 0 is not read.
    cls: (1, width).
    """

    tokenise: Tokeniser
    gene_table: Tensor
    gene_rows: np.ndarray  # column → row of gene_table
    value_table: Tensor
    cls: Tensor
    blocks: nn.ModuleList
    pooling: str
    draws: int

    def __call__(self, values: np.ndarray, sample: Sample) -> Tensor:
        """Return the sample's vector (width,), the mean of its draws."""
        vectors = [self._vector(self.tokenise(values, sample, draw)) for draw in range(self.draws)]
        return vectors[0] if self.draws == 1 else self._scale(torch.stack(vectors).mean(0))

    def hidden(self, tokens: Tokens, rows: int | None) -> Tensor:
        """Return the final states (1 + n_tokens, width), `<cls>` first; only the first `rows` where that is given."""
        device = self.gene_table.device
        genes = self.gene_table[torch.from_numpy(self.gene_rows[tokens.columns]).to(device)]
        x = torch.cat([self.cls, genes + self.value_table[torch.from_numpy(tokens.values).to(device)]])
        for block in self.blocks[:-1]:
            x = block(x)
        last: Tensor = self.blocks[-1](x, rows)
        return last

    def states(self, values: np.ndarray, sample: Sample) -> tuple[np.ndarray, Tensor]:
        """Return columns and final states of the genes that are read, of several draws the first."""
        tokens = self.tokenise(values, sample)
        return tokens.columns, self.hidden(tokens, rows=None)[1:]

    def _vector(self, tokens: Tokens) -> Tensor:
        if self.pooling in ("published", "cls"):
            return self._scale(self.hidden(tokens, rows=1)[0].float())
        return pool(self.hidden(tokens, rows=None)[1:].float(), self.pooling)

    def _scale(self, vector: Tensor) -> Tensor:
        return vector / torch.linalg.vector_norm(vector) if self.pooling == "published" else vector


def flop(n_expressed: int) -> float:
    """FLOP of one sample at the whole-human sizes and 1,200 tokens at most."""
    n, width, depth = min(n_expressed, 1199) + 1, 512, 12
    whole, last = 12.0 * width**2 * n + 4.0 * width * n**2, 4.0 * width**2 * n
    return (depth - 1) * whole + last


def memory(n_expressed: int) -> float:
    """Bytes of one sample's states at those sizes: input, queries, keys, values, mixed values, hidden layer."""
    return 4.0 * 512 * 8 * (min(n_expressed, 1199) + 1)


DRIVE = "https://drive.google.com/drive/folders/"
MIRROR = "https://huggingface.co/u-cellm/scGPT-whole-human/resolve/main/"


def release(
    name: str,
    folder: str,
    parameters: int | None,
    cells: int | None,
    note: str,
    *facts: tuple[int | None, str | None],
) -> Release:
    """Return a release whose three files lie in a Google Drive folder, which only a browser can list.

    facts: bytes and SHA-256 of args.json, best_model.pt and vocab.json.
    """
    known = facts or ((None, None),) * 3
    files = tuple(
        WeightFile(
            path,
            urls=(MIRROR + path,) if name == "whole-human" else (),
            bytes=size,
            sha256=sha256,
            by_hand=f"open {DRIVE}{folder} in a browser and download {path}",
        )
        for path, (size, sha256) in zip(("args.json", "best_model.pt", "vocab.json"), known, strict=True)
    )
    return Release(name, files, 512, parameters, note=note, samples=cells)


NO_HASH = "neither hashes nor sizes of these files are published"
CARD = Card(
    name="scgpt",
    title="scGPT",
    kind="foundation",
    pooling="final state of <cls>, scaled to length 1",
    scales=(*COUNT_SCALES, "tpm"),
    pretraining="33 million normal human cells of CELLxGENE (whole-human; the others: their notes); no bulk, no TCGA",
    trained_on="single cells",
    priors="none",
    reads="bin, 1 to 50, by quantiles of the sample's expressed genes",
    paper="Cui et al. 2024, Nature Methods 21:1470-1480, 10.1038/s41592-024-02201-0",
    licence_code="MIT",
    licence_weights="MIT (the repository's; no terms of their own are stated)",
    gene_ids="symbol",
    defaults={
        "pooling": "published",
        "input": "counts",
        "genes": "sample",
        "max_length": 1200,
        "draws": 1,
        "draw_seed": 0,
        "draw_by": "sample_id",
        "min_coverage": 0.2,
    },
    choices={
        "pooling": ("published", "cls", "mean", "max", "median"),
        "input": ("counts", "tpm"),
        "genes": ("sample", "top", "all"),
        "draw_by": ("sample_id", "position"),
    },
    upstream="bowang-lab/scGPT@cebd6fae655b9c585a4807daa3ac31bb764f06b4",
    limits="1,199 expressed genes at the published max_length of 1200; genes=all reads every expressed gene",
    quirks=(
        "followed: bins are quantiles over all expressed genes of the sample, before any gene is left out",
        "followed: each column of a symbol that stands in several is a token of its own",
        "followed: <cls> carries the padding value -2, and genes with value 0 are no tokens",
        "not followed: draws come from draw_seed, sample id and gene, where upstream's depend on the place in the file "
        "and the number of loader processes",
        "not followed: a tensor that is missing or has another shape is an error, where upstream leaves it random",
        "pooling mean, max and median run over the genes that are read, all of them expressed, without <cls>",
    ),
    releases=(
        release(
            "whole-human",
            "1oWh_-ZRdhtoGQ2Fw24HP41FgLoomVo-y",
            51_330_049,
            33_000_000,
            "normal human cells; the authors publish no hashes: that of args.json was computed from a "
            "public copy, the others are third-party (two ledgers agree)",
            (1_300, "c18e075e018140cb8b2d9029387b9de26607a5ce6a8ccabd6ead70cd76b95d60"),
            (205_385_258, "6cb5d451ab5c4b33eb673adbe4fddc61d2389df1b89b7651a9fe2e557572b922"),
            (None, "acca93d114ca62c3f0f50debbd23e8c87f0714f4737764454f6b2b13f2e8580f"),
        ),
        release(
            "continual-pretrained",
            "1_GROJTzXiAV8HB4imruOTk6PEGuNOcgB",
            51_948_210,
            None,
            "whole-human trained on with labels of tissue and cell type; hashes are third-party (two ledgers agree)",
            (None, "77fec83c32306225f37cc023321b716a49ce9e778039f2c1c4b80e1e4e7008bd"),
            (207_861_754, "ad0252a1971e0cd619b7116dbab3177432236c4537225d54280a2aa7e5fe402a"),
            (1_317_639, "ee2b2c90158eedb97c2318e49abaaed0a02c6fdf7e3f7ca6a821906413c4d2a4"),
        ),
        *(
            release(name, folder, None, cells, f"{seen}; {NO_HASH}")
            for name, folder, cells, seen in (
                ("brain", "1vf1ijfQSk7rGdDGpBntR5bi5g6gNt-Gx", 13_200_000, "brain cells"),
                ("blood", "1kkug5C7NjvXIwQGGaGoqXTk_Lb_pDrBU", 10_300_000, "cells of blood and bone marrow"),
                ("heart", "1GcgXrd7apn6y4Ze_iSCncskX3UsWPY2r", 1_800_000, "heart cells"),
                ("lung", "16A1DJ30PT6bodt4bWLa4hpS7gbWZQFBG", 2_100_000, "lung cells"),
                ("kidney", "1S-1AR65DF120kNFpEbWCvRHPhpkGK3kK", 814_000, "kidney cells"),
                ("pan-cancer", "13QzLHilYUd0v3HTwa_9n4G4yEF-hdkqa", 5_700_000, "cells of various cancers"),
            )
        ),
    ),
    flop=flop,
    memory=memory,
)


class ScGPT:
    """scGPT as an encoder."""

    card = CARD

    def start(self, cohort: CohortView, options: Mapping[str, Any], weights: Weights | None = None) -> Samples:
        """Prepare for a cohort: match its genes, and compute what does not depend on a sample."""
        chosen = resolve_options(CARD, options)
        weights = need_weights(CARD, weights)
        layer = input_layer(CARD, cohort, chosen["input"])
        length, draws = whole_number(CARD, chosen, "max_length", 2), whole_number(CARD, chosen, "draws", 1)
        seed = whole_number(CARD, chosen, "draw_seed", 0)
        config, vocabulary, network = read_network(weights.folder)
        names = gene_names(cohort.var, "symbol")
        genes = align(names, genes_of(vocabulary), "all")
        require_coverage(CARD.name, genes, chosen["min_coverage"], "gene symbols", names)
        tokenise = Tokeniser(genes, Draws(seed, chosen["draw_by"], len(vocabulary)), chosen["genes"], length - 1)
        row_of_column = np.full(genes.n_input, -1)
        row_of_column[genes.columns] = np.arange(len(genes.columns))
        cls = network.gene_vectors(np.array([vocabulary["<cls>"]])) + network.values(torch.tensor([config.cls_value]))
        encode = Encode(
            tokenise,
            network.gene_vectors(genes.places).to(weights.device),
            row_of_column,
            network.values(torch.arange(N_BINS, dtype=torch.float32)).to(weights.device),
            cls.to(weights.device),
            network.blocks.to(weights.device),
            chosen["pooling"],
            draws,
        )
        attributes = {
            **genes.attributes(),
            **{key: value for key, value in chosen.items() if key != "input"},
            "values": f"{chosen['input']}, {N_BINS - 1} quantile bins a sample",
            "parameters_used": parameters_of(network),
            "probe_transform": {"kind": "none"},
        }
        where = (weights.device, weights.precision, weights.threads)
        facts = (config.width, layer, attributes)
        return Samples(*facts, encode, tokenise, *where, known=genes.columns, states=encode.states)


ENCODER = ScGPT()
