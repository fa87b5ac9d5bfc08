"""bulkprobe from Python, typically from a notebook: what `import bulkprobe` offers.

Every function does what the command of the same name does, by the same code; what is wrong is a `UserError` of one
sentence. Where the current folder has a params.yaml, its encoders and settings hold, as they do for the command.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from bulkprobe import api, store
from bulkprobe.cohort.build import build_lab_cohort
from bulkprobe.cohort.schema import CohortRules
from bulkprobe.encoders import MODELS, get_encoder
from bulkprobe.errors import UserError
from bulkprobe.params import load_params
from bulkprobe.stages.describe import card_facts
from bulkprobe.stages.embed_input import embed_input
from bulkprobe.store import Store

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Store", "UserError", "build_cohort", "embed", "list_encoders", "predict", "probe", "read_store"]

NOTES = "bulkprobe"  # the place in AnnData's uns


def embed(
    source: AnnData | Path | str,
    encoder: str,
    *,
    checkpoint: Path | str | None = None,
    release: str | None = None,
    options: Mapping[str, Any] | None = None,
    scale: str | None = None,
    layer: str | None = None,
    genes: Path | str | None = None,
    transcripts: Path | str | None = None,
    strand: str | None = None,
    device: str | None = None,
    precision: Literal["float32", "bfloat16"] | None = None,
    batch_size: int | None = None,
    like: Path | str | None = None,
    key_added: str | None = None,
    output: Path | str | None = None,
) -> npt.NDArray[np.float32]:
    """Embed every sample; returns the vectors, one row a sample in the order of the input.

    They are those that `bulkprobe embed` writes, to the byte. An AnnData also gets them as `obsm[key_added]`, and in
    `uns["bulkprobe"][key_added]` the attributes that a store records (`cohort_sha256` is then of the content in
    memory). Nothing else of it changes. A view becomes an AnnData of its own, as by any assignment. Of one that is
    backed by a file, the values are read by blocks, and the file is not written.

    Args:
        source: An AnnData in memory or backed, or the path of an .h5ad, an AnnData .zarr, a table, a cohort folder or a
            quantifier's folder.
        encoder: A name in params.yaml, else a model's name (`list_encoders`).
        checkpoint: A folder in the released layout.
        release: The name of a release, downloaded where it is not here; or "untrained", a random stand-in made of the
            input's genes. Without checkpoint and release: what params.yaml says, else the model's first release.
            Downloads go into `models/` of the current folder.
        options: Options of the encoder, on top of those in params.yaml.
        scale: Of the values: counts, tpm, fpkm, rsem_normalised, log2_tpm_plus_0.001, log2_counts_plus_1, log1p_tpm or
            zscore; without it `uns["scale"]`, or counts where the values are whole numbers.
        layer: Of an AnnData, read instead of X; `uns["scale"]` says nothing of it.
        genes: Symbols, Ensembl ids and lengths that the input lacks: a table, a GTF, or HGNC's table of aliases.
        transcripts: Transcript and gene in two columns, or a GTF: for Salmon's and kallisto's transcripts.
        strand: Of STAR's ReadsPerGene.out.tab: unstranded, forward or reverse; without it judged by the reads.
        device: "cpu" or "cuda".
        precision: "float32" or "bfloat16".
        batch_size: Samples handed over at a time; on a CPU it changes no number.
        like: A store, or stored probes (`probe`), whose options, weights and numbers fitted to their cohort are taken
            over, so that `predict` fits.
        key_added: Key of an AnnData's obsm; without it "X_" and the encoder's name.
        output: Where the embedding store is kept as well, a folder ending in .zarr.

    Returns:
        float32 of shape (n_samples, width).

    Raises:
        UserError: Where the encoder, its options, the weights, the genes, the scale, the values or `output` do not fit.

    Example:
        ```python
        import anndata
        import bulkprobe

        adata = anndata.read_h5ad("my_cohort.h5ad")
        X = bulkprobe.embed(adata, "scgpt", release="whole-human")  # (n_samples, 512)
        adata.obsm["X_scgpt"]  # the same
        ```
    """
    given = Path(source) if isinstance(source, str | Path) else source
    if not isinstance(given, Path):
        _refuse_place(given, key_added)
    for name, value in (("key_added", key_added), ("layer", layer)):
        if value is not None and isinstance(given, Path):
            raise UserError(f"{name} is {value!r}, but {given} is a path: hand over an AnnData, which has such a place")
    with tempfile.TemporaryDirectory(prefix="bulkprobe-") as scratch:
        path = Path(scratch) / "vectors.zarr" if output is None else Path(output)
        embed_input(
            encoder,
            given if layer is None else _of_layer(given, layer),
            path,
            checkpoint=None if checkpoint is None else Path(checkpoint),
            release=release,
            scale=scale,
            options=options,
            batch_size=batch_size,
            device=device,
            precision=precision,
            like=None if like is None else Path(like),
            genes=None if genes is None else Path(genes),
            transcripts=None if transcripts is None else Path(transcripts),
            strand=strand,
        )
        made = store.read_store(path)
    if not isinstance(given, Path):
        _add(given, key_added or f"X_{encoder}", made)
    return made.embedding


def _refuse_place(adata: Any, key: object) -> None:
    """Refuse, before anything is computed, an AnnData that could not take the vectors."""
    if getattr(adata, "isbacked", False) and adata.is_view:
        raise UserError(
            "a view of a backed AnnData has no place for vectors of its own: hand over its .to_memory(), or all of it"
        )
    if key is not None and not (isinstance(key, str) and key):
        raise UserError(f"key_added is {key!r}, expected a name for obsm, such as 'X_mine'")
    notes = getattr(adata, "uns", {}).get(NOTES, {})
    if not isinstance(notes, Mapping):
        raise UserError(
            f"uns[{NOTES!r}] of the AnnData is of type {type(notes).__name__}, but what made the vectors is to be "
            "noted there: give it another name"
        )


def _of_layer(adata: Any, layer: str) -> Any:
    """An AnnData that has a layer as its X; nothing is copied. What is no AnnData is refused later."""
    from anndata import AnnData

    if not isinstance(adata, AnnData):
        return adata
    if layer not in adata.layers:
        raise UserError(
            f"the AnnData has no layer {layer!r}, expected one of: {', '.join(adata.layers) or 'there are none'}"
        )
    return AnnData(
        adata.layers[layer],
        adata.obs,
        adata.var,
        layers={"tpm": adata.layers["tpm"]} if "tpm" in adata.layers and layer != "tpm" else None,
    )


def _add(adata: AnnData, key: str, made: Store) -> None:
    from anndata import ImplicitModificationWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImplicitModificationWarning)  # that a view becomes its own is said above
        adata.obsm[key] = made.embedding
    adata.uns[NOTES] = {**adata.uns.get(NOTES, {}), key: made.attributes}


def probe(
    embedding: Store | AnnData | Path | str,
    cohort: Path | str,
    task: Literal["mutation", "survival"],
    *,
    key: str | None = None,
    output: Path | str | None = None,
    splits: Path | str | None = None,
    save: Path | str | None = None,
    params: Path | str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Probe embeddings for mutations (AUROC) or survival (C-index), as the pipeline does.

    Args:
        embedding: An embedding store or its path, or an AnnData that `embed` has written into.
        cohort: The cohort folder (`build_cohort`) of the same samples.
        task: "mutation" or "survival".
        key: Which `obsm` of an AnnData, where it has several.
        output: Where the metrics file is written as well.
        splits: A splits table; made anew without it.
        save: Also fit on all patients and store these probes (.npz), for `predict`.
        params: A params.yaml; without it that of the current folder, else the one that bulkprobe came with.
        settings: In place of its own, by key: `{"probe_survival.types": ["KIRC"]}` for the cancer types you have.

    Returns:
        The content of the metrics file: under `labels`, for each label, `mean`, `sd`, `per_split`, n and more; a mean
        that is undefined is None with its `reason`.

    Raises:
        UserError: Where the embeddings, the cohort, the splits or the settings do not fit each other.

    Example:
        ```python
        found = bulkprobe.probe(adata, "my_cohort", "mutation", save="probes.npz")
        found["labels"]["pan_cancer/TP53"]["mean"]
        ```
    """
    return api.probe_store(
        _embedding(embedding, key),
        Path(cohort),
        task,
        None if output is None else Path(output),
        splits=None if splits is None else Path(splits),
        save=None if save is None else Path(save),
        params=api.own_params() if params is None else load_params(Path(params)),
        settings=settings,
    )


