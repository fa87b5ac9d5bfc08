"""The labels to probe, made from a cohort and params.yaml; the stages and the command line share them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pandas as pd

from bulkprobe.cohort.read import Cohort
from bulkprobe.cohort.schema import GROUPS
from bulkprobe.errors import UserError
from bulkprobe.params import Params, ProbeMutation, ProbeSurvival
from bulkprobe.splits import Cohort as SplitCohort
from bulkprobe.splits import assemble

PAN_CANCER = "pan_cancer"
HOTSPOT = "_hotspot"
MIN_SPLIT_PATIENTS = 20  # with fewer, a test part holds three patients and nothing can be said


@dataclass(frozen=True)
class Patients:
    """The patients that are probed: one sample each, indexed by patient id in sorted order."""

    sample_id: pd.Series
    types: pd.Series
    sites: pd.Series
    hypermutated: pd.Series


def is_simulated(cohort: Cohort) -> bool:
    """Whether the cohort came from the simulator."""
    return bool(cohort.provenance.get("source") == "simulated")


def probing_patients(cohort: Cohort) -> Patients:
    """Return the one sample of each patient that enters probing; two for one patient are an error."""
    table = cohort.samples[cohort.samples.for_probing.to_numpy(bool)].sort_values("patient_id")
    repeated = table.patient_id[table.patient_id.duplicated()]
    if len(repeated):
        raise UserError(
            f"patient {repeated.iloc[0]} enters probing with two samples, but one a patient is the rule: "
            "build the cohort again"
        )
    if table.empty:
        raise UserError("the cohort has no sample for probing: see its flow.json for the rule that dropped them")
    table = table.set_index("patient_id")
    return Patients(table.sample_id, table.cancer_type, table.site, table.hypermutated)


def members(name: str) -> tuple[str, ...]:
    """The cancer types that belong to a cohort named after a type or a group (COADREAD, GBMLGG, RCC)."""
    return (*GROUPS.get(name, ()), name)


def mutation_labels(cohort: Cohort, patients: Patients, params: ProbeMutation) -> pd.DataFrame:
    """Return one column a label ("<cohort>/<gene>"), index patient id; True, False, or NA where not profiled."""
    status = cohort.mutations[cohort.mutations.patient_id.isin(patients.types.index)]
    columns: dict[str, pd.Series] = {}
    for kind, genes in (("mutated", params.genes), ("hotspot", params.hotspot_genes)):
        for gene in genes:
            rows = status[status.gene == gene]
            known = rows.set_index("patient_id")[kind].astype("boolean")
            suffix = HOTSPOT if kind == "hotspot" else ""
            columns[f"{PAN_CANCER}/{gene}{suffix}"] = known.reindex(patients.types.index)
    for name, genes in params.within_type.items():
        inside = patients.types.isin(members(name))
        for gene in genes:
            pan_cancer = columns.get(f"{PAN_CANCER}/{gene}")
            if pan_cancer is None:
                raise UserError(
                    f"params.yaml: probe_mutation.within_type names {gene}, but probe_mutation.genes does not"
                )
            columns[f"{name}/{gene}"] = pan_cancer.where(inside)
    return pd.DataFrame(columns, index=patients.types.index)


def survival_labels(cohort: Cohort, patients: Patients, params: ProbeSurvival) -> pd.DataFrame:
    """Return long rows label ("<type>/<endpoint>"), patient_id, time (days), event, for patients that are probed."""
    table = cohort.survival[cohort.survival.patient_id.isin(patients.types.index)]
    types = table.patient_id.map(patients.types)
    parts = []
    for name in params.types:
        for endpoint in params.endpoints:
            rows = table[(types.isin(members(name)) & (table.endpoint == endpoint)).to_numpy()]
            part = rows[["patient_id", "time_days", "event"]].rename(columns={"time_days": "time"})
            parts.append(part.assign(label=f"{name}/{endpoint}"))
    return pd.concat(parts, ignore_index=True)[["label", "patient_id", "time", "event"]]


def split_cohorts(patients: Patients, mutation: pd.DataFrame, survival: pd.DataFrame) -> list[SplitCohort]:
    """Group labels by the patients they share, so that one split serves all labels of a cohort.

    Cohorts that nobody is labelled in are left out here; their labels are reported as undefined, with the counts.
    """
    cohorts = []
    for name in dict.fromkeys(label.split("/")[0] for label in mutation.columns):
        own = mutation[[label for label in mutation.columns if label.startswith(f"{name}/")]]
        cohorts.append(_split_cohort("mutation", name, own.rename(columns=lambda c: c.split("/", 1)[1]), patients))
    parts = survival.label.str.split("/", n=1)
    for name, rows in survival.groupby(parts.str[0], sort=False):
        endpoint = parts.str[1].loc[rows.index].rename("endpoint")
        events = rows.assign(endpoint=endpoint).pivot(index="patient_id", columns="endpoint", values="event")
        events = events.astype("boolean").reindex(columns=list(dict.fromkeys(endpoint)))
        cohorts.append(_split_cohort("survival", str(name), events, patients))
    return [cohort for cohort in cohorts if len(cohort.labels) >= MIN_SPLIT_PATIENTS]


def require_split(label: str, n: int) -> None:
    """Refuse a splits table that lacks a label which has the patients to be split."""
    if n >= MIN_SPLIT_PATIENTS:
        raise UserError(
            f"the splits table has no {label!r}, which has {n} patients: make the splits again with these labels"
        )


def _split_cohort(
    task: Literal["mutation", "survival"], name: str, labels: pd.DataFrame, patients: Patients
) -> SplitCohort:
    known = labels.dropna(how="all")
    return SplitCohort(task, name, patients.types.loc[known.index], known, patients.sites.loc[known.index])


def make_splits(cohort: Cohort, params: Params) -> pd.DataFrame:
    """Split a cohort as params.yaml says."""
    patients = probing_patients(cohort)
    mutation = mutation_labels(cohort, patients, params.probe_mutation)
    survival = survival_labels(cohort, patients, params.probe_survival)
    return assemble(
        split_cohorts(patients, mutation, survival),
        n_splits=params.splits.n_splits,
        test_fraction=params.splits.test_fraction,
        inner_folds=params.splits.inner_folds,
        seed=params.base.seed,
        scheme=params.splits.scheme,
    )
