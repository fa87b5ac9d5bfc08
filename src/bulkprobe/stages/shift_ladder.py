"""The depth ladder: the same tumours sequenced less and less deeply, embedded again, read by the same probes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from bulkprobe.errors import UserError
from bulkprobe.preprocess.draws import stream_of
from bulkprobe.preprocess.thinning import thin
from bulkprobe.probes.transform import FittedTransform
from bulkprobe.probes.units import rounded
from bulkprobe.shift.ladder import cosine_distance, lost_from, mean_distance, neighbour_overlap, spread
from bulkprobe.stages import probing
from bulkprobe.stages.embed import plan_of
from bulkprobe.stages.shift_probes import Predictions, Probes, Truth, fit_probes
from bulkprobe.stages.shift_scores import MEANS
from bulkprobe.stages.shift_subject import BLOCK, Subject, thinned_tpm

READ = 256  # tumours whose counts are held at a time
CHECKED = 8  # tumours embedded again at full depth, to see that the session is the one that wrote the store
ALIKE = 0.1  # distance up to which that holds, of the mean distance between tumours: processors round differently


@dataclass(frozen=True)
class Space:
    """Where drift is measured: the embedding, or what the probe's own transform makes of it."""

    transform: FittedTransform | None
    said: str

    def of(self, vectors: np.ndarray) -> np.ndarray:
        """Bring vectors (n, width) there, float32."""
        return vectors if self.transform is None else self.transform.apply(vectors).astype(np.float32)


@dataclass(frozen=True)
class Tested:
    """The tumours that are thinned: test patients of the first splits.

    places: among the probed patients, rising. rows: in the expression. full: (n, width) stored vectors.
    """

    places: np.ndarray
    rows: np.ndarray
    samples: list[str]
    full: np.ndarray


def run_ladder(subject: Subject) -> dict[str, Any]:
    """Thin the test patients of the first splits to every depth, embed them and score them by fixed probes.

    The session was made ready for the whole cohort at full depth, so whatever it takes from a cohort is frozen. A
    sample whose library is no larger than the depth keeps its stored vector: the same input gives the same vector.
    """
    settings, why = subject.params.shift, _why_not(subject)
    if why is not None:
        return {"reason": why}
    truth, n_splits = Truth.of(subject), min(settings.ladder_splits, subject.params.splits.n_splits)
    probes = fit_probes(subject, truth, n_splits)
    if not probes:
        return {"reason": "no label has a probe in the first splits, so there is nothing to thin for"}
    tested = _tested(subject, probes)
    _check_session(subject, tested)
    types, space = subject.patients.types.to_numpy(dtype=object), _space(subject, probes)
    full = Predictions(probes)
    full.add(tested.places, tested.full)
    judged = full.judge(truth, types, subject.metrics, n_splits)
    gap = judged.gap(subject.metrics, subject.name)
    at_full = space.of(tested.full)
    between = mean_distance(at_full)
    steps = _climb(subject, probes, tested, space, at_full)
    depths = [
        {
            **_moved(at_full, step, between),
            "scores": step.predictions.judge(truth, types, subject.metrics, n_splits).means().written(),
        }
        for step in steps
    ]
    target, written = subject.session.attributes.get("target_sum"), judged.means().written()
    return {
        "reason": None,
        "n": len(tested.places),
        "splits": n_splits,
        "space": space.said,
        "target_sum": None if target is None else float(target),
        "rounded": any(step.fractions for step in steps),
        "between": significant(between),
        "full": written,
        "gap": rounded(gap),
        "half_lost": {task: _half_lost(task, written, depths) for task in MEANS},
        "depths": depths,
    }


def _half_lost(task: str, full: Mapping[str, Any], depths: list[dict[str, Any]]) -> dict[str, Any]:
    """From which depth on a mean has lost half of what it sees, or why there is no such depth."""
    depth, reason = lost_from(full[task]["value"], {step["depth"]: step["scores"][task]["value"] for step in depths})
    return {"depth": depth, "reason": reason}


def _why_not(subject: Subject) -> str | None:
    if not subject.params.shift.encoders[subject.name].ladder:
        return "not asked for (ladder: false in section shift of params.yaml)"
    if subject.session.layer is None:
        return "this encoder reads no expression"
    return subject.no_counts


def _tested(subject: Subject, probes: list[Probes]) -> Tested:
    places = np.unique(np.concatenate([one.tested for one in probes]))
    samples = subject.patients.sample_id.iloc[places].tolist()
    return Tested(places, subject.rows_of(samples), samples, subject.store.embedding[subject.store.rows_of(samples)])


def _check_session(subject: Subject, tested: Tested) -> None:
    """A session that does not give the stored vectors back would show as drift: refuse it."""
    rows = tested.rows[:CHECKED]
    distance = cosine_distance(subject.embed(subject.values_of(rows), rows), tested.full[:CHECKED])
    if np.nanmax(distance, initial=0.0) > ALIKE * (mean_distance(tested.full) or 0.0):
        raise UserError(
            f"encoder {subject.name} gives {tested.samples[int(np.nanargmax(distance))]} another vector than its store "
            f"holds (1 - cosine is {np.nanmax(distance):.3g}): run `dvc repro embed@{subject.name}`"
        )


def _space(subject: Subject, probes: list[Probes]) -> Space:
    kind = probing.transform_of(subject.store)
    if kind.kind == "none":
        return Space(None, "the embedding")
    largest = max((one for one in probes if one.place == 0), key=lambda one: one.trained, default=probes[0])
    what = {"pca": "principal components", "hvg": "variable genes"}[kind.kind]
    said = f"{kind.size} {what}, fitted on the {largest.trained} training patients of {largest.labels[0]}'s first split"
    return Space(largest.transform, said)


