"""An AnnData file of a lab (.h5ad, or a .zarr folder of version 2 or 3): its tables at once, its matrices by blocks.

h5py and zarr read the matrices here, because AnnData's own backed mode loads layers whole. Dense and CSR matrices lie
by samples, CSC matrices by genes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse

from bulkprobe.cohort.legible import legible_anndata
from bulkprobe.cohort.spool import Floats
from bulkprobe.errors import UserError, some
from bulkprobe.foreign import child, refuse_foreign_array, refuse_foreign_arrays
from bulkprobe.foreign_zarr import open_group

BLOCK_VALUES = 1 << 21  # of a block that is read in passing: 8 MB as float32, several times over while it is checked
CHUNK_VALUES = 1 << 24  # of chunks that are read as a whole, lest each be unpacked several times
GROUP_FILES = ("zarr.json", ".zgroup")
_KINDS = {"array": "dense", "csr_matrix": "csr", "csc_matrix": "csc"}


@dataclass(frozen=True)
class Matrix:
    """A matrix of an AnnData file. Its lines are samples, or genes where it is stored by genes."""

    path: Path
    place: str  # X or layers/NAME
    kind: str  # dense, csr or csc
    n_lines: int
    width: int  # of a line
    together: int  # lines of one chunk

    @property
    def by_samples(self) -> bool:
        """Whether its lines are samples."""
        return self.kind != "csc"

    def read(self, start: int, stop: int) -> Floats:
        """Return lines start..stop-1 as float32: shape (stop - start, width)."""
        with opened(self.path) as root, np.errstate(over="ignore"):  # what overflows is infinite and refused as such
            matrix = root[self.place]
            if self.kind == "dense":
                return np.asarray(matrix[start:stop], np.float32)
            return self._read_sparse(matrix, start, stop)

    def _read_sparse(self, matrix: Any, start: int, stop: int) -> Floats:
        ends = np.asarray(matrix["indptr"][start : stop + 1], np.int64)
        if (np.diff(ends) < 0).any() or (np.diff(ends) > self.width).any():  # before so much is read
            raise self._damaged(start, stop)
        span = slice(int(ends[0]), int(ends[-1]))
        values = np.asarray(matrix["data"][span], np.float32)
        at = np.asarray(matrix["indices"][span])
        outside = at.dtype.kind not in "iu" or (at.size and (at.min() < 0 or at.max() >= self.width))
        if outside or not len(values) == len(at) == ends[-1] - ends[0]:
            raise self._damaged(start, stop)
        lines = scipy.sparse.csr_matrix((values, at, ends - ends[0]), shape=(stop - start, self.width))
        dense: Floats = lines.toarray()
        return dense

    def _damaged(self, start: int, stop: int) -> UserError:
        return UserError(
            f"{self.path.name}: {self.place} is damaged (sparse indices of lines {start} to {stop - 1} do not fit "
            f"{self.width} columns): write or fetch it again"
        )

    def runs(self) -> Iterator[Floats]:
        """Yield all lines by blocks, whole chunks at a time where they are small enough."""
        width = max(1, self.width)
        size = max(1, BLOCK_VALUES // width)
        if size > self.together:
            size -= size % self.together
        elif self.together * width <= CHUNK_VALUES:
            size = self.together
        for start in range(0, self.n_lines, size):
            yield self.read(start, min(start + size, self.n_lines))


@dataclass(frozen=True)
class AnnDataFile:
    """The tables of an AnnData file, and what matrices it has."""

    path: Path
    obs: pd.DataFrame
    var: pd.DataFrame
    scale: object  # uns["scale"]; None where there is none
    layers: list[str]  # beside X

    def matrix(self, place: str) -> Matrix:
        """Return X or `layers/NAME`; UserError where there is none, or none of numbers that fits obs and var."""
        shape = (len(self.obs), len(self.var))
        with opened(self.path) as root:
            if place not in root:
                raise UserError(
                    f"{self.path.name} has no {place}: expected AnnData with obs, var and X; its layers: "
                    f"{some(self.layers) or 'none'}"
                )
            stored = root
            for part in place.split("/", 1):
                stored = child(stored, part, f"{self.path.name}: {place}")
            encoding = stored.attrs.get("encoding-type", "none" if hasattr(stored, "keys") else "array")
            kind = _KINDS.get(str(encoding))
            if kind is None or hasattr(stored, "keys") == (kind == "dense"):
                raise UserError(
                    f"{self.path.name}: {place} is stored as {encoding!r}, expected a dense, CSR or CSC matrix; write "
                    "it again with a current anndata"
                )
            found = tuple(int(n) for n in (stored.shape if kind == "dense" else stored.attrs["shape"]))
            values = stored if kind == "dense" else stored["data"]
            if np.dtype(values.dtype).kind not in "fiub":
                raise UserError(
                    f"{self.path.name}: {place} holds values of type {values.dtype}, expected numbers; write it again"
                )
            lines, width = shape[::-1] if kind == "csc" else shape
            if found != shape or (kind != "dense" and not _is_whole(stored, lines)):
                raise UserError(
                    f"{self.path.name}: {place} is incomplete (shape {found}, obs and var have {shape}, or parts of it "
                    "are missing): write or fetch it again"
                )
            for array in (stored,) if kind == "dense" else (stored["data"], stored["indices"], stored["indptr"]):
                refuse_foreign_array(array, f"{self.path.name}: {place}")
            together = int((values.chunks or (1,))[0]) if kind == "dense" else 1
        return Matrix(self.path, place, kind, lines, width, together)


def _is_whole(matrix: Any, n_lines: int) -> bool:
    """Tell whether the arrays of a sparse matrix fit each other; zarr reads zeros where files of them are lost."""
    arrays = [matrix[name] for name in ("data", "indices", "indptr")]
    there = all(getattr(array, "nchunks_initialized", 0) >= getattr(array, "nchunks", 0) for array in arrays)
    data, indices, pointer = (array.shape[0] for array in arrays)
    return there and data == indices and pointer == n_lines + 1 and int(arrays[2][-1]) == data


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open the file for reading; what it is broken in is a UserError, also within the block."""
    if path.is_dir() and path.suffix == ".h5ad":
        raise UserError(f"{path.name} is a folder: expected a file; name it .zarr if it is AnnData in Zarr")
    if path.is_file() and path.suffix == ".zarr":
        raise UserError(f"{path.name} is a file: expected a folder; unpack it if it is an archive")
    with legible_anndata(path):
        root = open_group(path) if path.is_dir() else h5py.File(path, "r")
        try:
            yield root
        finally:
            if isinstance(root, h5py.File):
                root.close()


