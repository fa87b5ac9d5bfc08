"""Wide text matrices, read by blocks of lines: one id, then one number per column of the header.

A background task decompresses the next block (igzip releases the interpreter lock) while pyarrow parses
others, one block a core; lines are only looked at in Python when something is wrong with them.
"""

from __future__ import annotations

import codecs
import csv
import os
import re
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv

from bulkprobe.cohort.genes import BROKEN_GZIP, line_of, open_maybe_gzip, repeated, truncated
from bulkprobe.errors import UserError, some

T = TypeVar("T")
Floats = npt.NDArray[np.float32]

BLOCK_BYTES = 1 << 25  # text parsed at once: enough lines to pay pyarrow's cost per column
MAX_WORKERS = 8  # blocks parsed at once: memory holds that many
_ID = "id"
# First cells of a header: below them, names of columns may be numbers.
CORNERS = frozenset(
    "gene genes gene_id geneid gene_ids gene_name gene_symbol hugo_symbol symbol ensembl_id ensembl_gene_id id name "
    "index sample samples sample_id sampleid".split()
) | {""}  # an unnamed index, as R and pandas write it
# Names of columns that tell of genes and hold no sample's values, in whatever case.
ANNOTATIONS = frozenset(
    "gene_name gene_symbol symbol hgnc_symbol hugo_symbol gene_id ensembl_id ensembl_gene_id entrez_id entrezid "
    "entrez_gene_id gene_type gene_biotype biotype description length gene_length length_bp".split()
)
OTHER_SEPARATORS = {";": "semicolons", ",": "commas", "\t": "tabs", " ": "spaces"}
# Read as missing: these become NaN and are judged by the caller. A short list: each costs time on every value.
MISSING = ["", "NA", "NaN", "nan"]
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?|inf(inity)?|nan)", re.IGNORECASE)


@dataclass(frozen=True)
class Header:
    """The head of a matrix: names of the columns (without the id column), and whether fields are quoted.

    beside: columns of the file that hold annotation, by place behind the id column, and their names. The others are
    `columns`.
    """

    columns: list[str]
    quoted: bool
    beside: dict[int, str] = field(default_factory=dict)

    @property
    def places(self) -> list[int]:
        """Where the columns stand in the file, behind the id column."""
        return [i for i in range(len(self.columns) + len(self.beside)) if i not in self.beside]

    def without(self, names: Collection[str]) -> Header:
        """Return the head with those columns put beside that go by one of these names, in whatever case."""
        beside = {i: name for i, name in enumerate(self.columns) if name.casefold() in names}
        return Header([name for i, name in enumerate(self.columns) if i not in beside], self.quoted, beside)


def delimiter_of(path: Path) -> str:
    """Return the field separator that the name of a table promises: comma for .csv, else tab."""
    return "," if ".csv" in Path(path).suffixes else "\t"


def read_header(path: Path, delimiter: str, *, what: str = "sample", unique: bool = True) -> Header:
    """Read the names of the columns.

    The corner cell may be missing (as R writes it). Raises UserError if the header is missing, holds
    empty names, repeated ones (where they must be `unique`), or if there is no row below it.
    """
    path = Path(path)
    with open_maybe_gzip(path) as handle:
        try:
            first, second = line_of(handle, path), line_of(handle, path)
        except BROKEN_GZIP as error:
            raise truncated(path, error) from error
    if not first.strip():
        raise UserError(f"{path.name} is an empty table: expected a header line and rows of numbers")
    if first.lstrip()[:1] == b"<":
        raise UserError(f"{path.name} is a web page, not data: fetch it again")
    quoted = b'"' in first or b'"' in second
    fields = _fields(first.removeprefix(codecs.BOM_UTF8), delimiter, quoted)
    refuse_one_column(path, first, delimiter, what)
    if len(fields) < 2:
        raise UserError(
            f"{path.name} has one column in its header ({fields[0][:60]!r}): expected {what} names with "
            f"{OTHER_SEPARATORS[delimiter]} between them"
        )
    if fields[0].strip('"').casefold() not in CORNERS and all(_NUMBER.fullmatch(field) for field in fields[1:]):
        raise UserError(
            f"{path.name} has no header: the first line holds numbers ({some(fields[1:4])}), expected {what} names: "
            "write them above it"
        )
    if not second.strip():
        raise UserError(f"{path.name} is an empty table: it has a header and no rows")
    columns = fields if len(_fields(second, delimiter, quoted)) == len(fields) + 1 else fields[1:]
    if "" in columns:
        raise UserError(f"{path.name} has {columns.count('')} columns without a name: expected {what} names")
    if unique and (twice := repeated(columns)):
        raise UserError(f"{path.name} has repeated {what} names in its header: {some(twice)}; keep one of each")
    return Header(columns, quoted)


def refuse_one_column(path: Path, first: bytes, delimiter: str, what: str) -> None:
    """Raise UserError where a header has one column, or none, because other marks separate its fields."""
    text = first.decode("utf-8", "replace").strip()
    other = next((mark for mark in OTHER_SEPARATORS if mark != delimiter and mark in text), None)
    if not text or delimiter in text or other is None:
        return
    wanted = OTHER_SEPARATORS[delimiter]
    advice = f"export it with {wanted} between its fields, and a point in its numbers"
    if text.startswith("#"):
        advice = "delete the lines above the header"
    elif other in (",", "\t"):
        advice = f"it has {OTHER_SEPARATORS[other]}, so name it {'.csv' if other == ',' else '.tsv'}"
    raise UserError(
        f"{path.name} has one column in its header ({text[:60]!r}): expected {what} names with {wanted} between them; "
        f"{advice}"
    )


