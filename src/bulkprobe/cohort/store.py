"""`expression.zarr`: expression on disk in AnnData's format (Zarr v3), samples × genes.

Samples lie together: a chunk holds all genes of some samples, a shard (one file) many chunks. `X` is counts
where the source has them; `layers["tpm"]` is the source's TPM or computed from counts and exon-union lengths
(Wagner, Kin & Lynch 2012, 10.1007/s12064-012-0162-3): rate_g = count_g / length_g, TPM_g = 1e6 rate_g / Σ rate.
Genes of unknown length are left out of the sum and have TPM 0; their number stands in `uns`. Where most
lengths are unknown there is no TPM layer, and `uns["tpm"]` says so.

Whoever only reads expression imports this module and nothing else of the room.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
import zarr
from tqdm import tqdm
from zarr.codecs import BloscCodec, Crc32cCodec

from bulkprobe.errors import UserError, some
from bulkprobe.files import atomic_folder
from bulkprobe.foreign import refuse_foreign_array, refuse_foreign_arrays, refusing
from bulkprobe.foreign_zarr import open_group

Floats = npt.NDArray[np.float32]
Index = npt.NDArray[np.int64]

FOLDER = "expression.zarr"
LINEAR_SCALES = ("counts", "tpm", "fpkm", "rsem_normalised", "zscore")
MILLION = 1e6
LENGTHS_NEEDED = 0.5  # share of genes with a length from which TPM is computed; below it most genes would read 0
CHUNK_BYTES = 1 << 22  # all genes of some samples; what one read decompresses
SHARD_BYTES = 1 << 27  # one file; what is held while it is written
# Byte shuffle and the fastest zstd: measured 25 % smaller than LZ4 at the same speed on TCGA-like values.
CODECS = [BloscCodec(cname="zstd", clevel=1, shuffle="shuffle", typesize=4), Crc32cCodec()]


class Rows(Protocol):
    """Expression by samples: what a source becomes before it is written."""

    @property
    def gene_ids(self) -> list[str]:
        """Keys of the genes, one a column."""

    def read(self, start: int, stop: int) -> Floats:
        """Return the values of samples start..stop-1: shape (stop - start, n_genes)."""


class ExpressionSource(Protocol):
    """Expression of samples, in linear values, readable by blocks.

    `notes` says what was dropped or changed on the way (plain numbers and text); complete after reading.
    """

    @property
    def sample_ids(self) -> list[str]:
        """The samples, in the order of the file."""

    @property
    def notes(self) -> dict[str, int | float | str]:
        """What was dropped or changed."""

    def rows(self, keep: Index, folder: Path) -> AbstractContextManager[Rows]:
        """Lay out the samples numbered `keep` (any order) for reading by rows; `folder` takes the bytes."""


def write_expression(
    path: Path,
    *,
    sample_ids: Sequence[str],
    var: pd.DataFrame,
    layers: Mapping[str, ExpressionSource | None],
    scale: str,
    keep: Sequence[str] | None = None,
    uns: Mapping[str, Any] | None = None,
) -> Path:
    """Write the expression store and return its path.

    path: the store (`….zarr`) or the folder that gets `expression.zarr`; replaced if it exists.
    sample_ids: names of the samples in the store, in order.
    keep: the same samples by their ids in the sources, if these differ from `sample_ids`.
    var: table of genes with columns ensembl_id, symbol, length (bp; NaN where unknown) and, where genes go by
        something else, `gene` with the keys of the sources. Rows that the sources lack are ignored; the
        order is that of `layers["X"]`.
    layers: {"X": source, "tpm": source or None}. TPM is aligned to X by gene and sample id.
    scale: what X is: counts, tpm, fpkm (rescaled to TPM per sample), rsem_normalised or zscore.

    Raises UserError for ids that one of the sources or `var` lacks, repeated ids, samples without reads.
    """
    path = Path(path)
    final = path if path.suffix == ".zarr" else path / FOLDER
    if scale not in LINEAR_SCALES:
        raise UserError(f"scale {scale!r} of X is not linear; expected one of {', '.join(LINEAR_SCALES)}")
    main, tpm = layers.get("X"), layers.get("tpm")
    if main is None:
        raise UserError("no source for X: give counts, or TPM where there are no counts")
    if tpm is not None and scale != "counts":
        raise UserError(f"a TPM source beside X of scale {scale}: expected counts in X, or TPM alone")
    names, wanted = list(sample_ids), list(sample_ids if keep is None else keep)
    if len(names) != len(wanted):
        raise UserError(f"{len(names)} sample names for {len(wanted)} samples: expected one each")
    if twice := [name for name, n in (Counter(names) | Counter(wanted)).items() if n > 1]:
        raise UserError(f"samples stand twice in the list to write: {some(twice)}")
    if not names:
        raise UserError("no samples to write: every sample was filtered out")
    with atomic_folder(final) as aside, ExitStack() as stack:
        rows: dict[str, Rows] = {}
        for name, source in (("X", main), ("tpm", tpm)):
            if source is not None:
                folder = final.with_name(f"{aside.name}.{name}")
                stack.callback(shutil.rmtree, folder, ignore_errors=True)
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                numbers = positions(wanted, source.sample_ids, "samples", f"the source of {name}")
                rows[name] = stack.enter_context(source.rows(numbers, folder))
        table = _gene_table(var, rows["X"].gene_ids)
        record: dict[str, Any] = {"scale": "tpm" if scale == "fpkm" else scale}
        group = zarr.open_group(str(aside), mode="w", zarr_format=3)
        group.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        _write_layers(group, rows, table, names, scale, record)
        _write_tables(group, names, table, record | dict(uns or {}))
    return final


def positions(wanted: Sequence[str], have: Sequence[str], what: str, where: str) -> Index:
    """Return where each wanted id stands in `have`; UserError names those that it lacks."""
    at = {name: i for i, name in enumerate(have)}
    if lacking := [name for name in wanted if name not in at]:
        raise UserError(f"{len(lacking)} {what} are not in {where}: {some(lacking)}; the tables do not match")
    return np.array([at[name] for name in wanted], np.int64)


def tpm_from_counts(counts: Floats, length: npt.NDArray[np.float64]) -> Floats:
    """Return TPM of shape (n_samples, n_genes) from counts of that shape and lengths in bp (NaN: TPM 0).

    Raises UserError if a sample has no reads on genes of known length.
    """
    per_base = np.where(np.isfinite(length) & (length > 0), 1 / np.where(length > 0, length, 1), 0)
    rate = counts * per_base
    total = rate.sum(axis=1, keepdims=True)
    if (total <= 0).any():
        raise UserError(f"{int((total <= 0).sum())} samples have no reads on genes of known length: drop them")
    rate *= MILLION / total
    return rate.astype(np.float32)


def _gene_table(var: pd.DataFrame, genes: Sequence[str]) -> pd.DataFrame:
    """Return the rows of `var` for the genes of X, in their order, indexed by key."""
    keys = [str(key) for key in var["gene" if "gene" in var else "ensembl_id"]]
    if twice := [key for key, n in Counter(keys).items() if n > 1]:
        raise UserError(f"the table of genes repeats {some(twice)}: expected one row a gene")
    rows = var.iloc[positions(genes, keys, "genes of the expression matrix", "the table of genes")]
    return pd.DataFrame(
        {
            "ensembl_id": [str(gene) if isinstance(gene, str) else "" for gene in rows["ensembl_id"]],
            "symbol": [str(name) if isinstance(name, str) else "" for name in rows["symbol"]],
            "length": rows["length"].to_numpy(np.float64),
        },
        index=pd.Index(list(genes), dtype=object),
    )


def _layout(n_samples: int, n_genes: int) -> tuple[int, int]:
    """Return samples a chunk and samples a shard (a whole number of chunks)."""
    row = 4 * max(1, n_genes)
    chunk = min(max(1, CHUNK_BYTES // row), n_samples)
    shard = chunk * max(1, min(SHARD_BYTES // (row * chunk), -(-n_samples // chunk)))
    return chunk, shard


def _create(group: Any, name: str, n_samples: int, n_genes: int) -> Any:
    chunk, shard = _layout(n_samples, n_genes)
    return group.create_array(
        name,
        shape=(n_samples, n_genes),
        chunks=(chunk, n_genes),
        shards=(shard, n_genes),
        dtype="float32",
        compressors=CODECS,
        fill_value=0.0,
        config={"write_empty_chunks": True},
        attributes={"encoding-type": "array", "encoding-version": "0.2.0"},
    )


def _write_layers(
    group: Any, rows: Mapping[str, Rows], table: pd.DataFrame, names: Sequence[str], scale: str, record: dict[str, Any]
) -> None:
    """Write X and the TPM layer shard by shard."""
    shape = (len(names), len(table))
    matrix = _create(group, "X", *shape)
    layers = group.create_group("layers", attributes={"encoding-type": "dict", "encoding-version": "0.1.0"})
    length = table["length"].to_numpy(np.float64)
    enough = "tpm" in rows or float(np.isfinite(length).mean()) >= LENGTHS_NEEDED
    tpm = _create(layers, "tpm", *shape) if scale == "counts" and enough else None
    columns: Index | None = None
    if "tpm" in rows:
        columns = positions(list(table.index), rows["tpm"].gene_ids, "genes of the counts", "the source of tpm")
        positions(rows["tpm"].gene_ids, list(table.index), "genes of tpm", "the source of counts")
        columns = None if (columns == np.arange(len(columns))).all() else columns
    if scale == "counts":
        computed = "computed from counts and lengths" if enough else "absent: too few gene lengths are known"
        record["tpm"] = "source" if "tpm" in rows else computed
        record["genes_without_length"] = int((~np.isfinite(length)).sum())
    elif scale == "fpkm":
        record["tpm"] = "rescaled from FPKM"
    step = _layout(*shape)[1]
    for start in tqdm(range(0, len(names), step), desc="writing expression", unit="shard", delay=2, leave=False):
        stop = min(start + step, len(names))
        values = rows["X"].read(start, stop)
        if scale == "fpkm":
            values = per_million(values, names[start:stop])
        matrix[start:stop] = values
        if tpm is not None and "tpm" in rows:
            values = rows["tpm"].read(start, stop)
            tpm[start:stop] = values if columns is None else values[:, columns]
        elif tpm is not None:
            for first in range(0, stop - start, 32):  # float64 on the way
                last = min(first + 32, stop - start)
                _refuse_empty(values[first:last], names[start + first : start + last])
                values[first:last] = tpm_from_counts(values[first:last], length)
            tpm[start:stop] = values


def _refuse_empty(values: Floats, names: Sequence[str]) -> None:
    empty: npt.NDArray[np.bool_] = ~np.any(values, axis=1)
    if empty.any():
        lacking = [name for name, none in zip(names, empty, strict=True) if none]
        raise UserError(f"samples without any expression: {some(lacking)}; drop them from the table")


def per_million(values: Floats, names: Sequence[str]) -> Floats:
    """Return values of shape (n_samples, n_genes) scaled so that each sample adds up to a million (FPKM to TPM)."""
    _refuse_empty(values, names)
    total = values.sum(axis=1, dtype=np.float64, keepdims=True)
    scaled: Floats = (values * (MILLION / total)).astype(np.float32)
    return scaled


def _write_tables(group: Any, names: Sequence[str], table: pd.DataFrame, record: Mapping[str, Any]) -> None:
    """Write obs, var and uns, and the empty groups that AnnData expects."""
    import anndata  # here: importing it takes a second that readers of the store need not spend
    from anndata.io import write_elem

    with anndata.settings.override(auto_shard_zarr_v3=False):
        write_elem(group, "obs", pd.DataFrame(index=pd.Index(list(names), dtype=object)))
        write_elem(group, "var", table)
        write_elem(group, "uns", dict(sorted(record.items())))
        for name in ("obsm", "obsp", "varm", "varp"):
            write_elem(group, name, {})


class Expression(ABC):
    """Expression that is read by rows of samples; nothing of the matrices is in memory."""

    path: Path
    sample_ids: list[str]
    layers: list[str]  # beside X

    @property
    def n_samples(self) -> int:
        """Samples that can be read."""
        return len(self.sample_ids)

    def blocks(self, rows: Sequence[int] | Index | None = None, layer: str = "X", size: int = 256) -> Iterator[Floats]:
        """Yield float32 arrays of shape (up to `size`, n_genes), the rows in the order asked for (default all)."""
        numbers = self._numbers(layer, rows)
        for start in range(0, len(numbers), size):
            yield self._take(layer, numbers[start : start + size])

    def read(self, layer: str = "X", rows: Sequence[int] | Index | None = None) -> Floats:
        """Return rows (default all) of a layer: float32, shape (n_rows, n_genes)."""
        return self._take(layer, self._numbers(layer, rows))

    def _numbers(self, layer: str, rows: Sequence[int] | Index | None) -> Index:
        if layer != "X" and layer not in self.layers:
            raise UserError(f"{self.path.name} has no layer {layer!r}: it has {', '.join(['X', *self.layers])}")
        numbers = np.arange(self.n_samples) if rows is None else np.asarray(rows, np.int64)
        if numbers.size and (numbers.min() < 0 or numbers.max() >= self.n_samples):
            raise UserError(
                f"row {int(numbers.max() if numbers.min() >= 0 else numbers.min())} is not in {self.path.name}: "
                f"expected 0 to {self.n_samples - 1}"
            )
        return numbers

    @abstractmethod
    def _take(self, layer: str, numbers: Index) -> Floats:
        """Return the rows with these numbers, in this order."""


@dataclass(frozen=True)
class ExpressionStore(Expression):
    """An expression store opened for reading."""

    path: Path
    sample_ids: list[str]
    var: pd.DataFrame  # indexed by gene key: ensembl_id, symbol, length
    scale: str
    uns: dict[str, Any]
    layers: list[str]  # beside X

    def _array(self, layer: str) -> Any:
        return zarr.open_array(str(self.path), path="X" if layer == "X" else f"layers/{layer}", mode="r")

    def _take(self, layer: str, numbers: Index) -> Floats:
        """By runs of chunks within a shard, so that memory stays at one shard."""
        array = self._array(layer)
        chunk, shard = array.chunks[0], (array.shards or array.chunks)[0]

        def cut(rows: Index) -> npt.NDArray[np.bool_]:
            apart: npt.NDArray[np.bool_] = (np.diff(rows // chunk) > 1) | (np.diff(rows // shard) > 0)
            return apart

        with refusing(f"{self.path.name}: {layer} is damaged", "build the cohort again"):
            return gather(numbers, array.shape[1], cut, lambda low, high: array[low:high])


def gather(
    numbers: Index,
    width: int,
    cut: Callable[[Index], npt.NDArray[np.bool_]],
    read: Callable[[int, int], Floats],
) -> Floats:
    """Read rows in any order by ascending runs: shape (n_rows, width).

    cut: between which of the ascending numbers a new run begins, shape (n_rows - 1,). read: rows low..high-1.
    """
    out = np.empty((len(numbers), width), np.float32)
    order = np.argsort(numbers, kind="stable")
    ascending = numbers[order]
    for piece in np.split(np.arange(len(order)), np.flatnonzero(cut(ascending)) + 1):
        if len(piece):
            low, high = int(ascending[piece[0]]), int(ascending[piece[-1]]) + 1
            out[order[piece]] = read(low, high)[ascending[piece] - low]
    return out


def open_expression(path: Path) -> ExpressionStore:
    """Open an expression store, or the cohort folder that holds one.

    Raises UserError if there is none, or if it is not laid out as `write_expression` does.
    """
    path = Path(path)
    if not (path / "zarr.json").is_file() and (path / FOLDER / "zarr.json").is_file():
        path = path / FOLDER
    if not (path / "zarr.json").is_file():
        raise UserError(f"there is no expression store at {path}: build the cohort first (`bulkprobe cohort`)")
    with refusing(f"{path.name} is a damaged expression store", "build the cohort again"):
        return _opened(path, open_group(path))


def _opened(path: Path, group: Any) -> ExpressionStore:
    if group.attrs.get("encoding-type") != "anndata" or not {"X", "obs", "var", "uns"} <= set(group):
        raise UserError(f"{path.name} is not an expression store: expected AnnData with X, obs, var and uns")
    for name in ("obs", "var", "uns"):
        refuse_foreign_arrays(group[name], f"{path.name}: {name}")
    uns = {name: np.asarray(array[()]).item() for name, array in group["uns"].arrays()}
    if "scale" not in uns:
        raise UserError(f"{path.name} does not say its scale: expected uns['scale']")
    genes = group["var"]
    var = pd.DataFrame(
        {
            "ensembl_id": np.asarray(genes["ensembl_id"][:], dtype=object),
            "symbol": np.asarray(genes["symbol"][:], dtype=object),
            "length": np.asarray(genes["length"][:], np.float64),
        },
        index=pd.Index(np.asarray(genes[genes.attrs["_index"]][:], dtype=object)),
    )
    samples = group["obs"][group["obs"].attrs["_index"]][:]
    layers = sorted(group["layers"].array_keys()) if "layers" in group else []
    for name in ("X", *(f"layers/{layer}" for layer in layers)):
        refuse_foreign_array(group[name], f"{path.name}: {name}")
        if group[name].shape != (len(samples), len(var)):
            raise UserError(
                f"{path.name}: {name} has the shape {group[name].shape}, obs and var have {(len(samples), len(var))}: "
                "build the cohort again"
            )
        # Zarr would read what is missing or empty, as a power cut leaves it, as zeros.
        held = sum(file.is_file() and file.stat().st_size > 0 for file in (path / name / "c").glob("*/*"))
        if held < -(-len(samples) // (group[name].shards or group[name].chunks)[0]):
            raise UserError(f"{path.name}: {name} has lost some of its files of values; build the cohort again")
    return ExpressionStore(path, [str(name) for name in samples], var, str(uns["scale"]), uns, layers)
