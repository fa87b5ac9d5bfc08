"""scBERT (Yang et al. 2022, Nature Machine Intelligence 4:852-866, doi 10.1038/s42256-022-00534-z).

Upstream: TencentAILabHealthcare/scBERT at 262fd4b; release `panglao_pretrain.pth`. Code and weights are under the
GPL-3.0; nothing here is derived from that code: it follows the published equations and the layout of the file.

Input: counts, matched by gene symbol to the 16,906 genes of the release, absent genes 0. Each gene becomes the bin
min(floor(log2(1 + 10,000 · count / total)), 5), the total being that of the matched genes; a token of bin 0 without a
gene stands at the end. All tokens, zeros included, pass through pre-norm Performer blocks.

Sample embedding: upstream publishes none (its classifiers are trained on all positions). Our fallback is the mean of
the final states over the genes that the input measures. Differences to upstream: the maximum that stabilises the keys
is taken over one sample, as upstream's one-sample calls do, not over a batch; samples with few genes are not dropped.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
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
from bulkprobe.foreign import refuse_endless_texts
from bulkprobe.nn.files import first_existing, one_line, read_torch, tensors_of
from bulkprobe.nn.performer import Performer
from bulkprobe.nn.pooling import pool
from bulkprobe.nn.rename import depth_of, load_strict, parameters_of, rename, stack, unfilled_table
from bulkprobe.nn.samples import Sample, Samples, Tokens
from bulkprobe.preprocess.vocabulary import Alignment, align, gene_names, require_coverage

TARGET_SUM = 10_000.0  # of a sample's matched genes; upstream's preprocess.py

CHECKPOINT = ("panglao_pretrain.pth", "*.pth")
GENES = ("panglao_10000.h5ad", "*.h5ad")

KEYS = {
    "token_emb.weight": "bins.weight",
    "pos_emb.emb.weight": "genes",
    "performer.net.layers.{}.0.norm.*": "blocks.{}.norm1.*",
    "performer.net.layers.{}.0.fn.fast_attention.projection_matrix": "blocks.{}.projection",
    "performer.net.layers.{}.0.fn.to_q.*": "blocks.{}.q.*",
    "performer.net.layers.{}.0.fn.to_k.*": "blocks.{}.k.*",
    "performer.net.layers.{}.0.fn.to_v.*": "blocks.{}.v.*",
    "performer.net.layers.{}.0.fn.to_out.*": "blocks.{}.out.*",
    "performer.net.layers.{}.1.norm.*": "blocks.{}.norm2.*",
    "performer.net.layers.{}.1.fn.fn.w1.*": "blocks.{}.up.*",
    "performer.net.layers.{}.1.fn.fn.w2.*": "blocks.{}.down.*",
    "norm.*": "norm.*",
}
IGNORED = {
    "performer.calls_since_last_redraw": "counts training steps until new random projections",
    "to_out.*": "the head that predicts masked bins; an embedding is the state that it reads",
}


@dataclass(frozen=True)
class Config:
    """Sizes, all read from the tensors' shapes; defaults are the release's."""

    genes: int = 16_906
    bins: int = 7  # 0 to 5, and the mask of pre-training
    width: int = 200
    depth: int = 6
    heads: int = 10
    head_width: int = 64  # heads · head_width is not the width
    features: int = 266  # whole(64 ln 64)
    hidden: int = 800

    @property
    def top_bin(self) -> int:
        """Largest bin of an expression value; the one after it is the mask."""
        return self.bins - 2

    @property
    def flop(self) -> float:
        """Operations a sample: products alone, whatever is expressed."""
        inner = self.heads * self.head_width
        dense = self.width * (4 * inner + 2 * self.hidden)
        return 2.0 * (self.genes + 1) * self.depth * (dense + 4 * inner * self.features)

    @property
    def memory(self) -> float:
        """Bytes of the tensors, and of one sample's states, queries, keys and values: 370 MB, as measured."""
        inner = self.heads * self.head_width
        block = self.width * (4 * inner + 2 * self.hidden) + self.features * self.head_width
        weights = 4.0 * self.depth * block + 8.0 * (self.genes + 1) * self.width
        return weights + 4.0 * (self.genes + 1) * (5 * inner + 8 * self.width)


