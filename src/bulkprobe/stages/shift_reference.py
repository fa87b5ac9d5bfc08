"""The cells that stage `shift` compares tumours with: pseudo-cells, or those of a user's single-cell file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from bulkprobe.cohort.given import Input
from bulkprobe.cohort.inputs import open_input
from bulkprobe.encoders.base import COUNT_SCALES, CohortView, Session, embed_blocks
from bulkprobe.errors import Unfit, UserError
from bulkprobe.preprocess.draws import stream_of
from bulkprobe.preprocess.normalise import COUNTS_ALONE, MILLION
from bulkprobe.preprocess.thinning import thin
from bulkprobe.shift.inputs import Read, read_sample
from bulkprobe.shift.sampling import chosen_ids
from bulkprobe.stages import paths
from bulkprobe.stages.shift_subject import BLOCK, Subject

DEPTH_SPREAD = 0.5  # sd of ln(counts) of pseudo-cells
# What a session reads of some samples (n, n_genes), their counts (n,) in all, and their rows of the sample table.
Block = tuple[np.ndarray, np.ndarray, pd.DataFrame]


@dataclass(frozen=True)
class Cells:
    """Samples as an encoder reads and embeds them.

    ids, counts: of the samples kept. vectors: (n, width). reads: None where the encoder has no tokeniser. left_out:
    samples in which it found nothing to read. about: what the metrics file says of them.
    """

    ids: list[str] = field(default_factory=list)
    vectors: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))
    reads: list[Read] | None = None
    about: Mapping[str, Any] = field(default_factory=dict)


def reference_of(subject: Subject, rows: np.ndarray) -> Cells:
    """Return the reference for the tumours in `rows`; without one, `about` says why."""
    given = subject.params.shift.reference
    if subject.session.layer is None:
        kind = "pseudo_cells" if given is None else "file"
        return _none(kind, "this encoder reads no expression")
    return pseudo_cells(subject, rows) if given is None else cells_of_file(subject, given)


def pseudo_cells(subject: Subject, rows: np.ndarray) -> Cells:
    """Thin tumours to the depth of single cells, drawn for each log-normally around `shift.cell_depth`."""
    if subject.no_counts is not None:
        return _none("pseudo_cells", subject.no_counts)
    seed, depth = subject.params.base.seed, subject.params.shift.cell_depth

    def blocks() -> Iterator[Block]:
        for part in _parts(rows):
            obs = subject.obs.iloc[part]
            counts = subject.expression.read("X", part)
            thinned = np.empty_like(counts)
            for number, sample in enumerate(obs.sample_id):
                rng = stream_of(seed, f"{sample}/cell")
                thinned[number] = thin(counts[number], depth * np.exp(DEPTH_SPREAD * rng.standard_normal()), rng)
            yield subject.thinned_values(thinned, part), thinned.sum(axis=1, dtype=np.float64), obs

    said = (
        f"No single cells were given: each tumour was thinned to a library drawn log-normally around {depth:,} counts "
        f"(sd of ln {DEPTH_SPREAD}); these pseudo-cells differ from tumours in depth alone, not in purity, dropout or "
        "cell type, so what separates them from tumours is a lower bound of what separates single cells"
    )
    return _collect(subject, subject.session, blocks(), len(rows), {"kind": "pseudo_cells", "said": said})


def cells_of_file(subject: Subject, name: str) -> Cells:
    """Read some cells of a file with counts, as the encoder reads a cohort of its own.

    What the encoder took from the cohort (scFoundation's target) stays as it was there. For an encoder that reads TPM
    where the file has none, counts per million stand in.
    """
    path = Path(name) if Path(name).exists() else paths.INPUTS / name
    with open_input(path) as given:
        if given.scale not in COUNT_SCALES:
            raise UserError(
                f"shift.reference {path.name} is on the scale {given.scale!r}, but counts were expected: put the "
                "counts into X"
            )
        kept = chosen_ids(subject.params.base.seed, given.sample_ids, subject.params.shift.samples)
        about = {"kind": "file", "file": path.name, "sha256": given.sha256}
        try:
            session, layer, columns, note = _session_for(subject, given)
        except Unfit as problem:
            return _none("file", str(problem), about)
        stand_in = layer == "tpm" and "tpm" not in given.layers
        said = f"{len(kept):,} of the {given.n_samples:,} cells of {path.name}, the counts as they are"
        said += ", as counts per million where the encoder reads TPM" if stand_in else ""

        def blocks() -> Iterator[Block]:
            for part in _parts(kept):
                counts, values = given.read("X", part), _values(given, layer, part)
                if columns is not None:
                    values = np.where(columns >= 0, values[:, columns], 0.0).astype(np.float32)
                yield values, counts.sum(axis=1, dtype=np.float64), given.obs.iloc[part]

        return _collect(subject, session, blocks(), len(kept), {**about, "said": said + note})


def _session_for(subject: Subject, given: Input) -> tuple[Session, str, np.ndarray | None, str]:
    """Return a session that reads the file, the layer it reads, the file's column for each of its genes, and a note.

    A model gets a session of its own, which matches genes itself (columns None). A baseline's features are the cohort's
    genes, so it keeps its session and the file is aligned to the cohort; -1: a gene that the file lacks.
    """
    if not hasattr(subject.session, "tokens"):
        scale = subject.view.scale
        layer = {"counts": subject.session.layer, COUNTS_ALONE: "X", "tpm": "tpm"}.get(scale)
        if layer is None:
            raise Unfit(f"the cohort is on the scale {scale!r}, to which counts of cells cannot be brought")
        place = {gene: column for column, gene in reversed(list(enumerate(given.var.index))) if gene}
        columns = np.array([place.get(gene, -1) for gene in subject.view.var.index], dtype=np.intp)
        share = float((columns >= 0).mean())
        if share == 0:
            raise Unfit(f"none of the cohort's genes is in {given.path.name}: give the same kind of gene id")
        return subject.session, layer, columns, f"; of the cohort's genes it has {share:.1%}, the others are set to 0"
    options = dict(subject.entry.options)
    taken = subject.session.attributes
    if "target_sum" in subject.encoder.card.defaults and taken.get("target_sum_from") != "route":
        options["target_sum"] = taken["target_sum"]

    def read(layer: str) -> Iterator[np.ndarray]:
        for part in _parts(np.arange(given.n_samples)):
            yield _values(given, layer, part)

    view = CohortView(given.var, given.obs, given.scale, ("tpm",), read)
    session = subject.encoder.start(view, options, subject.weights)
    return session, str(session.layer), None, ""


def _values(given: Input, layer: str, rows: np.ndarray) -> np.ndarray:
    if layer in ("X", *given.layers):
        return given.read(layer, rows)
    counts = given.read("X", rows)
    scaled: np.ndarray = (counts * (MILLION / counts.sum(axis=1, dtype=np.float64, keepdims=True))).astype(np.float32)
    return scaled


def _parts(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), BLOCK):
        yield rows[start : start + BLOCK]


def _none(kind: str, reason: str, about: Mapping[str, Any] | None = None) -> Cells:
    nothing = {"kind": kind, "said": "", "n": 0, "left_out": 0, "median_counts": None, "file": None, "sha256": None}
    return Cells(about={**nothing, **(about or {}), "reason": reason})


def _collect(subject: Subject, session: Session, blocks: Iterator[Block], n: int, about: Mapping[str, Any]) -> Cells:
    """Read and embed cells; one in which the encoder finds nothing to read is left out and counted."""
    ids: list[str] = []
    counted: list[float] = []
    vectors: list[np.ndarray] = []
    reads: list[Read] | None = [] if hasattr(session, "tokens") else None
    with tqdm(total=n, desc=f"reference {subject.name}", unit="cell", delay=2) as progress:
        for values, counts, obs in blocks:
            embedded, kept = embed_readable(session, values, obs, subject.name)
            vectors.append(embedded)
            ids += [str(sample) for sample in obs.sample_id.iloc[kept]]
            counted += counts[kept].tolist()
            if reads is not None:
                reads += read_all(session, values[kept], obs.iloc[kept])
            progress.update(len(obs))
    nothing = {"file": None, "sha256": None}
    reason = None if ids else f"{subject.name} found nothing to read in any of {n} cells"
    found = {"n": len(ids), "left_out": n - len(ids), "median_counts": float(np.median(counted)) if ids else None}
    return Cells(ids, np.concatenate(vectors), reads, {**nothing, **about, **found, "reason": reason})


def embed_readable(session: Session, values: np.ndarray, obs: pd.DataFrame, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Embed the samples (n, n_genes) that the encoder can read: their vectors, and which they are."""
    try:
        return next(embed_blocks(session, [(values, obs)], name)), np.arange(len(obs))
    except UserError:
        if len(obs) < 2:
            return np.empty((0, session.width), np.float32), np.arange(0)
    half = len(obs) // 2
    first, kept = embed_readable(session, values[:half], obs.iloc[:half], name)
    second, more = embed_readable(session, values[half:], obs.iloc[half:], name)
    return np.concatenate([first, second]), np.concatenate([kept, more + half])


def read_all(
    session: Any, values: np.ndarray, obs: pd.DataFrame, markers: list[np.ndarray] | None = None
) -> list[Read]:
    """Return what a session with a tokeniser reads of samples (n, n_genes)."""
    from bulkprobe.nn.samples import Sample  # here: baselines need no torch

    samples = [Sample(str(name), int(row)) for name, row in zip(obs.sample_id, obs.index, strict=True)]
    return [
        read_sample(row, session.tokens(row, sample), session.known, markers or ())
        for row, sample in zip(values, samples, strict=True)
    ]
