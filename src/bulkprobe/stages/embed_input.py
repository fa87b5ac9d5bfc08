"""`bulkprobe embed` and `bulkprobe fetch`: any input, any checkpoint, without the pipeline."""

from __future__ import annotations

import difflib
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bulkprobe.cluster import HERE, Plan, check_plan
from bulkprobe.cohort.given import Input
from bulkprobe.cohort.inputs import open_input
from bulkprobe.encoders import MODELS, get_encoder
from bulkprobe.encoders.base import Card
from bulkprobe.errors import UserError, some
from bulkprobe.files import atomic_path, only_writer, scratch_folder
from bulkprobe.foreign import refuse_endless_texts
from bulkprobe.params import PARAMS_FILE, EncoderEntry, Params, load_params
from bulkprobe.stages import paths
from bulkprobe.stages.applying import made_like
from bulkprobe.stages.checkpoints import UNTRAINED, Checkpoint, identify, write_record
from bulkprobe.stages.embed import embed_expression, plan_of
from bulkprobe.stages.released import fetch_release
from bulkprobe.stages.weights import make_untrained
from bulkprobe.store import read_store

if TYPE_CHECKING:
    from anndata import AnnData

STORE_ENTRIES = frozenset({"zarr.json", "embedding", "sample_id", ".DS_Store"})
DEVICES = r"cpu|cuda(:\d+)?"


