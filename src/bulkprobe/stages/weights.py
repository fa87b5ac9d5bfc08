"""Stage `weights@<encoder>`: the checkpoint that an encoder computes with, in `models/<encoder>/<release>/`.

`release: untrained` writes a seeded random stand-in in the released layout, its vocabulary made of the cohort's genes.
A named release is downloaded and checked before anything opens it. Weights that cannot be had are recorded as absent
and stop nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from bulkprobe.cohort.store import open_expression
from bulkprobe.encoders import get_encoder
from bulkprobe.encoders.base import Card
from bulkprobe.errors import UserError
from bulkprobe.files import atomic_folder
from bulkprobe.params import EncoderEntry, load_params
from bulkprobe.stages import paths
from bulkprobe.stages.checkpoints import (
    UNTRAINED,
    Checkpoint,
    folder_hash,
    hashes_of,
    write_absence,
    write_record,
)
from bulkprobe.stages.released import fetch_release
from bulkprobe.stages.running import encoder_argument, run_stage
from bulkprobe.untrained import write_twin, write_untrained


def main() -> str:
    """Fill `models/<encoder>` and record in `release.json` what it is."""
    params = load_params()
    name = encoder_argument()
    if name not in params.encoders:
        raise UserError(f"params.yaml: encoders has no {name!r}; known: {', '.join(params.encoders)}")
    entry = params.encoders[name]
    card, folder = get_encoder(entry.model).card, paths.weights_path(name)
    folder.mkdir(parents=True, exist_ok=True)
    check_entry(name, entry, card)
    if card.kind == "baseline" or not entry.enabled:
        write_absence(folder, entry.model, None if card.kind == "baseline" else "switched off in params.yaml")
        return f"{name} needs no weights" if card.kind == "baseline" else f"{name} is switched off"
    if entry.release == UNTRAINED:
        checkpoint, hashes = make_untrained(card, open_expression(paths.COHORT).var, folder, params.base.seed)
    else:
        try:
            checkpoint, hashes = fetch_release(
                card,
                str(entry.release),
                folder,
                lock=paths.SOURCE_LOCK,
                workers=params.fetch.workers,
                retries=params.fetch.retries,
            )
        except UserError as problem:
            write_absence(folder, entry.model, f"its weights are not here: {problem}")
            print(f"warning: {name} will be absent: {problem}", file=sys.stderr)
            return f"{name} is absent; `bulkprobe fetch {name}` tries again"
        if entry.untrained_twin:
            checkpoint, hashes = make_twin(card, checkpoint, folder, params.base.seed)
    write_record(folder, entry.model, checkpoint, hashes)
    return f"{checkpoint.folder} holds {entry.model} {'(nothing learned)' if checkpoint.untrained else 'as released'}"


def check_entry(name: str, entry: EncoderEntry, card: Card) -> None:
    """Refuse a release that the model does not have, before anything is downloaded."""
    if card.kind == "baseline":
        if entry.release is not None:
            raise UserError(
                f"params.yaml: encoders.{name}.release is {entry.release!r}, but {entry.model} is a baseline without "
                "weights: set release to null"
            )
        return
    if entry.release is None:
        known = ", ".join([UNTRAINED, *(release.name for release in card.releases)])
        raise UserError(f"params.yaml: encoders.{name}.release is null, but {entry.model} needs weights: {known}")
    if entry.release != UNTRAINED:
        card.release(entry.release)
    elif entry.untrained_twin:
        raise UserError(f"params.yaml: encoders.{name}.untrained_twin asks for the twin of a stand-in: set it to false")


def make_untrained(card: Card, genes: pd.DataFrame, folder: Path, seed: int) -> tuple[Checkpoint, dict[str, str]]:
    """Write a seeded random checkpoint whose vocabulary are the cohort's genes."""
    final = folder / UNTRAINED
    with atomic_folder(final) as aside:
        write_untrained(card.name, aside, genes, seed)
    hashes = hashes_of(final)
    return Checkpoint(final, folder_hash(hashes), UNTRAINED, untrained=True, verified=None), hashes


def make_twin(card: Card, released: Checkpoint, folder: Path, seed: int) -> tuple[Checkpoint, dict[str, str]]:
    """Write the untrained twin of a release in its place: same sizes, vocabulary, graph and priors, tensors anew."""
    final = folder / f"{released.release}-twin"
    with atomic_folder(final) as aside:
        write_twin(card.name, released.folder, aside, seed)
    hashes = hashes_of(final)
    twin = Checkpoint(final, folder_hash(hashes), final.name, untrained=True, twin=True, verified=None)
    return twin, hashes


if __name__ == "__main__":
    run_stage(main)
