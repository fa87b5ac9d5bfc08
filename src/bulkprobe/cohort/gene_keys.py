"""Gene keys of lab tables: Ensembl ids, symbols or `SYMBOL|entrez`, and what identifies a gene in the end."""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from bulkprobe.cohort.genes import is_ensembl, is_par_y, read_gtf, repeated, strip_version
from bulkprobe.cohort.legible import content_of, legible, read_frame
from bulkprobe.cohort.transcripts import is_gtf
from bulkprobe.errors import UserError, some

UNKNOWN_SYMBOL = "?"  # RNASeqV2 tables: 29 rows without a symbol
_WITH_ENTREZ = re.compile(r"[^|\s]+\|\d+")
_SYMBOL_NAMES = tuple(
    "symbol|approved symbol|gene_name|hugo_symbol|gene_symbol|gene_symbols|hgnc_symbol|feature_name".split("|")
)
_ENSEMBL_NAMES = ("ensembl_id", "ensembl", "ensembl_gene_id", "ensembl gene id")
_ID_NAMES = ("gene_id", "gene_ids", "feature_id", "gene")  # whatever kind of id an AnnData's author took for the genes
_LENGTH_NAMES = ("length", "length_bp", "gene_length")
_OLD_NAMES = ("previous symbols", "prev_symbol", "alias symbols", "alias_symbol")  # of HGNC's tables
# Genes that nearly every table of human expression measures under these symbols: enough to tell the axes apart.
COMMON_SYMBOLS = frozenset(
    "ACTB AKT1 ALK APC AR ATM BRAF BRCA1 BRCA2 CCND1 CD274 CD4 CD8A CDH1 CDK4 CDKN2A CTNNB1 EGFR EPCAM ERBB2 ESR1 "
    "EZH2 FGFR1 FOXA1 GAPDH GATA3 HIF1A IDH1 JAK2 KIT KRAS KRT5 MAPK1 MET MKI67 MTOR MYC NF1 NOTCH1 NRAS PBRM1 "
    "PDGFRA PGR PIK3CA PTEN RB1 SMAD4 STAT3 STK11 TP53 VEGFA VHL".split()
)


def looks_like_genes(names: Sequence[str], symbols: Collection[str] = frozenset()) -> bool:
    """Tell whether names are gene keys: most are Ensembl ids, `SYMBOL|entrez` or known symbols."""
    if not names:
        return False
    known = sum(is_ensembl(name) or _WITH_ENTREZ.fullmatch(name) is not None or name in symbols for name in names)
    return known > len(names) / 2 or len(COMMON_SYMBOLS.intersection(names)) >= 3


def decide_orientation(
    table: str, rows: Sequence[str], columns: Sequence[str], orientation: str, genes: GeneTable
) -> str:
    """Return `genes_by_samples` or `samples_by_genes`; UserError where neither or both axes look like genes."""
    if orientation != "auto":
        return orientation
    in_rows = in_columns = False
    for known in (genes.symbols, genes.rows.keys()):  # aliases last: samples may be called as some of them are
        if in_rows == in_columns:
            in_rows, in_columns = looks_like_genes(rows, known), looks_like_genes(columns, known)
    if in_rows == in_columns:
        raise UserError(
            f"{table}: {'both' if in_rows else 'neither'} of its axes look like genes (rows {some(rows[:3])}; columns "
            f"{some(columns[:3])}); expected Ensembl ids or symbols of human genes along one, or build a cohort with "
            "`bulkprobe cohort` and set orientation to genes_by_samples or samples_by_genes"
        )
    return "genes_by_samples" if in_rows else "samples_by_genes"


@dataclass(frozen=True)
class GeneTable:
    """What a lab knows of its genes: lookups from a key or a symbol to Ensembl id, symbol and length."""

    rows: dict[str, tuple[str, str, float]]  # key → ensembl_id, symbol, length
    symbols: frozenset[str]  # approved, or what the table takes for it


