"""A whole study in memory: simulate, split, tune, probe; for tests that need many of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bulkprobe.cohort.schema import GROUPS
from bulkprobe.probes.mutation import probe_mutation
from bulkprobe.probes.survival import probe_survival
from bulkprobe.probes.transform import Transform
from bulkprobe.sources.simulate import Simulation, simulate
from bulkprobe.splits import Cohort, assemble

Result = tuple[dict[str, Any], pd.DataFrame]  # metrics by label, predictions
PENALTIES = [1.0, 0.1, 0.01, 0.001, 0.0001]


@dataclass(frozen=True)
class People:
    """The probed patients of a simulated cohort: log expression, types, sites, all by patient."""

    drawn: Simulation
    rows: np.ndarray
    ids: list[str]
    types: pd.Series
    sites: pd.Series


def people(seed: int, patients: int, genes: int) -> People:
    """Draw a cohort and take one primary sample a patient, log2(TPM + 1)."""
    drawn = simulate(patients=patients, genes=genes, seed=seed)
    chosen = drawn.samples[drawn.samples.sample_type.isin(["01", "03", "06"])].sort_values("sample_type")
    first = chosen.drop_duplicates("patient").sort_values("patient")
    counts = drawn.counts[:, first.index].astype(float)
    rate = counts / drawn.genes.length.to_numpy()[:, None]
    log_tpm = np.log2(rate / rate.sum(axis=0) * 1e6 + 1).T.astype(np.float32)
    table = drawn.patients.loc[first.patient]
    ids = table.patient_id.tolist()
    return People(
        drawn,
        log_tpm,
        ids,
        pd.Series(table.cancer_type.to_numpy(), index=ids),
        pd.Series(table.site.to_numpy(), index=ids),
    )


def mutation_study(
    who: People,
    labels: pd.DataFrame,
    transform: Transform,
    seed: int,
    common_width: int | None = None,
    n_splits: int = 10,
) -> Result:
    """Split and probe mutation labels ("<cohort>/<gene>", NA where not profiled) by the whole nested procedure."""
    cohorts = []
    for name in dict.fromkeys(label.split("/")[0] for label in labels.columns):
        own = labels[[label for label in labels.columns if label.startswith(f"{name}/")]].dropna(how="all")
        own = own.rename(columns=lambda label: label.split("/")[1])
        cohorts.append(Cohort("mutation", name, who.types.loc[own.index], own, who.sites.loc[own.index]))
    splits = assemble(cohorts, n_splits=n_splits, inner_folds=3, seed=seed)
    return probe_mutation(
        who.rows,
        who.ids,
        who.types,
        labels,
        splits,
        transform=transform,
        penalties=PENALTIES,
        common_width=common_width,
        n_jobs=1,
    )


def survival_study(
    who: People,
    kinds: list[str],
    transform: Transform,
    seed: int,
    order: np.ndarray,
    common_width: int | None = None,
    covariates: np.ndarray | None = None,
    n_splits: int = 10,
) -> Result:
    """Split and probe OS in some cancer types; `order` shuffles the outcomes of each type's patients."""
    table = who.drawn.patients.set_index("patient_id").loc[who.ids]
    parts, cohorts = [], []
    for kind in kinds:
        inside = who.types.isin(GROUPS.get(kind, (kind,))).to_numpy() & (table.os_time > 0).to_numpy()
        ids = np.asarray(who.ids)[inside]
        outcome = table.loc[ids].iloc[np.argsort(np.argsort(order[inside]))] if order.size else table.loc[ids]
        part = pd.DataFrame(
            {"patient_id": ids, "time_days": outcome.os_time.to_numpy(), "event": outcome.os_event.to_numpy() == 1}
        )
        parts.append(part.assign(endpoint="OS"))
        events = part.set_index("patient_id").event.astype("boolean").to_frame("OS")
        cohorts.append(Cohort("survival", kind, who.types.loc[ids], events, who.sites.loc[ids]))
    splits = assemble(cohorts, n_splits=n_splits, inner_folds=3, seed=seed)
    survival = pd.concat(parts, ignore_index=True)
    metrics, _, predictions = probe_survival(
        who.rows,
        who.ids,
        survival,
        splits,
        transform=transform,
        penalties=PENALTIES,
        common_width=common_width,
        covariates=covariates,
        n_jobs=1,
    )
    return metrics, predictions
