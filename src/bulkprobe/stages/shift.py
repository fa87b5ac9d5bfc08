"""Stage `shift@<encoder>`: how far bulk tumours lie from single cells, in what an encoder reads and where it puts them.

Of the patients this stage's own part reads expression, site, plate and cancer type, and no label.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from bulkprobe.cohort.read import read_cohort
from bulkprobe.encoders import get_encoder
from bulkprobe.encoders.base import Encoder
from bulkprobe.errors import UserError
from bulkprobe.files import write_json
from bulkprobe.params import Params, load_params
from bulkprobe.probes.transform import Transform
from bulkprobe.shift import inputs, space
from bulkprobe.shift.domain import domain_auroc
from bulkprobe.shift.nuisance import Classes, Number, read_nuisances
from bulkprobe.shift.sampling import chosen_ids
from bulkprobe.stages import paths, probing
from bulkprobe.stages.checkpoints import recorded
from bulkprobe.stages.running import encoder_argument, run_stage
from bulkprobe.stages.shift_feeding import run_feeding
from bulkprobe.stages.shift_ladder import run_ladder
from bulkprobe.stages.shift_reference import Cells, read_all, reference_of
from bulkprobe.stages.shift_subject import BLOCK, Subject, open_subject
from bulkprobe.stages.tasks import is_simulated
from bulkprobe.store import Store

MOST_FITTED = 2000  # tumours on which a baseline's own transform is fitted
WIDEST = 512  # features of the nuisance probes; of wider embeddings the first principal components of the training fold
PLATE = 5  # field of a TCGA aliquot barcode, counted from 0: TCGA-02-0001-01C-01R-0182-01
BLOCKS = ("reference", "input", "space", "nuisance", "ladder", "feeding")


def main() -> str:
    """Write `metrics/shift/<encoder>.json`."""
    params, name = load_params(), encoder_argument()
    if name not in params.shift.encoders:
        raise UserError(
            f"params.yaml: shift.encoders has no {name!r}; known: {', '.join(params.shift.encoders)}: add it there"
        )
    found = open_subject(name, params)
    with threadpool_limits(1):  # so that bytes do not depend on how many cores there are
        content = absent(name, params, found) if isinstance(found, Store) else run(found)
    if isinstance(found, Subject):
        recorded(paths.weights_path(name))  # they are mapped: nobody has written into them meanwhile
    write_json(paths.metrics_path("shift", name), content)
    return f"{paths.metrics_path('shift', name)} is written"


def absent(name: str, params: Params, store: Store) -> dict[str, Any]:
    """Return the content for an encoder that could not be run."""
    encoder = get_encoder(params.encoders[name].model)
    simulated = is_simulated(read_cohort(paths.COHORT))
    about = header(name, encoder, store.attributes, store.absent, simulated)
    return {**about, **{block: {"reason": store.absent} for block in BLOCKS}}


def header(
    name: str, encoder: Encoder, attributes: Mapping[str, Any], absent: str | None, simulated: bool
) -> dict[str, Any]:
    """What the file says about the encoder."""
    parameters, reason = attributes.get("parameters_used"), None
    if parameters is None:
        reason = absent or ("a baseline has no weights" if encoder.card.kind == "baseline" else "not counted")
    return {
        "encoder": name,
        "model": encoder.card.name,
        "kind": encoder.card.kind,
        "release": attributes.get("release"),
        "untrained": bool(attributes.get("untrained", False)),
        "simulated": simulated,
        "absent": absent,
        "parameters": parameters,
        "parameters_reason": reason,
        "trained_on": encoder.card.trained_on,
        "training_samples": training_samples(encoder, attributes.get("release")),
        "saw_tcga": encoder.card.release_saw_tcga(attributes.get("release")),
    }


def training_samples(encoder: Encoder, release: str | None) -> int | None:
    """Return how many cells or profiles a released checkpoint was trained on; None where nobody says, and untrained."""
    return next((known.samples for known in encoder.card.releases if known.name == release), None)


def run(subject: Subject) -> dict[str, Any]:
    """Measure everything; returns the content of the metrics file."""
    params = subject.params
    probed = subject.patients.sample_id.tolist()
    chosen = [probed[place] for place in chosen_ids(params.base.seed, probed, params.shift.samples)]
    rows = subject.rows_of(chosen)
    cells = reference_of(subject, rows)
    attributes = {**subject.store.attributes, **subject.session.attributes}
    return {
        **header(subject.name, subject.encoder, attributes, None, is_simulated(subject.cohort)),
        "reference": written(cells.about),
        "input": written(input_block(subject, rows, cells)),
        "space": written(space_block(subject, chosen, cells)),
        "nuisance": written(nuisance_block(subject)),
        "ladder": run_ladder(subject),
        "feeding": run_feeding(subject),
    }


def input_block(subject: Subject, rows: np.ndarray, cells: Cells) -> dict[str, Any]:
    """Compare what the encoder's tokeniser makes of tumours and cells."""
    session: Any = subject.session
    block: dict[str, Any] = {"reads": subject.encoder.card.reads}
    if not hasattr(session, "tokens"):
        nothing = ("bulk", "reference", "histogram", "total_variation", "biomarkers")
        return {"reason": "this encoder has no tokeniser", **block, **dict.fromkeys(nothing)}
    genes = subject.params.probe_mutation.genes
    symbols: dict[str, list[int]] = {}
    for column, symbol in enumerate(subject.view.var["symbol"]):
        symbols.setdefault(str(symbol), []).append(column)
    markers = inputs.marker_columns(genes, symbols)
    reads: list[inputs.Read] = []
    with tqdm(total=len(rows), desc=f"tokens {subject.name}", unit="sample", delay=2) as progress:
        for start in range(0, len(rows), BLOCK):
            part = rows[start : start + BLOCK]
            reads += read_all(session, subject.values_of(part), subject.obs.iloc[part], markers)
            progress.update(len(part))
    histogram, variation = inputs.token_histogram(reads, cells.reads or None)
    return {
        "reason": None,
        **block,
        "bulk": inputs.side(reads),
        "reference": inputs.side(cells.reads) if cells.reads else None,
        "histogram": histogram,
        "total_variation": variation,
        "biomarkers": inputs.marker_table(genes, markers, session.known, reads),
    }


