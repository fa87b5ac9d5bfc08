"""Geneformer V1 and V2: a BERT encoder over a sample's genes, ranked by expression against a corpus median.

Papers: Theodoris et al. 2023, Nature 618:616, 10.1038/s41586-023-06139-9 (V1); Chen et al. 2024, bioRxiv,
10.1101/2024.08.16.608180 (V2). Numbers follow the mirror explorerwjy/Geneformer @ dff467c of the authors' repository.
Input: raw counts by Ensembl gene id; the whole sample's total scales them, the ranking does not depend on it.
Sample embedding (published): V1 the mean over gene tokens, V2 the `<cls>` token, both of the second-to-last layer.
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
)
from bulkprobe.errors import UserError, some
from bulkprobe.files import read_json
from bulkprobe.nn.files import first_existing, read_dictionary, read_safetensors, read_torch, tensors_of
from bulkprobe.nn.pooling import pool
from bulkprobe.nn.rename import load_strict, parameters_of, rename, stack, unfilled_table
from bulkprobe.nn.samples import Sample, Samples, Tokens
from bulkprobe.nn.transformer import PostNormBlock
from bulkprobe.preprocess.vocabulary import Alignment, align, gene_names, require_coverage

TARGET_SUM = 10_000.0  # a sample's counts are scaled to it (tokenizer.py); the ranking does not depend on it
LONGEST = {"V1": 2048, "V2": 4096}  # tokens of a sample, special ones among them (tokenizer.py)
PUBLISHED = {"V1": "mean", "V2": "cls"}  # emb_extractor.py: emb_mode "cell", "cls"


@dataclass(frozen=True)
class Config:
    """Sizes, from the release's config.json."""

    vocabulary: int
    positions: int
    width: int
    depth: int
    heads: int
    hidden: int
    eps: float


def read_config(folder: Path) -> tuple[Path, Config]:
    """Return the model's own folder in a checkpoint, and its sizes."""
    path = first_existing(folder, "config.json", "*/config.json")
    several = sorted(folder.glob("*/config.json"))
    if path.parent != folder and len(several) > 1:
        raise UserError(f"{folder} holds several models ({some(p.parent.name for p in several)}): leave one of them")
    try:
        stored = read_json(path)
        config = Config(
            vocabulary=int(stored["vocab_size"]),
            positions=int(stored["max_position_embeddings"]),
            width=int(stored["hidden_size"]),
            depth=int(stored["num_hidden_layers"]),
            heads=int(stored["num_attention_heads"]),
            hidden=int(stored["intermediate_size"]),
            eps=float(stored["layer_norm_eps"]),
        )
        kind = (stored["hidden_act"], stored.get("position_embedding_type", "absolute"))
    except (ValueError, TypeError, KeyError) as problem:
        raise UserError(f"{path} is not a Geneformer's config.json: {problem!r}; fetch it again") from None
    if kind != ("relu", "absolute"):
        raise UserError(f"{path} asks for {kind[0]} and {kind[1]} positions: every Geneformer has relu and absolute")
    if config.heads < 1 or config.width % config.heads:
        raise UserError(f"{path}: hidden_size {config.width} is no multiple of num_attention_heads {config.heads}")
    return path.parent, config


@dataclass(frozen=True)
class Vocabulary:
    """genes, tokens, medians: one entry a gene of the model. places: every known id in upper case → gene.

    special: `<cls>` and `<eos>`, which V2 puts around the genes; empty for V1.
    """

    genes: list[str]
    tokens: np.ndarray
    medians: np.ndarray
    places: dict[str, int]
    special: tuple[int, ...]

    @property
    def version(self) -> str:
        """V1 or V2."""
        return "V2" if self.special else "V1"