def open_anndata(path: Path) -> AnnDataFile:
    """Read the tables of an AnnData file; UserError where it is broken or something else."""
    path = Path(path)
    with opened(path) as root:
        layers = sorted(root["layers"]) if "layers" in root else []
        for name in ("obs", "var"):
            if name in root:
                refuse_foreign_arrays(child(root, name, f"{path.name}: {name}"), f"{path.name}: {name}")
        tables = [_read(root, name, path) for name in ("obs", "var")]
        uns = child(root, "uns", f"{path.name}: uns") if "uns" in root else {}
        if "scale" in uns:
            refuse_foreign_arrays(child(uns, "scale", f"{path.name}: uns/scale"), f"{path.name}: uns/scale")
        scale = _read(uns, "scale", path) if "scale" in uns else None
    return AnnDataFile(path, tables[0], tables[1], scale, layers)


def _read(group: Any, name: str, path: Path) -> Any:
    from anndata.io import read_elem  # here: it takes a second to import, which tables need not spend

    if name not in group:
        raise UserError(f"{path.name} has no {name}: expected AnnData with obs, var and X")
    if name != "scale" and group[name].attrs.get("encoding-type") != "dataframe":
        raise UserError(
            f"{path.name}: {name} is no table of a current AnnData, read the file with anndata and write it again"
        )
    try:
        return read_elem(group[name])
    except Exception as error:  # anndata's errors for unknown encodings have no public names
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(
            f"{path.name}: {name} cannot be read ({' '.join(str(error).split())[:200]}): write it again with a current "
            "anndata"
        ) from error
