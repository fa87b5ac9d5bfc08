"""Which sample of a patient counts, and which samples must not be used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bulkprobe.cohort.barcodes import BLOOD, METASTASIS, PRIMARY, SAMPLE_LENGTH, is_barcode, split_barcodes
from bulkprobe.cohort.flow import Flow
from bulkprobe.cohort.legible import read_text_table
from bulkprobe.cohort.schema import GROUPS, TCGA_STUDIES, CohortRules
from bulkprobe.errors import UserError, some

QUALITY_COLUMNS = (
    "patient_barcode",
    "aliquot_barcode",
    "cancer type",
    "platform",
    "AWG_excluded_because_of_pathology",
    "Do_not_use",
)
REDACTED = "redacted"
DO_NOT_USE = "do_not_use"
PATHOLOGY = "pathology"


@dataclass(frozen=True)
class Quality:
    """What merged_sample_quality_annotations.tsv says, reduced to what concerns RNA-seq.

    `aliquots`: RNA-seq aliquots with columns aliquot, sample (15 characters), vial, plate, do_not_use.
    `patients`: patients all of whose rows, on every platform, are Do_not_use.
    `pathology`: samples (15 characters) excluded by the disease working group, whatever the platform: a
    wrong tissue is wrong for every assay. `cancer_types`: patient -> TCGA code.
    """

    aliquots: pd.DataFrame
    patients: frozenset[str]
    pathology: frozenset[str]
    cancer_types: Mapping[str, str]


def read_quality(path: Path) -> Quality:
    """Read the PanCanAtlas sample quality table. Errors: `UserError` if columns are missing."""
    table = read_text_table(path, "\t", list(QUALITY_COLUMNS))
    absent = [name for name in QUALITY_COLUMNS if name not in table]
    if absent:
        raise UserError(
            f"{path.name}: no column {some(absent)}, expected {some(QUALITY_COLUMNS)}; fetch the official file again"
        )
    do_not_use = table["Do_not_use"].str.strip().str.casefold() == "true"
    rna = table["platform"].str.contains("rnaseq", case=False) & ~table["platform"].str.contains("mirna", case=False)
    aliquot = table["aliquot_barcode"]
    whole = aliquot.map(lambda text: len(text) == 28 and is_barcode(text)).astype(bool)
    rows = pd.DataFrame({"aliquot": aliquot, "do_not_use": do_not_use})[rna & whole]
    rows = rows.groupby("aliquot")["do_not_use"].max().reset_index()
    parts = split_barcodes(rows["aliquot"]).reset_index(drop=True)
    rows = rows.assign(sample=rows["aliquot"].str[:SAMPLE_LENGTH], vial=parts["vial"], plate=parts["plate"])
    unusable = do_not_use.groupby(table["patient_barcode"]).all()
    excluded = table["AWG_excluded_because_of_pathology"].str.strip().isin(["1", "1.0"])
    tissue = aliquot[excluded & (aliquot.str.len() >= SAMPLE_LENGTH)].str[:SAMPLE_LENGTH]
    types = table[table["cancer type"].isin(list(TCGA_STUDIES))].drop_duplicates("patient_barcode")
    return Quality(
        aliquots=rows,
        patients=frozenset(str(patient) for patient in unusable.index[unusable]),
        pathology=frozenset(tissue),
        cancer_types=dict(zip(types["patient_barcode"], types["cancer type"], strict=True)),
    )


def pick_aliquots(samples: Sequence[str], quality: Quality, drop_do_not_use: bool) -> pd.DataFrame:
    """Choose the RNA-seq aliquot that stands behind each 15- or 16-character sample id.

    Vial A first, then not Do_not_use, then the lexicographically largest plate; where Do_not_use is
    dropped, a usable aliquot of any vial comes before a flagged one. Index: sample id; columns aliquot,
    vial, plate, do_not_use. Samples that the quality table does not know are absent from the result.
    """
    rows = quality.aliquots
    by_plate = rows.sort_values(["plate", "aliquot"], ascending=False, kind="stable")
    order = ["do_not_use", "vial"] if drop_do_not_use else ["vial", "do_not_use"]
    ranked = by_plate.sort_values(order, kind="stable")
    wanted = pd.DataFrame({"sample_id": list(samples)})
    picked = []
    for length in (SAMPLE_LENGTH, SAMPLE_LENGTH + 1):
        keys = wanted[wanted["sample_id"].str.len() == length]
        known = ranked.assign(sample_id=ranked["aliquot"].str[:length]).drop_duplicates("sample_id")
        picked.append(keys.merge(known, on="sample_id", how="inner"))
    return pd.concat(picked).set_index("sample_id")[["aliquot", "vial", "plate", "do_not_use"]]


def tcga_samples(
    sample_ids: Sequence[str],
    clinical: pd.DataFrame,
    quality: Quality | None,
    rules: CohortRules,
    flow: Flow,
    aliquots: Mapping[str, str] | None = None,
    projects: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Describe the samples of a TCGA expression matrix and mark the one that counts for each patient.

    `sample_ids`: barcodes in matrix order. `clinical`: index patient, columns cancer_type, redacted.
    `aliquots`: sample id -> aliquot barcode, and `projects`: sample id -> TCGA code, where the source
    says so. Returns sample_id, patient_id, cancer_type, sample_type, aliquot, site, for_probing, flagged
    in matrix order. Errors: `UserError` for malformed or repeated barcodes.
    """
    refuse_repeats(sample_ids)
    parts = split_barcodes(sample_ids)
    if parts["sample_type"].isna().any():
        short = list(parts.index[parts["sample_type"].isna()])
        raise UserError(
            f"expression columns without a sample type: {some(short)}; expected barcodes of 15 or more characters"
        )
    table = parts[["patient", "sample_type", "site", "vial", "plate"]].rename(columns={"patient": "patient_id"})
    table.insert(0, "sample_id", list(sample_ids))
    table["aliquot"] = pd.Series(aliquots or {}, dtype=object).reindex(table.index)
    whole = table["sample_id"].str.len() == 28
    table["aliquot"] = table["aliquot"].where(table["aliquot"].notna() | ~whole, table["sample_id"])
    table["do_not_use"] = False
    excluded = pd.Series([None] * len(table), index=table.index, dtype=object)
    if quality is not None:
        picked = pick_aliquots(sample_ids, quality, rules.drop_do_not_use).reindex(table.index)
        unknown = table["aliquot"].isna()
        for column in ("aliquot", "vial", "plate"):
            table[column] = table[column].where(~unknown | picked[column].isna(), picked[column])
        flagged = set(quality.aliquots["aliquot"][quality.aliquots["do_not_use"]])
        table["do_not_use"] = table["aliquot"].isin(flagged)
        tissue = table["sample_id"].str[:SAMPLE_LENGTH]
        if rules.drop_pathology_excluded:
            excluded = excluded.mask(tissue.isin(quality.pathology), PATHOLOGY)
        if rules.drop_do_not_use:
            unusable = table["do_not_use"] | table["patient_id"].isin(quality.patients)
            excluded = excluded.mask(unusable, DO_NOT_USE)
    own = table["aliquot"].notna() & table["plate"].isna()
    if own.any():
        known = split_barcodes(table.loc[own, "aliquot"])
        table.loc[own, ["vial", "plate"]] = known[["vial", "plate"]].to_numpy()
    patient_type = clinical["cancer_type"].reindex(table["patient_id"]).set_axis(table.index)
    if quality is not None:
        patient_type = patient_type.fillna(table["patient_id"].map(quality.cancer_types))
    if projects is not None:
        patient_type = patient_type.fillna(pd.Series(projects, dtype=object).reindex(table.index))
    table["cancer_type"] = patient_type
    if rules.drop_redacted:
        redacted = clinical["redacted"].reindex(table["patient_id"]).set_axis(table.index)
        excluded = excluded.mask(redacted.eq(True), REDACTED)
    table["excluded"] = excluded.where(excluded.notna(), None)
    chosen = choose_samples(table.reset_index(drop=True), rules, flow)
    kept = ["sample_id", "patient_id", "cancer_type", "sample_type", "aliquot", "site", "for_probing", "flagged"]
    return chosen[kept]


