"""Problems of the size and shape of real ones, what is minimised, and how each peer writes the penalty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bulkprobe.probes.cox import Ties, cox_objective
from bulkprobe.probes.logistic import logistic_objective
from bulkprobe.probes.transform import Transform

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

DECAY = 1.5  # variance of the k-th factor falls as k^-DECAY
NOISE = 1e-3  # share of the variance that is noise, alike in every direction
RATES = (0.05, 0.4)  # base rates of the labels, evenly from the rarer to the commoner
EVENTS = 0.35  # share of patients with an event
MEDIAN_DAYS = 1_200.0
BLOCK = 512  # rows
NEAR_RIDGE = 1e-9  # l1_ratio of Coxnet, which refuses 0


@dataclass(frozen=True)
class Problem:
    """One benchmark problem. Logistic: Y (n, n_labels). Cox: time in whole days (n,), event (n,).

    X: (n, d) float32, standardised, total variance 1. penalties: falling, of the mean loss.
    """

    X: Singles
    penalties: Floats
    Y: Bools | None = None
    time: Floats | None = None
    event: Bools | None = None

    def save(self, path: Path) -> None:
        """Write the arrays as .npz."""
        arrays: dict[str, Any] = {key: value for key, value in vars(self).items() if value is not None}
        np.savez(path, **arrays)

    @classmethod
    def load(cls, path: Path) -> Problem:
        """Read what `save` wrote."""
        with np.load(path) as arrays:
            return cls(**arrays)

    def outcome(self) -> tuple[Floats, Bools]:
        """Time and event of a Cox problem."""
        if self.time is None or self.event is None:
            raise ValueError("a logistic problem has no survival times")
        return self.time, self.event

    def labels(self) -> Bools:
        """Labels of a logistic problem."""
        if self.Y is None:
            raise ValueError("a Cox problem has no labels")
        return self.Y

    def only(self, numbers: Sequence[int] | None) -> Problem:
        """Return the problem with some of its penalties."""
        return self if numbers is None else replace(self, penalties=self.penalties[list(numbers)])

    def describe(self) -> str:
        """Return the size in words."""
        n, d = self.X.shape
        what = f"n={n:,}, d={d}, {len(self.penalties)} penalties"
        if self.Y is not None:
            rates = 100 * self.Y.mean(axis=0)
            return f"{what}, {len(rates)} labels ({rates.min():.0f}-{rates.max():.0f} %)"
        time, event = self.outcome()
        died = time[event]
        return f"{what}, {event.sum()} events ({len(died) - len(np.unique(died))} tied)"


def embedding(n: int, d: int, rng: np.random.Generator) -> tuple[Singles, Floats]:
    """Draw vectors (n, d) as an encoder gives them, and the factors (n, min(d, 64)) that vary most in them.

    Variances of the factors fall by a power law, over a floor of noise: a few directions hold most of the variance
    and the covariance has a condition number of 1e4 to 1e6.
    """
    rank = min(n, d)
    factors = rng.normal(size=(n, rank))
    share = np.arange(1, rank + 1) ** -DECAY
    share *= (1 - NOISE) / share.sum()
    loadings = rng.normal(size=(rank, d))
    vectors = (factors * np.sqrt(share)) @ loadings + np.sqrt(NOISE) * rng.normal(size=(n, d))
    return vectors.astype(np.float32), factors[:, :64]


def prepared(vectors: Singles) -> Singles:
    """Scale features as the probes do, on all rows."""
    return np.asarray(Transform().fit(vectors).rows, dtype=np.float32)


def logistic_problem(n: int, d: int, n_labels: int, penalties: npt.ArrayLike, seed: int) -> Problem:
    """Draw labels that depend on a dozen factors each, about as predictable as mutations are (AUROC near 0.85)."""
    rng = np.random.default_rng([seed, n, d, n_labels])
    vectors, factors = embedding(n, d, rng)
    Y = np.empty((n, n_labels), dtype=np.bool_)
    for label, rate in enumerate(np.linspace(*RATES, n_labels)):
        signal = score(factors, rng) * 1.5 + rng.logistic(size=n)
        Y[:, label] = signal > np.quantile(signal, 1 - rate)
    return Problem(prepared(vectors), np.asarray(penalties, dtype=np.float64), Y=Y)


def cox_problem(n: int, d: int, penalties: npt.ArrayLike, seed: int) -> Problem:
    """Draw follow-up in whole days, exponential given a dozen factors, EVENTS of the patients with an event."""
    rng = np.random.default_rng([seed, n, d])
    vectors, factors = embedding(n, d, rng)
    died = MEDIAN_DAYS * rng.exponential(size=n) * np.exp(-score(factors, rng))
    censored = MEDIAN_DAYS * rng.exponential(size=n)
    censored *= np.quantile(died / censored, EVENTS)  # so that this share dies before it is lost
    event = died <= censored
    time = np.ceil(np.minimum(died, censored))
    return Problem(prepared(vectors), np.asarray(penalties, dtype=np.float64), time=time, event=event)


def score(factors: Floats, rng: np.random.Generator) -> Floats:
    """Return a linear predictor of unit variance on twelve of the factors, the leading ones included."""
    chosen = rng.choice(factors.shape[1], size=min(12, factors.shape[1]), replace=False)
    value = factors[:, chosen] @ rng.normal(size=len(chosen)) + factors[:, :4].sum(axis=1) / 2
    return np.asarray(value / value.std())


def objective(
    problem: Problem, key: tuple[int, ...], coef: Floats, intercept: float, ties: Ties | None = None
) -> float:
    """Judge both sides by one function, in double precision, on the same float32 features.

    key: (label, penalty), or (penalty,) and ties for Cox. The predictors are made by blocks of rows, so that the
    judge does not count in a side's memory.
    """
    penalty = float(problem.penalties[key[-1]])
    blocks = range(0, len(problem.X), BLOCK)
    linear = np.concatenate([problem.X[start : start + BLOCK].astype(np.float64) @ coef for start in blocks])[:, None]
    one = np.ones(1)
    if ties is None:
        loss = logistic_objective(linear, problem.labels()[:, key[0]], one, intercept, 0.0)
    else:
        loss = cox_objective(linear, *problem.outcome(), one, 0.0, ties)
    return loss + penalty / 2 * float(coef @ coef)


def objectives(problem: Problem, coef: Floats, intercept: Floats | None, ties: Ties | None) -> Floats:
    """Return the objectives of coef (n_labels, n_penalties, d) or, for Cox, (n_penalties, d): without d."""
    found = np.empty(coef.shape[:-1])
    for key in np.ndindex(found.shape):
        free = 0.0 if intercept is None else float(intercept[key])
        found[key] = objective(problem, key, coef[key], free, ties)
    return found


def excess(ours: Floats, other: Floats) -> float | None:
    """Return the largest share by which our objective lies above the other: positive where ours is worse.

    NaN of the other, which is a peer that broke down, is passed over; None if there is nothing else.
    """
    difference = _differences(ours, other)
    return float(difference.max()) if len(difference) else None


def gap(ours: Floats, other: Floats) -> float | None:
    """Return the relative difference of objectives that is largest in size, like `excess` otherwise."""
    difference = _differences(ours, other)
    return float(difference[np.abs(difference).argmax()]) if len(difference) else None


def _differences(ours: Floats, other: Floats) -> Floats:
    solved = np.isfinite(other)
    return np.asarray((ours[solved] - other[solved]) / np.abs(other[solved]))


def sklearn_c(penalty: float, n: int) -> float:
    """scikit-learn minimises the sum of the losses + |w|^2 / (2 C)."""
    return 1.0 / (n * penalty)


def sksurv_alpha(penalty: float, n: int) -> float:
    """CoxPHSurvivalAnalysis minimises the loss summed over patients + alpha / 2 * |b|^2."""
    return n * penalty


def coxnet_alpha(penalty: float, l1_ratio: float = NEAR_RIDGE) -> float:
    """CoxnetSurvivalAnalysis minimises the mean loss + alpha * (l1_ratio |b|_1 + (1 - l1_ratio) / 2 * |b|^2)."""
    return penalty / (1.0 - l1_ratio)


def lifelines_penalizer(penalty: float, X: npt.NDArray[np.floating[Any]]) -> Floats:
    """CoxPHFitter minimises the mean loss + penalizer / 2 * |b|^2 of features divided by their sd (n - 1): (d,)."""
    return np.asarray(penalty / X.astype(np.float64).var(axis=0, ddof=1))