def predict(
    probes: Path | str,
    embedding: Store | AnnData | Path | str,
    *,
    key: str | None = None,
    output: Path | str | None = None,
) -> pd.DataFrame:
    """Apply stored probes to embeddings of other samples, made by the same encoder with the same options.

    Args:
        probes: Probes that `probe` or `bulkprobe probe --save` has stored.
        embedding: An embedding store or its path, or an AnnData that `embed` has written into.
        key: Which `obsm` of an AnnData, where it has several.
        output: Where the table is written as well (.parquet, .csv or .tsv).

    Returns:
        A table of one row a sample and label: task, label, sample_id, score (higher = mutated, or worse survival).

    Raises:
        UserError: Where the embeddings are of another encoder, other weights or other options.

    Example:
        ```python
        scores = bulkprobe.predict("probes.npz", other)
        scores.pivot(index="sample_id", columns="label", values="score")
        ```
    """
    return api.predict_store(Path(probes), _embedding(embedding, key), None if output is None else Path(output))


def _embedding(given: Any, key: str | None) -> Path | Store:
    """A store, its path, or what `embed` has left in an AnnData, as a store."""
    if isinstance(given, str | Path):
        return Path(given)
    if isinstance(given, Store):
        return given
    from anndata import AnnData

    if not isinstance(given, AnnData):
        raise UserError(
            f"the embedding is of type {type(given).__name__}, expected an embedding store, its path, or an AnnData "
            "that bulkprobe.embed has written into"
        )
    notes = given.uns.get(NOTES, {})
    known = sorted(name for name in notes if name in given.obsm) if isinstance(notes, Mapping) else []
    wanted = key or (known[0] if len(known) == 1 else None)
    if wanted not in known:
        raise UserError(
            f"key is {key!r}, expected one of the embeddings in this AnnData: {', '.join(known) or 'there are none'}; "
            "bulkprobe.embed writes them"
        )
    vectors = np.ascontiguousarray(given.obsm[wanted], dtype=np.float32)
    return Store(vectors, [str(name) for name in given.obs_names], _plain(dict(notes[wanted])))


