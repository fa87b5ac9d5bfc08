"""What an encoder is, and the one loop that runs every encoder over a cohort."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd

from bulkprobe.errors import UserError, some
from bulkprobe.preprocess.normalise import COUNTS_ALONE, log_expression

# Scales that the expression baselines can take; z-scores stay as they are.
LOG_SCALES = ("counts", COUNTS_ALONE, "tpm", "rsem_normalised", "zscore")


@dataclass(frozen=True)
class Card:
    """Facts about an encoder, as `bulkprobe encoders` and the report show them."""

    name: str
    title: str
    kind: Literal["baseline", "foundation"]
    pooling: str  # how one vector a sample comes about
    scales: tuple[str, ...]  # expression scales it can take; empty: it reads no expression
    pretraining: str  # what it has seen, TCGA above all
    paper: str = ""
    licence_code: str = "Apache-2.0"
    licence_weights: str = "none"
    gene_ids: str = "any"
    defaults: Mapping[str, Any] = field(default_factory=dict)  # the options and their defaults


class Session(Protocol):
    """An encoder made ready for one cohort. A sample's vector depends on that sample and the options alone."""

    width: int
    layer: str | None  # expression layer it reads: "X", "tpm", or None
    attributes: Mapping[str, Any]  # what goes into the store: constants, coverage, the transform fitted in the probe

    def embed(self, values: np.ndarray | None, obs: pd.DataFrame) -> np.ndarray:
        """Return (n_samples, width) float32 from `values` (n_samples, n_genes) and the sample table's rows."""
        ...


class Encoder(Protocol):
    """A model or baseline: its card, and how it is made ready."""

    card: Card

    def start(self, var: pd.DataFrame, obs: pd.DataFrame, scale: str, options: Mapping[str, Any]) -> Session:
        """Prepare for a cohort with genes `var` (ensembl_id, symbol, length) and samples `obs`.

        Raises UserError where the scale, the genes or an option do not fit.
        """
        ...


def resolve_options(card: Card, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the card's defaults overridden by `given`; an option that the encoder does not have is an error."""
    unknown = sorted(set(given) - set(card.defaults))
    if unknown:
        known = ", ".join(card.defaults) or "none"
        raise UserError(f"encoder {card.name} has no option {some(unknown)}: its options are {known}")
    return {**card.defaults, **given}


def whole_number(card: Card, options: Mapping[str, Any], key: str, least: int) -> int:
    """Return an option that must be a whole number of at least `least`."""
    value = options[key]
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"encoder {card.name}: option {key} is {value!r}, expected a whole number of at least {least}")
    return value


def require_scale(card: Card, scale: str) -> None:
    """Refuse a cohort whose expression scale the encoder cannot read."""
    if scale not in card.scales:
        raise UserError(
            f"encoder {card.name} cannot read expression on the scale {scale!r}: it needs {', '.join(card.scales)}; "
            "give such a table or leave this encoder out"
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
