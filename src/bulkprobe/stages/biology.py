"""Stage `biology@<encoder>`: do an encoder's gene vectors know which genes belong together?

Of the samples only the cancer type is read, of the labels nothing.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from bulkprobe.biology.coexpression import FOLDS, Coexpression, coexpression, score_coexpression
from bulkprobe.biology.paralogs import Paralogs, paralogs_of_pairs, paralogs_of_symbols
from bulkprobe.biology.sets import Recovery, set_recovery
from bulkprobe.cohort.read import read_columns
from bulkprobe.cohort.schema import PROVENANCE, SAMPLE_COLUMNS, SAMPLES
from bulkprobe.cohort.store import open_expression
from bulkprobe.encoders import get_encoder
from bulkprobe.encoders.base import Weights
from bulkprobe.errors import UserError
from bulkprobe.files import read_json, write_json
from bulkprobe.foreign import bytes_of
from bulkprobe.params import Params, load_params
from bulkprobe.preprocess.vocabulary import gene_names
from bulkprobe.probes.metrics import Undefined
from bulkprobe.sources.gmt import read_gmt
from bulkprobe.stages import paths
from bulkprobe.stages.checkpoints import Checkpoint, recorded
from bulkprobe.stages.embed import view_of
from bulkprobe.stages.gene_vectors import (
    GeneVectors,
    contextual_vectors,
    drawn,
    input_vectors,
    log_blocks,
    match,
    pca_vectors,
)
from bulkprobe.stages.running import encoder_argument, run_stage
from bulkprobe.store import read_attributes

MOST_TUMOURS = 2000  # of which co-expression is computed
OWN_COEXPRESSION = "these vectors are computed from this cohort's co-expression"
NO_RECOVERY = {"mean": None, "sd": None, "n_sets": 0, "n_outside": None, "null_mean": None, "null_sd": None, "p": None}
NO_COEXPRESSION = dict.fromkeys(("r2", "sd", "folds", "spearman", "spearman_p", "n_genes", "n_pairs"))


@dataclass(frozen=True)
class Background:
    """What the vectors are scored against, the same for every encoder.

    var: the cohort's genes. sets: name → columns of the genes that the cohort measures, of usable size. least: genes of
    a set that must have a vector. table: pairs of paralogs (n, 2) as columns, None: by symbols. coexpression: or why
    there is none.
    """

    var: pd.DataFrame
    sets: Mapping[str, np.ndarray]
    least: int
    table: np.ndarray | None
    coexpression: Coexpression | str
    random_sets: int
    seed: int


def main() -> str:
    """Write `metrics/biology/<encoder>.json`."""
    params = load_params()
    name = encoder_argument()
    path = paths.metrics_path("biology", name)
    with threadpool_limits(1):  # so that bytes do not depend on how many cores there are
        write_json(path, run(name, params))
    return f"{path} is written"


def run(name: str, params: Params) -> dict[str, Any]:
    """Score an encoder's gene vectors; returns the content of the metrics file."""
    if name not in params.encoders or name not in params.biology.encoders:
        known = ", ".join(key for key in params.biology.encoders if key in params.encoders) or "none"
        raise UserError(f"params.yaml: biology.encoders has no {name!r}; known: {known}")
    entry = params.encoders[name]
    card, store = get_encoder(entry.model).card, read_attributes(paths.store_path(name))
    expression = open_expression(paths.COHORT)
    usable, about = read_sets(params, expression.var)
    content = {
        "encoder": name,
        "model": entry.model,
        "kind": card.kind,
        "release": store.get("release"),
        "untrained": bool(store.get("untrained", False)),
        "simulated": read_json(paths.COHORT / PROVENANCE).get("source") == "simulated",
        "absent": store.get("absent"),
        "gene_sets": about,
    }
    if store.get("absent") is not None:
        return content | {"vectors": {part: {"reason": str(store["absent"])} for part in ("input", "contextual")}}
    checkpoint = recorded(paths.weights_path(name))
    if isinstance(checkpoint, str):
        raise UserError(f"{name} has an embedding but no weights ({checkpoint}): run `dvc repro embed@{name}`")
    samples = read_columns(paths.COHORT / SAMPLES, SAMPLE_COLUMNS).set_index("sample_id", drop=False)
    obs = samples.loc[expression.sample_ids].reset_index(drop=True)
    view, seed, settings = view_of(expression, obs), params.base.seed, params.biology
    rows = drawn(obs, MOST_TUMOURS, seed)
    coexpressed: Coexpression | str
    try:
        blocks = log_blocks(view, expression, rows)
        coexpressed = coexpression(blocks, obs.cancer_type.to_numpy(dtype=object)[rows], seed=seed)
    except Undefined as problem:
        coexpressed = str(problem)
    table = read_paralogs(settings.paralogs, expression.var)
    background = Background(
        expression.var, usable, params.gene_sets.least, table, coexpressed, settings.random_sets, seed
    )

    def of_input() -> GeneVectors:
        if entry.model == "pca":
            return pca_vectors(entry, log_blocks(view, expression, rows), len(rows), seed)
        return input_vectors(entry, checkpoint, expression.var)

    def of_states() -> GeneVectors:
        if not settings.encoders[name].contextual:
            raise Undefined("not asked for (contextual: false in section biology of params.yaml)")
        if not isinstance(checkpoint, Checkpoint):
            raise Undefined("a baseline has no states of genes")
        weights = Weights(checkpoint.folder, params.embed.device, params.embed.precision)
        chosen = drawn(obs, settings.contextual_samples, seed)
        return contextual_vectors(entry, weights, view, expression, chosen)

    circular = circular_scores(entry.model, card.circular, str(about["collection"]))
    vectors = {"input": block(of_input, background, circular), "contextual": block(of_states, background, circular)}
    recorded(paths.weights_path(name))  # they are mapped: nobody has written into them meanwhile
    return content | {"vectors": vectors}


