"""Features of the training parts, ready to be solved in: a basis for each, and stacks of them in one shape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import linalg
from threadpoolctl import ThreadpoolController

from bulkprobe.probes.arrays import EPSILON, Array, Floats, Ints, namespace, to_device, to_numpy

MANY = 1 << 23  # numbers in a matrix of features from which on threads pay
CHUNK = 1 << 22  # numbers turned into float64 at a time


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()  # looks through all loaded libraries, which takes milliseconds


@contextmanager
def threads_for(features: npt.NDArray[Any]) -> Iterator[None]:
    """One BLAS thread where the products are small: two would spend more time waiting for each other than they save."""
    if features.size > MANY:
        yield
        return
    with _libraries().limit(limits=1, user_api="blas"):
        yield


class Basis:
    """Training features of one mask, ready to be solved in.

    features: (n, d) centred. Where d > n, problems are solved in the coordinates of the rows' own principal axes, at
    most n of them: a ridge penalty is the same there. Otherwise they are solved in the features as they are, and the
    principal axes only precondition. Either way it costs one eigendecomposition of size min(n, d).
    """

    def __init__(self, features: npt.NDArray[np.floating[Any]], variance: Floats | None = None) -> None:
        """`variance`: sums of squares, where the columns are principal components already."""
        n, d = features.shape
        self.features = features
        self.is_components = variance is not None or d == 0
        self.reduced = d > n and not self.is_components
        self.rotation: npt.NDArray[np.float32] | None = None
        self.design: npt.NDArray[np.floating[Any]] = features
        self._vectors: Floats | None = None
        if self.is_components:
            self.variance = np.zeros(0) if variance is None else variance
        elif self.reduced:
            self.variance, self._vectors = _eigen(gram(features, np.float64), max(n, d))
            self.design = self._vectors * np.sqrt(self.variance)
        else:
            matrix = gram(features, np.float32)
            values, axes = linalg.eigh(matrix, driver="evd", overwrite_a=True, check_finite=False)
            self.variance = np.maximum(values[::-1], 0.0).astype(np.float64)
            self.rotation = np.ascontiguousarray(axes[:, ::-1])

    @classmethod
    def of_components(cls, features: npt.NDArray[np.floating[Any]], variance: Floats) -> Basis:
        """Return the basis of principal components (n, k) with these sums of squares, as it is."""
        return cls(features, variance)

    @property
    def rank(self) -> int:
        """Columns of `design`."""
        return int(self.design.shape[1])

    def axes(self, size: int) -> tuple[Floats, Floats]:
        """Return sums of squares (k,), falling, and the first k <= size principal axes (d, k), orthonormal."""
        if self.is_components:
            k = min(size, self.rank)
            return self.variance[:k], np.eye(self.rank, k)
        if self._vectors is not None:
            k = min(size, self.rank)
            return self.variance[:k], _to_features(self.features, self._vectors[:, :k] / np.sqrt(self.variance[:k]))
        floor = len(self.features) * float(np.finfo(np.float32).eps) * self.variance.max(initial=0.0)
        k = min(size, int((self.variance > floor).sum()))
        # Float32 axes are orthonormal to 1e-6; QR brings them there in float64, and keeps their order.
        return self.variance[:k], np.linalg.qr(np.asarray(self.rotation)[:, :k].astype(np.float64))[0]

    def back(self, coefficients: Floats) -> Floats:
        """Carry coefficients (rank, c) of `design` to the features, (d, c)."""
        if self._vectors is None:
            return coefficients
        return _to_features(self.features, self._vectors @ (coefficients / np.sqrt(self.variance)[:, None]))


def gram(features: npt.NDArray[np.floating[Any]], dtype: Any) -> npt.NDArray[Any]:
    """Return features' @ features where there are more rows than columns, else features @ features'."""
    n, d = features.shape
    size = min(n, d)
    total = np.zeros((size, size), dtype=dtype)
    tall = d <= n
    step = max(1, CHUNK // max(size, 1))
    for start in range(0, max(n, d), step):
        block = (features[start : start + step] if tall else features[:, start : start + step]).astype(dtype)
        total += block.T @ block if tall else block @ block.T
    return total


def leading_axes(features: npt.NDArray[np.floating[Any]], size: int) -> tuple[Floats, Floats]:
    """Return sums of squares (k,), falling, and the first k <= size principal axes (d, k) of centred features."""
    n, d = features.shape
    variance, vectors = _eigen(gram(features, np.float64), max(n, d), size)
    return variance, vectors if d <= n else _to_features(features, vectors / np.sqrt(variance))


def _eigen(matrix: Floats, terms: int, limit: int | None = None) -> tuple[Floats, Floats]:
    """Return eigenvalues (rank,), falling, and eigenvectors (size, rank), without those that are rounding."""
    size = len(matrix)
    if limit is not None and limit < size // 2:
        wanted = [size - limit, size - 1]
        values, vectors = linalg.eigh(matrix, subset_by_index=wanted, overwrite_a=True, check_finite=False)
    else:
        values, vectors = linalg.eigh(matrix, driver="evd", overwrite_a=True, check_finite=False)
    values, vectors = values[::-1], vectors[:, ::-1]
    rank = int((values > terms * EPSILON * max(values[0], 0.0)).sum())
    rank = rank if limit is None else min(rank, limit)
    return values[:rank], np.ascontiguousarray(vectors[:, :rank])


def _to_features(features: npt.NDArray[np.floating[Any]], inner: Floats) -> Floats:
    """features' @ inner in float64, by blocks of features."""
    step = max(1, CHUNK // max(len(features), 1))
    parts = [features[:, i : i + step].astype(np.float64).T @ inner for i in range(0, features.shape[1], step)]
    return np.concatenate(parts)


def _product(left: npt.NDArray[np.floating[Any]], right: Floats) -> Floats:
    """left @ right in float64, turning `left` into float64 by blocks of rows."""
    if left.dtype == np.float64:
        return np.asarray(left @ right)
    step = max(1, CHUNK // max(left.shape[1], 1))
    parts = [left[start : start + step].astype(np.float64) @ right for start in range(0, len(left), step)]
    return np.concatenate(parts) if parts else np.zeros((0, right.shape[1]))


@dataclass(frozen=True)
class Stack:
    """Problems of several masks in one shape: m masks, n rows, r = a + q coordinates, padded with zeros.

    design: each mask's (rows, a) as given, for float64 products. fast: (m, n, a) float32. extra: (m, n, q) float64
    columns with ridges of their own (intercept, covariates). rotation: (m, a, a) float32 principal axes, or None
    where the coordinates are such axes. scale: (m, r) mean square of each axis, float64. device: see `namespace`.
    """

    design: tuple[npt.NDArray[np.floating[Any]], ...]
    fast: Array
    extra: Array
    rotation: Array | None
    scale: Array
    device: str

    @classmethod
    def build(cls, bases: Sequence[Basis], extra: Sequence[Floats], device: str = "cpu") -> Stack:
        """Stack bases that are all reduced or all not; extra: (rows, q) for each."""
        m, n = len(bases), max(len(basis.design) for basis in bases)
        a, q = max(basis.rank for basis in bases), extra[0].shape[1]
        fast = np.zeros((m, n, a), dtype=np.float32)
        columns = np.zeros((m, n, q))
        scale = np.zeros((m, a + q))
        turned = any(basis.rotation is not None for basis in bases)
        rotation = np.zeros((m, a, a), dtype=np.float32) if turned else None
        for number, (basis, more) in enumerate(zip(bases, extra, strict=True)):
            rows, rank = basis.design.shape
            fast[number, :rows, :rank] = basis.design
            columns[number, :rows] = more
            scale[number, : len(basis.variance)] = basis.variance / rows
            scale[number, a:] = (more * more).mean(axis=0)
            if rotation is not None:
                axes = np.eye(rank, dtype=np.float32) if basis.rotation is None else basis.rotation
                rotation[number, :rank, :rank] = axes
        design = tuple(basis.design for basis in bases)
        moved = [to_device(array, device) for array in (fast, columns, scale)]
        turned_axes = None if rotation is None else to_device(rotation, device)
        return cls(design, moved[0], moved[1], turned_axes, moved[2], device)

    @property
    def width(self) -> int:
        """Coordinates a of `fast`."""
        return int(self.fast.shape[2])

    def take(self, masks: Ints) -> Stack:
        """Return the stack of some masks."""
        index = to_device(masks, self.device)
        rotation = None if self.rotation is None else self.rotation[index]
        design = tuple(self.design[mask] for mask in masks.tolist())
        return Stack(design, self.fast[index], self.extra[index], rotation, self.scale[index], self.device)

    def forward(self, step: Array) -> Array:
        """Change of linear predictors (m, n, c) float64 that a change of coefficients (m, r, c) makes; 1e-7 of it."""
        a, xp = self.width, namespace(self.device)
        main = xp.matmul(self.fast, xp.astype(step[:, :a], xp.float32))
        return xp.astype(main, xp.float64) + xp.matmul(self.extra, step[:, a:])

    def backward(self, change: Array) -> Array:
        """Change of the gradient (m, r, c) float64 that a change of slopes (m, n, c) makes; good to 1e-7 of it."""
        xp = namespace(self.device)
        main = xp.matmul(xp.permute_dims(self.fast, (0, 2, 1)), xp.astype(change, xp.float32))
        more = xp.matmul(xp.permute_dims(self.extra, (0, 2, 1)), change)
        return xp.concat([xp.astype(main, xp.float64), more], axis=1)

    def exact_forward(self, weights: Array) -> Array:
        """Linear predictors (m, n, c) of coefficients (m, r, c), in float64 throughout."""
        xp, a = namespace(self.device), self.width
        inner = to_numpy(weights[:, :a])
        result = np.zeros((len(self.design), self.fast.shape[1], inner.shape[2]))
        for number, design in enumerate(self.design):
            result[number, : len(design)] = _product(design, inner[number, : design.shape[1]])
        return to_device(result, self.device) + xp.matmul(self.extra, weights[:, a:])

    def exact_backward(self, slopes: Array) -> Array:
        """Gradients (m, r, c) of slopes (m, n, c), in float64 throughout."""
        xp = namespace(self.device)
        outer = to_numpy(slopes)
        result = np.zeros((len(self.design), self.width, outer.shape[2]))
        for number, design in enumerate(self.design):
            total = result[number, : design.shape[1]]
            step = max(1, CHUNK // max(design.shape[1], 1))
            for start in range(0, len(design), step):
                block = design[start : start + step].astype(np.float64, copy=False)
                total += block.T @ outer[number, start : start + len(block)]
        more = xp.matmul(xp.permute_dims(self.extra, (0, 2, 1)), slopes)
        return xp.concat([to_device(result, self.device), more], axis=1)

    def precondition(self, gradient: Array, bound: Array) -> Array:
        """Divide a gradient (m, r, c) by `bound` along the principal axes."""
        if self.rotation is None:
            return gradient / bound
        xp, a = namespace(self.device), self.width
        turned = xp.matmul(xp.permute_dims(self.rotation, (0, 2, 1)), xp.astype(gradient[:, :a], xp.float32))
        turned = turned / xp.astype(bound[:, :a], xp.float32)
        main = xp.astype(xp.matmul(self.rotation, turned), xp.float64)
        return xp.concat([main, gradient[:, a:] / bound[:, a:]], axis=1)
