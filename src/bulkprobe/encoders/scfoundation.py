"""scFoundation: a transformer over the expressed genes of a sample and two tokens of sequencing depth.

Hao et al. 2024, doi 10.1038/s41592-024-02305-7; biomap-research/scFoundation at commit d09626a5, its script
`get_embedding.py`. Release: `models.ckpt`, which holds three sub-models; `cell` is the one of sample embeddings. Code
Apache-2.0, weights for non-commercial research only.

Input: counts by HGNC symbol, 19,264 genes. Sample embedding: published (states of the two depth tokens, maximum and
mean over the gene tokens). The procedure for bulk scales each sample to the median library size of all samples given to
it, so the number depends on who else is in the file; here that size is taken once, on the primary tumours, recorded,
and can be given as a number. Expressed genes alone are tokens; the pre-training decoder is never needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
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
)
from bulkprobe.errors import UserError, some
from bulkprobe.nn.files import existing, read_torch, tensors_of
from bulkprobe.nn.pooling import pool
from bulkprobe.nn.rename import load_strict, parameters_of, rename, unfilled_table
from bulkprobe.nn.samples import Sample, Samples, Tokens
from bulkprobe.nn.transformer import PostNormBlock
from bulkprobe.preprocess.library import library_sizes
from bulkprobe.preprocess.vocabulary import Alignment, align, gene_names, require_coverage

CHECKPOINT = "models.ckpt"
VOCABULARY = "OS_scRNA_gene_index.19264.tsv"
SINGLE_CELL_SUM = 10_000.0  # counts per cell in pre-training
SINGLE_CELL_DEPTH = 4.0  # token T of the single-cell route: log10 of the depth aimed at (upstream's `t4`)
SLOPE = 0.1  # of the leaky ReLU in the value embedding
LAYER_NORM_EPS = 1e-5  # PyTorch's default, which upstream's layers keep
FEED_FORWARD = 4  # times the width
MEMORY_PER_TOKEN = 8  # times the width, in numbers held at once by a long sample


@dataclass(frozen=True)
class Config:
    """Sizes of one sub-model; the defaults are the release's."""

    width: int = 768
    depth: int = 12
    heads: int = 12  # of width / heads each; the configuration's `dim_head` is the decoder's affair
    bins: int = 100
    bin_alpha: float = 1.0  # weight of the skip connection in the value embedding

    def __post_init__(self) -> None:
        wrong = [f.name for f in fields(self) if f.name != "bin_alpha" and getattr(self, f.name) < 1]
        if wrong or self.width % self.heads:
            raise UserError(
                f"scfoundation cannot have width {self.width}, depth {self.depth}, {self.heads} heads and {self.bins} "
                "bins: all must be at least 1 and the heads divide the width"
            )

    @classmethod
    def read(cls, content: Any, key: str, path: Path) -> Config:
        """Return the sizes that a sub-model carries: the model's settings overridden by the data set's."""
        try:
            found = content[key]["config"]
            merged = {**found["model_config"][found["model"]], **found["dataset_config"]["rnaseq"]}
            encoder = merged["encoder"]
            kind = (found["model"], encoder["module_type"])
            sizes = (encoder["hidden_dim"], encoder["depth"], encoder["heads"], merged["bin_num"])
            alpha = merged["bin_alpha"]
        except (KeyError, TypeError) as lacking:
            raise UserError(
                f"{path}: the configuration of {key!r} has no {lacking}, so it is not laid out as released"
            ) from None
        if kind != ("mae_autobin", "transformer"):
            raise UserError(
                f"{path}: {key!r} is a {' with a '.join(map(str, kind))}, expected mae_autobin, transformer"
            )
        if not all(type(number) is int for number in sizes) or not isinstance(alpha, int | float):
            raise UserError(f"{path}: the configuration of {key!r} has sizes {sizes} and {alpha!r}: expected numbers")
        return cls(*sizes, float(alpha))


def read_vocabulary(folder: Path) -> list[str]:
    """Return the model's gene symbols; a gene's place in the list is its id."""
    path = existing(folder / VOCABULARY)
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    rows = [line.split("\t") for line in lines[1:]]
    if lines[:1] != ["gene_name\tindex"] or [row[1:] for row in rows] != [[str(i)] for i in range(len(rows))]:
        raise UserError(f"{path} is not the gene list as released: expected gene_name and index, counting from 0")
    symbols = [row[0] for row in rows]
    if len(set(symbols)) < len(symbols):
        twice = sorted({symbol for symbol in symbols if symbols.count(symbol) > 1})
        raise UserError(f"{path} has repeated genes: {some(twice)}; fetch it again")
    return symbols