def find_entry(encoder: str) -> tuple[Params | None, EncoderEntry]:
    """Return the entry of params.yaml, where it has one of this name, else a bare one of the model."""
    params = load_params() if PARAMS_FILE.is_file() else None
    if params is not None and encoder in params.encoders:
        return params, params.encoders[encoder]
    if encoder not in MODELS:
        known = list(dict.fromkeys([*(params.encoders if params else ()), *MODELS]))
        near = difflib.get_close_matches(str(encoder), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        raise UserError(f"there is no encoder {encoder!r}; {hint}")
    card = get_encoder(encoder).card
    release = card.releases[0].name if card.releases else None
    return params, EncoderEntry(model=encoder, release=release, enabled=True, options={})


def embed_input(
    encoder: str,
    source: Path | AnnData,
    output: Path,
    *,
    checkpoint: Path | None = None,
    release: str | None = None,
    scale: str | None = None,
    options: Mapping[str, Any] | None = None,
    shard_size: int = 512,
    batch_size: int | None = None,
    device: str | None = None,
    precision: Literal["float32", "bfloat16"] | None = None,
    add_to: Path | None = None,
    genes: Path | None = None,
    transcripts: Path | None = None,
    strand: str | None = None,
    like: Path | None = None,
    cluster: str | None = None,
    workers: int | None = None,
) -> bool:
    """Embed a cohort folder, AnnData or a table into a store; False where it was complete already.

    checkpoint: a folder in the released layout; release: the name of one, or "untrained"; without either what
    params.yaml says, and its weights in `models/`. options: on top of the entry's own. add_to: an .h5ad that gets the
    vectors as obsm["X_<encoder>"]. genes, transcripts, strand: as `cohort.inputs.open_input` takes
    them. like: a store, or stored probes, whose options, target_sum and weights are taken over. cluster, workers:
    where shards are computed, instead of what params.yaml says.
    """
    _refuse_foreign_store(output)
    _refuse_unfit(options, device, precision, batch_size)
    params, entry = find_entry(encoder)
    plan = plan_of(params.embed, cluster, workers) if params else Plan(cluster or "none", workers or 1)
    if not isinstance(source, Path):
        plan = HERE  # what is in memory is not sent elsewhere
    elif plan:
        check_plan(plan)
        source, output = source.absolute(), output.absolute()
    card = get_encoder(entry.model).card
    twin = None if like is None else made_like(like)
    if twin is not None:
        if twin.model != entry.model:
            raise UserError(
                f"--like {like} was made with {twin.model}, not with {entry.model}: embed with {twin.encoder}"
            )
        entry = entry.model_copy(update={"options": twin.options, "release": twin.release or entry.release})
    if checkpoint is not None and release is not None:
        raise UserError("--checkpoint and --release were both given: one of them says which weights")
    with (
        only_writer(output),
        scratch_folder(output) as scratch,
        open_input(source, scale, scratch, genes=genes, transcripts=transcripts, strand=strand) as opened,
    ):
        weights = _weights(encoder, entry, card, opened, checkpoint, release, params, scratch)
        if twin is not None and weights is not None and weights.sha256 != twin.checkpoint_sha256:
            raise UserError(
                f"--like {like} was made with another checkpoint (sha256 {str(twin.checkpoint_sha256)[:12]}…, here "
                f"{weights.sha256[:12]}…): give the same one with --checkpoint or --release"
            )
        written = embed_expression(
            encoder,
            entry.model,
            opened,
            opened.obs,
            output,
            {**entry.options, **(options or {})},
            shard_size,
            lambda: opened.sha256,
            checkpoint=weights,
            device=device or (params.embed.device if params else "cpu"),
            precision=precision or (params.embed.precision if params else "float32"),
            batch_size=batch_size,
            plan=plan,
        )
    if add_to is not None:
        add_vectors(add_to, output, f"X_{encoder}")
    return written


def _refuse_foreign_store(output: Path) -> None:
    """A store replaces what stands there: never anything but an older store."""
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file: give the name of a new folder for the embeddings")
    strange = {path.name for path in output.iterdir()} - STORE_ENTRIES if output.is_dir() else set()
    if strange:
        raise UserError(
            f"{output} is no embedding store (it holds {some(sorted(strange))}) and would be replaced: give a new "
            "folder"
        )


def _refuse_unfit(options: object, device: object, precision: object, batch_size: object) -> None:
    """What the command line checks by itself, and a caller from Python may get wrong."""
    if not isinstance(options, Mapping | None):
        raise UserError(
            f"options is {options!r}, expected a mapping from names to values, such as {{'pooling': 'mean'}}"
        )
    if device is not None and not re.fullmatch(DEVICES, str(device)):
        raise UserError(f"device is {device!r}, expected cpu, cuda or one of several GPUs, such as cuda:1")
    if precision not in (None, "float32", "bfloat16"):
        raise UserError(f"precision is {precision!r}, expected float32 or bfloat16")
    if batch_size is not None and not (isinstance(batch_size, int) and batch_size >= 1):
        raise UserError(f"batch_size is {batch_size!r}, expected a whole number of at least 1, or None")


def _weights(
    encoder: str,
    entry: EncoderEntry,
    card: Card,
    source: Input,
    checkpoint: Path | None,
    release: str | None,
    params: Params | None,
    scratch: Path,
) -> Checkpoint | None:
    if card.kind == "baseline":
        if checkpoint is not None or release is not None:
            raise UserError(f"{encoder} is a baseline and has no weights: leave --checkpoint and --release out")
        return None
    if checkpoint is not None:
        found = identify(card, checkpoint)
        if found.release is None:
            print(f"note: {checkpoint} is no release that is known here: its weights are unverified", file=sys.stderr)
        return found
    wanted = release or str(entry.release)
    if wanted == UNTRAINED:  # of this input's genes, so not the one that the pipeline keeps in `models/`
        return make_untrained(card, source.var, scratch, params.base.seed if params else 0)[0]
    return fetch_weights(encoder, entry, card, wanted, params)


def fetch_weights(
    encoder: str, entry: EncoderEntry, card: Card, release: str, params: Params | None, **http: Any
) -> Checkpoint:
    """Download a release into `models/<encoder>/<release>`, checked and recorded."""
    folder = paths.weights_path(encoder)
    workers, retries = (params.fetch.workers, params.fetch.retries) if params else (2, 5)
    found, hashes = fetch_release(
        card, release, folder, lock=paths.SOURCE_LOCK, workers=workers, retries=retries, **http
    )
    if entry.release == release:
        write_record(folder, entry.model, found, hashes)
    return found


def fetch_target(target: str, **http: Any) -> Checkpoint:
    """Download what `bulkprobe fetch ENCODER[:RELEASE]` names."""
    encoder, _, release = target.partition(":")
    if encoder not in MODELS and not (PARAMS_FILE.is_file() and encoder in load_params().encoders):
        raise UserError(f"there is nothing to fetch for {target!r}: tcga or ENCODER[:RELEASE] was expected")
    params, entry = find_entry(encoder)
    card = get_encoder(entry.model).card
    if card.kind == "baseline":
        raise UserError(f"{encoder} is a baseline: it has no weights to fetch")
    wanted = release or (entry.release if entry.release not in (None, UNTRAINED) else card.releases[0].name)
    if wanted == UNTRAINED:
        raise UserError(f"untrained stand-ins are made, not fetched: `dvc repro weights@{encoder}`")
    return fetch_weights(encoder, entry, card, str(wanted), params, **http)


def add_vectors(path: Path, store: Path, key: str) -> None:
    """Write a store's vectors into an .h5ad as obsm[key]; the file changes as a whole or not at all.

    The file's samples must all be in the store. Raises UserError otherwise, or where it is no AnnData.
    """
    import anndata
    import h5py

    if path.suffix != ".h5ad" or not path.is_file():
        raise UserError(f"--add-to {path}: an existing .h5ad file was expected")
    vectors = read_store(store)
    with only_writer(path), atomic_path(path) as aside:
        shutil.copyfile(path, aside)
        try:
            with h5py.File(path, "r") as file:
                refuse_endless_texts(file)
            with h5py.File(aside, "r+") as file:
                index = file["obs"].attrs["_index"]
                names = [name.decode() if isinstance(name, bytes) else str(name) for name in file["obs"][index][:]]
                missing = sorted(set(names) - set(vectors.sample_id))
                if missing:
                    raise UserError(f"--add-to {path}: {store} has no vector for {some(missing)}: embed this file")
                place = file.require_group("obsm")
                if key in place:
                    del place[key]
                rows = np.ascontiguousarray(vectors.embedding[vectors.rows_of(names)])
                anndata.io.write_elem(place, key, rows)
        except (KeyError, OSError) as problem:
            raise UserError(f"--add-to {path} cannot be written as AnnData: {' '.join(str(problem).split())}") from None
