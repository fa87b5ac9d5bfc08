"""Final probes fitted on all patients: kept in a file, applied to another cohort."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from zipfile import ZipFile

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from bulkprobe.errors import UserError, some
from bulkprobe.files import atomic_path
from bulkprobe.foreign import refuse_zip_bomb, refusing
from bulkprobe.probes.arrays import Floats
from bulkprobe.probes.cox import Ties, solve_cox
from bulkprobe.probes.cox_elastic_net import fit_cox_elastic_net
from bulkprobe.probes.logistic import solve_logistic
from bulkprobe.probes.partial_likelihood import Outcome
from bulkprobe.probes.transform import FittedTransform, Transform

FORMAT = "bulkprobe probes 1"
Rows = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Probe:
    """One fitted model: of which label, through which transform, on which encoder's embeddings.

    coef: (features,) on prepared features. encoder: attributes of the embedding store it was trained on.
    """

    task: Literal["mutation", "survival"]
    label: str
    penalty: float
    n: int
    transform: FittedTransform
    coef: Floats
    intercept: float
    encoder: Mapping[str, Any] = field(default_factory=dict)


def median_penalty(penalties: Sequence[float | None]) -> float:
    """Median of the penalties chosen over the splits; of two in the middle the larger. Null splits are left out."""
    chosen = sorted(penalty for penalty in penalties if penalty is not None)
    if not chosen:
        raise UserError("No split of this label chose a penalty, so no final probe can be fitted; leave the label out")
    return chosen[len(chosen) // 2]


def fit_mutation_probe(
    rows: Rows,
    truth: npt.NDArray[np.bool_],
    *,
    label: str,
    penalty: float,
    transform: Transform,
    encoder: Mapping[str, Any],
) -> Probe:
    """Fit a label's final logistic model on all its patients; rows (n, width), truth (n,) bool, both classes."""
    with threadpool_limits(1):  # so that bytes do not depend on the number of threads
        prepared = transform.fit(rows)
        coef, intercept = solve_logistic([prepared.basis], [truth[:, None]], np.array([[[penalty]]]))[0]
    return Probe(
        "mutation", label, penalty, len(rows), prepared.fitted, coef[0, 0], float(intercept[0, 0]), dict(encoder)
    )


def fit_survival_probe(
    rows: Rows,
    time: Floats,
    event: npt.NDArray[np.bool_],
    *,
    label: str,
    penalty: float,
    transform: Transform,
    encoder: Mapping[str, Any],
    ties: Ties = "efron",
    l1_ratio: float = 0.0,
) -> Probe:
    """Fit a label's final Cox model on all its patients; rows (n, width), time (n,) days, event (n,) bool."""
    with threadpool_limits(1):
        prepared = transform.fit(rows)
        if l1_ratio > 0:
            coef = fit_cox_elastic_net(prepared.rows, time, event, [penalty], l1_ratio, ties).coef
        else:
            coef = solve_cox([prepared.basis], [Outcome(time, event)], np.array([[penalty]]), ties)[0][0]
    return Probe("survival", label, penalty, len(rows), prepared.fitted, coef[0], 0.0, dict(encoder))


def predict(probe: Probe, X: Rows) -> Floats:
    """Linear predictors of embeddings X (m, width), (m,): log-odds of mutation, or log relative hazard."""
    X = np.asarray(X)
    if X.ndim != 2 or X.shape[1] != probe.transform.width:
        raise UserError(
            f"The probe {probe.label!r} was trained on embeddings of width {probe.transform.width}, these have shape "
            f"{X.shape}; embed with the same encoder and options"
        )
    if not np.isfinite(X).all():
        raise UserError(
            f"{int((~np.isfinite(X).all(axis=1)).sum())} embeddings hold NaN or infinite values; embed again"
        )
    return probe.transform.score(X, probe.coef[:, None], np.array([probe.intercept]))[:, 0]


