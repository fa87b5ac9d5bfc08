"""Reading small tables, with every way in which a file may be broken said in one sentence that names it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pyarrow as pa

from bulkprobe.cohort.genes import BROKEN_GZIP, open_maybe_gzip, truncated
from bulkprobe.errors import UserError


@contextmanager
def legible(path: Path) -> Iterator[None]:
    """Turn what readers raise over a broken file into `UserError`; a failing disk stays an `OSError`."""
    try:
        yield
    except pa.ArrowInvalid as error:
        kind = "a Parquet file" if path.suffix == ".parquet" else "a table"
        raise UserError(f"{path.name} is not {kind} ({_flat(error)}): fetch or export it again") from error
    except pd.errors.EmptyDataError as error:
        raise UserError(f"{path.name} is an empty table: expected a header line and rows; check the export") from error
    except pd.errors.ParserError as error:
        raise UserError(f"{path.name} is ragged or cut off ({_flat(error)}): fetch or export it again") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path.name} is not text in UTF-8 (byte {error.object[error.start]:#04x}): export it again as UTF-8"
        ) from error
    except BROKEN_GZIP as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise truncated(path, error) from error


@contextmanager
def legible_anndata(path: Path) -> Iterator[None]:
    """Turn what h5py and zarr raise over a broken file into `UserError`; a failing disk stays an `OSError`."""
    try:
        yield
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(
            f"{path.name} cannot be read as AnnData ({_flat(error)}): it is cut off, damaged or something else, write "
            "or fetch it again"
        ) from error


def _flat(error: Exception) -> str:
    return " ".join(str(error).split())[:120].rstrip(". ")


def read_text_table(path: Path, sep: str, columns: list[str] | None = None) -> pd.DataFrame:
    """Read a text table, packed or not, every cell as text; `columns` restricts it to those it has of them.

    Errors: `UserError` for a broken, ragged or empty file, and for one whose last line was cut.
    """
    with legible(path), open_maybe_gzip(path) as handle:
        content = handle.read()
        table = pd.read_csv(
            io.BytesIO(content),
            sep=sep,
            dtype=str,
            keep_default_na=False,
            usecols=None if columns is None else lambda name: name in columns,
        )
    if not len(table) and set(columns or ()) <= set(table.columns):
        raise UserError(f"{path.name} is an empty table: it has a header and no rows; check the export")
    # pandas takes one field too many in every row for an index, and fills short rows up.
    shifted = not isinstance(table.index, pd.RangeIndex)
    first, last = content.split(b"\n", 1)[0], content.rstrip(b"\r\n").rsplit(b"\n", 1)[-1]
    cut = b'"' not in first + last and last.count(sep.encode()) < first.count(sep.encode())
    if shifted or cut:
        raise UserError(
            f"{path.name} has rows with {'more' if shifted else 'fewer'} fields than its header: the file is ragged or "
            "cut off, fetch or export it again"
        )
    return table