def read_blocks(
    path: Path,
    delimiter: str,
    header: Header,
    work: Callable[[list[str], Floats, int], T],
    *,
    block_bytes: int = BLOCK_BYTES,
    row: str = "gene",
    column: str = "sample",
) -> Iterator[T]:
    """Yield `work(ids of the rows, values, number of the first row)` block by block, in file order.

    Values: float32 of shape (n_columns, n_rows), C order, missing ones NaN. Blocks are parsed and worked on in
    parallel, so `work` must not touch what another block's call changes. `row` and `column` say in messages
    what stands where.
    Raises UserError for truncated gzip, ragged lines (with the line number) and text in place of a number.
    """
    path = Path(path)
    names = [_ID, *(str(i) for i in range(len(header.columns) + len(header.beside)))]
    wanted = [_ID, *(str(i) for i in header.places)]
    parse = pa.csv.ParseOptions(
        delimiter=delimiter, quote_char='"' if header.quoted else False, ignore_empty_lines=False
    )
    convert = pa.csv.ConvertOptions(
        column_types={name: pa.string() if name == _ID else pa.float32() for name in wanted},
        include_columns=wanted if header.beside else None,
        null_values=MISSING,
    )

    def take(text: bytes, first: int) -> T:
        # One thread a block: pyarrow's own threads share out columns, which costs more than it gains here.
        options = pa.csv.ReadOptions(column_names=names, block_size=max(len(text) + 1, 1 << 20), use_threads=False)
        try:
            table = pa.csv.read_csv(pa.py_buffer(text), options, parse, convert)
        except pa.ArrowInvalid as error:
            raise _diagnose(path, text, first + 2, delimiter, header, row, column, str(error)) from error
        ids = table.column(0).to_pylist()
        if "" in ids:  # pyarrow fills an empty line up with missing values
            raise _diagnose(path, text, first + 2, delimiter, header, row, column, f"a {row} without a name")
        return work(ids, _to_array(table.drop_columns([_ID])), first)

    workers = min(MAX_WORKERS, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[Future[T]] = deque()
        first = 0
        for text in _whole_lines(path, block_bytes):
            pending.append(pool.submit(take, text, first))
            first += text.count(b"\n")
            if len(pending) > workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _to_array(table: pa.Table) -> Floats:
    """Return the columns of a table as an array of shape (n_columns, n_rows), nulls as NaN."""
    parts = [
        batch.to_tensor(null_to_nan=True, row_major=False).to_numpy().T
        for batch in table.to_batches()
        if batch.num_rows
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _whole_lines(path: Path, block_bytes: int) -> Iterator[bytes]:
    """Yield the text below the header in blocks of whole lines, the next block being read meanwhile."""
    with open_maybe_gzip(path) as handle, ThreadPoolExecutor(1) as reader:
        take: Callable[[], bytes] = lambda: _read_lines(handle, path, block_bytes)  # noqa: E731
        try:
            handle.readline()
            ahead = reader.submit(take)
            while text := ahead.result():
                ahead = reader.submit(take)
                yield text
        except BROKEN_GZIP as error:
            raise truncated(path, error) from error


def _read_lines(handle: IO[bytes], path: Path, size: int) -> bytes:
    text = handle.read(size)
    if text and not text.endswith(b"\n"):
        text += line_of(handle, path)
    return text


def _fields(line: bytes, delimiter: str, quoted: bool) -> list[str]:
    text = line.decode("utf-8", "replace").rstrip("\r\n")
    if quoted:
        with suppress(csv.Error):  # of a quote that is never closed
            return next(csv.reader([text], delimiter=delimiter), [""])
    fields = text.split(delimiter)
    return [field.strip('"') for field in fields] if quoted else fields


def first_fields(line: bytes, mark: bytes, most: int, *, quoted: bool) -> list[str]:
    """Return the first fields of a line, and what is left of it behind them; quotes within are heeded if `quoted`."""
    if quoted and most > 1:
        return _fields(line, mark.decode(), quoted)
    if quoted and line[:1] == b'"':
        return [line[1:].split(b'"', 1)[0].decode("utf-8", "replace")]
    return [field.decode("utf-8", "replace").strip('"\r\n') for field in line.split(mark, most)]


def _diagnose(
    path: Path, block: bytes, line: int, delimiter: str, header: Header, row: str, column: str, reason: str
) -> UserError:
    """Find in a block what pyarrow refused, and say it by line, row and column."""
    expected = len(header.columns) + len(header.beside) + 1
    for number, content in enumerate(block.splitlines(), start=line):
        fields = _fields(content, delimiter, header.quoted)
        if len(fields) != expected:
            return UserError(
                f"{path.name}, line {number}: {len(fields)} fields where the header has {expected}; the file is "
                "ragged or cut off, fetch or export it again"
            )
        for name, place in zip(header.columns, header.places, strict=True):
            text = fields[1 + place]
            if text not in MISSING and not _NUMBER.fullmatch(text.strip()):
                return UserError(
                    f"{path.name}, line {number}: {text[:40]!r} where a number is expected "
                    f"({row} {fields[0]}, {column} {name}); {_advice(text)}"
                )
    return UserError(f"{path.name}, near line {line}: cannot be read as a table ({reason[:200]})")


def _advice(text: str) -> str:
    if _NUMBER.fullmatch(text.strip().replace(",", ".", 1)):
        return "export numbers with a point"
    return "leave the column out, or empty where nothing was measured"