def read_sets(params: Params, var: pd.DataFrame) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the usable gene sets as columns of the cohort, and what the metrics file says of the collection."""
    about, sets = read_json(paths.GENE_SETS / "provenance.json"), read_gmt(paths.GENE_SETS / "sets.gmt")
    least, most = params.gene_sets.least, params.gene_sets.most
    names = list(dict.fromkeys(gene for one in sets for gene in one.genes))
    found = match(names, var)
    column = {names[place]: int(column) for column, place in zip(found.columns, found.places, strict=True)}
    measured = {one.name: np.array(sorted(column[g] for g in one.genes if g in column), np.intp) for one in sets}
    usable = {name: columns for name, columns in measured.items() if least <= len(columns) <= most}
    return usable, {
        "collection": about["collection"],
        "source": about["source"]["name"],
        "sha256": about["sha256"],
        "n_sets": len(sets),
        "n_sets_used": len(usable),
        "least": least,
        "most": most,
    }


def read_paralogs(choice: str, var: pd.DataFrame) -> np.ndarray | None:
    """Return the pairs of a user's table as columns of the cohort, (n, 2); None where symbols decide."""
    if choice == "symbols":
        return None
    path = Path(choice)
    if not path.is_file():
        raise UserError(f"biology.paralogs is {choice!r}, but there is no such file: give a table of pairs or symbols")
    try:
        comma = path.name.lower().removesuffix(".gz").endswith(".csv")
        content = io.BytesIO(bytes_of(path, unpack=True))
        table = pd.read_csv(content, sep="," if comma else "\t", header=None, dtype=str, usecols=[0, 1])
    except (ValueError, pd.errors.ParserError, EOFError, zlib.error, gzip.BadGzipFile):
        raise UserError(
            f"{path.name} is no table of two columns: give a .tsv or .csv with a pair of genes a row"
        ) from None
    names = pd.unique(table.to_numpy(dtype=object).ravel()).astype(str)
    found = match(list(names), var)
    column = {names[place]: int(column) for column, place in zip(found.columns, found.places, strict=True)}
    pairs = [(column[a], column[b]) for a, b in table.astype(str).to_numpy() if a in column and b in column]
    if not pairs:
        raise UserError(
            f"{path.name} holds no pair of genes of this cohort: give symbols or Ensembl ids as it has them"
        )
    return np.array(pairs, dtype=np.intp)


def circular_scores(model: str, of_card: Mapping[str, str], collection: str) -> dict[str, str | None]:
    """Return why a score would find again what was built in, by score: recovery, coexpression."""
    own = {"coexpression": OWN_COEXPRESSION} if model == "pca" else dict(of_card)
    return {"coexpression": own.get("coexpression"), "recovery": own.get(collection)}