def read_genes(folder: Path) -> list[str]:
    """Return the model's gene symbols in its order: the `var` index of the released .h5ad, of which no cell is read."""
    path = first_existing(folder, *GENES)
    try:
        with h5py.File(path, "r") as file:
            refuse_endless_texts(file)
            var = file["var"]  # one table in files of anndata before 0.7, since then a group of columns
            index = var.fields("index") if isinstance(var, h5py.Dataset) else var[var.attrs["_index"]]
            names = [name.decode() if isinstance(name, bytes) else str(name) for name in index[:]]
    except Exception as problem:  # noqa: BLE001 - damaged files can raise anything
        raise UserError(
            f"{path} is no .h5ad file with the model's genes: {one_line(problem)}; fetch it again"
        ) from None
    if len(set(names)) < len(names):
        twice = sorted(name for name, count in Counter(names).items() if count > 1)
        raise UserError(f"{path} names genes twice: {some(twice)}; the release has 16,906 symbols, each once")
    return names


def tokenise(values: np.ndarray, genes: Alignment, top_bin: int) -> np.ndarray:
    """Return the bins (genes of the model + 1,) int64 of a sample's counts (n_genes,); the last token is no gene's.

    Rounds to float32 where upstream's tools do, so that a value next to a bin's edge falls on the same side.
    """
    counts = genes.gather(values)
    total = np.float32(counts.sum(dtype=np.float64))
    if not total > 0:
        raise UserError("no gene that scBERT knows is expressed; check the sample with `bulkprobe check`")
    scaled = counts / (total / np.float32(TARGET_SUM))
    logged = (np.log1p(scaled) / np.log(2.0)).astype(np.float32)
    return np.append(np.minimum(logged, top_bin).astype(np.int64), 0)


class ScBert(nn.Module):
    """From one sample's bins to the states of its tokens."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.bins = unfilled_table(config.bins, config.width)
        self.genes = nn.Parameter(torch.empty(config.genes + 1, config.width, dtype=torch.float64))
        self.blocks = nn.ModuleList(
            Performer(
                config.width,
                config.heads,
                config.head_width,
                config.features,
                qkv_bias=False,
                key_max="sample",
                hidden=config.hidden,
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width)

    def forward(self, bins: Tensor, rows: Tensor) -> Tensor:
        """Return (len(rows), width), the final states of the tokens `rows`, from bins (tokens,)."""
        # Added in the gene vectors' own precision, float64 as released, and rounded once.
        x = (self.bins(bins).to(self.genes.dtype) + self.genes).float()  # (tokens, width)
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x)
        return self.norm(last(x, rows))  # type: ignore[no-any-return]


def read_model(folder: Path) -> tuple[ScBert, Config]:
    """Read the released checkpoint; sizes come from its tensors."""
    path = first_existing(folder, *CHECKPOINT)
    state = rename(tensors_of(read_torch(path), path, "model_state_dict"), KEYS, IGNORED, path)
    depth = depth_of(state, "blocks.{}", path)
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    try:
        (bins, width), (tokens, _) = shapes["bins.weight"], shapes["genes"]
        features, head_width = shapes["blocks.0.projection"]
        inner, hidden = shapes["blocks.0.q.weight"][0], shapes["blocks.0.up.weight"][0]
    except (KeyError, ValueError, IndexError) as problem:
        raise UserError(f"{path} does not fit the model: sizes cannot be read from it ({problem})") from None
    if bins < 3 or not head_width or inner % head_width:
        raise UserError(
            f"{path} does not fit the model: {bins} bins (at least 3), queries of {inner} that heads of {head_width} "
            "do not divide"
        )
    config = Config(tokens - 1, bins, width, depth, inner // head_width, head_width, features, hidden)
    stack(state, tuple(f"blocks.{{}}.{part}.weight" for part in "qkv"), "blocks.{}.qkv.weight")
    with torch.device("meta"):
        model = ScBert(config)
    load_strict(model, state, path)
    return model, config


def gene_vectors(folder: Path) -> tuple[list[str], np.ndarray]:
    """Return the model's symbols and their vectors (n, width) float32 at its input: gene2vec, in the release."""
    symbols, (model, config) = read_genes(folder), read_model(folder)
    _require_as_many(symbols, config)
    return symbols, model.genes[:-1].float().numpy()


