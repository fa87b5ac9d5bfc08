"""Mutation labels from a MAF: who was profiled, who is mutated, who carries a hotspot change, and burden."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
from isal import igzip
from tqdm import tqdm

from bulkprobe.cohort.barcodes import SAMPLE_LENGTH, is_barcode
from bulkprobe.cohort.flow import Flow
from bulkprobe.cohort.genes import BROKEN_GZIP, GZIP_MAGIC, lines_of, open_maybe_gzip, truncated
from bulkprobe.cohort.legible import legible
from bulkprobe.cohort.schema import HOTSPOTS, CohortRules, nearest
from bulkprobe.errors import UserError, some

MAF_COLUMNS = ("Hugo_Symbol", "Variant_Classification", "Tumor_Sample_Barcode", "HGVSp_Short", "FILTER")
MAF_OPTIONAL = frozenset({"HGVSp_Short", "FILTER"})  # a lab's MAF may lack them; the official one has them
MOST_NAMES = 20_000_000  # genes, samples and calls that are kept of a MAF
BLOCK_BYTES = 4 << 20  # larger blocks are not faster and pyarrow holds several
DEFAULT_Z = {"mad": 3.5, "sd": 5.0}
ENOUGH_FOR_SPREAD = 20  # patients
MAX_HYPERMUTATED = 0.25  # a threshold that flags more than this share does not separate hypermutators
_TAGS = re.compile(r"[,;|]")
_MISSENSE = re.compile(r"^p\.([A-Z])(\d+)([A-Z])$")
_INDEL = re.compile(r"^p\.[A-Z](\d+)(?:_[A-Z](\d+))?(?:del|ins|dup)")


def is_hotspot(gene: str, variant_class: str, protein_change: str | None) -> bool:
    """Say whether a call is one of the recurrent changes of `HOTSPOTS` (HGVSp_Short, "p.L858R")."""
    spots = HOTSPOTS.get(gene)
    if spots is None or not protein_change:
        return False
    missense = _MISSENSE.match(protein_change)
    if missense:
        reference, position, changed = missense.groups()
        return int(position) in spots.codons or f"{reference}{position}{changed}" in spots.changes
    indel = _INDEL.match(protein_change)
    if indel is None:
        return False
    first = int(indel.group(1))
    last = int(indel.group(2) or first)
    if variant_class == "In_Frame_Del" and spots.deletions is not None:
        return spots.deletions[0] <= first and last <= spots.deletions[1]
    if variant_class == "In_Frame_Ins" and spots.insertions is not None:
        return spots.insertions[0] <= first <= spots.insertions[1]
    return False


def filter_accepted(text: str, accepted: Sequence[str]) -> bool:
    """Say whether every tag of a FILTER cell ("wga,native_wga_mix") is among the accepted ones."""
    return all(tag.strip() in accepted for tag in _TAGS.split(text))


@dataclass(frozen=True)
class MutationStatus:
    """What a mutation source knows. A key is a sample (15-character barcode, or a lab's own id).

    `profiled`: index = key, column burden (non-silent calls, NaN where the source cannot say).
    `status`: key, gene, mutated, hotspot (None where unknown) for every known pair, wild type included.
    """

    profiled: pd.DataFrame
    status: pd.DataFrame


def maf_header(path: Path) -> tuple[int, list[str]]:
    """Return the number of comment lines before the header, and the column names."""
    comments = 0
    with legible(path), open_maybe_gzip(path) as handle:
        for line in lines_of(handle, path):
            if line.startswith(b"#"):
                comments += 1
            else:
                return comments, line.decode("utf-8").rstrip("\r\n").split("\t")
    return comments, []


def read_maf(path: Path, rules: CohortRules, *, official: bool = True) -> tuple[MutationStatus, dict[str, int]]:
    """Stream a MAF (GRCh37 or 38, packed or not) by blocks and reduce it to labels of `rules.genes`.

    A sample is profiled if it has at least one call, silent ones included, whose FILTER is accepted.
    Several aliquots of a sample (15 characters) are united; burden is that of the aliquot with most
    non-silent calls. Returns the status by sample, and the counts rows, accepted, aliquots,
    aliquots_without_accepted. Errors: `UserError` for missing columns and a damaged file. An `official` file must
    have FILTER, HGVSp_Short and every labelled gene as well; elsewhere a gene that is not there has no status.
    """
    comments, header = maf_header(path)
    optional = frozenset() if official else MAF_OPTIONAL
    absent = [name for name in MAF_COLUMNS if name not in header and name not in optional]
    if absent:
        raise UserError(
            f"{path.name}: no column {some(absent)}; expected a MAF with {some(MAF_COLUMNS)}; check the file"
        )
    columns = [name for name in MAF_COLUMNS if name in header]
    seen: set[str] = set()
    blocks: list[pd.DataFrame] = []
    burden = pd.DataFrame({"rows": [], "accepted": [], "nonsilent": []}, dtype=np.int64)
    try:
        for block in _maf_blocks(path, comments, columns):
            seen.update(str(symbol) for symbol in block["Hugo_Symbol"].cat.categories)
            accepted = _by_category(block, "FILTER", lambda text: filter_accepted(text, rules.mutation_filters))
            nonsilent = accepted & _by_category(block, "Variant_Classification", lambda text: text in rules.nonsilent)
            barcodes = block["Tumor_Sample_Barcode"]
            counts = pd.DataFrame(
                {
                    "rows": barcodes.value_counts(sort=False),
                    "accepted": barcodes[accepted].value_counts(sort=False),
                    "nonsilent": barcodes[nonsilent].value_counts(sort=False),
                }
            )
            counts.index = counts.index.astype(object)
            burden = burden.add(counts, fill_value=0)
            kept = nonsilent & _by_category(block, "Hugo_Symbol", lambda text: text in rules.genes)
            blocks.append(block[kept].astype(object))
            if len(seen) + len(burden) + sum(map(len, blocks)) > MOST_NAMES:
                raise UserError(
                    f"{path.name} has more than {MOST_NAMES:,} genes, samples and calls in labelled genes: give a MAF "
                    "of one study"
                )
    except BROKEN_GZIP as error:
        raise truncated(path, error) from error
    except pa.ArrowInvalid as error:
        raise UserError(f"{path.name}: not a table of {len(header)} columns ({error}); fetch it again") from error
    for gene in rules.genes:
        if gene not in seen and official:
            raise UserError(
                f"labelled gene {gene!r} occurs nowhere in {path.name}{nearest(gene, sorted(seen))}; "
                "correct cohort.genes"
            )
    calls = pd.concat(blocks) if blocks else pd.DataFrame(columns=columns, dtype=object)
    genes = [gene for gene in rules.genes if gene in seen]
    status = _status_by_sample(calls, burden, genes, has_change="HGVSp_Short" in columns)
    counted = {
        "rows": int(burden["rows"].sum()),
        "accepted": int(burden["accepted"].sum()),
        "aliquots": len(burden),
        "aliquots_without_accepted": int((burden["accepted"] == 0).sum()),
    }
    return status, counted


def _maf_blocks(path: Path, comments: int, columns: list[str]) -> Iterator[pd.DataFrame]:
    """Yield blocks of the needed columns as categoricals; memory does not depend on the file's length."""
    text = pa.dictionary(pa.int32(), pa.string())
    size = path.stat().st_size
    with (
        path.open("rb") as raw,
        tqdm(total=size, unit="B", unit_scale=True, desc=path.name, delay=2) as bar,
    ):
        packed = raw.read(2) == GZIP_MAGIC
        raw.seek(0)
        unpack: Any = igzip.GzipFile  # ships no types
        handle = unpack(fileobj=raw, mode="rb") if packed else raw
        reader = pyarrow.csv.open_csv(
            pa.PythonFile(handle, mode="r"),
            read_options=pyarrow.csv.ReadOptions(block_size=BLOCK_BYTES, skip_rows=comments),
            parse_options=pyarrow.csv.ParseOptions(delimiter="\t", quote_char=False),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=columns,
                column_types=dict.fromkeys(columns, text),
                strings_can_be_null=False,
            ),
        )
        for batch in reader:
            bar.update(raw.tell() - bar.n)
            yield pa.Table.from_batches([batch]).to_pandas()