def space_block(subject: Subject, chosen: list[str], cells: Cells) -> dict[str, Any]:
    """Compare where the encoder puts tumours and cells."""
    store, seed = subject.store, subject.params.base.seed
    bulk, reference = store.embedding[store.rows_of(chosen)], cells.vectors
    transform = probing.transform_of(store)
    note = None
    if transform.kind != "none":
        probed = subject.patients.sample_id.tolist()
        some = [probed[place] for place in chosen_ids(seed, probed, MOST_FITTED)]
        fitted = transform.fit(store.embedding[store.rows_of(some)]).fitted
        bulk, reference = fitted.apply(bulk), fitted.apply(reference) if cells.ids else reference
        note = f"{transform.kind} fitted on {len(some)} tumours alone, cells put where it puts them"
    block: dict[str, Any] = {
        "reason": None,
        "transform": note,
        "n_bulk": len(bulk),
        "n_reference": len(cells.ids),
        "width": int(bulk.shape[1]),
        "bulk": space.geometry(bulk),
        "reference": None,
    }
    if not cells.ids:
        nothing = {"reason": cells.about["reason"], "value": None}
        shares = dict.fromkeys(("median", "low", "high"))
        return {
            **block,
            "mmd": {**nothing, "p": None, "permutations": 0, "bandwidth": None},
            "domain_auroc": {**nothing, "low": None, "high": None, "folds": 0},
            "nearest": {**shares, "reason": cells.about["reason"]},
        }
    return {
        **block,
        "reference": space.geometry(reference),
        **space.distances(bulk, reference, chosen, cells.ids, seed),
        "domain_auroc": domain_auroc(bulk, reference, chosen, cells.ids, seed),
    }


def nuisance_block(subject: Subject) -> dict[str, Any]:
    """Score how well a linear probe reads technical facts from the vectors of all probed patients."""
    patients, store = subject.patients, subject.store
    rows = subject.rows_of(patients.sample_id.tolist())
    sums: list[float] = []
    expressed: list[int] = []
    with tqdm(total=len(rows), desc="library sizes", unit="sample", delay=2) as progress:
        for values in subject.expression.blocks(rows):
            sums += values.sum(axis=1, dtype=np.float64).tolist()
            expressed += (values > 0).sum(axis=1).tolist()
            progress.update(len(values))
    scale = subject.expression.scale
    signed = f"the cohort is on the scale {scale!r}, which says not which genes are expressed"
    library = np.array(sums)
    size = np.log10(library, where=library > 0, out=np.full(len(library), np.nan))
    targets: dict[str, Number | Classes] = {
        "library_size": Number(size, subject.no_counts and f"the cohort is on the scale {scale!r}, without counts"),
        "n_expressed": Number(np.array(expressed, np.float64), signed if scale == "zscore" else None),
        "site": _classes(patients.sites, "the cohort has no tissue source sites"),
        "plate": plates(subject.obs.iloc[rows]),
    }
    transform = probing.transform_of(store)

    def prepare(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return prepared(transform, train, test)

    vectors = store.embedding[store.rows_of(patients.sample_id.tolist())]
    types = patients.types.to_numpy(str)
    return {"reason": None, **read_nuisances(vectors, targets, types, prepare, subject.params.base.seed)}


def prepared(transform: Transform, train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Prepare features as the probes do, at WIDEST principal components where they are wider."""
    found = transform.fit(train).narrow(WIDEST)
    return found.rows, found.fitted.apply(test)


def plates(obs: pd.DataFrame) -> Classes:
    """Return the plates of samples, which aliquot barcodes of TCGA name."""
    fields = [str(name).split("-") for name in obs["aliquot"]]
    names = [parts[PLATE] if parts[0] == "TCGA" and len(parts) > PLATE else None for parts in fields]
    return _classes(pd.Series(names, dtype=object), "plates stand in aliquot barcodes of TCGA, which this cohort lacks")


def _classes(names: pd.Series, reason: str) -> Classes:
    known = names.fillna("").to_numpy(str)
    return Classes(known, None if (known != "").any() else reason)


def written(content: Any) -> Any:
    """Round numbers of a metrics file: six decimals, p-values to four significant digits."""
    if isinstance(content, Mapping):
        return {
            key: float(f"{value:.4g}") if key == "p" and value is not None else written(value)
            for key, value in content.items()
        }
    if isinstance(content, list):
        return [written(value) for value in content]
    return round(content, 6) + 0.0 if isinstance(content, float) else content


if __name__ == "__main__":
    run_stage(main)