def _require_as_many(symbols: list[str], config: Config) -> None:
    if len(symbols) != config.genes:
        raise UserError(
            f"the gene list has {len(symbols)} symbols and the checkpoint vectors for {config.genes}: they belong to "
            "different releases"
        )


RELEASE = Release(
    name="panglao",
    files=(
        WeightFile(
            "panglao_pretrain.pth",
            urls=(
                "https://drive.google.com/uc?export=download&id=1_Pgk_o8AtQtoXr_ZLQx0eJYoSWzjxC8f",
                "https://huggingface.co/btraven/scbert-panglao-pretrain/resolve/"
                "cbf8b4eb68bb3a17dce9aad7250b5d027fe1f2b6/panglao_pretrain.pth",
            ),
            bytes=87_631_538,
            sha256="aa27109136580b24a1b985f63d0ba31f22490d09e71b13d1793cbff38619dfe3",
            by_hand="the official copy needs a WeChat login: https://drive.weixin.qq.com/s?k=AJEAIQdfAAoUxhXE7r",
        ),
        WeightFile(
            "panglao_10000.h5ad",
            by_hand=(
                "take it from the authors' data, https://drive.google.com/file/d/1fNZbKx6LPeoS0hbVYJFI8jlDlNctZxlU, "
                "or instead panglao_10000_simplified.h5ad out of the wheel of scfoundry 0.2.1 on PyPI (sha256 "
                "45b4cea87864d3d5e61076da8722eb270381c35f30ceba282a58432ce285e447), the same gene list, and rename it"
            ),
        ),
    ),
    width=200,
    parameters=8_388_607,
    samples=1_100_000,
    note=(
        "upstream's LICENSE extends the GPL-3.0 to the weights, its README adds: research purpose; size and sha256 of "
        "the checkpoint are those of third parties' copies (upstream's issue 46), not confirmed by the authors; "
        "the symbols joined by line feeds have sha256 4c09ba1912e184682fe5e7f32e2b443bdfb7883d0d0191551b38c6c2f155600f"
    ),
)

CARD = Card(
    name="scbert",
    title="scBERT",
    kind="foundation",
    pooling="mean of the final states over the genes that the input measures",
    scales=(*COUNT_SCALES, "tpm"),
    pretraining="masked bins of about 1.1 million human single cells of PanglaoDB; no TCGA",
    saw_tcga=False,
    trained_on="single cells",
    priors="gene2vec as fixed gene vectors: co-expression in 984 data sets of GEO (Du et al. 2019, BMC Genomics 20:82)",
    circular={"coexpression": "its gene vectors are gene2vec, made of co-expression in 984 data sets of GEO"},
    reads="bin of log2(1 + counts per 10,000), 0 to 5",
    paper="Yang et al. 2022, Nature Machine Intelligence 4:852-866, doi 10.1038/s42256-022-00534-z",
    licence_code="GPL-3.0 (upstream; this implementation is independent)",
    licence_weights="GPL-3.0",
    gene_ids="symbol",
    defaults={"pooling": "published", "positions": "measured", "input": "counts", "min_coverage": 0.2},
    choices={
        "pooling": ("published", "mean", "max", "median", "last"),
        "positions": ("measured", "all", "expressed"),
        "input": ("counts", "tpm"),
    },
    upstream="TencentAILabHealthcare/scBERT@262fd4b91f3f1c21a6e595d03d4ef423e16ffc99",
    published=False,
    limits="all its 16,906 genes at once, zeros included; nothing is cut off",
    quirks=(
        "followed: genes below 100 per million of the matched genes share bin 0 with unexpressed and absent ones; in "
        "bulk that is most of them, and positions=expressed leaves them all out",
        "followed: symbols (NCBI's of January 2020) are matched as they stand; of two equal ones the first counts",
        "followed: a token without a gene closes the sequence and takes part in the attention; pooling=last is its "
        "state, which was not trained to stand for a sample",
        "not followed: the keys' maximum is one sample's, not that of all that share a batch with it, which moves "
        "upstream's own numbers by about 0.01",
        "not followed: samples with fewer than 200 expressed genes are embedded, not dropped",
    ),
    releases=(RELEASE,),
    redistribute=True,
    flop=lambda n_expressed: Config().flop,
    memory=lambda n_expressed: Config().memory,
)