class Step:
    """What is kept of one depth, filled in block by block; n tumours.

    moved: (n, features) where drift is measured; of lost tumours, where they were. thinned, lost: (n,)
    whether the library was above the depth, and nothing could be read. expressed: (n,) genes above 0. fractions:
    whether counts had to be rounded.
    """

    def __init__(self, depth: int, probes: list[Probes], full: np.ndarray) -> None:
        """Begin with tumours where they are at full depth, (n, features)."""
        self.depth, self.predictions, self.moved = depth, Predictions(probes), full.copy()
        self.thinned, self.lost = np.zeros(len(full), bool), np.zeros(len(full), bool)
        self.expressed, self.fractions = np.zeros(len(full)), False


@dataclass(frozen=True)
class Rung:
    """What a block of n tumours gave at one depth.

    above: (n,) whether the library was above the depth. vectors: (n, width), NaN where nothing could be read.
    expressed: (n,) genes above 0. fractions: whether counts had to be rounded.
    """

    above: np.ndarray
    vectors: np.ndarray
    expressed: np.ndarray
    fractions: bool


def _climb(subject: Subject, probes: list[Probes], tested: Tested, space: Space, full: np.ndarray) -> list[Step]:
    """Thin, embed and score block by block, so that expression is never held whole."""
    n, depths = len(tested.rows), subject.params.shift.depths
    steps = {depth: Step(depth, probes, full) for depth in depths}
    with tqdm(total=n * len(depths), desc=f"depth ladder {subject.name}", unit="sample", delay=2) as progress:
        for start, depth, rung in _rungs(subject, tested):
            step, block = steps[depth], slice(start, start + len(rung.above))
            left = np.isfinite(rung.vectors).all(axis=1)
            step.thinned[block], step.lost[block] = rung.above, ~left
            step.fractions |= rung.fractions
            step.expressed[block] = rung.expressed
            step.predictions.add(tested.places[block][left], rung.vectors[left])
            step.moved[np.flatnonzero(rung.above & left) + start] = space.of(rung.vectors[rung.above & left])
            progress.update(len(rung.above))
    return list(steps.values())


def _rungs(subject: Subject, tested: Tested) -> Iterator[tuple[int, int, Rung]]:
    """Yield every block's first tumour, depth and rung, here or on the cluster of the parameters, in any order."""
    starts, depths = range(0, len(tested.rows), READ), subject.params.shift.depths
    plan = plan_of(subject.params.embed)
    if plan:
        from bulkprobe.stages.shift_cluster import rungs_on_cluster

        yield from rungs_on_cluster(subject, tested, [(start, depth) for start in starts for depth in depths], plan)
        return
    for start in starts:
        for depth, rung in thin_block(subject, tested, start, depths):
            yield start, depth, rung


def thin_block(subject: Subject, tested: Tested, start: int, depths: Sequence[int]) -> Iterator[tuple[int, Rung]]:
    """Thin the READ tumours from `start` on to each depth and embed them; their expression is read once."""
    block = slice(start, min(start + READ, len(tested.rows)))
    rows, samples = tested.rows[block], tested.samples[block]
    counts = subject.expression.read("X", rows)
    values = counts if subject.session.layer == "X" else subject.values_of(rows)
    libraries = np.array([row.sum(dtype=np.float64) for row in counts])
    for depth in depths:
        streams = [stream_of(subject.params.base.seed, f"{sample}/{depth}") for sample in samples]
        thinned = np.stack([thin(row, depth, stream) for row, stream in zip(counts, streams, strict=True)])
        above, vectors = libraries > depth, tested.full[block].copy()
        if above.any():
            read = thinned[above]
            if subject.session.layer != "X":
                read = thinned_tpm(read, counts[above], values[above])
            vectors[above] = _embed(subject, read, rows[above])
        fractions = bool((counts[above] != np.rint(counts[above])).any())
        yield depth, Rung(above, vectors, (thinned > 0).sum(axis=1), fractions)


def _embed(subject: Subject, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Embed values (n, n_genes); a sample that is empty, or of which the encoder cannot read anything, has NaN."""
    vectors = np.full((len(rows), subject.session.width), np.nan, np.float32)
    for start in range(0, len(rows), BLOCK):
        here = start + np.flatnonzero(values[start : start + BLOCK].any(axis=1))
        if not len(here):
            continue
        try:
            vectors[here] = subject.embed(values[here], rows[here])
        except UserError:  # it names one of them: find out which can be read
            for one in here:
                with suppress(UserError):
                    vectors[one] = subject.embed(values[[one]], rows[[one]])[0]
    return vectors


def significant(number: float | None) -> float | None:
    """Six digits of a distance: between vectors of an untrained stand-in it may be far below 1."""
    return None if number is None else float(f"{number:.6g}")


def _moved(full: np.ndarray, step: Step, between: float | None) -> Mapping[str, Any]:
    """What became of the vectors at one depth."""
    left = ~step.lost
    drift = spread(cosine_distance(full[left], step.moved[left]))
    mean = drift["mean"]
    return {
        "depth": step.depth,
        "n": int(left.sum()),
        "n_thinned": int(step.thinned.sum()),
        "n_lost": int(step.lost.sum()),
        "expressed": float(np.median(step.expressed)),
        "drift": {key: significant(value) for key, value in drift.items()},
        "relative_drift": significant(mean / between) if mean is not None and between else None,
        "neighbour_overlap": rounded(neighbour_overlap(full[left], step.moved[left])),
    }
