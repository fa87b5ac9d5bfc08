"""Judging a cohort folder: what is in it, what is missing, what cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from tqdm import tqdm

from bulkprobe import files
from bulkprobe.cohort.read import Cohort, read_cohort
from bulkprobe.cohort.schema import ENDPOINTS, GROUPS, HOTSPOTS, PROVENANCE
from bulkprobe.cohort.store import ExpressionStore, open_expression
from bulkprobe.cohort.survival import all_censored, listed
from bulkprobe.errors import UserError, some

FEW_PATIENTS = 20  # a type below this is too small for any probe
FEW_POSITIVES = 10  # mutated (or wild type) patients, or events, below which a label says little
COVARIATES = ("age", "sex", "stage", "site", "purity", "log10_mutation_burden", "msi", "subtype")
MOSTLY_FRACTIONAL = 0.8  # of all counts; RSEM's are below, because zeros and many others are whole
BLOCK = 256  # samples


@dataclass(frozen=True)
class Finding:
    """One sentence about the cohort."""

    level: Literal["info", "warning"]
    text: str


def check_cohort(folder: Path) -> list[Finding]:
    """Validate a cohort folder and describe it: types, labels, follow-up, covariates, expression.

    Expression is read once, by blocks. Errors: `UserError` for what `read_cohort` refuses, for expression
    whose samples are not those of the table, and for NaN, infinite or (except z-scores) negative values.
    """
    cohort = read_cohort(folder)
    store = open_expression(cohort.expression_path)
    if store.sample_ids != list(cohort.samples["sample_id"]):
        differing = sorted(set(store.sample_ids) ^ set(cohort.samples["sample_id"]))
        raise UserError(
            f"expression has {store.n_samples} samples and the samples table {len(cohort.samples)}; expected the same "
            f"in the same order (in one only: {some(differing) or 'none, the order differs'}); build the cohort again"
        )
    findings = [*_samples(cohort), *_mutations(cohort), *_survival(cohort), *_covariates(cohort), *_genes(store)]
    name = cohort.expression_path.name
    try:
        for layer in ("X", *store.layers):
            findings += _values(store, layer)
    except (ValueError, RuntimeError) as error:  # a checksum or a decompression that fails
        raise UserError(f"{name}: values cannot be read ({error}); build the cohort again") from error
    recorded = cohort.provenance.get("expression_sha256")
    if recorded is not None and recorded != files.tree_hash(cohort.expression_path):
        raise UserError(
            f"{name}: its bytes are not those that were written (sha256 in {PROVENANCE}): it was damaged or changed; "
            "build the cohort again"
        )
    return findings


def _samples(cohort: Cohort) -> Iterator[Finding]:
    probing = cohort.probing
    yield Finding("info", f"{len(cohort.samples)} samples, {len(probing)} patients for probing")
    counts = probing["cancer_type"].value_counts().sort_index()
    yield Finding("info", "patients by type: " + ", ".join(f"{kind} {n}" for kind, n in counts.items()))
    small = counts[counts < FEW_PATIENTS]
    if len(small):
        few = some(f"{kind} ({n})" for kind, n in small.items())
        yield Finding("warning", f"types with fewer than {FEW_PATIENTS} patients, too few to probe: {few}")
    others = cohort.samples["sample_type"][~cohort.samples["for_probing"]].value_counts().sort_index()
    if len(others):
        yield Finding("info", "not probed, by sample type: " + ", ".join(f"{kind} {n}" for kind, n in others.items()))
    flags = probing["flagged"].dropna().value_counts().sort_index()
    if len(flags):
        yield Finding("info", "probed but flagged: " + ", ".join(f"{flag} {n}" for flag, n in flags.items()))


def _mutations(cohort: Cohort) -> Iterator[Finding]:
    table, probing = cohort.mutations, cohort.probing
    if table.empty:
        yield Finding("warning", "no mutation labels")
        return
    profiled = table["patient_id"].nunique()
    yield Finding("info", f"profiled for mutations: {profiled} of {len(probing)} ({profiled / len(probing):.0%})")
    kinds = probing.set_index("patient_id")["cancer_type"]
    table = table.assign(kind=kinds.reindex(table["patient_id"]).to_numpy())
    for gene, rows in table.groupby("gene", sort=True):
        by_type = rows.groupby("kind")["mutated"].agg(["sum", "size"])
        cohorts = [("all types", rows["mutated"].sum(), len(rows))]
        cohorts += [(str(kind), int(row["sum"]), int(row["size"])) for kind, row in by_type.iterrows()]
        for group, members in GROUPS.items():
            within = by_type[by_type.index.isin(members)]
            if len(within) > 1:
                cohorts.append((group, int(within["sum"].sum()), int(within["size"].sum())))
        text = ", ".join(f"{name} {positives}/{n}" for name, positives, n in cohorts)
        positives = int(rows["mutated"].sum())
        few = min(positives, len(rows) - positives) < FEW_POSITIVES
        yield Finding("warning" if few else "info", f"{gene} mutated: {text}" + (" (too few)" if few else ""))
        if gene in HOTSPOTS:
            known = rows["hotspot"].dropna().astype(bool)
            said = f"{int(known.sum())}/{len(known)}" if len(known) else "unknown in this source"
            yield Finding("info", f"{gene} hotspot: {said}")


def _survival(cohort: Cohort) -> Iterator[Finding]:
    table, probing = cohort.survival, cohort.probing
    if table.empty:
        yield Finding("warning", "no survival")
        return
    kinds = probing.set_index("patient_id")["cancer_type"]
    table = table.assign(kind=kinds.reindex(table["patient_id"]).to_numpy())
    for endpoint in ENDPOINTS:
        rows = table[table["endpoint"] == endpoint]
        if rows.empty:
            yield Finding("info", f"{endpoint}: none")
            continue
        by_type = rows.groupby("kind")["event"].agg(["sum", "size"])
        text = ", ".join(f"{kind} {int(row['sum'])}/{int(row['size'])}" for kind, row in by_type.iterrows())
        yield Finding("info", f"{endpoint}: events/patients {text}; median time {rows['time_days'].median():.0f} days")
        censored = all_censored(cohort.survival, kinds, endpoint)
        if censored:
            yield Finding("warning", f"{endpoint}: every patient is censored in {listed(sorted(censored.items()))}")


def _covariates(cohort: Cohort) -> Iterator[Finding]:
    probing = cohort.probing
    missing = {name: float(probing[name].isna().mean()) for name in COVARIATES}
    yield Finding("info", "missing: " + ", ".join(f"{name} {share:.0%}" for name, share in missing.items()))
    flags = probing["hypermutated"].dropna()
    if len(flags):
        yield Finding("info", f"hypermutated: {int(flags.astype(bool).sum())} of {len(flags)}")
    sites = probing["site"].dropna()
    if len(sites):
        yield Finding("info", f"tissue source sites: {sites.nunique()}")


def _genes(store: ExpressionStore) -> Iterator[Finding]:
    var = store.var
    scale = ", ".join([f"X is {store.scale}", *(f"layer {name}" for name in store.layers)])
    yield Finding("info", f"{len(var)} genes; {scale}")
    without_id = int((var["ensembl_id"] == "").sum())
    without_length = int(var["length"].isna().sum())
    if without_id or without_length:
        yield Finding("warning", f"genes without an Ensembl id: {without_id}, without a length: {without_length}")
    named = var["ensembl_id"][var["ensembl_id"] != ""]
    repeated = named[named.duplicated()].unique()
    if len(repeated):
        yield Finding("warning", f"Ensembl ids of several rows: {some(repeated)}")


def _values(store: ExpressionStore, layer: str) -> Iterator[Finding]:
    scale = store.scale if layer == "X" else layer
    sums, fractional, size, start = [], 0, 0, 0
    blocks = store.blocks(layer=layer, size=BLOCK)
    for block in tqdm(blocks, desc=f"checking {layer}", total=-(-store.n_samples // BLOCK), delay=2, leave=False):
        for wrong, what in ((~np.isfinite(block), "not finite"), (block < 0, "negative")):
            if what == "negative" and scale == "zscore":
                continue
            if wrong.any():
                row, column = np.unravel_index(int(wrong.argmax()), wrong.shape)
                raise UserError(
                    f"expression {layer}: {int(wrong.sum())} values are {what}, the first {block[row, column]} (sample "
                    f"{store.sample_ids[start + int(row)]}, gene {store.var.index[int(column)]}); {scale} cannot be; "
                    "correct the table and build the cohort again"
                )
        sums.append(block.sum(axis=1, dtype=np.float64))
        fractional += int(np.count_nonzero(block % 1))
        size += block.size
        start += len(block)
    total = pd.Series(np.concatenate(sums), index=store.sample_ids)
    if scale == "zscore":
        yield Finding("info", f"{layer}: z-scores, which encoders that need counts or TPM refuse")
        return
    yield Finding(
        "info",
        f"{layer}: sum of a sample {total.min():,.0f} to {total.max():,.0f}, median {total.median():,.0f}",
    )
    if scale == "counts":
        share = fractional / max(1, size)
        yield Finding(
            "warning" if share > MOSTLY_FRACTIONAL else "info",
            f"{layer}: {share:.0%} of the counts are fractional"
            + (" (estimated counts; or is it another scale?)" if share > MOSTLY_FRACTIONAL else ""),
        )
    empty = list(total.index[total == 0])
    if empty:
        yield Finding("warning", f"{layer}: samples without any expression: {some(empty)}")