def save_probe(path: Path, probes: Sequence[Probe]) -> None:
    """Write probes to one .npz file without pickled objects; equal probes give equal bytes."""
    labels = [probe.label for probe in probes]
    if not labels or len(set(labels)) < len(labels):
        raise UserError(f"Probes to save are labelled {some(labels)}; give at least one, each label once")
    arrays: dict[str, npt.NDArray[Any]] = {}
    heads = []
    for number, probe in enumerate(probes):
        fitted = probe.transform
        heads.append(
            {
                "task": probe.task,
                "label": probe.label,
                "penalty": probe.penalty,
                "n": probe.n,
                "intercept": probe.intercept,
                "width": fitted.width,
                "factor": fitted.factor,
                "encoder": dict(probe.encoder),
            }
        )
        content = {"coef": probe.coef, "kept": fitted.kept, "mean": fitted.mean, "sd": fitted.sd}
        if fitted.axes is not None:
            content["axes"] = fitted.axes
        arrays |= {f"{number}.{key}": np.ascontiguousarray(value) for key, value in content.items()}
    head = json.dumps({"format": FORMAT, "probes": heads}, sort_keys=True, allow_nan=False)
    arrays["head"] = np.frombuffer(head.encode(), dtype=np.uint8)
    with atomic_path(Path(path)) as aside, aside.open("wb") as handle:
        np.savez(handle, allow_pickle=False, **arrays)


def load_probe(path: Path) -> list[Probe]:
    """Read the probes of a file; UserError if it is none of ours or of another format."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no probe file {path}; save one with `bulkprobe probe … --save`")
    with refusing(f"{path} is no readable probe file", "save it again with `bulkprobe probe … --save`"):
        content = dict(_arrays(path))
        head = json.loads(content["head"].tobytes())
        if head["format"] != FORMAT:
            raise UserError(f"{path} has format {head['format']!r}, expected {FORMAT!r}; save the probe again")
        return [_probe(number, entry, content) for number, entry in enumerate(head["probes"])]


def _arrays(path: Path) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Yield the arrays of an .npz file; ValueError where a header promises other bytes than its member has.

    NumPy takes memory for what a header says before it looks for the bytes.
    """
    refuse_zip_bomb(path)
    with ZipFile(path) as archive:
        for member in archive.infolist():
            with archive.open(member) as handle:
                version = np.lib.format.read_magic(handle)
                if version != (1, 0):
                    raise ValueError(f"{member.filename} has version {version} of the format")
                shape, by_columns, dtype = np.lib.format.read_array_header_1_0(handle)
                data = handle.read()
                if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(data) or min(shape, default=0) < 0:
                    raise ValueError(f"{member.filename} has {len(data)} bytes for {shape} of {dtype}")
                array = np.frombuffer(data, dtype).reshape(shape, order="F" if by_columns else "C")
            yield member.filename.removesuffix(".npy"), array


def _probe(number: int, head: Mapping[str, Any], content: Mapping[str, npt.NDArray[Any]]) -> Probe:
    coef, kept, axes = content[f"{number}.coef"], content[f"{number}.kept"], content.get(f"{number}.axes")
    mean, sd, width = content[f"{number}.mean"], content[f"{number}.sd"], int(head["width"])
    features = kept.shape if axes is None else axes.shape[1:]
    fitting = kept.ndim == 1 and mean.shape == sd.shape == kept.shape == (kept if axes is None else axes[:, 0]).shape
    if not fitting or coef.shape != features or kept.dtype.kind not in "iu":
        raise ValueError("its arrays do not fit each other")
    if len(kept) and not 0 <= int(kept.min()) <= int(kept.max()) < width:
        raise ValueError(f"it names features outside a width of {width}")
    if not all(array.dtype.kind == "f" for array in (coef, mean, sd)):
        raise ValueError("its numbers are of another type")
    if not isinstance(head["label"], str) or head["task"] not in ("mutation", "survival"):
        raise ValueError("it does not say what it predicts")
    fitted = FittedTransform(width, kept, mean, sd, axes, float(head["factor"]))
    return Probe(
        head["task"],
        head["label"],
        float(head["penalty"]),
        int(head["n"]),
        fitted,
        coef,
        float(head["intercept"]),
        head["encoder"],
    )