def _plain(value: Any) -> Any:
    """Attributes as a store gives them back; an .h5ad returns lists as arrays and numbers as numpy's."""
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def build_cohort(
    files: Mapping[str, Any], output: Path | str, *, folder: Path | str = ".", rules: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Build a cohort folder from a lab's own tables, as `bulkprobe cohort` does.

    Args:
        files: What the YAML file of `bulkprobe cohort --files` holds: expression, expression_scale, samples, and
            mutations, survival and columns as far as there are any.
        output: The cohort folder to write.
        folder: What paths in `files` are relative to.
        rules: What counts as a usable sample, a mutation and a follow-up; the defaults without it.

    Returns:
        How many samples, calls and follow-ups every rule dropped (the content of flow.json).

    Raises:
        UserError: Where a table is missing, broken, on another scale than declared, or does not match the others.

    Example:
        ```python
        files = {"expression": "counts.tsv.gz", "expression_scale": "counts", "samples": "clinical.csv"}
        bulkprobe.build_cohort(files, "my_cohort")
        ```
    """
    for name, value in (("files", files), ("rules", rules or {})):
        if not isinstance(value, Mapping):
            raise UserError(f"{name} is of type {type(value).__name__}, expected a mapping, such as {{key: value}}")
    return build_lab_cohort(files, Path(folder), Path(output), CohortRules.from_mapping(dict(rules or {})))


def list_encoders() -> pd.DataFrame:
    """List the models and baselines: one row each, what `bulkprobe encoders` says of them.

    Returns:
        A table indexed by name, as text: title, kind, what it reads, gene ids, limits, how a vector comes about,
        options, licences, what it saw in training, and the names of its releases (the first is the default).

    Example:
        ```python
        bulkprobe.list_encoders().loc["scgpt", ["gene ids", "vector", "releases"]]
        ```
    """
    rows = {}
    for name in MODELS:
        card = get_encoder(name).card
        releases = ", ".join(release.name for release in card.releases)
        rows[name] = {"title": card.title, **card_facts(card), "releases": releases}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("encoder")


def read_store(path: Path | str) -> Store:
    """Read and verify an embedding store.

    Args:
        path: A folder that `bulkprobe embed` or `embed(output=…)` has written.

    Returns:
        A `Store`: `embedding` (n_samples, width) float32, `sample_id`, and the `attributes` that say what made it.

    Raises:
        UserError: Where it is missing, unfinished or damaged, or holds NaN.

    Example:
        ```python
        made = bulkprobe.read_store("scgpt.zarr")
        pd.DataFrame(made.embedding, index=made.sample_id)
        ```
    """
    return store.read_store(Path(path))