@dataclass(frozen=True)
class _Reader:
    """What one sample goes through."""

    model: ScBert
    genes: Alignment
    top_bin: int
    how: str  # of pooling
    rows: np.ndarray | None  # tokens to pool over; None: those of bin 1 or more
    device: str

    def tokens(self, values: np.ndarray, sample: Sample) -> Tokens:
        bins = tokenise(values, self.genes, self.top_bin)
        return Tokens(self.genes.columns, bins[self.genes.places])

    def encode(self, values: np.ndarray, sample: Sample) -> Tensor:
        bins = tokenise(values, self.genes, self.top_bin)
        rows = np.flatnonzero(bins) if self.rows is None else self.rows
        if not len(rows):
            raise UserError(
                "no gene reaches bin 1, so positions=expressed has nothing to average: set positions=measured"
            )
        return pool(self.run(bins, rows), self.how)

    def states(self, values: np.ndarray, sample: Sample) -> tuple[np.ndarray, Tensor]:
        return self.genes.columns, self.run(tokenise(values, self.genes, self.top_bin), self.genes.places)

    def run(self, bins: np.ndarray, rows: np.ndarray) -> Tensor:
        hidden: Tensor = self.model(torch.from_numpy(bins).to(self.device), torch.from_numpy(rows).to(self.device))
        return hidden


class _Encoder:
    """scBERT as an encoder."""

    card = CARD

    def start(self, cohort: CohortView, options: Mapping[str, Any], weights: Weights | None = None) -> Samples:
        """Prepare for a cohort; the checkpoint folder holds `panglao_pretrain.pth` and `panglao_10000.h5ad`."""
        chosen = resolve_options(CARD, options)
        layer = input_layer(CARD, cohort, chosen["input"])
        weights = need_weights(CARD, weights)
        symbols, (model, config) = read_genes(weights.folder), read_model(weights.folder)
        _require_as_many(symbols, config)
        names = gene_names(cohort.var, "symbol")
        found = align(names, {symbol: place for place, symbol in enumerate(symbols)}, "first")
        require_coverage(CARD.name, found, chosen["min_coverage"], "gene symbols", names)
        how = "mean" if chosen["pooling"] == "published" else chosen["pooling"]
        rows = {
            "measured": np.flatnonzero(found.measured()),
            "all": np.arange(config.genes),
            "expressed": None,
        }[chosen["positions"]]
        if how == "last":
            rows = np.array([config.genes])
        reader = _Reader(model.to(weights.device), found, config.top_bin, how, rows, weights.device)
        attributes = {
            **found.attributes(),
            "values": "TPM" if chosen["input"] == "tpm" else "counts",
            "pooling": how,
            "positions": "the appended token" if how == "last" else chosen["positions"],
            "target_sum": TARGET_SUM,
            "top_bin": config.top_bin,
            "parameters_used": parameters_of(model),
            "vocabulary_sha256": hashlib.sha256("\n".join(symbols).encode()).hexdigest(),
            "probe_transform": {"kind": "none"},
        }
        return Samples(
            width=config.width,
            layer=layer,
            attributes=attributes,
            encode=reader.encode,
            tokens=reader.tokens,
            device=weights.device,
            precision=weights.precision,
            threads=weights.threads,
            known=found.columns,
            states=reader.states,
        )


ENCODER = _Encoder()
