"""What `bulkprobe encoders` and `bulkprobe check` say."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bulkprobe.cohort.given import Input
from bulkprobe.cohort.inputs import open_input
from bulkprobe.encoders import MODELS, get_encoder
from bulkprobe.encoders.base import Card, Release, Weights
from bulkprobe.errors import UserError
from bulkprobe.params import PARAMS_FILE, load_params
from bulkprobe.stages import paths
from bulkprobe.stages.checkpoints import Checkpoint, read_record, recorded
from bulkprobe.stages.embed import view_of

LOOK_AT = 4  # samples of a cohort that truncation and time are judged by


def describe_encoders() -> Iterator[str]:
    """Say of every model and baseline what there is to know, a line a fact."""
    for name in MODELS:
        card = get_encoder(name).card
        yield f"{name}: {card.title}"
        for key, value in card_facts(card).items():
            if value:
                yield f"    {key + ':':<17}{value}"
        for number, quirk in enumerate(card.quirks):
            yield f"    {'quirks:' if number == 0 else '':<17}{quirk}"
        for number, release in enumerate(card.releases):
            yield f"    {'releases:' if number == 0 else '':<17}{_release(name, release)}"


def card_facts(card: Card) -> dict[str, str]:
    """What a card says, by short names; "" where there is nothing to say."""
    return {
        "kind": card.kind,
        "paper": card.paper,
        "upstream": card.upstream,
        "reads": ", ".join(card.scales) or "the sample table, no expression",
        "a token's value": card.reads,
        "gene ids": card.gene_ids,
        "limits": card.limits,
        "vector": card.pooling,
        "published": "" if card.kind == "baseline" else "yes" if card.published else "no: our fallback",
        "options": ", ".join(_option(card, key) for key in card.defaults) or "none",
        "code": card.licence_code,
        "weights": card.licence_weights + ("" if card.redistribute else " (not to be passed on)"),
        "trained on": card.trained_on,
        "saw in training": card.pretraining,
        "saw TCGA": _saw_tcga(card) if card.releases else "",
        "priors": card.priors,
        "circular scores": "; ".join(f"{score}: {why}" for score, why in card.circular.items()),
    }


def _option(card: Card, key: str) -> str:
    if key not in card.choices:
        return f"{key}={card.defaults[key]}"
    others = [str(value) for value in card.choices[key] if value != card.defaults[key]]
    return f"{key}={card.defaults[key]} ({', '.join(others)})"


def _saw_tcga(card: Card) -> str:
    words = {True: "yes", False: "no", None: "not stated"}
    others = [r for r in card.releases if card.release_saw_tcga(r.name) != card.saw_tcga]
    return "; ".join([words[card.saw_tcga], *(f"{r.name}: {words[r.saw_tcga]}" for r in others)])


def _release(model: str, release: Release) -> str:
    size = sum(file.bytes or 0 for file in release.files)
    here = [
        entry for entry in _entries_of(model) if read_record(paths.weights_path(entry)).get("release") == release.name
    ]
    facts = [
        f"width {release.width}",
        f"{release.parameters / 1e6:.0f} M parameters" if release.parameters else "number of parameters not published",
        f"trained on {release.samples / 1e6:,.4g} M samples"
        if release.samples
        else "number of training samples not published",
        f"{size / 1e9:.2f} GB" if all(file.bytes for file in release.files) else "size not published",
        "every hash is known" if all(f.sha256 or f.md5 for f in release.files) else "not every hash is known",
        f"here as {', '.join(here)}" if here else "weights are not here",
    ]
    by_hand = [file.path for file in release.files if not file.urls]
    if by_hand:
        facts.append(f"by hand: {', '.join(by_hand)}")
    return f"{release.name}: {'; '.join(facts)}{f' ({release.note})' if release.note else ''}"


def _entries_of(model: str) -> list[str]:
    if not PARAMS_FILE.is_file():
        return [model]
    return [name for name, entry in load_params().encoders.items() if entry.model == model] or [model]


def describe_fit(
    source: Path,
    scale: str | None,
    *,
    genes: Path | None = None,
    transcripts: Path | None = None,
    strand: str | None = None,
) -> Iterator[str]:
    """Say of every encoder whether it can read a cohort, what it would leave out, and what it would cost here."""
    with (
        tempfile.TemporaryDirectory(prefix="bulkprobe-") as scratch,
        open_input(source, scale, Path(scratch), genes=genes, transcripts=transcripts, strand=strand) as opened,
    ):
        entries: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in MODELS}
        if PARAMS_FILE.is_file():
            entries |= {name: (entry.model, entry.options) for name, entry in load_params().encoders.items()}
        speed = gemm_rate()
        for name, (model, options) in entries.items():
            yield f"encoder {name}: {_fit(name, model, options, opened, speed)}"


def _fit(name: str, model: str, options: dict[str, Any], source: Input, speed: float) -> str:
    encoder = get_encoder(model)
    checkpoint: Checkpoint | None = None
    if encoder.card.kind == "foundation":
        found = recorded(paths.weights_path(name)) if read_record(paths.weights_path(name)) else None
        if not isinstance(found, Checkpoint):
            return _from_card(encoder.card, source, speed)
        checkpoint = found
    try:
        weights = None if checkpoint is None else Weights(checkpoint.folder)
        session = encoder.start(view_of(source, source.obs), options, weights)
    except UserError as problem:
        return f"cannot read it: {problem}"
    if checkpoint is None:
        return f"can read it; {session.width} dimensions"
    rows = np.linspace(0, source.n_samples - 1, min(LOOK_AT, source.n_samples)).astype(np.int64)
    values = source.read(str(session.layer), rows)
    begun = time.monotonic()
    session.embed(values, source.obs.iloc[rows])
    seconds = (time.monotonic() - begun) / len(rows) * source.n_samples
    lost = [_lost(session, row, source, number) for row, number in zip(values, rows, strict=True)]
    told = session.attributes
    stand_in = ", an untrained stand-in" if checkpoint.untrained else ""
    weights_bytes = sum(path.stat().st_size for path in checkpoint.folder.rglob("*") if path.is_file())
    held = f"{weights_bytes / 1e9:.1g} GB of weights"
    if encoder.card.memory is not None and not checkpoint.untrained:  # a stand-in's samples hold next to nothing
        expressed = int(np.median((values > 0).sum(axis=1)))
        held += f" and about {encoder.card.memory(expressed) / 1e9:.1g} GB a sample in flight"
    return (
        f"can read it ({checkpoint.release or 'unverified'}{stand_in}); knows {told['genes_matched']} of "
        f"{told['genes_of_cohort']} genes, {100 * told['gene_coverage']:.1f} % of its {told['genes_of_model']}; leaves "
        f"out {100 * float(np.median(lost)):.0f} % of a sample's expressed genes; about {_duration(seconds)} for "
        f"{source.n_samples} samples, {held}"
    )


def _lost(session: Any, values: np.ndarray, source: Input, row: int) -> float:
    """Share of a sample's expressed genes that do not enter the model."""
    from bulkprobe.nn.samples import Sample

    expressed = np.flatnonzero(values > 0)
    read = session.tokens(values, Sample(source.sample_ids[row], int(row))).columns
    return 1.0 - len(np.intersect1d(expressed, read)) / max(1, len(expressed))


