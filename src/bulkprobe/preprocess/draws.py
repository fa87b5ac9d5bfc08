"""Random choices of genes that a sample's own id decides."""

from __future__ import annotations

import hashlib

import numpy as np


def stream_of(seed: int, sample_id: str) -> np.random.Generator:
    """The random numbers of one sample: the same whatever its cohort, its place there and what was drawn before."""
    words = np.frombuffer(hashlib.sha256(sample_id.encode()).digest()[:16], "<u4")
    return np.random.default_rng([seed, *words.tolist()])


def weighted_orders(times: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return orders (n_draws, n) of drawing n things without replacement, each with its weight.

    times: (n_draws, n) standard exponential. Drawing one after the other is a race that each thing ends at its time
    over its weight (Efraimidis and Spirakis 2006, doi 10.1016/j.ipl.2005.11.003); so a thing keeps its luck whichever
    others take part.
    """
    order: np.ndarray = np.argsort(times / weights, axis=1, kind="stable")
    return order


def legacy_orders(seed: int, weights: np.ndarray, n_draws: int) -> np.ndarray:
    """The same from numpy's legacy generator as upstream code uses it, one whole order after the other."""
    stream = np.random.RandomState(seed)
    shares = weights / weights.sum()
    return np.stack([stream.choice(len(weights), len(weights), False, shares) for _ in range(n_draws)])
