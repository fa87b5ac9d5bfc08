"""What an embedding goes through before a probe; fitted on training rows only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from bulkprobe.errors import UserError
from bulkprobe.probes.solver import Eigenbasis, Floats, Ints

Kind = Literal["none", "pca", "hvg"]
ROUNDING = 1e-10  # a feature whose standard deviation is below this share of its size is constant
SINGLE_ROUNDING = 1e-6  # the same for float32 input, whose equal values may have been computed differently
BLOCK = 4096  # test rows scored at a time


@dataclass(frozen=True)
class Transform:
    """How features are prepared: as they are, the first `size` principal components, or `size` variable genes.

    Every feature is centred and divided by its standard deviation over the training rows (components are not),
    features without variance are dropped, and one number then brings the total variance to 1, so that one grid
    of penalties serves every width. A `size` above what there is takes all.
    """

    kind: Kind = "none"
    size: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UserError(f"transform.kind is {self.kind!r}; it must be one of {', '.join(get_args(Kind))}")
        if self.kind == "none" and self.size is not None:
            raise UserError(f"transform.size is {self.size} but transform.kind is 'none', which takes no size")
        if self.kind != "none" and (self.size is None or self.size < 1):
            raise UserError(f"transform.size is {self.size}; transform.kind {self.kind!r} needs a number of at least 1")

    def as_dict(self) -> dict[str, Any]:
        """Return the description that stands in the metrics."""
        return {"kind": self.kind} if self.size is None else {"kind": self.kind, "size": self.size}

    def fit(self, rows: npt.NDArray[np.floating[Any]]) -> tuple[FittedTransform, Floats]:
        """Fit on training rows (n, width); return the fitted transform and the prepared rows (n, features).

        Variances divide by n. Raises ValueError on NaN or on no rows.
        """
        single = rows.dtype == np.float32
        values = np.asarray(rows, dtype=np.float64)
        if len(values) == 0 or not np.isfinite(values).all():
            raise ValueError(f"training rows of shape {values.shape} must be there, without NaN or infinite values")
        width = values.shape[1]
        mean = values.mean(axis=0)
        values = values - mean
        sd = np.sqrt(np.einsum("nd,nd->d", values, values) / len(values))
        size = np.abs(mean) + sd
        kept: Ints = np.flatnonzero(sd > (SINGLE_ROUNDING if single else ROUNDING) * size)
        if self.kind == "hvg" and self.size is not None:
            # Ties go to the feature that stands first.
            kept = np.sort(kept[np.argsort(-sd[kept], kind="stable")[: self.size]])
        if len(kept) < width:
            values = values[:, kept]
        values /= sd[kept]
        if self.kind != "pca" or len(kept) == 0:
            factor = 1.0 / np.sqrt(max(len(kept), 1))
            values *= factor
            return FittedTransform(width, kept, mean[kept], sd[kept], None, factor), values
        basis = Eigenbasis(values, limit=self.size)
        axes = basis.back(np.eye(len(basis.spread)))  # (features, components)
        # The sign of an axis is free: its largest weight is made positive.
        signs = np.where(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])] < 0, -1.0, 1.0)
        factor = float(np.sqrt(len(values) / np.sum(basis.spread**2))) if len(basis.spread) else 1.0
        return FittedTransform(width, kept, mean[kept], sd[kept], axes * signs, factor), basis.scores * signs * factor


@dataclass(frozen=True)
class FittedTransform:
    """A transform with its numbers from the training rows.

    width: of the embedding. kept, mean, sd: features in use and their scaling. axes: (kept, components) or None.
    factor: brings the total variance to 1.
    """

    width: int
    kept: Ints
    mean: Floats
    sd: Floats
    axes: Floats | None
    factor: float

    def apply(self, rows: npt.NDArray[np.floating[Any]]) -> Floats:
        """Prepare rows (m, width) as the training rows were: (m, features)."""
        values = self._standardise(rows)
        return np.asarray((values if self.axes is None else values @ self.axes) * self.factor)

    def fold(self, coefficients: Floats) -> Floats:
        """Carry coefficients (features, c) of the prepared rows to the standardised features, (kept, c)."""
        return np.asarray((coefficients if self.axes is None else self.axes @ coefficients) * self.factor)

    def score(self, rows: npt.NDArray[np.floating[Any]], coefficients: Floats, intercept: Floats) -> Floats:
        """Linear predictors (m, c) of rows (m, width), for coefficients (features, c) of the prepared rows.

        A row's score does not depend on the rows beside it, to the last bit: equal rows tie. (A matrix product
        may treat the last rows of a block differently, which would break ties at random.)
        """
        if rows.shape[1] != self.width:
            raise ValueError(f"rows have width {rows.shape[1]}, the transform was fitted on {self.width}")
        folded = np.ascontiguousarray(self.fold(coefficients).T)
        result = np.empty((len(rows), len(folded)))
        for start in range(0, len(rows), BLOCK):
            values = self._standardise(rows[start : start + BLOCK])
            for number, weights in enumerate(folded):
                result[start : start + BLOCK, number] = np.einsum("md,d->m", values, weights)
        return result + intercept

    def _standardise(self, rows: npt.NDArray[np.floating[Any]]) -> Floats:
        values = np.asarray(rows, dtype=np.float64)
        values = values if len(self.kept) == self.width else values[:, self.kept]
        return np.asarray((values - self.mean) / self.sd)
