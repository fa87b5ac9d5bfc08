"""BulkFormer: graph convolution and Performers over all protein-coding genes, pre-trained on bulk RNA-seq.

Paper: Kang, Fan, Yi, Cui, Cui, "BulkFormer: A large-scale foundation model for bulk transcriptomes", Cell Systems
2026, 10.1016/j.cels.2026.101657. Followed: KangBoming/BulkFormer @ 5bcf5b99e799cd55f41e4d6fe8200b2cdf3d9589 (`utils/`,
`bulkformer_extract_feature.ipynb`). Code: MIT; weights: no terms stated. Input: Ensembl gene ids; raw counts, made to
TPM with the release's own gene lengths, or TPM; the network reads ln(1 + TPM) of every gene of its vocabulary.

The vector of a sample is the mean of the states of the genes that the input measures, and three numbers of the sample
(share of absent genes, mean expression, share of non-zero genes). For the original models no pooling is settled by a
publication; the authors' benchmark record of October 2026 uses this mean, and for bulkformer-latest (another network:
`nn/bulkformer_latest.py`), without the three numbers, it is official. Which of the two a folder holds is read from it.

Deviations: see `quirks` on the card.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
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
from bulkprobe.errors import UserError
from bulkprobe.nn.bulkformer_latest import LatestNetwork, read_latest
from bulkprobe.nn.files import existing, first_existing, one_line, read_torch, tensors_of
from bulkprobe.nn.gene_graph import normalised, read_edges, spread
from bulkprobe.nn.performer import Performer, parts
from bulkprobe.nn.performer_pytorch import COUNTER, join_queries_keys_values, layer_keys, without_doubles
from bulkprobe.nn.pooling import pool
from bulkprobe.nn.rename import depth_of, load_strict, parameters_of, rename
from bulkprobe.nn.samples import Sample, Samples, Tokens, one_thread
from bulkprobe.nn.waves import ABSENT, polynomials, wave_coefficients
from bulkprobe.preprocess.normalise import MILLION
from bulkprobe.preprocess.vocabulary import Alignment, align, gene_names, require_coverage

FIRST = "blocks.0.performers.0"  # whose tensors tell the sizes
UNKNOWN_LENGTH = 1000.0  # bp, of a gene that gene_length_df.csv does not list: upstream's notebook
FASTEST = 100.0  # wave of expression; the releases' fastest is 1, and their number of polynomials grows with it
ROUNDING = 1.001  # by how much rounding may lift a TPM over a million
# Released name → ours.
KEYS = {
    "gene_emb_onehot_layer.weight": "genes",
    "gene_emb_proj.*": "gene_mlp.*",
    "expr_emb.inv_freq": "frequencies",
    "global_expr_proj.*": "sample_mlp.*",
    "x_proj.0.*": "token_in.*",
    "x_proj.2.*": "token_out.*",
    "gb_formers.{}.layernorm.*": "blocks.{}.norm.*",
    "gb_formers.{}.g.lin.weight": "blocks.{}.graph.weight",
    "gb_formers.{}.g.bias": "blocks.{}.graph_bias",
    **layer_keys("gb_formers.{}.f.{}.net.layers.0", "blocks.{}.performers.{}"),
    "layernorm.*": "norm_out.*",
}
IGNORED = {
    "head.*": "predicts expression; not part of an embedding",
    "gb_formers.{}.f.{}.proj_updater.calls_since_last_redraw": COUNTER,
}


class Block(nn.Module):
    """Norm, messages between neighbours in the gene graph, then Performers over all genes."""

    def __init__(self, width: int, depth: int, heads: int, head_width: int, features: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.graph = nn.Linear(width, width, bias=False)
        self.graph_bias = nn.Parameter(torch.empty(width))
        self.performers = nn.ModuleList(
            Performer(width, heads, head_width, features, qkv_bias=True, key_max="head") for _ in range(depth)
        )

    def forward(self, h: Tensor, adjacency: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return (n_genes, width), or only `rows`, from (n_genes, width) along `adjacency` (n_genes, n_genes)."""
        h = self.norm(h)
        h += spread(adjacency, self.graph(h)) + self.graph_bias
        for layer in self.performers[:-1]:
            h = layer(h)
        return self.performers[-1](h, rows)  # type: ignore[no-any-return]