def read_vocabulary(folder: Path, size: int) -> Vocabulary:
    """Read the dictionaries that belong to a model of `size` tokens; those of another generation are not taken."""
    found = {p: read_dictionary(p, int, np.integer) for p in sorted(folder.rglob("token_dictionary*.pkl"))}
    fitting = [p for p, token_of in found.items() if len(token_of) == size]
    if len(fitting) != 1:
        held = some(f"{p.relative_to(folder)} ({len(token_of)})" for p, token_of in found.items()) or "none"
        raise UserError(
            f"{folder} must hold one token dictionary with the model's {size} entries, it holds {held}: dictionaries "
            "and weights of different generations do not go together"
        )
    path = fitting[0]
    generation = path.name.removeprefix("token_dictionary")
    token_of = found[path]
    if sorted(map(int, token_of.values())) != list(range(size)):
        raise UserError(f"{path}: tokens are not the numbers 0 to {size - 1}; fetch it again")
    genes = [name for name in token_of if not name.startswith("<")]
    special = tuple(int(token_of[name]) for name in ("<cls>", "<eos>") if name in token_of)
    medians = path.with_name(f"gene_median_dictionary{generation}")
    median_of = read_dictionary(medians, int, float, np.number)
    without = [name for name in genes if not float(median_of.get(name, 0)) > 0]
    if without or len(special) == 1:
        lacks = f"no median of {some(without)}" if without else "only one of <cls> and <eos>"
        raise UserError(f"{path.parent} has {lacks}; fetch the dictionaries again")
    place_of = {name: place for place, name in enumerate(genes)}
    mapping = path.with_name(f"ensembl_mapping_dict{generation}")
    # The first release (no generation in its file names) had no mapping; upstream then takes ids as they are.
    unmapped = generation == ".pkl" and not mapping.exists()
    gene_of = {name: name for name in genes} if unmapped else read_dictionary(mapping, str)
    return Vocabulary(
        genes,
        np.array([int(token_of[name]) for name in genes], dtype=np.int64),
        np.array([float(median_of[name]) for name in genes], dtype=np.float64),
        {str(known): place_of[gene] for known, gene in gene_of.items() if gene in place_of},
        special,
    )


@dataclass(frozen=True)
class Tokeniser:
    """From a sample's values to its ranked tokens.

    Columns that stand for the same gene are summed, and such a gene comes after the others where ranks tie; else ties
    keep the input's order. aligned: which column is which gene; slot: (n_matched,) where its sum goes.
    """

    aligned: Alignment
    slot: np.ndarray
    first: np.ndarray  # (n_slots,) first input column of each
    tokens: np.ndarray  # (n_slots,)
    medians: np.ndarray  # (n_slots,)
    special: tuple[int, ...]
    longest: int

    @classmethod
    def of(cls, vocabulary: Vocabulary, aligned: Alignment, positions: int) -> Tokeniser:
        """Prepare for a cohort's genes."""
        seen, first, slot, times = np.unique(aligned.places, return_index=True, return_inverse=True, return_counts=True)
        order = np.lexsort((first, times > 1))
        return cls(
            aligned,
            np.argsort(order)[slot],
            aligned.columns[first[order]],
            vocabulary.tokens[seen[order]],
            vocabulary.medians[seen[order]],
            vocabulary.special,
            min(LONGEST[vocabulary.version], positions) - len(vocabulary.special),
        )

    def rank(self, values: np.ndarray) -> tuple[np.ndarray, Tokens]:
        """Return token ids (n_tokens,), special ones included, and the genes behind them with their scaled values."""
        counts = np.bincount(self.slot, values[self.aligned.columns], len(self.tokens)).astype(values.dtype)
        total = values.sum(dtype=np.float64)  # of all genes, known or not
        if not total > 0 or not (counts > 0).any():
            raise UserError("none of the genes that Geneformer knows is expressed, so there is nothing to rank")
        # float64 throughout: neighbours in the ranking differ by as little as 1e-8. The order of the operations is that
        # of upstream's dense and loom input; its sparse input multiplies by reciprocals, which may change the last bit.
        scaled = counts / total * TARGET_SUM / self.medians
        expressed = np.flatnonzero(scaled > 0)
        ranked = expressed[np.argsort(-scaled[expressed], kind="stable")][: self.longest]
        ids = np.concatenate([self.special[:1], self.tokens[ranked], self.special[1:]]).astype(np.int64)
        return ids, Tokens(self.first[ranked], scaled[ranked])


