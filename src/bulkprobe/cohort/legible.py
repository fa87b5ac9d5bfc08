"""Reading small tables, with every way in which a file may be broken said in one sentence that names it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from bulkprobe.cohort.genes import BROKEN_GZIP, open_maybe_gzip, truncated
from bulkprobe.errors import UserError
from bulkprobe.foreign import MOST_TEXT_BYTES, flat, refuse_wide_table, refusing

MOST_TABLE_BYTES = MOST_TEXT_BYTES  # unpacked, of a text table that is read as a whole


@contextmanager
def legible(path: Path) -> Iterator[None]:
    """Turn what readers raise over a broken file into `UserError`; a failing disk stays an `OSError`."""
    kind = "a Parquet file" if path.suffix == ".parquet" else "a table"
    with refusing(f"{path.name} cannot be read as {kind}", "fetch or export it again"):
        try:
            yield
        except pa.ArrowInvalid as error:
            raise UserError(f"{path.name} is not {kind} ({flat(error)}): fetch or export it again") from error
        except pd.errors.EmptyDataError as error:
            raise UserError(
                f"{path.name} is an empty table: expected a header line and rows; check the export"
            ) from error
        except pd.errors.ParserError as error:
            raise UserError(f"{path.name} is ragged or cut off ({flat(error)}): fetch or export it again") from error
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path.name} is not text in UTF-8 (byte {error.object[error.start]:#04x}): export it again as UTF-8"
            ) from error
        except BROKEN_GZIP as error:
            if path.suffix == ".parquet" or (isinstance(error, OSError) and error.errno is not None):
                raise
            raise truncated(path, error) from error


@contextmanager
def legible_anndata(path: Path) -> Iterator[None]:
    """Turn what h5py and zarr raise over a broken file into `UserError`; a failing disk stays an `OSError`."""
    advice = "it is cut off, damaged or something else, write or fetch it again"
    with refusing(f"{path.name} cannot be read as AnnData", advice):
        yield


def content_of(path: Path) -> bytes:
    """Return a small table's bytes, unpacked. Errors: `UserError` for a broken file and for more than a table has."""
    with legible(path), open_maybe_gzip(path) as handle:
        content = handle.read(MOST_TABLE_BYTES + 1)
    if len(content) > MOST_TABLE_BYTES:
        raise UserError(
            f"{path.name} has more than {MOST_TABLE_BYTES:,} bytes of text: that is no table of samples or genes"
        )
    return content


def read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet table as a whole. Errors: `UserError` for a broken file and for more cells than memory holds."""
    with legible(path):
        refuse_wide_table(path, columns)
        return pa.parquet.read_table(path, columns=columns)


def column_names(schema: pa.Schema) -> list[str]:
    """Return the columns of a Parquet table; what was the index of a pandas table comes first."""
    index = [name for name in (schema.pandas_metadata or {}).get("index_columns", []) if name in schema.names]
    return [*index, *(name for name in schema.names if name not in index)]


def read_frame(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """Read a Parquet table as `read_parquet` does, as plain columns in the order of `column_names`."""
    table = read_parquet(path, columns)
    with legible(path):
        frame: pd.DataFrame = table.to_pandas(ignore_metadata=True)
        return frame[column_names(table.schema)]


def read_text_table(path: Path, sep: str, columns: list[str] | None = None) -> pd.DataFrame:
    """Read a text table, packed or not, every cell as text; `columns` restricts it to those it has of them.

    Errors: `UserError` for a broken, ragged or empty file, and for one whose last line was cut.
    """
    content = content_of(path)
    with legible(path):
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
