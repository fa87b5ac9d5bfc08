"""Cohorts with two embeddings of known worth.

Both embeddings are noisy linear views of one latent state z (LATENT dimensions) of the tumour:

    X = z L + sqrt(noise * width / LATENT) * (sqrt(shared) * common + sqrt(1 - shared) * own),
    L L' = width / LATENT * I,

so `noise` alone says how much of z a view carries (a share 1 / (1 + noise) of every latent dimension) and a larger
width adds directions of pure noise. L is drawn once from a fixed seed and is that of both views of one width: two
views of equal width and noise are exchangeable, also after standardisation of their columns, and neither is better.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

LATENT = 8
TYPES = 8  # cancer types of a pan-cancer condition
MIN_CLASS = 10  # `min_positives` and `min_events` of params.yaml

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class View:
    """width: columns of the embedding. noise: variance of the noise over that of the signal in a latent direction."""

    width: int
    noise: float


@dataclass(frozen=True)
class World:
    """One condition. rate: share of mutated patients, or of events. strength: log odds, or log hazard, per sd of z'w.

    shared: share of the noise that both views have in common. pan_cancer: several types, of other z and other rate.
    """

    task: Literal["mutation", "survival"]
    n: int
    rate: float
    strength: float
    a: View
    b: View
    shared: float = 0.0
    pan_cancer: bool = False
    n_splits: int = 10
    test_fraction: float = 0.2


@dataclass(frozen=True)
class Draw:
    """One cohort: views (n, width); truth: mutated or died; time: follow-up (zeros for mutation); types: (n,)."""

    a: Floats
    b: Floats
    truth: Bools
    time: Floats
    types: Ints


@cache
def _loadings(width: int) -> Floats:
    orthogonal = np.linalg.qr(np.random.default_rng(width).standard_normal((width, width)))[0]
    return np.asarray(orthogonal[:LATENT] * np.sqrt(width / LATENT))


@cache
def _types() -> tuple[Floats, Floats]:
    """Centre in the latent space and log odds of each type."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((TYPES, LATENT)), np.sqrt(0.5) * rng.standard_normal(TYPES)


@cache
def _intercept(rate: float, strength: float, pan_cancer: bool) -> float:
    """The log odds at which a share `rate` is positive, over a large fixed sample."""
    z, offset, _ = _tumours(200_000, pan_cancer, np.random.default_rng(1))
    linear = strength * z.sum(axis=1) / np.sqrt(LATENT) + offset
    return float(optimize.brentq(lambda a: special.expit(a + linear).mean() - rate, -20.0, 20.0))


def _tumours(n: int, pan_cancer: bool, rng: np.random.Generator) -> tuple[Floats, Floats, Ints]:
    z = rng.standard_normal((n, LATENT))
    if not pan_cancer:
        return z, np.zeros(n), np.zeros(n, dtype=np.int64)
    types = rng.integers(0, TYPES, n)
    centres, offsets = _types()
    return (centres[types] + z) / np.sqrt(2.0), offsets[types], types


def draw(world: World, rng: np.random.Generator) -> Draw:
    """Draw a cohort; one with fewer than MIN_CLASS patients of a class is drawn again, as the pipeline leaves it out.

    Survival: exponential times, exponential independent censoring; an event has then a logistic probability.
    """
    z, offset, types = _tumours(world.n, world.pan_cancer, rng)
    linear = _intercept(world.rate, world.strength, world.pan_cancer) + offset
    linear = linear + world.strength * z.sum(axis=1) / np.sqrt(LATENT)
    time = np.zeros(world.n)
    if world.task == "survival":
        death, censoring = rng.exponential(np.exp(-linear)), rng.exponential(1.0, world.n)
        truth, time = death <= censoring, np.minimum(death, censoring)
    else:
        truth = rng.random(world.n) < special.expit(linear)
    if min(truth.sum(), world.n - truth.sum()) < MIN_CLASS:
        return draw(world, rng)
    # One width is all that shared noise is used with.
    common = rng.standard_normal((world.n, world.a.width)) if world.shared else None
    views = []
    for view in (world.a, world.b):
        noise = rng.standard_normal((world.n, view.width))
        if common is not None:
            noise = np.sqrt(world.shared) * common + np.sqrt(1.0 - world.shared) * noise
        views.append(z @ _loadings(view.width) + np.sqrt(view.noise * view.width / LATENT) * noise)
    return Draw(views[0], views[1], truth, time, types)