def _from_card(card: Card, source: Input, speed: float) -> str:
    """An estimate from the released sizes, where the weights are not here."""
    if card.scales and source.scale not in card.scales:
        return f"cannot read the scale {source.scale}"
    values = source.read("X", np.arange(min(LOOK_AT, source.n_samples)))
    expressed = int(np.median((values > 0).sum(axis=1)))
    release = card.releases[0].name
    said = f"could read the scale {source.scale}; its weights are not here (`bulkprobe fetch {card.name}:{release}`)"
    if card.flop is None or card.memory is None:
        return said
    seconds = card.flop(expressed) / speed * source.n_samples
    return (
        f"{said}; at the released size about {card.flop(expressed) / 1e12:.2f} TFLOP a sample, {_duration(seconds)} "
        f"for {source.n_samples} samples here, {card.memory(expressed) / 1e9:.1g} GB beside the weights"
    )


def gemm_rate(size: int = 1024, seconds: float = 0.3) -> float:
    """Return what this machine's matrix products do, in FLOP a second, all cores together."""
    import torch

    left, right = torch.ones(size, size), torch.ones(size, size)
    left @ right
    begun, n = time.monotonic(), 0
    while time.monotonic() - begun < seconds:
        left @ right
        n += 1
    return 2 * size**3 * n / (time.monotonic() - begun)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.0f} hours"