def block(
    make: Callable[[], GeneVectors], background: Background, circular: Mapping[str, str | None]
) -> dict[str, Any]:
    """Score one kind of gene vectors."""
    try:
        found = make()
    except Undefined as problem:
        return {"reason": str(problem)}
    place = np.full(len(background.var), -1, dtype=np.intp)
    place[found.columns] = np.arange(len(found.columns))
    sets = {name: place[columns][place[columns] >= 0] for name, columns in background.sets.items()}
    sets = {name: genes for name, genes in sets.items() if len(genes) >= background.least}
    paralogs = _paralogs(background, found.columns, place)
    why = {"circular": circular["recovery"]}
    try:
        if not sets:
            raise Undefined("no gene set of usable size", {"sets": len(background.sets), "least": background.least})
        whole, apart = set_recovery(
            found.vectors,
            list(sets.values()),
            paralogs,
            random_sets=background.random_sets,
            seed=background.seed,
        )
        recovery = _recovery(whole) | {"sets": [_set(whole, k, n, len(g)) for k, (n, g) in enumerate(sets.items())]}
        without = {"pairs_left_out": apart.pairs_left_out, **_recovery(apart)}
    except Undefined as problem:
        recovery = NO_RECOVERY | {"reason": str(problem), "sets": []}
        without = NO_RECOVERY | {"reason": str(problem), "pairs_left_out": None}
    return {
        "reason": None,
        "what": found.what,
        "n_genes": len(found.columns),
        "width": int(found.vectors.shape[1]),
        "n_samples": found.n_samples,
        "recovery": recovery | why,
        "without_paralogs": without | why | {"rule": paralogs.rule},
        "coexpression": _coexpression(found, background) | {"circular": circular["coexpression"]},
    }


def _paralogs(background: Background, columns: np.ndarray, place: np.ndarray) -> Paralogs:
    if background.table is None:
        symbols = gene_names(background.var, "symbol")
        return paralogs_of_symbols([symbols[column] for column in columns])
    pairs = place[background.table]
    return paralogs_of_pairs(pairs[(pairs >= 0).all(axis=1)], len(columns))


def _recovery(found: Recovery) -> dict[str, Any]:
    try:
        mean = found.mean
    except Undefined as problem:
        return NO_RECOVERY | {"reason": str(problem)}
    scores = found.auroc[found.defined]
    return {
        "mean": rounded(mean),
        "sd": rounded(float(scores.std(ddof=1))) if len(scores) > 1 else None,
        "n_sets": len(scores),
        "n_outside": found.n_outside,
        "null_mean": rounded(float(found.null_means.mean())),
        "null_sd": rounded(float(found.null_means.std(ddof=1))),
        "p": p_value(found.p),
        "reason": None,
    }


def _set(found: Recovery, number: int, name: str, size: int) -> dict[str, Any]:
    null = found.null[:, number]
    return {
        "name": name,
        "size": size,
        "auroc": rounded(float(found.auroc[number])),
        "null_mean": rounded(float(null.mean())),
        "null_sd": rounded(float(null.std(ddof=1))),
        "p": p_value(found.p_of(number)),
    }


def _coexpression(found: GeneVectors, background: Background) -> dict[str, Any]:
    known = background.coexpression
    if isinstance(known, str):
        return NO_COEXPRESSION | {"reason": known}
    try:
        score = score_coexpression(found.vectors, found.columns, known, seed=background.seed)
    except Undefined as problem:
        return NO_COEXPRESSION | {"reason": str(problem)}
    return {
        "r2": rounded(score.r2),
        "sd": rounded(score.sd),
        "folds": FOLDS,
        "spearman": rounded(score.spearman),
        "spearman_p": p_value(score.spearman_p),
        "n_genes": score.n_genes,
        "n_pairs": score.n_pairs,
        "reason": None,
    }


def rounded(value: float | None) -> float | None:
    """Six decimals, as scores are written; None stays."""
    return None if value is None else round(value, 6) + 0.0


def p_value(value: float | None) -> float | None:
    """Four significant digits; None stays."""
    return None if value is None else float(f"{value:.4g}")


if __name__ == "__main__":
    run_stage(main)
