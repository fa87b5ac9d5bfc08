"""CellFM: a retention network over expressed genes, pre-trained on 100 million human cells.

Zeng et al., Nature Communications 16:4679 (2025), doi 10.1038/s41467-025-59926-5. Followed: biomed-AI/CellFM @ 7655797
(MindSpore), the tutorials' `process` and `BatchIntegration`. Code and weights are CC-BY-NC-ND-4.0: nothing of either is
in this repository.

Input: read counts by HGNC symbol. A sample's vector is the CLS token of the last layer, as the authors' integration
tutorial writes it (there after fine-tuning; the code is the same).

On bulk the procedure does two things that single cells never meet. Counts are scaled down to 100,000 a sample, which
silences genes below 5 counts per million; and of the genes that remain, usually 8,000 to 11,000, 2,048 are drawn at
random, weighted by expression. Upstream's draw is not seeded; ours is, by sample (`draws` averages several).

What differs from upstream: genes are read once, not padded; no decoder; of the last layer only the row that is pooled
is computed. Attention here is q (k^T v) with no denominator, so it can be bracketed as is cheapest. What the first
layer multiplies is the sum of a part that only the gene decides and one that only the value decides, and both are
multiplied once for all samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
from bulkprobe.nn.files import first_existing, one_line
from bulkprobe.nn.mindspore import list_mindspore, read_mindspore
from bulkprobe.nn.pooling import pool
from bulkprobe.nn.rename import depth_of, load_strict, parameters_of, rename, stack
from bulkprobe.nn.retention import RetentionLayer, with_product
from bulkprobe.nn.samples import Sample, Samples, Tokens, cores
from bulkprobe.preprocess.hgnc import current_symbols, read_nomenclature
from bulkprobe.preprocess.panel import COUNT_CAP, TARGET_SUM, Panel
from bulkprobe.preprocess.vocabulary import align, gene_names, require_coverage

MAX_GENES = 2048  # nonz_len of upstream's Config
VALUE_HIDDEN = 256  # width of the value encoder
SLOPE = 0.2  # of LeakyReLU: MindSpore's default, not torch's 0.01
EPS = 1e-7  # of LayerNorm: MindSpore's default, not torch's 1e-5
RELEASED_WIDTH, RELEASED_HEADS = 1536, 48
SMALL_HEAD = 8  # columns a head of a checkpoint of another width has, unless `heads` says otherwise
LARGEST_SEED = 2**31  # what numpy's legacy generator takes, with room for row numbers

WEIGHT_FILES = ("CellFM_80M_weight.ckpt", "base_weight.ckpt")
VOCABULARIES = ("expand_gene_info.csv", "gene_info.csv")  # of 80M and 800M; the embedding's rows say which one it is
NOMENCLATURE = "updated_hgcn.tsv"

KEYS = {
    "gene_emb": "gene_emb",
    "cls_token": "cls_token",
    "value_enc.value_enc.w1.weight": "value.up.weight",
    "value_enc.value_enc.w3.weight": "value.mix.weight",
    "value_enc.value_enc.a": "value.keep",
    "value_enc.value_enc.table.weight": "value.table.weight",
    "encoder.{}.attn.k_proj.weight": "layers.{}.k",
    "encoder.{}.attn.v_proj.weight": "layers.{}.v",
    "encoder.{}.attn.q_proj.weight": "layers.{}.q",
    "encoder.{}.attn.u_proj.weight": "layers.{}.u",
    "encoder.{}.attn.o_proj.weight": "layers.{}.out.weight",
    "encoder.{}.ffn.u_proj.weight": "layers.{}.left",
    "encoder.{}.ffn.v_proj.weight": "layers.{}.right",
    "encoder.{}.ffn.o_proj.weight": "layers.{}.down.weight",
    "encoder.{}.post_norm1.gamma": "layers.{}.norm1.weight",
    "encoder.{}.post_norm1.beta": "layers.{}.norm1.bias",
    "encoder.{}.post_norm2.gamma": "layers.{}.norm2.weight",
    "encoder.{}.post_norm2.beta": "layers.{}.norm2.bias",
}
IGNORED = {
    "moment1.*": "Adam's state",
    "moment2.*": "Adam's state",
    "ST_emb": "library-size tokens of pre-training; the published embedding leaves them out",
    "ST_enc.*": "library-size tokens of pre-training",
    "value_enc.mask_emb": "stands for masked values in pre-training",
    "zero_emb": "stands for genes without counts in pre-training",
    "value_dec.*": "pre-training head",
    "cellwise_dec.*": "pre-training head",
}


class ValueEncoder(nn.Module):
    """An expression value as a mixture of learned vectors; returns the mixture's shares (n, 256) from values (n,)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(1, VALUE_HIDDEN, bias=False)
        self.mix = nn.Linear(VALUE_HIDDEN, VALUE_HIDDEN, bias=False)
        self.keep = nn.Parameter(torch.empty(1, 1))
        self.table = nn.Linear(VALUE_HIDDEN, width, bias=False)

    def forward(self, values: Tensor) -> Tensor:
        raised = F.leaky_relu(self.up(values[:, None]), SLOPE)
        return torch.softmax(self.mix(raised) + self.keep * raised, -1)


