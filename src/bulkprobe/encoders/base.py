"""What an encoder is, and the one loop that runs every encoder over a cohort."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd

from bulkprobe.errors import Unfit, UserError, some
from bulkprobe.preprocess.normalise import COUNTS_ALONE, log_expression

# Scales that the expression baselines can take; z-scores stay as they are.
LOG_SCALES = ("counts", COUNTS_ALONE, "tpm", "rsem_normalised", "zscore")
COUNT_SCALES = ("counts", COUNTS_ALONE, "rsem_normalised")  # read counts, or a factor per sample away from them
# Scores of gene vectors that a built-in prior can decide beforehand: regression on co-expression in the cohort, and
# recovery of gene sets of a collection.
CIRCULAR = ("coexpression", "go", "reactome", "hallmark")


@dataclass(frozen=True)
class WeightFile:
    """One file of a release, at `path` below the checkpoint folder, exactly as its authors publish it.

    `urls`: addresses that a program can fetch, the official one first. `by_hand`: what a person must do where there is
    none (a browser session, a licence to accept). Hashes are hexadecimal; None where nobody has published one.
    """

    path: str
    urls: tuple[str, ...] = ()
    bytes: int | None = None
    sha256: str | None = None
    md5: str | None = None
    by_hand: str = ""


@dataclass(frozen=True)
class Release:
    """Weights that the authors published under one name."""

    name: str
    files: tuple[WeightFile, ...]
    width: int  # of the published embedding
    parameters: int | None  # None where nobody has published it
    terms: str = ""  # what a user must accept before downloading
    note: str = ""
    samples: int | None = None  # cells or bulk profiles seen in pre-training, as published; None: not published
    saw_tcga: bool | None = None  # where the release differs from its card; None: as the card says


@dataclass(frozen=True)
class Card:
    """Facts about an encoder, as `bulkprobe encoders` and the report show them."""

    name: str
    title: str
    kind: Literal["baseline", "foundation"]
    pooling: str  # how one vector a sample comes about
    scales: tuple[str, ...]  # expression scales it can take; empty: it reads no expression
    pretraining: str  # what it has seen, TCGA above all
    saw_tcga: bool | None = False  # None: not stated by the authors; a release may say otherwise: `release_saw_tcga`
    trained_on: Literal["single cells", "bulk", ""] = ""  # empty: a baseline
    priors: str = ""  # knowledge of genes built in by construction (graphs, gene vectors), and from what data
    circular: Mapping[str, str] = field(default_factory=dict)  # of CIRCULAR: which scores the priors decide, and why
    reads: str = ""  # what a token's value is (`nn/samples.py::Tokens`), as an axis is titled
    paper: str = ""
    licence_code: str = "Apache-2.0"
    licence_weights: str = "none"
    gene_ids: str = "any"
    defaults: Mapping[str, Any] = field(default_factory=dict)  # the options and their defaults
    choices: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)  # options that take one of a few values
    upstream: str = ""  # repository and commit whose numbers are followed
    published: bool = True  # whether the authors publish this pooling; False: our fallback
    limits: str = ""  # how many genes it reads
    quirks: tuple[str, ...] = ()  # behaviour of upstream that is followed, or not, and why
    releases: tuple[Release, ...] = ()  # the first is the default
    redistribute: bool = True  # whether the licence lets a lab pass the weights on
    # FLOP a sample needs and bytes it holds at the default release's size, from the number of expressed genes it knows.
    flop: Callable[[int], float] | None = None
    memory: Callable[[int], float] | None = None

    def release(self, name: str) -> Release:
        """Return a release by name; UserError lists what exists."""
        found = {release.name: release for release in self.releases}
        if name not in found:
            known = ", ".join(["untrained", *found]) if found else "none (a baseline has no weights)"
            raise UserError(f"{self.name} has no release {name!r}; known: {known}")
        return found[name]

    def release_saw_tcga(self, name: str | None) -> bool | None:
        """Whether weights saw TCGA in training: what their release says, else (also for unknown ones) the card.

        None: not stated by the authors.
        """
        said = next((release.saw_tcga for release in self.releases if release.name == name), None)
        return self.saw_tcga if said is None else said


@dataclass(frozen=True)
class Weights:
    """A checkpoint folder in the released layout, and where and how to compute with it."""

    folder: Path
    device: str = "cpu"
    precision: Literal["float32", "bfloat16"] = "float32"
    threads: int | None = None  # samples computed at once on the CPU; None: one a core


@dataclass(frozen=True)
class CohortView:
    """What an encoder is told about a cohort before it sees the first sample.

    var: genes, one row a column of the values (ensembl_id, symbol, length in bp). obs: the sample table, one row a
    sample. scale: of X. layers: beside X ("tpm" where there is one). read: all samples of a layer in order, by
    blocks of (n, n_genes) float32; for the few encoders whose preprocessing is defined on a whole cohort.
    """

    var: pd.DataFrame
    obs: pd.DataFrame
    scale: str
    layers: tuple[str, ...] = ()
    read: Callable[[str], Iterator[np.ndarray]] = lambda layer: iter(())


class Session(Protocol):
    """An encoder made ready for one cohort. A sample's vector depends on that sample and the options alone."""

    width: int
    layer: str | None  # expression layer it reads: "X", "tpm", or None
    attributes: Mapping[str, Any]  # what goes into the store: constants, coverage, the transform fitted in the probe

    def embed(self, values: np.ndarray | None, obs: pd.DataFrame) -> np.ndarray:
        """Return (n_samples, width) float32 from `values` (n_samples, n_genes) and the sample table's rows.

        The index of `obs` is the sample's row number in the whole cohort.
        """
        ...


