"""AnnData in memory, or backed by a file: the same reading by blocks as from a file, and so the same numbers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bulkprobe.cohort.anndata_file import AnnDataFile, Matrix
from bulkprobe.cohort.spool import Floats
from bulkprobe.errors import UserError

NAME = Path("the AnnData")  # what messages call it


@dataclass(frozen=True)
class HeldMatrix(Matrix):
    """A matrix of an AnnData: an array or a sparse matrix, in memory or of the backing file."""

    values: Any

    def read(self, start: int, stop: int) -> Floats:
        """Return lines start..stop-1 as float32: shape (stop - start, width)."""
        with np.errstate(over="ignore"):  # what overflows is infinite and refused as such
            if self.kind == "dense":
                return np.asarray(self.values[start:stop], np.float32)
            part = self.values[start:stop] if self.by_samples else self.values[:, start:stop].T
            dense: Floats = part.astype(np.float32).toarray()
        return dense


@dataclass(frozen=True)
class HeldAnnData(AnnDataFile):
    """An AnnData as a file of its tables and matrices; nothing of it is copied or changed."""

    adata: Any

    def matrix(self, place: str) -> HeldMatrix:
        """Return X or `layers/NAME`; UserError where it is none of numbers."""
        values = self.adata.X if place == "X" else self.adata.layers[place.removeprefix("layers/")]
        if values is None:
            raise UserError(f"{NAME} has no X: put counts, TPM or another expression scale into it")
        if np.dtype(values.dtype).kind not in "fiub":
            raise UserError(f"{NAME}: {place} holds values of type {values.dtype}, expected numbers; convert it")
        kind = getattr(values, "format", None) or "dense"
        n_lines, width = values.shape[::-1] if kind == "csc" else values.shape
        return HeldMatrix(NAME, place, kind, n_lines, width, 1, values)

    def sha256(self) -> str:
        """Return one hash of everything that an embedding can depend on."""
        digest = hashlib.sha256(repr(self.scale).encode())
        for table in (self.obs, self.var):
            digest.update(table.to_csv().encode())
        for place in ("X", *(f"layers/{name}" for name in self.layers if name == "tpm")):
            matrix = self.matrix(place)
            digest.update(f"\0{place} {matrix.kind}\0".encode())
            for block in matrix.runs():
                digest.update(np.ascontiguousarray(block).data)
        return digest.hexdigest()


def hold_anndata(adata: object) -> HeldAnnData:
    """Take an AnnData as it is, also a view or a backed one; UserError where it is something else."""
    from anndata import AnnData  # here: it takes a second to import, which other inputs need not spend

    if not isinstance(adata, AnnData):
        raise UserError(
            f"the input is of type {type(adata).__name__}, expected an AnnData, or the path of an AnnData file, a "
            "table or a cohort folder"
        )
    return HeldAnnData(NAME, adata.obs, adata.var, adata.uns.get("scale"), sorted(adata.layers), adata)