def read_gene_table(genes: Path | pd.DataFrame | None) -> GeneTable:
    """Read a table of genes: columns symbol, ensembl (or ensembl_id), length (or length_bp), any key column.

    Every text column serves as a key; the first row of a key counts. A GTF serves as well, and HGNC's tables: there
    an earlier symbol stands for the approved one, and then an alias, where only one gene claims it and no gene has it
    for its own. Raises UserError if the table has neither symbols nor Ensembl ids.
    """
    if genes is None:
        return GeneTable({}, frozenset())
    if isinstance(genes, pd.DataFrame):
        name, table = "the table of genes", genes
    else:
        name = Path(genes).name
        if not Path(genes).is_file():
            raise UserError(f"the table of genes {name} is missing: expected a file at {genes}")
        if is_gtf(Path(genes)):
            return read_gene_table(read_gtf(Path(genes)))
        with legible(Path(genes)):
            if name.endswith(".parquet"):
                table = read_frame(Path(genes))
            else:
                table = pd.read_csv(io.BytesIO(content_of(Path(genes))), sep="," if ".csv" in name else "\t")
    ensembl, symbol, length = (_column(table, names) for names in (_ENSEMBL_NAMES, _SYMBOL_NAMES, _LENGTH_NAMES))
    if ensembl is None and symbol is None:
        raise UserError(
            f"{name} has neither symbols nor Ensembl ids (columns {some(table.columns)}); expected columns symbol, "
            "ensembl_id and length"
        )
    n = len(table)
    ids = strip_version([""] * n if ensembl is None else _text(ensembl))
    symbols = [""] * n if symbol is None else _text(symbol)
    found = list(zip(ids, symbols, _lengths(length, n).tolist(), strict=True))
    rows: dict[str, tuple[str, str, float]] = {}
    old = [column for name in _OLD_NAMES if (column := _column(table, (name,))) is not None]
    named = [table[c] for c in table.columns if not any(table[c] is column or c == column.name for column in old)]
    others = [_text(column) for column in named if not pd.api.types.is_numeric_dtype(column)]
    for keys in (ids, *others, symbols):
        for key, row in zip(keys, found, strict=True):
            if key and key != UNKNOWN_SYMBOL:
                rows.setdefault(key, row)
    for column in old:
        claims: dict[str, set[int]] = {}
        for number, names in enumerate(_text(column)):
            for name in re.split(r"\||, ", names):
                claims.setdefault(name.strip(), set()).add(number)
        for name, numbers in claims.items():
            if name and len(numbers) == 1:
                rows.setdefault(name, found[numbers.pop()])
    return GeneTable(rows, frozenset(symbols) - {"", UNKNOWN_SYMBOL})


def gene_columns(var: pd.DataFrame) -> pd.DataFrame:
    """Return what a table indexed by gene says of its genes: ensembl_id, symbol, length; one row each, in order.

    Ids come without version; "" and NaN where nothing is known. The index, or a column `gene_id`, serves for what
    no other column says: its Ensembl ids as such, other names (but no plain numbers) as symbols.
    """
    keys = [str(key) for key in var.index]
    n = len(keys)
    ensembl, symbol, own = (_column(var, names) for names in (_ENSEMBL_NAMES, _SYMBOL_NAMES, _ID_NAMES))
    ids = [""] * n if ensembl is None else _text(ensembl)
    symbols = [""] * n if symbol is None else _text(symbol)
    for names in (keys,) if own is None else (_text(own), keys):
        ids = [known or (name if is_ensembl(name) else "") for known, name in zip(ids, names, strict=True)]
        symbols = [known or _symbol(name) for known, name in zip(symbols, names, strict=True)]
    ids, symbols = strip_version(ids), [_symbol(name) for name in symbols]
    lengths = _lengths(_column(var, _LENGTH_NAMES), n)
    index = pd.Index([first or second for first, second in zip(ids, symbols, strict=True)], dtype=object)
    table = {"ensembl_id": ids, "symbol": symbols, "length": np.where(lengths > 0, lengths, np.nan)}
    return pd.DataFrame(table, index=index).astype({"ensembl_id": object, "symbol": object})


