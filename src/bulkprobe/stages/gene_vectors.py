"""The gene vectors of an encoder, on the genes of the cohort: its input vectors, and states from inside it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd

from bulkprobe.biology.coexpression import Blocks, principal_gene_vectors
from bulkprobe.biology.contextual import LEAST_SAMPLES, average_states
from bulkprobe.cohort.store import ExpressionStore
from bulkprobe.encoders import MODELS, get_encoder
from bulkprobe.encoders.base import LOG_SCALES, CohortView, Weights
from bulkprobe.params import EncoderEntry
from bulkprobe.preprocess.normalise import log_expression
from bulkprobe.preprocess.vocabulary import Alignment, align, gene_names
from bulkprobe.probes.metrics import Undefined
from bulkprobe.stages.checkpoints import Checkpoint

READ_ROWS = 256  # samples whose expression is held at a time
HELD = 25_000_000  # values that are held (100 MB); of more, every pass reads the store again
PCA_GENES = 20_000  # the most variable, of which pca's vectors are computed; bounds its memory


@dataclass(frozen=True)
class GeneVectors:
    """Vectors of some of the cohort's genes.

    columns: (n,) ascending columns of the cohort. vectors: (n, width). what: a sentence. n_samples: tumours they are
    an average over, or None.
    """

    columns: np.ndarray
    vectors: np.ndarray
    what: str
    n_samples: int | None = None


def match(names: Sequence[str], var: pd.DataFrame) -> Alignment:
    """Match names to the cohort's genes as symbols or Ensembl ids, whichever finds more; of equal ones the first."""
    vocabulary: dict[str, int] = {}
    for name in names:
        vocabulary.setdefault(name, len(vocabulary))
    found = [align(gene_names(var, kind), vocabulary, "first") for kind in ("symbol", "ensembl")]
    return max(found, key=lambda alignment: len(alignment.columns))


def input_vectors(entry: EncoderEntry, checkpoint: Checkpoint | None, var: pd.DataFrame) -> GeneVectors:
    """Read a model's own vectors of genes from its checkpoint; Undefined for a baseline and where no gene is known."""
    read: Callable[..., tuple[list[str], np.ndarray]] | None
    read = getattr(import_module(MODELS[entry.model]), "gene_vectors", None)
    if read is None or checkpoint is None:
        raise Undefined("a baseline without gene vectors")
    names, vectors = read(checkpoint.folder)
    first = list({name: row for row, name in reversed(list(enumerate(names)))}.items())
    first.sort(key=lambda pair: pair[1])
    found = match([name for name, _ in first], var)
    if not len(found.columns):
        raise Undefined("the model knows none of the cohort's genes", {"genes of the model": len(names)})
    rows = np.array([row for _, row in first])[found.places]
    return GeneVectors(found.columns, vectors[rows], "the model's own input vector of each gene")


def pca_vectors(entry: EncoderEntry, blocks: Blocks, n_samples: int, seed: int) -> GeneVectors:
    """Compute the gene vectors of the baseline pca: loadings on the cohort's own components."""
    size = int({**get_encoder("pca").card.defaults, **entry.options}["components"])
    columns, vectors = principal_gene_vectors(blocks, size, PCA_GENES, seed=seed)
    what = (
        f"each gene's loadings on the first {vectors.shape[1]} principal components of standardised log expression of "
        f"{n_samples} tumours"
    )
    return GeneVectors(columns, vectors, what)


def contextual_vectors(
    entry: EncoderEntry, weights: Weights, view: CohortView, expression: ExpressionStore, rows: np.ndarray
) -> GeneVectors:
    """Average each gene's state inside the model over the tumours `rows`; Undefined where it gives none."""
    session = get_encoder(entry.model).start(view, entry.options, weights)
    states = getattr(session, "states", None)
    if states is None:
        raise Undefined("this encoder gives no states of genes")
    columns, vectors = average_states(_states(session, weights, view.obs, expression, rows), len(view.var))
    if not len(columns):
        raise Undefined("no gene was read in enough tumours", {"tumours": len(rows), "needed": LEAST_SAMPLES})
    what = (
        f"each gene's final state inside the model, before pooling, averaged over those of {len(rows)} tumours in "
        f"which the model reads it (at least {LEAST_SAMPLES})"
    )
    return GeneVectors(columns, vectors, what, len(rows))


def _states(
    session: Any, weights: Weights, obs: pd.DataFrame, expression: ExpressionStore, rows: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield every sample's columns and states in order; on the CPU several samples at once, each on one thread."""
    import torch

    from bulkprobe.nn.samples import Sample, cores

    half, device = weights.precision == "bfloat16", torch.device(weights.device).type

    def one(row: int) -> tuple[np.ndarray, np.ndarray]:
        sample = Sample(str(obs.sample_id.iloc[row]), row)
        values = expression.read(session.layer, np.array([row]))[0]
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16) if half else nullcontext():
            columns, found = session.states(values, sample)
        return np.asarray(columns), found.float().cpu().numpy()

    if device != "cpu":
        yield from map(one, rows.tolist())
        return
    threads = weights.threads or cores()
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for start in range(0, len(rows), threads):  # so that few samples' states wait in memory
            yield from pool.map(one, rows[start : start + threads].tolist())


def log_blocks(view: CohortView, expression: ExpressionStore, rows: np.ndarray) -> Blocks:
    """Return what reads log expression of samples by blocks; Undefined on a scale that has no logarithm."""
    if view.scale not in LOG_SCALES:
        raise Undefined(f"the cohort is on the scale {view.scale!r}, of which no log expression is computed")
    layer = "tpm" if view.scale == "counts" else "X"

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, len(rows), READ_ROWS):
            yield log_expression(expression.read(layer, rows[start : start + READ_ROWS]), view.scale)

    if len(rows) * len(view.var) > HELD:
        return blocks
    held = list(blocks())
    return lambda: iter(held)


def drawn(samples: pd.DataFrame, most: int, seed: int) -> np.ndarray:
    """Return at most `most` row numbers of tumours that are probed, ascending; a tumour's own id decides."""
    rows = np.flatnonzero(samples.for_probing.to_numpy(bool))
    luck = [hashlib.sha256(f"{seed} {samples.sample_id.iloc[row]}".encode()).digest() for row in rows]
    chosen: np.ndarray = np.sort(rows[sorted(range(len(rows)), key=lambda i: luck[i])[:most]])
    return chosen