class Geneformer(nn.Module):
    """The encoder; the language-model head is left out."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.word = unfilled_table(config.vocabulary, config.width)
        self.position = unfilled_table(config.positions, config.width)
        self.segment = unfilled_table(2, config.width)  # BERT's sentence A or B; always A
        self.norm = nn.LayerNorm(config.width, eps=config.eps)
        block = (config.width, config.heads, config.hidden, config.eps)
        self.blocks = nn.ModuleList(PostNormBlock(*block) for _ in range(config.depth))

    def forward(self, ids: Tensor, depth: int, rows: int | None = None) -> Tensor:
        """Return the tokens' states after `depth` blocks, (n, width) from (n,); with `rows` only the first so many."""
        position = self.position.weight[: len(ids)]
        hidden: Tensor = self.norm(self.word(ids) + self.segment.weight[0] + position)  # (n, width)
        for block in self.blocks[: max(0, depth - 1)]:
            hidden = block(hidden)
        return self.blocks[depth - 1](hidden, rows) if depth else hidden[:rows]


LAYER = "bert.encoder.layer.{}"
KEYS = {
    "bert.embeddings.word_embeddings.weight": "word.weight",
    "bert.embeddings.position_embeddings.weight": "position.weight",
    "bert.embeddings.token_type_embeddings.weight": "segment.weight",
    "bert.embeddings.LayerNorm.*": "norm.*",
    f"{LAYER}.attention.self.query.*": "blocks.{}.query.*",
    f"{LAYER}.attention.self.key.*": "blocks.{}.key.*",
    f"{LAYER}.attention.self.value.*": "blocks.{}.value.*",
    f"{LAYER}.attention.output.dense.*": "blocks.{}.out.*",
    f"{LAYER}.attention.output.LayerNorm.*": "blocks.{}.norm1.*",
    f"{LAYER}.intermediate.dense.*": "blocks.{}.up.*",
    f"{LAYER}.output.dense.*": "blocks.{}.down.*",
    f"{LAYER}.output.LayerNorm.*": "blocks.{}.norm2.*",
}
IGNORED = {
    "bert.embeddings.position_ids": "the numbers 0, 1, 2, … (V1)",
    "cls.predictions.*": "head of the pre-training task",
}