class Encoder(Protocol):
    """A model or baseline: its card, and how it is made ready."""

    card: Card

    def start(self, cohort: CohortView, options: Mapping[str, Any], weights: Weights | None = None) -> Session:
        """Prepare for a cohort, with the checkpoint in `weights` where the encoder has weights.

        Raises UserError where the scale, the genes, an option or the checkpoint do not fit.
        """
        ...


def resolve_options(card: Card, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the card's defaults overridden by `given`; an option or value that does not exist is an error."""
    unknown = sorted(set(given) - set(card.defaults))
    if unknown:
        known = ", ".join(card.defaults) or "none"
        raise UserError(f"encoder {card.name} has no option {some(unknown)}: its options are {known}")
    for key, allowed in card.choices.items():
        if key in given and given[key] not in allowed:
            raise UserError(
                f"encoder {card.name}: option {key} is {given[key]!r}, expected one of {', '.join(map(str, allowed))}"
            )
    chosen = {**card.defaults, **given}
    floor = chosen.get("min_coverage", 0.0)
    if isinstance(floor, bool) or not isinstance(floor, int | float) or not 0 <= floor <= 1:
        raise UserError(f"encoder {card.name}: option min_coverage is {floor!r}, expected a share between 0 and 1")
    return chosen


def need_weights(card: Card, weights: Weights | None) -> Weights:
    """Return the weights of an encoder that cannot do without."""
    if weights is None:
        raise UserError(f"encoder {card.name} needs weights: give --checkpoint FOLDER or --release NAME")
    return weights


def input_layer(card: Card, cohort: CohortView, wanted: str) -> str:
    """Return the layer that `input: counts | tpm` means in this cohort: "X" or "tpm".

    Counts are what the scale calls counts, with or without gene lengths, or RSEM's normalised counts (a factor per
    sample away). Raises Unfit where the cohort does not have them.
    """
    if wanted == "tpm":
        if "tpm" in cohort.layers:
            return "tpm"
        if cohort.scale == "tpm":
            return "X"
        raise Unfit(
            f"encoder {card.name} was asked for input=tpm, but this cohort is on the scale {cohort.scale!r} without "
            "a layer tpm: give TPM, or counts with gene lengths"
        )
    if cohort.scale in COUNT_SCALES:
        return "X"
    other = "; set input=tpm to feed it TPM" if cohort.scale == "tpm" and "input" in card.defaults else ""
    raise Unfit(
        f"encoder {card.name} cannot read expression on the scale {cohort.scale!r}: it needs counts"
        f"{other or '; give such a table or leave this encoder out'}"
    )


def whole_number(card: Card, options: Mapping[str, Any], key: str, least: int) -> int:
    """Return an option that must be a whole number of at least `least`."""
    value = options[key]
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"encoder {card.name}: option {key} is {value!r}, expected a whole number of at least {least}")
    return value


def require_scale(card: Card, scale: str) -> None:
    """Refuse a cohort whose expression scale the encoder cannot read."""
    if scale not in card.scales:
        raise Unfit(
            f"encoder {card.name} cannot read expression on the scale {scale!r}: it needs {', '.join(card.scales)}; "
            "give such a table or leave this encoder out"
        )


def require_columns(card: Card, obs: pd.DataFrame, *columns: str) -> None:
    """Refuse a sample table that says nothing of what the encoder reads."""
    lacking = [column for column in columns if column not in obs]
    if lacking:
        raise Unfit(
            f"encoder {card.name} reads {some(lacking)} of the samples, and this input does not say it: add these "
            "columns to the sample table or leave this encoder out"
        )


def embed_blocks(
    session: Session, blocks: Iterable[tuple[np.ndarray | None, pd.DataFrame]], name: str
) -> Iterator[np.ndarray]:
    """Run a session over blocks of samples; a vector that is not finite is an error naming the samples."""
    for values, obs in blocks:
        vectors = np.asarray(session.embed(values, obs), dtype=np.float32)
        if vectors.shape != (len(obs), session.width):
            raise ValueError(f"{name} returned shape {vectors.shape} for {len(obs)} samples, width {session.width}")
        broken = ~np.isfinite(vectors).all(axis=1)
        if broken.any():
            raise UserError(
                f"encoder {name} gave NaN or infinite values for {some(obs.sample_id.to_numpy()[broken])}: "
                "check these samples' expression with `bulkprobe check`"
            )
        yield vectors


@dataclass(frozen=True)
class LogExpression:
    """All genes of the cohort on the log scale."""

    width: int
    layer: str
    scale: str
    attributes: Mapping[str, Any]

    def embed(self, values: np.ndarray | None, obs: pd.DataFrame) -> np.ndarray:
        """Return log2(x + 1), shape (n_samples, n_genes)."""
        if values is None:
            raise ValueError("the expression baselines need expression values")
        return log_expression(values, self.scale)


def log_expression_session(card: Card, var: pd.DataFrame, scale: str, attributes: Mapping[str, Any]) -> LogExpression:
    """Make a session that hands on log expression; TPM where the cohort has them, else the cohort's own scale."""
    require_scale(card, scale)
    in_tpm = scale in ("counts", "tpm")
    layer = "tpm" if scale == "counts" else "X"
    kinds = {"zscore": "z-score", COUNTS_ALONE: "log2(CPM + 1)"}
    values = "log2(TPM + 1)" if in_tpm else kinds.get(scale, f"log2({scale} + 1)")
    # Columns are genes by position, so a probe fits only embeddings of the same genes in the same order.
    genes = hashlib.sha256("\n".join(str(name) for name in var.index).encode()).hexdigest()
    shared = {"values": values, "gene_coverage": 1.0, "genes_sha256": genes}
    return LogExpression(len(var), layer, scale, {**shared, **attributes})