class Network(nn.Module):
    """CellFM's encoder without its table of genes."""

    def __init__(self, width: int, heads: int, depth: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.value = ValueEncoder(width)
        self.layers = nn.ModuleList([RetentionLayer(width, heads, depth, EPS) for _ in range(depth)])

    def stack(self) -> list[RetentionLayer]:
        """The layers, typed."""
        return [layer for layer in self.layers if isinstance(layer, RetentionLayer)]

    def tables(self, genes: Tensor, rows: Tensor, threads: int) -> tuple[Tensor, Tensor]:
        """Return what token and first product are made of: (1 + n_genes, 5 width) by gene (CLS first), (256, 5 width).

        A token is its row of the one plus its shares times the other. rows: the cohort's genes in the table `genes`.
        """
        first = self.stack()[0].kvqu
        values = self.value.table.weight.T
        by_gene = with_product(self.cls_token[0], genes, rows, first, threads)
        return by_gene, with_product(values[:0], values, torch.arange(len(values)), first, threads)

    def forward(self, by_gene: Tensor, by_value: Tensor, rows: Tensor, values: Tensor, only_cls: bool) -> Tensor:
        """Return the last layer's tokens (1 + n, width), or only CLS (1, width), of genes (`rows` of `by_gene`)."""
        levels, which = torch.unique(values, return_inverse=True)  # counts: a few hundred different ones
        both = by_gene[F.pad(rows + 1, (1, 0))]
        both[1:] += (self.value(levels) @ by_value)[which]  # CLS has no value
        x, kvqu = both[:, : both.shape[1] // 5], both[:, both.shape[1] // 5 :]
        *before, last = self.stack()
        for number, layer in enumerate(before):
            x = layer(x, layer.kvqu(x) if number else kvqu)
        return last.first_row(x) if only_cls else last(x, last.kvqu(x) if before else kvqu)


def read_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Return the tensors that are needed, under our names, and the vocabulary: symbol → row of `gene_emb`."""
    path = first_existing(folder, *WEIGHT_FILES)
    # Step counters, learning rate, loss scale: which ones there are depends on how training was run.
    entries = {name: e for name, e in list_mindspore(path).items() if name in KEYS or e.shape not in ((), (1,))}
    state = read_mindspore(path, rename(entries, KEYS, IGNORED, path))
    state = {name: value.float() for name, value in state.items()}
    stack(state, tuple(f"layers.{{}}.{part}" for part in "kvqu"), "layers.{}.kvqu.weight")
    stack(state, ("layers.{}.left", "layers.{}.right"), "layers.{}.gate.weight")
    rows = state["gene_emb"].shape if "gene_emb" in state else ()
    if len(rows) != 2 or not rows[1]:
        raise UserError(f"{path} has no table gene_emb (rows, width), so it is not laid out as released")
    return state, _vocabulary(folder / "csv", rows[0])


def _vocabulary(folder: Path, rows: int) -> dict[str, int]:
    """Read the list of genes that fits an embedding of so many rows: one a gene after row 0, filled up to eights."""
    sizes = []
    for name in VOCABULARIES:
        if not (folder / name).is_file():
            continue
        try:
            symbols = pd.read_csv(folder / name, usecols=[0], dtype=str).iloc[:, 0]
        except ValueError as problem:  # also what pandas raises for bytes that are no table
            raise UserError(f"{folder / name} is no list of genes: {one_line(problem)}; fetch it again") from None
        if -(-(len(symbols) + 1) // 8) * 8 == rows:
            return {symbol: row + 1 for row, symbol in enumerate(symbols) if isinstance(symbol, str)}
        sizes.append(f"{name} has {len(symbols)} genes")
    raise UserError(
        f"{folder} has no list of genes for an embedding of {rows} rows ({', '.join(sizes) or 'none at all'}): "
        f"give {' or '.join(VOCABULARIES)} as it was released with these weights"
    )


def load(folder: Path, heads: int | str = "auto") -> tuple[Network, Tensor, dict[str, int]]:
    """Return the network, its table of genes (rows, width) and the vocabulary; the number of heads is in no file."""
    state, vocabulary = read_checkpoint(folder)
    genes = state.pop("gene_emb")
    width = genes.shape[1]
    if heads == "auto":
        heads = RELEASED_HEADS if width == RELEASED_WIDTH else max(1, width // SMALL_HEAD)
    if not isinstance(heads, int) or isinstance(heads, bool) or heads < 1 or width % heads:
        raise UserError(f"encoder cellfm: {heads!r} heads do not divide a width of {width}; set heads to one that does")
    depth = depth_of(state, "layers.{}", folder)
    with torch.device("meta"):
        network = Network(width, heads, depth)
    load_strict(network, state, folder)
    return network, genes, vocabulary


def gene_vectors(folder: Path) -> tuple[list[str], np.ndarray]:
    """Return the vocabulary's symbols and their input vectors (n, width)."""
    state, vocabulary = read_checkpoint(folder)
    return list(vocabulary), state["gene_emb"].numpy()[list(vocabulary.values())]


RAW = "https://raw.githubusercontent.com/biomed-AI/CellFM/76557975c935d6822ddcfd8bb9700d0b95ec7dd7/csv/"
HUB = "https://huggingface.co/ShangguanNingyuan/CellFM/resolve/main/"
TERMS = (
    "CC-BY-NC-ND-4.0: not for commercial use, and neither the weights nor anything made of them may be passed on "
    "changed; downloading means accepting it"
)
CELLS = 100_000_000  # in pre-training, rounded by the authors
SYMBOLS_SHA256 = "5299c6572fecf8cfd5d3f4f0a42bfa2783e79499d78caf9344420555f701153d"


def _release(name: str, weights: tuple[str, str], genes: tuple[str, int, str], parameters: int, note: str) -> Release:
    """A release from (file, sha256) of the weights and (file, bytes, sha256) of the list of genes."""
    files = (
        WeightFile(weights[0], (HUB + weights[0],), sha256=weights[1]),
        WeightFile(f"csv/{genes[0]}", (RAW + genes[0],), genes[1], genes[2]),
        WeightFile(f"csv/{NOMENCLATURE}", (RAW + NOMENCLATURE,), 5_004_395, SYMBOLS_SHA256),
    )
    return Release(name, files, RELEASED_WIDTH, parameters, TERMS, note, CELLS)


def _flop(n_expressed: int) -> float:
    """Of one draw; the table of values is multiplied for about 300 different counts a sample."""
    width, n = RELEASED_WIDTH, min(n_expressed, MAX_GENES) + 1
    value = 300 * VALUE_HIDDEN * (VALUE_HIDDEN + 5 * width)
    retention = 2 * width * width // RELEASED_HEADS
    return 2.0 * (value + n * (5 * width**2 + retention))  # four products in the first layer, the keys of the second


def _memory(n_expressed: int) -> float:
    """Weights, what 20,000 genes are multiplied to once, and one sample at work."""
    sample = 13 * RELEASED_WIDTH * (min(n_expressed, MAX_GENES) + 1)
    return 4.0 * (80_500_000 + 5 * RELEASED_WIDTH * 20_000 + sample)


CARD = Card(
    name="cellfm",
    title="CellFM",
    kind="foundation",
    pooling="CLS token of the last layer (published); mean, max or median over the genes read",
    scales=COUNT_SCALES,
    pretraining="100 million human cells (single-cell RNA-seq); the authors publish no list of the studies",
    saw_tcga=False,
    trained_on="single cells",
    priors="none",
    reads="ln(1 + counts per 10,000), counts capped at 100,000 a sample",
    paper=(
        "Zeng et al., CellFM: a large-scale foundation model pre-trained on transcriptomics of 100 million human "
        "cells. Nature Communications 16:4679 (2025), doi 10.1038/s41467-025-59926-5"
    ),
    licence_code="CC-BY-NC-ND-4.0",
    licence_weights="CC-BY-NC-ND-4.0",
    gene_ids="HGNC symbol; previous and alias symbols, or Ensembl ids where there is no symbol, by the released table",
    defaults={
        "pooling": "published",
        "genes": "sample",
        "max_genes": MAX_GENES,
        "draw_seed": 0,
        "draw_by": "sample_id",
        "draws": 1,
        "heads": "auto",
        "min_coverage": 0.2,
    },
    choices={
        "pooling": ("published", "cls", "mean", "max", "median"),
        "genes": ("sample", "top", "all"),
        "draw_by": ("sample_id", "position"),
    },
    upstream="biomed-AI/CellFM @ 76557975c935d6822ddcfd8bb9700d0b95ec7dd7 (MindSpore)",
    limits="2,048 of the genes with counts; where there are more, a random draw weighted by expression",
    quirks=(
        "followed: counts are capped at 100,000 a sample, which on bulk silences genes below 5 counts per million",
        "followed: 2,048 expressed genes are drawn at random; upstream seeds nothing, here the sample's id does",
        "followed: the CLS token is read without the two library-size tokens that pre-training had beside it",
        "not followed: duplicate symbols stop upstream; here the first column counts",
        "not followed: the authors' torch port (another LeakyReLU slope, LayerNorm eps and tokens: other numbers)",
        "the number of heads is in no file: 48 at the released width, else one per 8 columns unless `heads` says so",
    ),
    releases=(
        _release(
            "80M",
            (WEIGHT_FILES[0], "2348440a17a348ee6cfb89dc6aae9b725d2c0eb4d226ee266b278312278653ea"),
            (VOCABULARIES[0], 2_156_084, "b7aec69e8dc0cff9dee53c7cdef8bb6a6e7c20be4a89e55ef9fb2f745669e882"),
            86_193_666,
            "1.03 GB, of which two thirds are the optimizer's state and are skipped",
        ),
        _release(
            "800M",
            (WEIGHT_FILES[1], "a3ab63e580ebf779edd5d13b4b9c7cfc5795c24495f61c45e2e9f0f1eb7bfc60"),
            (VOCABULARIES[1], 1_970_280, "406c5df678f3ff17bbfc3cf9f95326ba311e4536e5c71c2f31dce51e39f7b446"),
            804_937_219,
            "9.66 GB; its tensors' names and sizes are inferred from the authors' code and the file's size, not seen",
        ),
    ),
    redistribute=False,
    flop=_flop,
    memory=_memory,
)


class Cellfm:
    """CellFM as an encoder."""

    card = CARD

    def start(self, cohort: CohortView, options: Mapping[str, Any], weights: Weights | None = None) -> Samples:
        """Read the checkpoint, match the genes, and multiply once what only genes and only values decide."""
        chosen = _options(options)
        weights = need_weights(CARD, weights)
        layer = input_layer(CARD, cohort, "counts")
        network, genes, vocabulary = load(weights.folder, chosen["heads"])
        symbols = gene_names(cohort.var, "symbol")
        nomenclature = read_nomenclature(weights.folder / "csv" / NOMENCLATURE)
        names = current_symbols(symbols, gene_names(cohort.var, "ensembl"), vocabulary, nomenclature)
        found = align(names, {name: row - 1 for name, row in vocabulary.items()}, "first")
        require_coverage(CARD.name, found, chosen["min_coverage"], CARD.gene_ids, symbols)
        order = sorted(range(len(found.columns)), key=lambda place: names[found.columns[place]])
        panel = Panel(found.columns[order], found.places[order] + 1, len(genes), chosen)

        device = torch.device(weights.device)
        network.to(device)
        threads = (weights.threads or cores()) if device.type == "cpu" else 1
        by_gene, by_value = network.tables(genes, torch.from_numpy(panel.rows), threads)
        width, used = genes.shape[1], genes.numel() + parameters_of(network)
        del genes  # 0.17 GB at the released size, of which nothing is needed any more
        how = "cls" if chosen["pooling"] == "published" else chosen["pooling"]

        def run(levels: np.ndarray, places: np.ndarray, only_cls: bool = False) -> Tensor:
            rows, values = torch.from_numpy(places).to(device), torch.from_numpy(levels[places]).to(device)
            hidden: Tensor = network(by_gene, by_value, rows, values, only_cls)
            return hidden if only_cls else hidden[1:]

        def encode(counts: np.ndarray, sample: Sample) -> Tensor:
            levels = panel.levels(counts)
            drawn = panel.choose(levels, sample.id, sample.row)
            vectors = [pool(run(levels, places, how == "cls"), how) for places in drawn]
            return vectors[0] if len(vectors) == 1 else torch.stack(vectors).mean(0)

        def first_draw(counts: np.ndarray, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
            levels = panel.levels(counts)
            return levels, panel.choose(levels, sample.id, sample.row)[0]

        def tokens(counts: np.ndarray, sample: Sample) -> Tokens:
            levels, places = first_draw(counts, sample)
            return Tokens(panel.columns[places], levels[places])

        def states(counts: np.ndarray, sample: Sample) -> tuple[np.ndarray, Tensor]:
            levels, places = first_draw(counts, sample)
            return panel.columns[places], run(levels, places)

        attributes = {
            **found.attributes(),
            "genes_renamed": sum(bool(new) and new != old for new, old in zip(names, symbols, strict=True)),
            "count_cap": COUNT_CAP,
            "target_sum": TARGET_SUM,
            "rounding": "half to even, after the cap",
            "heads": network.stack()[0].heads,
            "depth": len(network.layers),
            "parameters_used": used,
            **{key: chosen[key] for key in ("pooling", "genes", "max_genes", "draw_seed", "draw_by", "draws")},
            "probe_transform": {"kind": "none"},
        }
        where = (weights.device, weights.precision, weights.threads)
        return Samples(width, layer, attributes, encode, tokens, *where, known=found.columns, states=states)


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    options = resolve_options(CARD, given)
    for key, least in (("max_genes", 1), ("draws", 1), ("draw_seed", 0)):
        whole_number(CARD, options, key, least)
    if options["draw_seed"] > LARGEST_SEED:
        raise UserError(f"encoder cellfm: option draw_seed is {options['draw_seed']}, expected at most {LARGEST_SEED}")
    return options


ENCODER = Cellfm()