def read_tensors(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """Return the weights' file in the model's own folder, and its tensors under their released names."""
    path = first_existing(folder, "model.safetensors", "pytorch_model.bin")
    return path, read_safetensors(path) if path.suffix == ".safetensors" else tensors_of(read_torch(path), path)


def load(folder: Path) -> tuple[Config, Vocabulary, Geneformer]:
    """Read a checkpoint."""
    home, config = read_config(folder)
    vocabulary = read_vocabulary(folder, config.vocabulary)
    path, released = read_tensors(home)
    state = rename(released, KEYS, IGNORED, path)
    for kind in ("weight", "bias"):
        parts = tuple(f"blocks.{{}}.{part}.{kind}" for part in ("query", "key", "value"))
        stack(state, parts, f"blocks.{{}}.qkv.{kind}")
    with torch.device("meta"):
        model = Geneformer(config)
    load_strict(model, state, path)
    return config, vocabulary, model


def gene_vectors(folder: Path) -> tuple[list[str], np.ndarray]:
    """Return the genes' Ensembl ids and their input embeddings (n_genes, width)."""
    _, vocabulary, model = load(folder)
    return vocabulary.genes, model.word.weight.numpy()[vocabulary.tokens]


HUB = "https://huggingface.co/ctheodoris/Geneformer/resolve"
REVISIONS = ("05fcbeb8a27d49e0a7a4349152202ee2c1cbfd28", "main")  # February 2026; whatever is newest, if equal
# name, bytes, sha256
V1_DICTIONARIES = (
    ("token_dictionary", 788_424, "ab9dc40973fa5224d77b793e2fd114cacf3d08423ed9c4c49caf0ba9c7f218f1"),
    ("gene_median_dictionary", 940_965, "b3b589bb5ec75040d05fc44dd6bf0184cf87f3c362cf158d196a6ed3b7fe5f39"),
    ("ensembl_mapping_dict", 584_125, "eac0fb0b3007267871b6305ac0003ceba19d4f28d85686cb9067ecf142787869"),
)
V2_DICTIONARIES = (
    ("token_dictionary", 425_590, "67c445f4385127adfc48dcc072320cd65d6822829bf27dd38070e6e787bc597f"),
    ("gene_median_dictionary", 1_512_661, "a51c53f6a771d64508dfaf61529df70e394c53bd20856926117ae5d641a24bf5"),
    ("ensembl_mapping_dict", 3_957_652, "0819bcbd869cfa14279449b037eb9ed1d09a91310e77bd1a19d927465030e95c"),
)


def _file(path: str, size: int, sha256: str) -> WeightFile:
    return WeightFile(path, tuple(f"{HUB}/{revision}/{path}" for revision in REVISIONS), size, sha256)


def _release(
    name: str,
    width: int,
    parameters: int,
    cells: int,
    config: tuple[int, str],
    tensors: tuple[int, str],
    note: str = "",
) -> Release:
    home, v1 = f"Geneformer-{name}", name.startswith("V1")
    stem = "geneformer/gene_dictionaries_30m/{}_gc30M.pkl" if v1 else "geneformer/{}_gc104M.pkl"
    facts = V1_DICTIONARIES if v1 else V2_DICTIONARIES
    dictionaries = (_file(stem.format(kind), size, sha256) for kind, size, sha256 in facts)
    weights = (_file(f"{home}/config.json", *config), _file(f"{home}/model.safetensors", *tensors))
    return Release(name, (*weights, *dictionaries), width, parameters, note=note, samples=cells)


RELEASES = (
    _release(
        "V2-104M",
        768,
        104_386_867,
        104_000_000,
        (590, "467d4492f0dd53b4d60afffe20812db484ca1cf9fdbeb6a6e060e93564f70859"),
        (417_571_156, "fff5cba29ddd8792991fa77b4872246fbe548a178cebda3775cdc72b67780e7f"),
    ),
    _release(
        "V2-104M_CLcancer",
        768,
        104_386_867,
        118_000_000,
        (762, "b3e1f3e71b1df7238f0f1d6dda258d560ea84e5e9698351a1588cfad06321e18"),
        (417_571_156, "827738139bfed4bafa9d1f3df7c6146da2e3b85f7225076adc32c6eda0ba4357"),
        "V2-104M, trained on with about 14 million cells of cancer studies",
    ),
    _release(
        "V2-316M",
        1152,
        316_354_867,
        104_000_000,
        (591, "2cc4af3442644e84af71814a607b61c958d7b4e5ebde6791ab77b5f534ac6f6e"),
        (1_265_455_076, "965ceccea81953d362081ef3843560a0e4fef88d396c28017881f1e94b1246f3"),
        "what the authors' code takes by default",
    ),
    _release(
        "V1-10M",
        256,
        10_288_722,
        30_000_000,
        (565, "9cf69ca3bdb0215c4188b54c451b6f02adfe68b8f66011a57d0f32845133fd4b"),
        (41_183_536, "a5e33a757431643b3697de7ef6127950cdc49e06e58d4266b3a3ab191b683f14"),
        "the model of the Nature paper",
    ),
)


def _tokens_of(n_expressed: int) -> int:
    return min(n_expressed + 2, LONGEST["V2"])


def _flop(n_expressed: int) -> float:
    """V2-104M's ten blocks, and keys and values of the eleventh, whose `<cls>` alone is wanted."""
    n, width, hidden = _tokens_of(n_expressed), 768, 3072
    return 10.0 * n * (8 * width**2 + 4 * width * hidden + 4 * n * width) + 4.0 * n * (width**2 + width)


def _memory(n_expressed: int) -> float:
    """The feed-forward part of a V2-104M block, before and after ReLU, with its input and the block's."""
    return 4.0 * _tokens_of(n_expressed) * 2 * (768 + 3072)


CARD = Card(
    name="geneformer",
    title="Geneformer",
    kind="foundation",
    pooling="published: V1 the mean over gene tokens, V2 the <cls> token, of the second-to-last layer; mean, max and "
    "median run over the gene tokens, all of them expressed",
    scales=(*COUNT_SCALES, "tpm"),
    pretraining="single cells only: V1 about 30 million without malignant cells and cell lines, V2 about 104 million "
    "that are no cancer, V2-104M_CLcancer 14 million cells of cancer studies more; no bulk sample, so no TCGA",
    trained_on="single cells",
    priors="none",
    reads="counts per 10,000 over the gene's median in the corpus, by which genes are ranked",
    paper="Theodoris et al. 2023, Nature 618:616, 10.1038/s41586-023-06139-9; "
    "V2: Chen et al. 2024, bioRxiv, 10.1101/2024.08.16.608180",
    licence_code="Apache-2.0",
    licence_weights="Apache-2.0",
    gene_ids="Ensembl gene id (V2's mapping also knows retired ids)",
    defaults={"pooling": "published", "layer": -1, "input": "counts", "min_coverage": 0.2},
    choices={"pooling": ("published", "mean", "max", "median", "cls"), "input": ("counts", "tpm")},
    upstream="explorerwjy/Geneformer@dff467cb1535ec4a9bae4cfbd2502a877863382f, mirror of hf:ctheodoris/Geneformer",
    limits="the 4,094 (V2) or 2,048 (V1) genes that are highest against their corpus median; the rest is cut off",
    quirks=(
        "Ties in the ranking: upstream's sort is unstable and differs between processors; here they keep the input's "
        "order, genes summed from several columns last (followed as far as upstream is defined).",
        "The same id given twice: upstream makes two tokens of it unless other ids need merging; here its counts are "
        "always summed, as upstream does with aliases (not followed).",
        "A sample without a known gene is dropped silently upstream; here it is an error (not followed).",
        "Rows come back sorted by length upstream, here in the input's order (not followed).",
        "Ids are compared without their version, which upstream does not know (not followed).",
    ),
    releases=RELEASES,
    flop=_flop,
    memory=_memory,
)


class GeneformerEncoder:
    """Geneformer as an encoder of bulk samples."""

    card = CARD

    def start(self, cohort: CohortView, options: Mapping[str, Any], weights: Weights | None = None) -> Samples:
        """Prepare for a cohort; sizes and version (V1, V2) are the checkpoint's."""
        weights = need_weights(CARD, weights)
        chosen = resolve_options(CARD, options)
        layer = input_layer(CARD, cohort, chosen["input"])
        config, vocabulary, model = load(weights.folder)
        pooling = PUBLISHED[vocabulary.version] if chosen["pooling"] == "published" else chosen["pooling"]
        if pooling == "cls" and not vocabulary.special:
            raise UserError("encoder geneformer: pooling=cls needs a <cls> token, which V1 does not have; choose mean")
        back = chosen["layer"]
        if isinstance(back, bool) or not isinstance(back, int) or not -config.depth <= back <= 0:
            raise UserError(
                f"encoder geneformer: option layer is {back!r}, expected a whole number from {-config.depth} (the "
                "embedded tokens) to 0 (the last layer); -1 is the published one"
            )
        names = [name.upper() for name in gene_names(cohort.var, "ensembl")]
        aligned = align(names, vocabulary.places, "all")
        require_coverage("geneformer", aligned, chosen["min_coverage"], CARD.gene_ids, names)
        tokeniser = Tokeniser.of(vocabulary, aligned, config.positions)
        model = model.to(weights.device)
        depth = config.depth + back

        def run(ids: np.ndarray, only_cls: bool = False) -> Tensor:
            hidden: Tensor = model(torch.from_numpy(ids).to(weights.device), depth, 1 if only_cls else None)
            return hidden[1:-1] if vocabulary.special and not only_cls else hidden

        def encode(values: np.ndarray, sample: Sample) -> Tensor:
            return pool(run(tokeniser.rank(values)[0], pooling == "cls"), pooling)

        def states(values: np.ndarray, sample: Sample) -> tuple[np.ndarray, Tensor]:
            ids, tokens = tokeniser.rank(values)
            return tokens.columns, run(ids)

        return Samples(
            config.width,
            layer,
            {
                **aligned.attributes(),
                "version": vocabulary.version,
                "pooling": pooling,
                "layer": back,
                "input": chosen["input"],
                "target_sum": TARGET_SUM,
                "max_genes": tokeniser.longest,
                "parameters_used": parameters_of(model) - sum(map(parameters_of, model.blocks[depth:])),
                "probe_transform": {"kind": "none"},
            },
            encode,
            lambda values, sample: tokeniser.rank(values)[1],
            weights.device,
            weights.precision,
            weights.threads,
            known=aligned.columns,
            states=states,
        )


ENCODER = GeneformerEncoder()
