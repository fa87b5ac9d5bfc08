"""Which of a cohort's genes a model knows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from bulkprobe.errors import Unfit, some

Duplicates = Literal["first", "last", "all"]
_VERSION = re.compile(r"\.\d+$")


@dataclass(frozen=True)
class Alignment:
    """Which column of the values is which entry of a vocabulary, in the order of the columns.

    columns, places: (n_matched,) input column and vocabulary place. `n_vocabulary` genes has the model, `n_input` the
    cohort.
    """

    columns: np.ndarray
    places: np.ndarray
    n_vocabulary: int
    n_input: int

    @property
    def n_measured(self) -> int:
        """Vocabulary genes that the cohort measures."""
        return len(np.unique(self.places))

    @property
    def coverage(self) -> float:
        """Share of the model's genes that the cohort measures."""
        return self.n_measured / max(1, self.n_vocabulary)

    def attributes(self) -> dict[str, Any]:
        """What the store records."""
        return {
            "gene_coverage": round(self.coverage, 6),
            "genes_of_model": self.n_vocabulary,
            "genes_of_cohort": self.n_input,
            "genes_matched": self.n_measured,
        }

    def gather(self, values: np.ndarray, fill: float = 0.0, dtype: Any = np.float32) -> np.ndarray:
        """Return the sample's values (n_genes,) in vocabulary order (n_vocabulary,), `fill` where it measures none."""
        out = np.full(self.n_vocabulary, fill, dtype)
        out[self.places] = values[self.columns]
        return out

    def measured(self) -> np.ndarray:
        """Return (n_vocabulary,) bool: whether the cohort measures the gene."""
        out = np.zeros(self.n_vocabulary, bool)
        out[self.places] = True
        return out


def gene_names(var: pd.DataFrame, kind: Literal["ensembl", "symbol"]) -> list[str]:
    """Return the genes' Ensembl ids without version, or symbols; "" where there is none."""
    column = var["ensembl_id" if kind == "ensembl" else "symbol"]
    names = [name if isinstance(name, str) else "" for name in column]
    return [_VERSION.sub("", name) for name in names] if kind == "ensembl" else names


def align(names: Sequence[str], vocabulary: Mapping[str, int], duplicates: Duplicates) -> Alignment:
    """Match names exactly; of a name that stands twice the first or the last column counts, or all.

    vocabulary: name → place, 0 to its length - 1 (several names may share a place).
    """
    hits = [(column, vocabulary[name]) for column, name in enumerate(names) if name and name in vocabulary]
    if duplicates != "all":
        order = hits if duplicates == "last" else reversed(hits)
        kept = {place: column for column, place in order}
        hits = sorted((column, place) for place, column in kept.items())
    table = np.array(hits, dtype=np.intp).reshape(-1, 2)
    return Alignment(table[:, 0], table[:, 1], len(set(vocabulary.values())), len(names))


def require_coverage(model: str, found: Alignment, floor: float, kind: str, names: Sequence[str]) -> None:
    """Refuse input of which the model knows next to nothing: usually another kind of gene id, or another species.

    What counts is the share of the smaller list, the cohort's or the model's, that the other has.
    """
    share = found.n_measured / max(1, min(found.n_vocabulary, found.n_input))
    if found.n_measured and share >= floor:
        return
    raise Unfit(
        f"encoder {model} knows {found.n_measured} of {found.n_input} genes (it has {found.n_vocabulary}), a share of "
        f"{share:.3f} where min_coverage asks for {floor}: it reads {kind}, the input begins with "
        f"{some(name or '(none)' for name in names[:3])}; give that kind of gene id"
    )
