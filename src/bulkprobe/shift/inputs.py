"""What an encoder's own tokeniser makes of bulk tumours and of the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
MOST_BARS = 60  # whole numbers get a bar each up to so many, else BARS equal bins
BARS = 40
SKEWED = 20  # largest value over median from which the bins of positive values are equal on the log scale
LOW, HIGH = 0.05, 0.95  # quantiles beside a mean and a median


class Tokens(Protocol):
    """What enters a model of one sample: columns (n_tokens,) of the genes, and the model's own value of each."""

    @property
    def columns(self) -> np.ndarray:
        """Columns of the measured genes."""

    @property
    def values(self) -> np.ndarray:
        """Bins, ranks, logarithms."""


@dataclass(frozen=True)
class Read:
    """What an encoder reads of one sample.

    measured, expressed: genes; expressed = above 0. lost_to_vocabulary: expressed and unknown to the model;
    lost_to_length: expressed and known, but not among the tokens. values: (n_tokens,). genes: (n_markers, 3) bool, for
    each marker whether it is expressed, lost to the vocabulary, lost to length.
    """

    measured: int
    expressed: int
    lost_to_vocabulary: int
    lost_to_length: int
    values: np.ndarray
    genes: npt.NDArray[np.bool_]


def read_sample(values: np.ndarray, tokens: Tokens, known: np.ndarray, markers: Sequence[np.ndarray] = ()) -> Read:
    """Count what is read of a sample.

    values: (n_genes,) linear expression. known: columns in the model's vocabulary. markers: the columns of each marker
    gene (none where it is not measured); one that is known or read suffices.
    """
    expressed = values > 0
    in_vocabulary, enters = np.zeros(len(values), bool), np.zeros(len(values), bool)
    in_vocabulary[known] = True
    enters[tokens.columns] = True
    lost = expressed & in_vocabulary & ~enters
    genes = np.zeros((len(markers), 3), bool)
    for row, columns in zip(genes, markers, strict=True):
        here = columns[expressed[columns]]
        row[0] = len(here) > 0
        row[1] = row[0] and not in_vocabulary[here].any()
        row[2] = row[0] and not row[1] and not enters[here].any()
    return Read(
        measured=len(values),
        expressed=int(expressed.sum()),
        lost_to_vocabulary=int((expressed & ~in_vocabulary).sum()),
        lost_to_length=int(lost.sum()),
        values=np.asarray(tokens.values, np.float32),
        genes=genes,
    )


def summary(values: npt.ArrayLike) -> dict[str, float | None]:
    """Return mean, median and the 5 % and 95 % quantiles; None of nothing."""
    found = np.asarray(values, np.float64)
    if not found.size:
        return dict.fromkeys(("mean", "median", "low", "high"))
    median, low, high = np.quantile(found, [0.5, LOW, HIGH])
    return {"mean": float(found.mean()), "median": float(median), "low": float(low), "high": float(high)}


def side(reads: Sequence[Read]) -> dict[str, Any]:
    """Summarise one side over its samples; a share of expressed genes is left out where a sample expresses none."""
    some = [read for read in reads if read.expressed]
    return {
        "n": len(reads),
        "expressed": summary([read.expressed for read in reads]),
        "lost_to_vocabulary": summary([read.lost_to_vocabulary / read.expressed for read in some]),
        "lost_to_length": summary([read.lost_to_length / read.expressed for read in some]),
        "zero_fraction": summary([1 - read.expressed / read.measured for read in reads]),
        "tokens": summary([len(read.values) for read in reads]),
    }


def token_histogram(bulk: Sequence[Read], reference: Sequence[Read] | None) -> tuple[dict[str, Any], float | None]:
    """Return shares of all token values of either side in shared bins, and their total variation.

    Total variation: half the summed difference of the shares, 0 (alike) to 1 (nothing shared). None without reference.
    """
    pooled = [np.concatenate([read.values for read in reads]) for reads in (bulk, reference) if reads]
    pooled = [values for values in pooled if len(values)]
    if not pooled or (reference is not None and len(pooled) < 2):
        return {"edges": [], "bulk": [], "reference": None}, None
    edges = bin_edges(np.concatenate(pooled))
    shares = [np.histogram(values, edges)[0] / len(values) for values in pooled]
    found = {"edges": edges.tolist(), "bulk": shares[0].tolist(), "reference": None}
    if reference is None:
        return found, None
    found["reference"] = shares[1].tolist()
    return found, float(np.abs(shares[0] - shares[1]).sum() / 2)


def bin_edges(values: np.ndarray) -> Floats:
    """Return edges over the range of values: a bar each for few whole numbers, else equal bins.

    Positive values with a long tail get bins that are equal on the log scale, or all would stand in the first.
    """
    low, high = float(values.min()), float(values.max())
    if high - low < MOST_BARS and bool((values == np.rint(values)).all()):
        return np.arange(low, high + 2) - 0.5
    if low > 0 and high > SKEWED * float(np.median(values)):
        edges: Floats = np.geomspace(low, high, BARS + 1)
        edges[[0, -1]] = low, high  # without the rounding of the logarithm, which would lose the extremes
        return edges
    if high == low:
        return np.array([low - 0.5, low + 0.5])
    return np.linspace(low, high, BARS + 1)


def marker_table(
    names: Sequence[str], columns: Sequence[np.ndarray], known: np.ndarray, reads: Sequence[Read]
) -> dict[str, dict[str, Any]]:
    """Return what becomes of each marker gene; shares lost are of the samples that express it, None where none does."""
    table = {}
    for number, (name, places) in enumerate(zip(names, columns, strict=True)):
        flags = np.array([read.genes[number] for read in reads], bool).reshape(-1, 3)
        expressed = int(flags[:, 0].sum())
        table[name] = {
            "measured": len(places) > 0,
            "known": bool(np.isin(places, known).any()),
            "expressed": expressed / len(reads) if reads and len(places) else None,
            "lost_to_vocabulary": int(flags[:, 1].sum()) / expressed if expressed else None,
            "lost_to_length": int(flags[:, 2].sum()) / expressed if expressed else None,
        }
    return table


def marker_columns(names: Sequence[str], symbols: Mapping[str, Sequence[int]]) -> list[np.ndarray]:
    """Return the columns of each marker gene by its symbol; none where it is not measured."""
    return [np.array(symbols.get(name, []), dtype=np.intp) for name in names]