def refuse_repeats(sample_ids: Sequence[str]) -> None:
    """Refuse sample ids that occur twice. Errors: `UserError` listing them."""
    ids = pd.Series(list(sample_ids), dtype=object)
    repeated = ids[ids.duplicated()].unique()
    if len(repeated):
        raise UserError(
            f"sample ids that occur more than once: {some(repeated)}; expected one column a sample; remove the copies"
        )


def choose_samples(table: pd.DataFrame, rules: CohortRules, flow: Flow) -> pd.DataFrame:
    """Mark the one sample per patient that enters probing; the others stay in the table.

    `table`: sample_id, patient_id, cancer_type, sample_type, vial, plate, do_not_use, excluded (reason or
    None). Type 01 (03 for blood types; 06 for metastasis types where a patient has no 01), not excluded,
    then vial A first, then not Do_not_use, then the largest plate, then the smallest sample id. Adds
    for_probing and flagged (reason of the exclusion, or "metastasis"). Errors: `UserError` if nothing is left.
    """
    rank = pd.Series(_type_ranks(table, rules), index=table.index)
    left = pd.Series(True, index=table.index)

    def drop(rule: str, lost: pd.Series[bool], detail: pd.Series[str] | None = None) -> None:
        lost = lost & left
        counts = None if detail is None else {str(k): int(n) for k, n in detail[lost].value_counts().items()}
        flow.drop("samples", rule, int(left.sum()), int(lost.sum()), counts)
        left[lost] = False

    drop("the cancer type of the patient is known", table["cancer_type"].isna())
    drop("sample type is primary tumour (03 for leukaemia, 06 allowed for melanoma)", rank.isna(), table["sample_type"])
    drop("patient is not redacted", table["excluded"] == REDACTED)
    drop("aliquot and patient are not marked Do_not_use", table["excluded"] == DO_NOT_USE)
    drop("tissue is not excluded by pathology review", table["excluded"] == PATHOLOGY)
    ranked = table.assign(rank=rank)[left]
    ranked = ranked.sort_values("sample_id", kind="stable")
    ranked = ranked.sort_values("plate", ascending=False, na_position="last", kind="stable")
    ranked = ranked.sort_values(["rank", "vial", "do_not_use"], na_position="last", kind="stable")
    first = ranked.drop_duplicates("patient_id").index
    drop("one sample per patient", pd.Series(~table.index.isin(first), index=table.index))
    if not left.any():
        kinds = ", ".join(f"{kind} x {n}" for kind, n in table["sample_type"].value_counts().items())
        raise UserError(
            f"no sample enters probing: {len(table)} samples of types {kinds}; expected primary tumours (01, 03 for "
            "LAML) with a known cancer type; check sample_type and cancer_type"
        )
    flagged = table["excluded"].mask(left & (table["sample_type"] == METASTASIS), "metastasis")
    return table.assign(for_probing=left, flagged=flagged.where(flagged.notna(), None))


def _type_ranks(table: pd.DataFrame, rules: CohortRules) -> list[float | None]:
    """Return 0, 1 … in the order in which sample types are preferred; None for those that never enter."""
    ranks: list[float | None] = []
    for cancer_type, sample_type in zip(table["cancer_type"], table["sample_type"], strict=True):
        if cancer_type in rules.blood_types:
            order = [BLOOD]
        elif cancer_type in rules.metastasis_types:
            order = [PRIMARY, METASTASIS]
        elif cancer_type in TCGA_STUDIES or cancer_type in GROUPS:
            order = [PRIMARY]
        else:  # a lab's own type may be a leukaemia
            order = [PRIMARY, BLOOD]
        ranks.append(float(order.index(sample_type)) if sample_type in order else None)
    return ranks