def name_genes(var: pd.DataFrame, table: GeneTable) -> pd.DataFrame:
    """Return `gene_columns` with what a table of genes adds, as `resolve` takes it: ids, approved symbols, lengths."""
    rows = []
    for ensembl_id, symbol, length in zip(var["ensembl_id"], var["symbol"], var["length"], strict=True):
        found, approved, known = table.rows.get(ensembl_id) or table.rows.get(symbol) or ("", "", np.nan)
        rows.append((ensembl_id or found, approved or symbol, length if length > 0 else known))
    named = pd.DataFrame(rows, columns=["ensembl_id", "symbol", "length"])
    return named.set_index(pd.Index([first or second for first, second, _ in rows], dtype=object))


def _symbol(key: str) -> str:
    """Return the symbol in a gene key (`SYMBOL|entrez` too); "" where it is an id, a number or unknown."""
    name = key.split("|", 1)[0]
    return "" if is_ensembl(name) or name.isdigit() or name == UNKNOWN_SYMBOL else name


def _column(table: pd.DataFrame, names: Sequence[str]) -> pd.Series | None:
    """Return the first column that goes by one of these names, in whatever case."""
    by_name = {str(column).lower(): column for column in table.columns}
    return next((table[by_name[name]] for name in names if name in by_name), None)


def _lengths(column: pd.Series | None, n: int) -> npt.NDArray[np.float64]:
    if column is None:
        return np.full(n, np.nan)
    return pd.to_numeric(column.astype(object), errors="coerce").to_numpy(np.float64, na_value=np.nan)


def _text(column: pd.Series) -> list[str]:
    return [value if isinstance(value, str) else "" for value in column]


@dataclass(frozen=True)
class Genes:
    """The genes of a table: per usable key of the table the final id and what is known of it."""

    final: dict[str, str]  # key in the table → Ensembl id where known, else the symbol
    var: pd.DataFrame  # one row per final id: gene, ensembl_id, symbol, length
    notes: dict[str, int]


def resolve(keys: Sequence[str], table: GeneTable, name: str, known: pd.DataFrame | None = None) -> Genes:
    """Decide which gene each key of a matrix stands for.

    known: what the matrix itself says of its genes (symbol, length), one row a key; its lengths go before those of
    the table of genes, its symbols after. Dropped and counted: rows with symbol `?`, PAR_Y copies. Several keys may
    end at one gene where the key is `SYMBOL|entrez` or the table of genes maps two keys to one id: the caller adds
    or chooses, and the first key's length is the gene's. A key that stands twice as it is, is an error.
    """
    plain = strip_version(keys)
    usable = [key for key in plain if not is_par_y(key) and key.split("|", 1)[0] != UNKNOWN_SYMBOL]
    if twice := repeated(usable):
        raise UserError(f"{name} has repeated genes: {some(twice)}; keep one row for each gene")
    final: dict[str, str] = {}
    rows: dict[str, tuple[str, str, str, float]] = {}
    lengths, names = (
        {} if known is None or column not in known else dict(zip(plain, known[column], strict=True))
        for column in ("length", "symbol")
    )
    for key in usable:
        symbol = key.split("|", 1)[0]
        ensembl_id, approved, length = table.rows.get(key) or table.rows.get(symbol) or ("", "", float("nan"))
        length = known_length if (known_length := lengths.get(key, 0)) > 0 else length
        if is_ensembl(key):
            ensembl_id, symbol = key, approved or names.get(key, "")
        symbol = approved or symbol  # an earlier symbol or an alias is no name to look a gene up by
        final[key] = ensembl_id or symbol
        rows.setdefault(final[key], (final[key], ensembl_id, symbol, length))
    notes = {
        "rows_without_symbol_dropped": sum(key.split("|", 1)[0] == UNKNOWN_SYMBOL for key in plain),
        "par_y_rows_dropped": sum(is_par_y(key) for key in plain),
    }
    if not final:
        raise UserError(f"{name} has no usable gene keys (first: {some(keys[:3])}): expected Ensembl ids or symbols")
    return Genes(final, pd.DataFrame(list(rows.values()), columns=["gene", "ensembl_id", "symbol", "length"]), notes)
