"""What an embedding goes through before a probe; fitted on training rows only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from bulkprobe.errors import UserError
from bulkprobe.probes.arrays import Floats, Ints
from bulkprobe.probes.basis import Basis, leading_axes

Kind = Literal["none", "pca", "hvg"]
ROUNDING = 1e-10  # a feature whose standard deviation is below this share of its size is constant
SINGLE_ROUNDING = 1e-6  # the same for float32 input, whose equal values may have been computed differently
BLOCK = 1024  # rows turned into float64 at a time


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

    def fit(self, rows: npt.NDArray[np.floating[Any]]) -> Prepared:
        """Fit on training rows (n, width). Variances divide by n. Raises ValueError on NaN or on no rows."""
        width = rows.shape[1]
        mean, sd = _moments(rows)
        size = np.abs(mean) + sd
        kept: Ints = np.flatnonzero(sd > (SINGLE_ROUNDING if rows.dtype == np.float32 else ROUNDING) * size)
        if self.kind == "hvg" and self.size is not None:
            # Ties go to the feature that stands first.
            kept = np.sort(kept[np.argsort(-sd[kept], kind="stable")[: self.size]])
        whole = FittedTransform(width, kept, mean[kept], sd[kept], None, 1.0 / np.sqrt(max(len(kept), 1)))
        features = whole.apply_single(rows)
        if self.kind == "pca" and self.size is not None and len(kept):
            return _narrowed(whole, features, *leading_axes(features, self.size))
        return Prepared(whole, Basis(features))


@dataclass(frozen=True)
class Prepared:
    """Training rows ready for a solver, and the transform that makes other rows like them.

    basis: holds the prepared rows (n, features), float32.
    """

    fitted: FittedTransform
    basis: Basis

    @property
    def rows(self) -> npt.NDArray[np.floating[Any]]:
        """The prepared rows, (n, features)."""
        return self.basis.features

    def narrow(self, size: int) -> Prepared:
        """Return the first principal components of the prepared rows, again with total variance 1.

        Costs no further eigendecomposition. The same object where it is no wider than that already.
        """
        if self.rows.shape[1] <= size:
            return self
        return _narrowed(self.fitted, self.rows, *self.basis.axes(size))


def _narrowed(fitted: FittedTransform, rows: npt.NDArray[np.floating[Any]], variance: Floats, axes: Floats) -> Prepared:
    """Carry prepared rows to principal axes (features, k) with these sums of squares (k,)."""
    # The sign of an axis is free: its largest weight is made positive.
    axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])] < 0, -1.0, 1.0)
    factor = float(np.sqrt(len(rows) / variance.sum())) if len(variance) else 1.0
    components = np.empty((len(rows), axes.shape[1]), dtype=np.float32)
    for start in range(0, len(rows), BLOCK):
        components[start : start + BLOCK] = rows[start : start + BLOCK].astype(np.float64) @ (axes * factor)
    # `axes` carry standardised rows to components; all factors stand in `factor`.
    whole = axes if fitted.axes is None else fitted.axes @ axes
    narrowed = replace(fitted, axes=whole, factor=fitted.factor * factor)
    return Prepared(narrowed, Basis.of_components(components, variance * factor**2))


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

    def apply_single(self, rows: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
        """The same by blocks and in float32, where there are no axes: (m, features)."""
        result = np.empty((len(rows), len(self.kept)), dtype=np.float32)
        for start in range(0, len(rows), BLOCK):
            result[start : start + BLOCK] = self._standardise(rows[start : start + BLOCK]) * self.factor
        return result

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


def _moments(rows: npt.NDArray[np.floating[Any]]) -> tuple[Floats, Floats]:
    """Mean and standard deviation of every column in float64, by blocks of rows."""
    if len(rows) == 0:
        raise ValueError(f"training rows of shape {rows.shape} must be there, without NaN or infinite values")
    blocks = range(0, len(rows), BLOCK)
    mean = np.sum([rows[start : start + BLOCK].sum(axis=0, dtype=np.float64) for start in blocks], axis=0) / len(rows)
    squares = np.zeros(rows.shape[1])
    for start in blocks:
        block = rows[start : start + BLOCK] - mean
        squares += np.einsum("nd,nd->d", block, block)
    if not np.isfinite(squares).all():
        raise ValueError(f"training rows of shape {rows.shape} must be there, without NaN or infinite values")
    return mean, np.sqrt(squares / len(rows))
