"""Gene-major text to sample-major rows by way of a file on disk, never with the whole matrix in memory.

Values are appended block by block as they are read and fetched again for any run of samples. The page
cache makes this cheap where memory is plenty, and where it is not the disk takes the load.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Index = npt.NDArray[np.int64]


class Closing(ABC):
    """Something to be closed, by a with statement or by hand."""

    @abstractmethod
    def close(self) -> None:
        """Let go of files."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Spool(Closing):
    """A file on disk that takes values as they are read. Closing it removes it; closing a pickled copy does not."""

    gene_ids: list[str]

    def __init__(self, path: Path) -> None:
        self._file = FileIO(path, "w+")
        self._own = True

    def close(self) -> None:
        """Close the file and remove it."""
        self._file.close()
        if self._own:
            Path(self._file.name).unlink(missing_ok=True)

    def __del__(self) -> None:
        if "_file" in self.__dict__:
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": str(self._file.name), "_own": False}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"_file": FileIO(state["_file"], "r")})


class GeneSpool(Spool):
    """Blocks of genes, each stored as (n_samples, genes of the block), so that runs of samples lie together."""

    def __init__(self, path: Path, n_samples: int) -> None:
        super().__init__(path)
        self.gene_ids = []
        self._n_samples = n_samples
        self._blocks: list[tuple[int, int]] = []  # first gene, number of genes

    def append(self, ids: Sequence[str], values: Floats) -> None:
        """Store a block: values of shape (n_samples, len(ids))."""
        if ids:
            self._blocks.append((len(self.gene_ids), len(ids)))
            self.gene_ids.extend(ids)
            _write(self._file, values)

    def read(self, start: int, stop: int) -> Floats:
        """Return samples start..stop-1: shape (stop - start, n_genes)."""
        out = np.empty((stop - start, len(self.gene_ids)), np.float32)
        for first, width in self._blocks:
            self._file.seek(4 * (first * self._n_samples + start * width))
            out[:, first : first + width] = _read(self._file, (stop - start, width))
        return out


class SampleSpool(Spool):
    """Blocks of samples, each stored as (samples of the block, n_genes); rows come back in any order."""

    def __init__(self, path: Path, gene_ids: Sequence[str], order: Index) -> None:
        super().__init__(path)
        self.gene_ids = list(gene_ids)
        self.order = order

    def append(self, values: Floats) -> None:
        """Store a block: values of shape (samples of the block, n_genes)."""
        _write(self._file, values)

    def read(self, start: int, stop: int) -> Floats:
        """Return samples order[start..stop-1]: shape (stop - start, n_genes)."""
        width = len(self.gene_ids)
        out = np.empty((stop - start, width), np.float32)
        for i, row in enumerate(self.order[start:stop]):
            self._file.seek(4 * width * int(row))
            out[i] = _read(self._file, (width,))
        return out


def _write(file: FileIO, values: Floats) -> None:
    view = np.ascontiguousarray(values, np.float32).data.cast("B")
    while view:
        view = view[file.write(view) or 0 :]


def _read(file: FileIO, shape: tuple[int, ...]) -> Floats:
    values = np.empty(shape, np.float32)
    view = values.data.cast("B")
    while view:
        got = file.readinto(view)
        if not got:
            raise OSError(f"{file.name} is shorter than what was written to it")
        view = view[got:]
    return values