def _by_category(block: pd.DataFrame, column: str, test: Callable[[str], bool]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Evaluate a test once per distinct value; a column that the file lacks passes everywhere."""
    if column not in block:
        return np.ones(len(block), dtype=bool)
    categorical = block[column].cat
    passed = np.array([test(str(value)) for value in categorical.categories], dtype=bool)
    taken: np.ndarray[Any, np.dtype[np.bool_]] = passed[categorical.codes.to_numpy()]
    return taken


def _status_by_sample(calls: pd.DataFrame, burden: pd.DataFrame, genes: list[str], has_change: bool) -> MutationStatus:
    profiled = burden[burden["accepted"] > 0]
    key = profiled.index.str[:SAMPLE_LENGTH] if _barcoded(profiled.index) else profiled.index
    by_sample = profiled["nonsilent"].groupby(np.asarray(key, dtype=object)).max().astype(float)
    call_key = calls["Tumor_Sample_Barcode"]
    call_key = call_key.str[:SAMPLE_LENGTH] if _barcoded(profiled.index) else call_key
    changes = calls["HGVSp_Short"] if has_change else pd.Series("", index=calls.index)
    classes = calls["Variant_Classification"]
    spots = [is_hotspot(g, c, p) for g, c, p in zip(calls["Hugo_Symbol"], classes, changes, strict=True)]
    mutated = pd.MultiIndex.from_arrays([call_key, calls["Hugo_Symbol"]])
    hot = mutated[np.array(spots, dtype=bool)]
    pairs = pd.MultiIndex.from_product([by_sample.index, genes], names=["key", "gene"])
    status = pairs.to_frame(index=False)
    status["mutated"] = pairs.isin(mutated)
    known = status["gene"].isin(list(HOTSPOTS)) & has_change
    status["hotspot"] = pd.Series(pairs.isin(hot), dtype=object).where(known, None)
    return MutationStatus(profiled=by_sample.rename("burden").to_frame(), status=status)


def _barcoded(keys: pd.Index) -> bool:
    return len(keys) > 0 and bool(keys.str.startswith("TCGA-").all())


def join_mutations(
    found: MutationStatus, samples: pd.DataFrame, rules: CohortRules, flow: Flow
) -> tuple[pd.DataFrame, pd.Series[float]]:
    """Join mutation status to the samples of the cohort; an unprofiled patient gets no row.

    The join is on the sample: same patient *and* same sample type as the RNA sample that counts (the 15
    characters that RNA and DNA aliquots share in TCGA), so a metastasis never labels a primary. Returns
    patient_id, gene, mutated, hotspot (null where the gene has no hotspot definition or the source does
    not say) of probing patients, and log10(1 + non-silent calls) by sample id for every profiled sample.
    """
    known = set(found.profiled.index)
    keys = [
        sample if sample in known or not is_barcode(sample) else sample[:SAMPLE_LENGTH]
        for sample in samples["sample_id"]
    ]
    table = samples.assign(key=keys)
    profiled = table["key"].isin(found.profiled.index)
    probing = table["for_probing"].astype(bool)
    absent = ~found.profiled.index.isin(table["key"])
    flow.drop("mutations", "profiled sample has expression", len(found.profiled), int(absent.sum()))
    other = found.profiled.index.isin(table["key"][~probing]) & ~found.profiled.index.isin(table["key"][probing])
    left = int((~absent).sum())
    flow.drop("mutations", "profiled sample is the one that counts for its patient", left, int(other.sum()))
    flow.drop(
        "mutations",
        "patient was profiled for mutations (an unprofiled patient is not wild type)",
        int(probing.sum()),
        int((probing & ~profiled).sum()),
    )
    usable = table.loc[probing & profiled, ["patient_id", "key"]]
    mutations = usable.merge(found.status, on="key", how="inner").drop(columns="key")
    mutations["gene"] = pd.Categorical(mutations["gene"], categories=list(rules.genes), ordered=True)
    mutations = mutations.sort_values(["gene", "patient_id"], kind="stable").reset_index(drop=True)
    mutations = mutations.astype({"gene": object, "mutated": bool, "hotspot": "boolean"})
    burden = found.profiled["burden"].reindex(table["key"]).set_axis(samples["sample_id"])
    return mutations[["patient_id", "gene", "mutated", "hotspot"]], np.log10(1 + burden)


def hypermutated(samples: pd.DataFrame, rules: CohortRules, flow: Flow) -> pd.Series[Any]:
    """Flag hypermutated samples by log10 burden; null where burden is unknown. The rules: see `CohortRules`.

    "mad": a type with fewer than 20 patients is judged by the median and MAD of the whole cohort. "sd":
    where it would flag more than a quarter of the patients it does not fit, and nothing is flagged.
    """
    burden = samples["log10_mutation_burden"].astype(float)
    probing = samples["for_probing"].astype(bool) & burden.notna()
    unknown = pd.Series(pd.NA, index=samples.index, dtype="boolean")
    reference = burden[probing]
    if len(reference) < 2:
        return unknown
    z = rules.hypermutation_z or DEFAULT_Z[rules.hypermutation]
    if rules.hypermutation == "sd":
        threshold = z * float(reference.std(ddof=1))
        flags = burden > threshold
        rule = f"log10 burden above {z:g} standard deviations = {threshold:.3f}"
        share = float(flags[probing].mean())
        if share > MAX_HYPERMUTATED:
            flow.note(f"hypermutation: {rule} would flag {share:.0%} of the patients: it does not fit, none is flagged")
            return unknown
    else:
        limits = {kind: _mad_limit(rows, z) for kind, rows in reference.groupby(samples["cancer_type"][probing])}
        sizes = samples["cancer_type"][probing].value_counts()
        whole = _mad_limit(reference, z)
        limit = [
            limits[kind] if sizes.get(kind, 0) >= ENOUGH_FOR_SPREAD else whole
            for kind in samples["cancer_type"].astype(object)
        ]
        flags = burden > pd.Series(limit, index=samples.index)
        rule = f"log10 burden above median + {z:g} x 1.4826 MAD of the cancer type"
    flow.note(f"hypermutation: {int(flags[probing].sum())} of {len(reference)} patients flagged ({rule})")
    return flags.astype("boolean").mask(burden.isna(), pd.NA)


def _mad_limit(burden: pd.Series[float], z: float) -> float:
    """Return median + z * 1.4826 * MAD; infinite where half of the values are equal."""
    median = float(burden.median())
    spread = 1.4826 * float((burden - median).abs().median())
    return median + z * spread if spread > 0 else float("inf")
