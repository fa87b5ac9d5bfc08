"""A lab's own mutations: a MAF, a long table, or genes × samples 0/1, made one status by sample."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, cast

import numpy as np
import pandas as pd
import pyarrow.parquet

from bulkprobe.cohort.barcodes import PATIENT_LENGTH, SAMPLE_LENGTH, is_barcode
from bulkprobe.cohort.flow import Flow
from bulkprobe.cohort.genes import MOST_LINE_BYTES, lines_of, open_maybe_gzip, repeated
from bulkprobe.cohort.lab_tables import find_column
from bulkprobe.cohort.labels import MOST_NAMES, MutationStatus, filter_accepted, is_hotspot, read_maf
from bulkprobe.cohort.legible import column_names, legible, read_frame
from bulkprobe.cohort.schema import HOTSPOTS, CohortRules, FilesConfig
from bulkprobe.cohort.survival import blank_missing
from bulkprobe.cohort.text_matrix import delimiter_of, refuse_one_column
from bulkprobe.errors import UserError, some

ROWS_AT_ONCE = 2_000  # of a text table; a genes × samples table of TCGA's size has 9,000 columns
MAF_MARKS = {"Hugo_Symbol", "Tumor_Sample_Barcode", "Variant_Classification"}
_CALLS = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}


def table_header(path: Path) -> list[str]:
    """Return the column names of a table, packed or not; comment lines (#) before them are skipped.

    Errors: `UserError` for a broken file and for a name that stands twice.
    """
    names: list[str] = []
    with legible(path):
        if path.suffix == ".parquet":
            names = column_names(pyarrow.parquet.read_schema(path))
        else:
            with open_maybe_gzip(path) as handle:
                line = next((line for line in lines_of(handle, path) if not line.startswith(b"#")), b"")
            refuse_one_column(path, line, delimiter_of(path), "column")
            names = [cell.strip('"') for cell in line.decode("utf-8-sig").rstrip("\r\n").split(delimiter_of(path))]
    if names == [""]:
        raise UserError(f"{path.name} is an empty table: expected a header line and rows; check the export")
    if twice := repeated([name for name in names if name]):
        raise UserError(f"{path.name} has repeated column names: {some(twice)}; keep one of each")
    return names


def lab_mutations(
    paths: Sequence[Path], samples: pd.DataFrame, config: FilesConfig, rules: CohortRules, flow: Flow
) -> MutationStatus:
    """Read mutation tables and return the status by sample id of the cohort.

    Genes × samples 0/1: every column is a profiled sample; a gene without a row is unknown for the samples
    of that file, or wild type with `mutations_absent_gene: wild_type`. Long: rows are calls (or carry 0/1 in
    `mutated`); profiled is every sample that has a row, or what `mutation_profiled` of the samples table
    says. Several tables are united. Errors: `UserError` for tables without a labelled gene or sample of the
    cohort, and for cells that are neither 0 nor 1.
    """
    parts = [_read(path, samples, config, rules, flow, len(paths) == 1) for path in paths]
    profiled = pd.concat([part.profiled for part in parts])
    profiled = profiled.groupby(level=0).max()
    status = pd.concat([part.status for part in parts], ignore_index=True)
    if status.empty:
        raise UserError(
            f"none of the labelled genes {some(rules.genes)} is in the mutation tables {some(p.name for p in paths)}; "
            "expected gene symbols; correct cohort.genes or the tables"
        )
    for gene in rules.genes:
        if not (status["gene"] == gene).any():
            flow.note(f"mutations: no table has {gene}, which is unknown in every patient")
    flags = status[["mutated", "hotspot"]].astype("boolean")
    status = status.assign(mutated=flags["mutated"], hotspot=flags["hotspot"])
    status = status.groupby(["key", "gene"], as_index=False)[["mutated", "hotspot"]].max()
    status = status.astype({"mutated": bool})
    return MutationStatus(profiled, status.assign(hotspot=status["hotspot"].astype(object)))


def _read(
    path: Path, samples: pd.DataFrame, config: FilesConfig, rules: CohortRules, flow: Flow, alone: bool
) -> MutationStatus:
    header = table_header(path)
    gene = find_column(header, "gene", config.columns)
    who = find_column(header, "sample_id", config.columns) or find_column(header, "patient_id", config.columns)
    if set(header) >= MAF_MARKS and path.suffix != ".parquet" and delimiter_of(path) == "\t":
        found, _ = read_maf(path, rules, official=False)
        names = _resolve(found.profiled.index, samples, path.name, flow)
        profiled = found.profiled.assign(key=found.profiled.index.map(names)).dropna(subset="key").groupby("key").max()
        status = found.status.assign(key=found.status["key"].map(names)).dropna(subset="key")
        return _fill_list(
            MutationStatus(profiled, status),
            samples,
            _listed_genes(status, config, rules),
            alone=alone,
            hotspots_known="HGVSp_Short" in header,
        )
    if gene is not None and who is not None:
        return _read_long(path, header, gene, who, samples, config, rules, flow, alone)
    return _read_matrix(path, header, samples, config, rules, flow)


def _resolve(keys: Iterable[str], samples: pd.DataFrame, table: str, flow: Flow) -> dict[str, str]:
    """Map the keys of a table to sample ids: the id itself, the 15 characters of a barcode, or the patient.

    A barcode that names a sample type never stands for another sample of the patient.
    """
    ids = set(samples["sample_id"])
    first = samples.sort_values("for_probing", ascending=False, kind="stable")
    barcoded = first[first["sample_id"].map(is_barcode)]
    by_tissue = barcoded.assign(tissue=barcoded["sample_id"].str[:SAMPLE_LENGTH])
    by_tissue = by_tissue[by_tissue["tissue"].str.len() == SAMPLE_LENGTH].drop_duplicates("tissue")
    tissue = dict(zip(by_tissue["tissue"], by_tissue["sample_id"], strict=True))
    probing = samples[samples["for_probing"]]
    patient = dict(zip(probing["patient_id"], probing["sample_id"], strict=True))
    # Samples that are named by patient alone are matched by patient.
    by_patient = {s[:PATIENT_LENGTH]: s for s in probing["sample_id"] if is_barcode(s) and len(s) == PATIENT_LENGTH}
    names: dict[str, str] = {}
    every = [str(key) for key in keys]
    for key in every:
        if key in ids:
            names[key] = key
        elif is_barcode(key) and len(key) >= SAMPLE_LENGTH:
            found = tissue.get(key[:SAMPLE_LENGTH])
            if found is None and key[13:15] in ("01", "03"):
                found = by_patient.get(key[:PATIENT_LENGTH])
            if found is not None:
                names[key] = found
        elif key in patient:
            names[key] = patient[key]
    if not names:
        raise UserError(
            f"{table}: none of its {len(every)} samples ({some(every[:3])}) is in the cohort "
            f"({some(samples['sample_id'].iloc[:3])}); expected genes in rows and the cohort's sample ids in columns, "
            "or a long table with sample_id and gene"
        )
    flow.drop("mutations", f"sample of {table} has expression", len(every), len(every) - len(names))
    return names


def _frames(path: Path, columns: list[str] | None) -> Iterator[pd.DataFrame]:
    if path.suffix == ".parquet":
        yield read_frame(path, columns)
        return
    with legible(path), open_maybe_gzip(path) as handle:
        yield from pd.read_csv(
            cast("IO[bytes]", _Lines(handle, path)),
            sep=delimiter_of(path),
            comment="#",
            usecols=columns,
            dtype=str,
            keep_default_na=False,
            chunksize=ROWS_AT_ONCE if columns is None else 100 * ROWS_AT_ONCE,
        )


class _Lines:
    """A file for pandas, which would take all of a line without end into memory."""

    def __init__(self, handle: IO[bytes], path: Path) -> None:
        self._handle, self._path, self._open = handle, path, 0

    def __iter__(self) -> Iterator[bytes]:
        return lines_of(self._handle, self._path)

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes; UserError within a line that does not end."""
        block = self._handle.read(min(size, 1 << 20) if size > 0 else 1 << 20)
        end = block.rfind(b"\n")
        self._open = self._open + len(block) if end < 0 else len(block) - end
        if self._open > MOST_LINE_BYTES:
            raise UserError(f"{self._path.name} has a line of more than {MOST_LINE_BYTES:,} bytes: it is no table")
        return block


def _calls(cells: pd.Series[str], where: str) -> pd.Series[bool]:
    texts = blank_missing(cells)
    known = texts.dropna().str.casefold()
    wrong = sorted(set(known[~known.isin(list(_CALLS))]))
    if wrong:
        raise UserError(f"{where}: cells that are neither 0 nor 1: {some(repr(text) for text in wrong)}; expected 0/1")
    return texts.str.casefold().map(_CALLS)


def _read_matrix(
    path: Path, header: list[str], samples: pd.DataFrame, config: FilesConfig, rules: CohortRules, flow: Flow
) -> MutationStatus:
    names = _resolve(header[1:], samples, path.name, flow)
    rows = []
    for frame in _frames(path, None):
        symbol = frame[frame.columns[0]]
        kept = frame[symbol.isin(list(rules.genes))]
        if len(kept):
            long = kept.melt(id_vars=[frame.columns[0]], value_vars=list(names), var_name="key", value_name="mutated")
            rows.append(long.rename(columns={str(frame.columns[0]): "gene"}))
            if sum(map(len, rows)) > MOST_NAMES:
                raise UserError(f"{path.name} has more than {MOST_NAMES:,} cells of labelled genes: keep a row a gene")
    status = pd.concat(rows) if rows else pd.DataFrame({"gene": [], "key": [], "mutated": []}, dtype=object)
    status["mutated"] = _calls(status["mutated"], path.name)
    status = status.dropna(subset="mutated").assign(hotspot=None)
    status["key"] = status["key"].map(names)
    profiled = pd.DataFrame({"burden": np.nan}, index=pd.Index(sorted(set(names.values())), dtype=object))
    found = MutationStatus(profiled, status[["key", "gene", "mutated", "hotspot"]])
    if config.mutations_absent_gene == "wild_type":
        return _with_absent(found, rules.genes, hotspots_known=False)
    return found


def _read_long(
    path: Path,
    header: list[str],
    gene: str,
    who: str,
    samples: pd.DataFrame,
    config: FilesConfig,
    rules: CohortRules,
    flow: Flow,
    alone: bool,
) -> MutationStatus:
    given = {ours: find_column(header, ours, config.columns) for ours in ("mutated", "hotspot")}
    extra = {name: name for name in ("Variant_Classification", "HGVSp_Short", "FILTER") if name in header}
    wanted = {"key": who, "gene": gene} | {k: v for k, v in given.items() if v is not None} | extra
    seen: set[str] = set()
    kept = []
    for frame in _frames(path, sorted(set(wanted.values()))):
        table = pd.DataFrame({str(ours): frame[theirs].astype(str) for ours, theirs in wanted.items()})
        if "FILTER" in table:  # a rejected call is no mutation, and no proof of profiling either
            table = table[table["FILTER"].map(lambda text: filter_accepted(text, rules.mutation_filters))]
        seen.update(table["key"])
        kept.append(table[table["gene"].isin(list(rules.genes))])
        if len(seen) + sum(map(len, kept)) > MOST_NAMES:
            raise UserError(f"{path.name} has more than {MOST_NAMES:,} samples and calls: give tables of one study")
    table = pd.concat(kept, ignore_index=True)
    names = _resolve(sorted(seen), samples, path.name, flow)
    table = table.assign(key=table["key"].map(names)).dropna(subset="key")
    if "mutated" in table:
        table["mutated"] = _calls(table["mutated"], path.name)
        table = table.dropna(subset="mutated")
    else:
        table["mutated"] = True
    if "Variant_Classification" in table:
        table["mutated"] = table["mutated"].astype(bool) & table["Variant_Classification"].isin(list(rules.nonsilent))
    if "hotspot" in table:
        table["hotspot"] = _calls(table["hotspot"], path.name)
    elif "HGVSp_Short" in table:
        classes = table.get("Variant_Classification", pd.Series("", index=table.index))
        spots = [is_hotspot(*call) for call in zip(table["gene"], classes, table["HGVSp_Short"], strict=True)]
        table["hotspot"] = np.array(spots, dtype=bool) & table["mutated"].astype(bool)
        table["hotspot"] = table["hotspot"].astype(object).where(table["gene"].isin(list(HOTSPOTS)), None)
    else:
        table["hotspot"] = None
    profiled = pd.DataFrame({"burden": np.nan}, index=pd.Index(sorted(set(names.values())), dtype=object))
    found = MutationStatus(profiled, table[["key", "gene", "mutated", "hotspot"]])
    if given["mutated"] is not None:  # rows carry wild type as well: a pair without a row is unknown
        return found
    genes = _listed_genes(table, config, rules)
    known = "hotspot" in wanted or "HGVSp_Short" in wanted
    return _fill_list(found, samples, genes, alone=alone, hotspots_known=known)


def _listed_genes(status: pd.DataFrame, config: FilesConfig, rules: CohortRules) -> list[str]:
    """Return the labelled genes about which a list of calls is taken to speak."""
    if config.mutations_absent_gene == "wild_type":
        return list(rules.genes)
    return [gene for gene in rules.genes if (status["gene"] == gene).any()]


def _fill_list(
    found: MutationStatus,
    samples: pd.DataFrame,
    genes: Sequence[str],
    *,
    alone: bool,
    hotspots_known: bool,
) -> MutationStatus:
    """Complete a list of calls by what the samples table says of profiling, then by wild type.

    A profiled sample without any call has no row in a list; `mutation_profiled` knows it. With several
    lists (`alone` False) nobody can say to which of them such a sample belongs.
    """
    declared = samples.set_index("sample_id")["mutation_profiled"].map(lambda v: _CALLS.get(str(v).casefold()))
    unprofiled = set(declared.index[declared.eq(False)])
    more = [s for s in declared.index[declared.eq(True)] if alone and s not in found.profiled.index]
    profiled = found.profiled.reindex([*found.profiled.index, *more])
    profiled = profiled[~profiled.index.isin(unprofiled)]
    status = found.status[~found.status["key"].isin(unprofiled)]
    return _with_absent(MutationStatus(profiled, status), genes, hotspots_known=hotspots_known)


def _with_absent(found: MutationStatus, genes: Sequence[str], *, hotspots_known: bool) -> MutationStatus:
    """Add wild type for every profiled sample and every one of `genes` without a row."""
    pairs = pd.MultiIndex.from_product([found.profiled.index, list(genes)], names=["key", "gene"])
    absent = pairs[~pairs.isin(pd.MultiIndex.from_frame(found.status[["key", "gene"]]))].to_frame(index=False)
    known = absent["gene"].isin(list(HOTSPOTS)) & hotspots_known
    absent["mutated"] = False
    absent["hotspot"] = pd.Series(False, index=absent.index, dtype=object).where(known, None)
    return MutationStatus(found.profiled, pd.concat([found.status, absent], ignore_index=True))