def tokenise(counts: np.ndarray, target_sum: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens of one sample: places in ascending order, and their values (float32).

    counts: (n_vocabulary,) float64, 0 where a gene is not measured. The last two tokens are T and S, at the places
    after the genes. target_sum: the library size to scale to, of the bulk route, where T = S = log10 of the summed log
    values; None for the single-cell route, where S = log10 of the counts.
    """
    total = counts.sum()
    if not total > 0:
        raise UserError("none of the genes that scfoundation knows is expressed")
    if target_sum is None:
        values = np.log1p(counts / total * SINGLE_CELL_SUM)
        depth = (SINGLE_CELL_DEPTH, np.log10(total))
    else:
        values = np.log1p(counts / (total / target_sum))
        depth = (np.log10(values.sum()),) * 2
    if not depth[1] > 0:
        raise UserError(f"with {total:g} counts in genes that scfoundation knows its token of depth is not positive")
    vector = np.append(values, depth).astype(np.float32)
    places = np.flatnonzero(vector > 0)
    return places, vector[places]


class ValueEmbedding(nn.Module):
    """A value as a weighted mean of `bins` learned vectors, the weights a soft discretisation of the value."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.bin_alpha = config.bin_alpha
        self.spread = nn.Linear(1, config.bins)
        self.mix = nn.Linear(config.bins, config.bins)
        self.bins = unfilled_table(config.bins, config.width)

    def forward(self, values: Tensor) -> Tensor:
        """Return (n, width) from (n,)."""
        near = F.leaky_relu(self.spread(values[:, None]), SLOPE)  # (n, bins)
        return torch.softmax(self.mix(near) + self.bin_alpha * near, dim=1) @ self.bins.weight


class Network(nn.Module):
    """The encoder half of scFoundation."""

    def __init__(self, config: Config, n_genes: int) -> None:
        super().__init__()
        self.value = ValueEmbedding(config)
        self.place = unfilled_table(n_genes + 3, config.width)  # genes, T, S, and padding of the decoder
        self.blocks = nn.ModuleList(
            PostNormBlock(config.width, config.heads, FEED_FORWARD * config.width, LAYER_NORM_EPS)
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)

    def forward(self, places: Tensor, values: Tensor) -> Tensor:
        """Return the tokens' states (n, width)."""
        x = self.value(values) + self.place(places)
        for block in self.blocks:
            x = block(x)
        states: Tensor = self.norm(x)
        return states


_LAYER = "model.encoder.transformer_encoder.{}"
KEYS = {
    "model.token_emb.mlp.*": "value.spread.*",
    "model.token_emb.mlp2.*": "value.mix.*",
    "model.token_emb.emb.weight": "value.bins.weight",
    "model.pos_emb.weight": "place.weight",
    f"{_LAYER}.self_attn.in_proj_weight": "blocks.{}.qkv.weight",
    f"{_LAYER}.self_attn.in_proj_bias": "blocks.{}.qkv.bias",
    f"{_LAYER}.self_attn.out_proj.*": "blocks.{}.out.*",
    f"{_LAYER}.linear1.*": "blocks.{}.up.*",
    f"{_LAYER}.linear2.*": "blocks.{}.down.*",
    f"{_LAYER}.norm1.*": "blocks.{}.norm1.*",
    f"{_LAYER}.norm2.*": "blocks.{}.norm2.*",
    "model.encoder.norm.*": "norm.*",
}
IGNORED = {
    "model.token_emb.emb_mask.weight": "stands for values hidden in pre-training",
    "model.token_emb.emb_pad.weight": "stands for padding, and a sample is never padded",
    "model.decoder.*": "pre-training decoder",
    "model.decoder_embed.*": "entrance of the pre-training decoder",
    "model.norm.*": "norm after the pre-training decoder",
    "model.to_final.*": "pre-training head",
}


def load(folder: Path, key: str, n_genes: int) -> tuple[Network, Config]:
    """Read one of the three sub-models of a checkpoint folder."""
    path = folder / CHECKPOINT
    content = read_torch(path)
    config = Config.read(content, key, path)
    state = rename(tensors_of(content, path, key, "state_dict"), KEYS, IGNORED, path)
    with torch.device("meta"):
        network = Network(config, n_genes)
    load_strict(network, state, path)
    return network, config


def gene_vectors(folder: Path) -> tuple[list[str], np.ndarray]:
    """Return the symbols of the vocabulary and the vectors that the encoder adds for them, (n_genes, width)."""
    symbols = read_vocabulary(folder)
    network, _ = load(folder, "cell", len(symbols))
    return symbols, network.place.weight[: len(symbols)].numpy()


def pool_states(states: Tensor, pooling: str) -> Tensor:
    """Return a sample's vector from its tokens' states, of which the last two are T and S.

    published: S, T, maximum and mean over genes (4 x width). max: over all tokens, as upstream's `--pool_type max`.
    mean, median: over genes.
    """
    genes, (depth_t, depth_s) = states[:-2], states[-2:]
    if pooling == "published":
        return torch.cat([depth_s, depth_t, pool(genes, "max"), pool(genes, "mean")])
    return pool(states if pooling == "max" else genes, pooling)


def flop(n_expressed: int) -> float:
    """Floating-point operations of one sample at the released size: linear layers and attention."""
    n, size = n_expressed + 2, Config()
    return size.depth * (24.0 * n * size.width**2 + 4.0 * n**2 * size.width)


def memory(n_expressed: int) -> float:
    """Bytes of one sample's activations at the released size."""
    return 4.0 * MEMORY_PER_TOKEN * Config().width * (n_expressed + 2)


CARD = Card(
    name="scfoundation",
    title="scFoundation (xTrimoGene, 100M)",
    kind="foundation",
    pooling="states of the depth tokens S and T, maximum and mean over expressed genes",
    scales=COUNT_SCALES,
    pretraining="50 million human single cells from GEO, HCA, the Single Cell Portal, EMBL-EBI, hECA and DISCO, "
    "tumours among them; no bulk, no TCGA",
    trained_on="single cells",
    priors="none",
    reads="ln(1 + counts scaled to target_sum)",
    paper="Hao, Gong, Zeng, Liu, Guo, Cheng, Wang, Ma, Zhang, Song. Large-scale foundation model on single-cell "
    "transcriptomics. Nature Methods 21:1481-1491 (2024). doi:10.1038/s41592-024-02305-7",
    licence_weights="scFoundation model licence: non-commercial research, not to be passed on",
    gene_ids="HGNC symbols, of the time of its list",
    defaults={
        "pooling": "published",
        "route": "bulk",
        "target_sum": "cohort_median",
        "key": "cell",
        "min_coverage": 0.2,
    },
    choices={
        "pooling": ("published", "mean", "max", "median"),
        "route": ("bulk", "singlecell"),
        "key": ("cell", "rde", "gene"),
    },
    upstream="biomap-research/scFoundation@d09626a5c1bc30b9c6227378677b61e0b987fe8b",
    limits="all expressed genes of its 19,264; none is dropped",
    quirks=(
        "followed: T and S of the bulk route are log10 of the sum of log values, far below those of the raw counts, "
        "while the values themselves are above the training range",
        "followed: the bulk route scales to the median library size of the cohort; here of its primary tumours, once",
        "not followed: symbols that stand twice shift every later gene; here the first column counts",
        "not followed: input of 19,264 columns or more is taken as aligned; here genes are always matched by name",
        "not followed: an all-false padding mask, which makes scores of (heads, tokens, tokens); same numbers without",
        "not needed: the values 102 and 103 mean masked and padded; log values never reach them",
    ),
    releases=(
        Release(
            name="01B-resolution",
            files=(
                WeightFile(
                    CHECKPOINT,
                    urls=(
                        "https://huggingface.co/genbio-ai/scFoundation/resolve/"
                        "cb434153a1acfacd215eefc956ea445f7cc39cc3/models.ckpt",
                    ),
                    bytes=1_432_587_886,
                    sha256="9f40bf324d3d0084c4b288d06f5af4fddd12206e2a3f022551d12e89e33a0ea9",
                    by_hand="the authors' own copy needs a browser session: models.ckpt in https://hopebio2020."
                    "sharepoint.com/:f:/s/PublicSharedfiles/EmUQnvZMETlDvoCaBduCNeIBQArcOrd8T8iEpiGofFZ9CQ?e=3SpPZU",
                ),
                WeightFile(
                    VOCABULARY,
                    urls=(
                        "https://raw.githubusercontent.com/biomap-research/scFoundation/"
                        f"d09626a5c1bc30b9c6227378677b61e0b987fe8b/{VOCABULARY}",
                    ),
                    bytes=228_232,
                    sha256="bb337ea195d94e7b033543abc02a42e7060d6562eba97deb077f7dcecec62661",
                ),
            ),
            width=3072,
            parameters=119_252_285,
            samples=50_000_000,
            terms="https://github.com/biomap-research/scFoundation/blob/main/MODEL_LICENSE: non-commercial research "
            "only, not transferable",
            note="The address is a third party's mirror; size and hash of models.ckpt are as several public "
            "repositories report them, not the authors'. A sample embedding uses 99,941,692 of the parameters.",
        ),
    ),
    redistribute=False,
    flop=flop,
    memory=memory,
)


def choose_target(
    cohort: CohortView, options: Mapping[str, Any], layer: str, genes: Alignment
) -> tuple[float | None, dict[str, Any]]:
    """Return the library size that samples are scaled to (None: the single-cell route), and what the store says.

    The median runs over the cohort's primary tumours (all samples where the table does not mark them) with counts.
    """
    given = options["target_sum"]
    number = type(given) in (int, float) and 0 < given < math.inf
    if given != "cohort_median" and not number:
        raise UserError(
            f"encoder scfoundation: option target_sum is {given!r}, expected cohort_median or a number above 0"
        )
    if options["route"] == "singlecell":
        if number:
            raise UserError("encoder scfoundation: route=singlecell scales to 10,000 counts; leave target_sum out")
        return None, {"target_sum": SINGLE_CELL_SUM, "target_sum_from": "route"}
    if number:
        return float(given), {"target_sum": float(given), "target_sum_from": "option"}
    sizes = library_sizes(cohort.read(layer), genes)
    kept = cohort.obs["for_probing"].to_numpy(bool) if "for_probing" in cohort.obs else np.ones(len(sizes), bool)
    sizes = sizes[kept & (sizes > 0)]
    if not len(sizes):
        raise UserError(
            "no primary tumour of the cohort has counts in genes that scfoundation knows, so there is no median "
            "library size; give --set target_sum=NUMBER"
        )
    target = float(np.median(sizes))
    return target, {"target_sum": target, "target_sum_from": "cohort_median", "target_sum_samples": len(sizes)}


class ScFoundation:
    """scFoundation as an encoder."""

    card = CARD

    def start(self, cohort: CohortView, options: Mapping[str, Any], weights: Weights | None = None) -> Samples:
        """Read the checkpoint, match the genes, and settle the library size that samples are scaled to."""
        chosen = resolve_options(CARD, options)
        weights = need_weights(CARD, weights)
        layer, device = input_layer(CARD, cohort, "counts"), weights.device
        symbols, names = read_vocabulary(weights.folder), gene_names(cohort.var, "symbol")
        genes = align(names, {symbol: place for place, symbol in enumerate(symbols)}, "first")
        require_coverage(CARD.name, genes, chosen["min_coverage"], "symbols", names)
        column = np.zeros(len(symbols), np.intp)
        column[genes.places] = genes.columns
        target, said = choose_target(cohort, chosen, layer, genes)
        network, config = load(weights.folder, chosen["key"], len(symbols))
        network.to(device)

        def read(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return tokenise(genes.gather(values, dtype=np.float64), target)

        def run(places: np.ndarray, found: np.ndarray) -> Tensor:
            hidden: Tensor = network(torch.from_numpy(places).to(device), torch.from_numpy(found).to(device))
            return hidden

        def encode(values: np.ndarray, sample: Sample) -> Tensor:
            return pool_states(run(*read(values)), chosen["pooling"])

        def states(values: np.ndarray, sample: Sample) -> tuple[np.ndarray, Tensor]:
            places, found = read(values)
            return column[places[:-2]], run(places, found)[:-2]  # without T and S

        def tokens(values: np.ndarray, sample: Sample) -> Tokens:
            places, found = read(values)
            return Tokens(column[places[:-2]], found[:-2])  # without T and S

        return Samples(
            width=config.width * (4 if chosen["pooling"] == "published" else 1),
            layer=layer,
            attributes={
                **genes.attributes(),
                **{key: chosen[key] for key in ("pooling", "route", "key")},
                **said,
                "input": "counts",
                "repeated_symbols": "first",
                "parameters_used": parameters_of(network),
                "probe_transform": {"kind": "none"},
            },
            encode=encode,
            tokens=tokens,
            device=device,
            precision=weights.precision,
            threads=weights.threads,
            known=genes.columns,
            states=states,
        )


ENCODER = ScFoundation()
