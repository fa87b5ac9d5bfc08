"""Which samples are compared, and in which fold a sample stands: decided by seed and sample id."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


def chosen_ids(seed: int, ids: Sequence[str], most: int | None) -> np.ndarray:
    """Return the places (ascending) of the `most` ids of smallest hash; all for None.

    A sample's luck hangs on the seed and its id alone, so two collections that share ids choose the same of them.
    """
    if most is None or len(ids) <= most:
        return np.arange(len(ids))
    hashes = [hashlib.sha256(f"{seed}/{name}".encode()).digest() for name in ids]
    return np.sort(np.array(sorted(range(len(ids)), key=hashes.__getitem__)[:most], dtype=np.intp))


def twins_of(bulk_ids: Sequence[str], reference_ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return places (n_twins,) in both lists of the ids that stand in both; an id stands at most once in a list."""
    for ids in (bulk_ids, reference_ids):
        if len(set(ids)) < len(ids):
            raise ValueError(f"{len(ids) - len(set(ids))} sample ids are repeats; each must stand once")
    place = {name: number for number, name in enumerate(reference_ids)}
    shared = [(number, place[name]) for number, name in enumerate(bulk_ids) if name in place]
    table = np.array(shared, dtype=np.intp).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def grouped_folds(groups: np.ndarray, side: np.ndarray, n_folds: int, seed: int) -> np.ndarray:
    """Return folds (n,) that keep a group together and deal groups of either side, and those of both, evenly.

    groups: (n,) labels. side: (n,) bool.
    """
    names, code = np.unique(groups, return_inverse=True)
    kind = np.bincount(code[side], minlength=len(names)).astype(bool) + 2 * np.bincount(
        code[~side], minlength=len(names)
    ).astype(bool)
    order = np.lexsort((np.random.default_rng(seed).random(len(names)), kind))
    fold = np.empty(len(names), dtype=np.intp)
    fold[order] = np.arange(len(names)) % n_folds
    return fold[code]