class Network(nn.Module):
    """The original BulkFormer: from ln(1 + TPM) of all genes to the state of each gene."""

    def __init__(self, n_genes: int, width: int, blocks: int, **block: int) -> None:
        super().__init__()
        self.genes = nn.Parameter(torch.empty(n_genes, width))
        self.frequencies = nn.Parameter(torch.empty(width // 2))
        self.gene_mlp = mlp(width, width)
        self.sample_mlp = mlp(n_genes, width)
        self.token_in = nn.Linear(width, 4 * width)
        self.token_out = nn.Linear(4 * width, width)
        self.blocks = nn.ModuleList(Block(width, **block) for _ in range(blocks))
        self.norm_out = nn.LayerNorm(width)

    gene_tokens: Tensor  # (n_genes, width)
    gene_hidden: Tensor  # what they add to the hidden layer of a token, with its bias: (n_genes, 4 · width)
    wave_hidden: Tensor  # what each polynomial of expression adds: (degree + 1, 4 · width)
    adjacency: Tensor

    @one_thread()
    def prepare(self, adjacency: Tensor, device: str) -> None:
        """Compute what no sample changes."""
        self.to(device)
        self.gene_tokens = torch.cat([self.gene_mlp(part) for part in parts(self.genes)])
        self.gene_hidden = torch.empty(len(self.genes), self.token_in.out_features, device=device)
        for part, tokens in zip(parts(self.gene_hidden), parts(self.gene_tokens), strict=True):
            part.copy_(self.token_in(tokens))
        coefficients = wave_coefficients(self.frequencies).to(device)
        self.wave_hidden = (coefficients @ self.token_in.weight.T.double()).float()
        self.adjacency = adjacency.to(device)

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the states (n_genes, width) of all genes or (n_rows, width) of those in `rows`, from x (n_genes,)."""
        context = self.sample_mlp(x)  # (width,); absent genes enter as -10
        sample_hidden = torch.mv(self.token_in.weight, context.float())
        waved = polynomials(x, len(self.wave_hidden) - 1)
        h = torch.empty_like(self.gene_tokens)  # (gene, width)
        for part, powers, genes in zip(parts(h), parts(waved), parts(self.gene_hidden), strict=True):
            # token_out(relu(token_in(waves(x) + gene_tokens + context))): the inner layer is linear in the three
            hidden = torch.addmm(genes + sample_hidden, powers, self.wave_hidden)
            part.copy_(self.token_out(hidden.relu_()))
        for block in self.blocks[:-1]:
            h = block(h, self.adjacency)
        return self.norm_out(self.blocks[-1](h, self.adjacency, rows))  # type: ignore[no-any-return]


def mlp(width_in: int, width: int) -> nn.Sequential:
    """The release's two-layer perceptron."""
    return nn.Sequential(nn.Linear(width_in, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))


@dataclass(frozen=True)
class Checkpoint:
    """A read folder of either family. lengths: bp by Ensembl id."""

    names: list[str]
    lengths: Mapping[str, float]
    network: Network | LatestNetwork

    @property
    def latest(self) -> bool:
        """Whether this is bulkformer-latest."""
        return isinstance(self.network, LatestNetwork)

    @property
    def width(self) -> int:
        """Width of a sample's vector."""
        return self.network.genes.shape[1] + (0 if self.latest else 3)

    def per_kilobase(self, var_names: list[str]) -> np.ndarray:
        """Return 1 / length in kb of each input gene; 0 for those that do not count towards a million."""
        unlisted = np.inf if self.latest else UNKNOWN_LENGTH  # latest lists its vocabulary, and counts nothing else
        lengths = [self.lengths.get(name, unlisted) for name in var_names]
        return 1000.0 / np.array(lengths, dtype=np.float64)


def read_checkpoint(folder: Path, device: str = "cpu") -> Checkpoint:
    """Read a checkpoint folder in the released layout; sizes come from the tensors."""
    configs = [path for place in ("", "*/", "*/*/") for path in sorted(folder.glob(f"{place}model_config.json"))]
    if configs:
        found = read_latest(configs[0].parent, device)
        return Checkpoint(found.names, found.lengths, found.network)
    data = folder / "data" if (folder / "data").is_dir() else folder
    path = first_existing(folder, "model/[Bb]ulk[Ff]ormer*.pt", "[Bb]ulk[Ff]ormer*.pt")
    network = _network(path)
    n_genes = len(network.genes)
    (targets, sources), weights = read_edges(data / "G_tcga.pt", data / "G_tcga_weight.pt", n_genes)
    network.prepare(normalised(targets, sources, weights, n_genes), device)
    table = _table(data / "bulkformer_gene_info.csv", "ensg_id")
    names = [name for name in table.ensg_id.astype(str) if name.startswith("ENSG")]  # one old copy has a stray row
    if len(names) != n_genes or len(set(names)) != n_genes:
        raise UserError(
            f"{data / 'bulkformer_gene_info.csv'} lists {len(set(names))} different genes in {len(names)} rows, "
            f"{path.name} has {n_genes}: they are of different releases"
        )
    lengths = _table(data / "gene_length_df.csv", "ensg_id", "length")
    return Checkpoint(names, dict(zip(lengths.ensg_id, lengths.length, strict=True)), network)


def _network(path: Path) -> Network:
    state = tensors_of(read_torch(path), path)
    state = {name.removeprefix("module."): value for name, value in state.items()}  # saved by data-parallel training
    state = rename(without_doubles(state, path), KEYS, IGNORED, path)
    blocks = depth_of(state, "blocks.{}", path)
    depth = depth_of(state, "blocks.0.performers.{}", path)
    for number in range(blocks):
        join_queries_keys_values(state, f"blocks.{number}.performers.{{}}")
    for name in ("genes", f"{FIRST}.projection", f"{FIRST}.out.weight"):
        if name not in state:
            raise UserError(f"{path} lacks the tensor that becomes {name}: it is not laid out as released")
    n_genes, width = state["genes"].shape
    features, head_width = state[f"{FIRST}.projection"].shape
    inner = state[f"{FIRST}.out.weight"].shape[-1]
    if inner % head_width:
        raise UserError(f"{path}: heads of width {head_width} do not divide the attention's width {inner}")
    sizes = {"depth": depth, "heads": inner // head_width, "head_width": head_width, "features": features}
    with torch.device("meta"):
        network = Network(n_genes, width, blocks, **sizes)
    load_strict(network, {name: value.float() for name, value in state.items()}, path)
    if not bool((network.frequencies.abs() <= FASTEST).all()):
        raise UserError(f"{path}: expr_emb.inv_freq has values beyond {FASTEST:g}, where a release has 1 at most")
    return network


def _table(path: Path, *columns: str) -> pd.DataFrame:
    try:
        return pd.read_csv(existing(path), usecols=list(columns), dtype={"length": float})
    except ValueError as problem:
        raise UserError(f"{path} has no columns {', '.join(columns)} as released: {one_line(problem)}") from None


def log_tpm(values: np.ndarray, found: Alignment, per_kilobase: np.ndarray | None) -> np.ndarray:
    """Return ln(1 + TPM) in vocabulary order (n_vocabulary,) float32, ABSENT where the input measures none.

    values: (n_genes,) counts, or TPM where `per_kilobase` is None. Rows of the same gene add up. A sample without any
    expressed gene of the vocabulary is a UserError.
    """
    tpm = values.astype(np.float64)
    if per_kilobase is not None:
        tpm *= per_kilobase
        total = tpm.sum()
        tpm *= MILLION / total if total > 0 else 0.0
    if (tpm > ROUNDING * MILLION).any():
        raise UserError(
            f"it has {tpm.max():g} TPM of a gene, where a million is the most there can be; check the table"
        )
    known = np.bincount(found.places, weights=tpm[found.columns], minlength=found.n_vocabulary)
    if not known.any():
        raise UserError("none of the genes that bulkformer knows is expressed; leave the sample out")
    return np.where(found.measured(), np.log1p(known), ABSENT).astype(np.float32)


def summary(x: np.ndarray) -> np.ndarray:
    """Return the three numbers of a sample: share of absent genes, mean over the others, share of x ≠ 0.

    As upstream has it, an absent gene (-10) counts as non-zero.
    """
    measured = x != ABSENT
    mean = x[measured].sum(dtype=np.float64) / measured.sum()
    return np.array([1.0 - measured.mean(), mean, np.count_nonzero(x) / len(x)], dtype=np.float32)


def gene_vectors(folder: Path) -> tuple[list[str], np.ndarray]:
    """Return the vocabulary's Ensembl ids and the vector that enters each gene's token whatever its expression."""
    found = read_checkpoint(folder)
    return found.names, found.network.gene_tokens.numpy().copy()


COMMIT = "5bcf5b99e799cd55f41e4d6fe8200b2cdf3d9589"
# Name, width, parameters, Google Drive id and, where somebody established it, sha256 of the checkpoint.
ORIGINALS = """
147M 640 132143047 1UtqN_vCh3669Fs-GU5CTE7F7UnuQCAzN 07b69eed9b74154bf6f98a5632f0b8b685124e90bea32b795f73d9e23d9e9f3f
127M 640 112448967 1-5AdgIpkm8dOm9tuwOXcqS1sUyGN6vHg
93M  512 75921159  1s_3XoMaHiBfxi5C8D3bgwwzNrihafaIk
50M  256 28641159  12ZYGYrZIQJyodaVicrJpnY_8_JG-hamK
37M  128 13368647  1qY2qaXfKfDot9EMcOF9gr8T0jghrH7km
"""
# Name, bytes, Google Drive id, sha256: the authors' own list.
LATEST = """
model.pt          406165934 1ly4CNE6XHqHKSP1a5c0UGUeaSVC0Was1 0fb65ec123386ef753651cfcc43e2a64728c719307fe565a5ffe16f5d8cf3cfa
model_config.json 1079      1Fm-rEBC3jwJWe-OKlnM9y5G-jHmm1jY0 7942ecd57865791515ae8d3d3c285ed5c96c3856456c89ea8c2202231bb2dfff
gene_vocab.csv    704213    1iOweEpX-Ub5pIfhBVvwvpQcQwhVkOv02 447fcecce510e1bb81e1eebf2bcfbbfefbc21e626395b003034ff70159303e40
edge_index.pt     10739627  1-l-IILGstdAnK96lo6fd4IWK1xpvBa3w ce2eabbeb9b6f053eeae2cc994b2f6e0e03c46590b86b733f6035b346012ca1f
edge_weight.pt    2685808   1e15aL7AX2P-QFwZmryuC1kOYvt_PwFaT 182f34418d07e7f6e4d487068b5e466d4410baa06e28973ca667db3b5a76e61d
manifest.json     1623      1nk-Db3Xzfcbgs8Cv2AnzX-ST-H6L_o32 37d00cd00e3a544fcd4b21e57d974196305765741bfcb9f3f527a38a85bb4b0b
"""  # noqa: E501 - a hash is as long as it is


def _drive(identifier: str) -> tuple[str, ...]:
    return (f"https://drive.google.com/uc?export=download&id={identifier}",)


def _zenodo(name: str, md5: str | None = None) -> WeightFile:
    return WeightFile(f"data/{name}", (f"https://zenodo.org/records/15744294/files/{name}?download=1",), md5=md5)


SHARED_FILES = (
    _zenodo("bulkformer_gene_info.csv"),
    _zenodo("G_tcga.pt", md5="1c4d43a92514a4c5c974006d892a4ef2"),
    _zenodo("G_tcga_weight.pt", md5="eebb7f5a75d0049e00fa4d86185a2b52"),
    WeightFile(
        "data/gene_length_df.csv",
        (f"https://raw.githubusercontent.com/KangBoming/BulkFormer/{COMMIT}/data/gene_length_df.csv",),
        1_619_547,
        "40d74e065b9cbd3e427eef62729737f0dc29ef5ab273af5479bd806c175673bf",
    ),
)


def _original(name: str, width: str, parameters: str, identifier: str, sha256: str | None = None) -> Release:
    checkpoint = WeightFile(f"model/BulkFormer_{name}.pt", _drive(identifier), sha256=sha256)
    note = "md5 of the graph: reported by third parties; the release's ESM2 table plays no part here and is not fetched"
    if sha256:
        note += "; sha256 of the checkpoint: from the authors' benchmark record, not from the download page"
    files = (checkpoint, *SHARED_FILES)
    return Release(name, files, int(width) + 3, int(parameters), note=note, samples=500_000)  # "over 500,000"


def _latest() -> Release:
    rows = [line.split() for line in LATEST.strip().splitlines()]
    files = tuple(WeightFile(name, _drive(drive), int(size), sha256) for name, size, drive, sha256 in rows)
    note = (
        "another network (V1 Plus, 19,973 genes), whose 719,174 profiles include GDC, hence TCGA; its authors specify "
        "the mean over measured genes as the vector of a sample"
    )
    # Of the profiles of its corpus 7,348 were for validation.
    return Release("latest", files, 768, 101_323_778, note=note, samples=711_826, saw_tcga=True)


CARD = Card(
    name="bulkformer",
    title="BulkFormer",
    kind="foundation",
    pooling="mean over measured genes of the genes' states, then share of absent genes, mean expression, share of "
    "non-zero genes",
    scales=(*COUNT_SCALES, "tpm"),
    pretraining="over 500,000 human bulk RNA-seq profiles (PreBULK); which samples is not stated, so TCGA cannot be "
    "ruled out; bulkformer-latest: 719,174 profiles of ARCHS4, GDC (TCGA), GTEx, DiSignAtlas",
    saw_tcga=None,
    trained_on="bulk",
    priors="gene graph: co-expression in TCGA, in all releases; no protein language model: the ESM2 vectors that come "
    "with the originals are not read by the network",
    circular={"coexpression": "its gene graph is co-expression in TCGA"},
    reads="ln(1 + TPM)",
    paper="Kang, Fan, Yi, Cui, Cui 2026, Cell Systems, 10.1016/j.cels.2026.101657",
    licence_code="MIT",
    licence_weights="not stated",
    gene_ids="Ensembl",
    defaults={
        "pooling": "published",
        "positions": "measured",
        "input": "counts",
        "min_coverage": 0.2,
    },
    choices={
        "pooling": ("published", "mean", "max", "median"),
        "positions": ("measured", "all", "expressed"),
        "input": ("counts", "tpm"),
    },
    upstream=f"KangBoming/BulkFormer @ {COMMIT} (latest: 3c5a9a88)",
    published=False,
    limits="reads all of its 20,010 protein-coding genes, whatever is expressed; nothing is cut off",
    quirks=(
        "followed: TPM are taken over all genes of the input, also those that the model does not know (latest: only "
        "over those it knows)",
        "followed: a gene without an entry in gene_length_df.csv counts as 1,000 bp long",
        "followed: the share of non-zero genes counts absent genes as non-zero",
        "followed: a gene that receives no edge of the graph sends nothing either",
        "not followed: the three numbers of the sample stand here as they are; upstream averages 20,010 copies of them "
        "in float32, which drifts by some 2e-4",
        "not followed: versions of Ensembl ids are cut off (upstream's original code would find no gene)",
        "not followed: rows of the same gene add up (upstream: undefined; latest refuses them)",
        "not followed: a sample without an expressed gene is refused (upstream: all TPM 0; latest refuses it)",
    ),
    releases=(*(_original(*line.split()) for line in ORIGINALS.strip().splitlines()), _latest()),
    flop=lambda n_expressed: 2.9e12,  # 12 layers of 0.234e12 and 0.08e12 before them, whatever is expressed
    memory=lambda n_expressed: 0.6e9,  # bytes: states, queries, keys, values of 20,010 genes
)


@dataclass(frozen=True)
class BulkFormer:
    """BulkFormer, original or latest."""

    card: Card = CARD

    def start(self, cohort: CohortView, options: Mapping[str, Any], weights: Weights | None = None) -> Samples:
        """Read the checkpoint and match its genes."""
        chosen = resolve_options(self.card, options)
        weights = need_weights(self.card, weights)
        layer = input_layer(self.card, cohort, chosen["input"])
        checkpoint = read_checkpoint(weights.folder, weights.device)
        names = gene_names(cohort.var, "ensembl")
        found = align(names, {name: place for place, name in enumerate(checkpoint.names)}, "all")
        require_coverage(self.card.name, found, float(chosen["min_coverage"]), "Ensembl gene ids", names)
        per_kilobase = checkpoint.per_kilobase(names) if chosen["input"] == "counts" else None
        how = "mean" if chosen["pooling"] == "published" else chosen["pooling"]
        network = checkpoint.network
        columns = np.sort(found.columns[np.unique(found.places, return_index=True)[1]])  # a gene's first
        place_of = np.zeros(found.n_input, np.intp)
        place_of[found.columns] = found.places

        def run(x: np.ndarray, rows: Tensor | None) -> Tensor:
            hidden: Tensor = network(torch.from_numpy(x).to(weights.device), rows).float()
            return hidden

        def states(values: np.ndarray, sample: Sample) -> tuple[np.ndarray, Tensor]:
            rows = torch.from_numpy(place_of[columns]).to(weights.device)
            return columns, run(log_tpm(values, found, per_kilobase), rows)

        def encode(values: np.ndarray, sample: Sample) -> Tensor:
            x = log_tpm(values, found, per_kilobase)
            chosen_rows = {"measured": x != ABSENT, "all": x == x, "expressed": x > 0}[chosen["positions"]]
            rows = None if chosen_rows.all() else torch.from_numpy(np.flatnonzero(chosen_rows)).to(weights.device)
            vector = pool(run(x, rows), how)
            return vector if checkpoint.latest else torch.cat([vector, torch.from_numpy(summary(x)).to(vector)])

        def tokens(values: np.ndarray, sample: Sample) -> Tokens:
            return Tokens(found.columns, log_tpm(values, found, per_kilobase)[found.places])

        attributes = {
            **found.attributes(),
            "family": "latest" if checkpoint.latest else "original",
            "pooling": how,
            "positions": chosen["positions"],
            "values": "ln(TPM + 1)",
            "tpm_of": chosen["input"],
            "parameters_used": parameters_of(network),
            "probe_transform": {"kind": "none"},
        }
        return Samples(
            checkpoint.width,
            layer,
            attributes,
            encode,
            tokens,
            weights.device,
            weights.precision,
            weights.threads,
            known=found.columns,
            states=states,
        )


ENCODER = BulkFormer()
