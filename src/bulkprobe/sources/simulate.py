"""A simulated tumour cohort with planted truth.

What is drawn here is the biology: patients, mutations, survival, samples and counts. `simulate_files` writes
it in the official file formats, so that everything after `fetch` is the code that real TCGA goes through.

The model, gene g in sample i of patient p with cancer type t, taken at tissue source site s:

    log2 rate = mean_g + tissue_tg + sum_k activity_pk * loading_kg + site_sg + sex_g + noise_ig
    activity_pk = offset_tk + effect_k * mutated_p(gene of k) + N(0, 1)
    counts ~ negative binomial(library_i * rate * length_g, dispersion_g)
    log hazard_p = prognosis_t * (activity_p,prognosis - offset) + 0.25 * age

so mutation shifts known programs (strongly, weakly, or not at all), and one program carries prognosis in some
cancer types only. Hypermutated tumours carry many passengers in the other genes and are three times as likely to be
mutated in a labelled one; they have no program of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bulkprobe.errors import UserError
from bulkprobe.sources.simulate_counts import draw_counts
from bulkprobe.sources.simulate_plan import (
    AGE_EFFECT,
    EFFECTS,
    GENES,
    HYPERMUTATED,
    LEAST_EVENTS,
    LEAST_PATIENTS,
    LEAST_POSITIVES,
    LIBRARY_MEDIAN,
    LIBRARY_SD,
    MISSING_TIME,
    N_PROGRAMS,
    PROGNOSIS,
    PROGRAMS,
    REDACTED,
    SEX_GENES,
    UNPROFILED,
    WEIBULL_SHAPE,
    WITHIN_TYPE,
    ZERO_TIME,
    cancer_figures,
    gene_facts,
)


@dataclass(frozen=True)
class Simulation:
    """A drawn cohort. `counts` (genes × samples) float32, rows as `genes`, columns as `samples`."""

    genes: pd.DataFrame
    patients: pd.DataFrame
    mutated: pd.DataFrame
    samples: pd.DataFrame
    counts: np.ndarray
    loadings: pd.DataFrame
    scores: pd.DataFrame


def simulate(*, patients: int, genes: int, seed: int) -> Simulation:
    """Draw a cohort of about `patients` patients and `genes` genes; the same arguments give the same draw.

    Raises UserError where the carried tables cannot supply that many genes or the cohort would be too small to plant
    anything in.
    """
    facts, figures = gene_facts(), cancer_figures()
    if not 300 <= genes <= len(facts):
        raise UserError(
            f"cohort.simulated.genes is {genes}, but between 300 and {len(facts)} are possible: "
            "choose a number in that range"
        )
    if patients < 200:
        raise UserError(f"cohort.simulated.patients is {patients}, but at least 200 are needed to plant effects in")
    streams = [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(6)]
    chosen = _choose_genes(facts, genes, streams[0])
    table = _draw_patients(figures, patients, streams[1])
    mutated = _draw_mutations(table, figures, streams[2])
    activity, offsets = _draw_activity(table, mutated, figures, streams[3])
    untimed = _draw_survival(table, activity - offsets, figures, streams[4])
    samples = _draw_samples(table, streams[5])
    _spare(table, mutated, samples, untimed, figures)
    _spoil_times(table, untimed)
    counts, loadings = draw_counts(chosen, table, samples, activity, figures, seed)
    scores = _true_scores(table, activity - offsets, figures)
    return Simulation(chosen, table, mutated, samples, counts, loadings, scores)


def _choose_genes(facts: pd.DataFrame, n: int, rng: np.random.Generator) -> pd.DataFrame:
    """The labelled and the sex genes, and a random choice of the others, in Ensembl order."""
    wanted = facts.symbol.isin([*GENES, *SEX_GENES])
    others = rng.choice(np.flatnonzero(~wanted), n - int(wanted.sum()), replace=False)
    return facts.iloc[np.sort(np.concatenate([np.flatnonzero(wanted), others]))].reset_index(drop=True)


def _allocate(figures: pd.DataFrame, n: int) -> pd.Series:
    """Patients per type: the minimum of the default cohort, the rest by the square root of TCGA's own numbers."""
    least = figures.minimum.to_numpy(float)
    if n <= least.sum():
        sizes = np.maximum(np.round(least * n / least.sum()), 6)
    else:
        share = np.sqrt(figures.patients.to_numpy(float))
        sizes = np.round(least + share / share.sum() * (n - least.sum()))
    return pd.Series(sizes.astype(int), index=figures.index)


def _draw_patients(figures: pd.DataFrame, n: int, rng: np.random.Generator) -> pd.DataFrame:
    rows = []
    base36 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    site_codes = [a + b for a in base36 for b in base36]
    taken = 0
    for code, size in _allocate(figures, n).items():
        fact = figures.loc[str(code)]
        n_sites = int(np.clip(size // 15, 3, 14))
        sites, taken = site_codes[taken : taken + n_sites], taken + n_sites
        weights = rng.dirichlet(np.full(n_sites, 2.0))
        stages = fact[["stage_I", "stage_II", "stage_III", "stage_IV"]].to_numpy(float)
        for _ in range(size):
            stage = (
                ""
                if rng.random() > stages.sum()
                else str(rng.choice(["I", "II", "III", "IV"], p=stages / stages.sum()))
            )
            rows.append((code, str(rng.choice(sites, p=weights)), stage))
    table = pd.DataFrame(rows, columns=["cancer_type", "site", "stage"])
    size = len(table)
    facts = figures.loc[table.cancer_type]
    numbers = rng.choice(36**4 - 36**3, size, replace=False) + 36**3
    table.insert(0, "patient_id", [f"TCGA-{s}-{np.base_repr(v, 36)}" for s, v in zip(table.site, numbers, strict=True)])
    table["age"] = np.clip(rng.normal(facts.age_mean, facts.age_sd), 18, 90).round()
    table["female"] = rng.random(size) < facts.female.to_numpy()
    table["profiled"] = rng.random(size) >= UNPROFILED
    table["redacted"] = rng.random(size) < REDACTED
    table["hypermutated"] = rng.random(size) < table.cancer_type.map(HYPERMUTATED).fillna(0.0)
    table["burden"] = np.exp(rng.normal(np.log(28), 0.7, size)).round().clip(2, 300).astype(int)
    table.loc[table.hypermutated, "burden"] = rng.integers(700, 1500, int(table.hypermutated.sum()))
    table["purity"] = rng.beta(6, 3, size).round(2)
    return table


def _draw_mutations(table: pd.DataFrame, figures: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Mutation status of the labelled genes; hypermutated tumours three times as likely.

    The number of mutated patients among the profiled ones is the published fraction, and at least
    `LEAST_POSITIVES` for labels probed within a type.
    """
    mutated = pd.DataFrame(False, index=table.index, columns=list(GENES))
    fractions: Any = figures[list(GENES)]
    for code, rows in table.groupby("cancer_type", sort=True):
        profiled = rows.index[rows.profiled]
        unprofiled = rows.index[~rows.profiled]
        weight = np.where(rows.hypermutated[profiled], 3.0, 1.0)
        for gene in GENES:
            n = round(float(fractions.at[str(code), gene]) * len(profiled))
            if gene in WITHIN_TYPE.get(str(code), ()) and len(rows) >= 100:
                n = max(n, LEAST_POSITIVES)
            chosen = rng.choice(profiled, n, replace=False, p=weight / weight.sum())
            mutated.loc[chosen, gene] = True
            mutated.loc[unprofiled, gene] = rng.random(len(unprofiled)) < fractions.at[str(code), gene]
    return mutated


def _draw_activity(
    table: pd.DataFrame, mutated: pd.DataFrame, figures: pd.DataFrame, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Program activities and their type offsets, each (n_patients, N_PROGRAMS)."""
    by_type = pd.DataFrame(rng.normal(0, 0.6, (len(figures), N_PROGRAMS)), index=figures.index)
    offsets = by_type.loc[table.cancer_type].to_numpy()
    activity = offsets + rng.normal(size=offsets.shape)
    for k, name in enumerate(PROGRAMS):
        if name in EFFECTS:
            activity[:, k] += EFFECTS[name] * mutated[name].to_numpy()
    return activity, offsets


def _draw_survival(
    table: pd.DataFrame, activity: np.ndarray, figures: pd.DataFrame, rng: np.random.Generator
) -> pd.Series[str]:
    """Add OS and PFI with the published event rates; adds `log_hazard`, the part that expression carries.

    Returns whose follow-up is to be "zero" or "missing", for `_spoil_times`; "" for the others.
    """
    k = PROGRAMS.index("prognosis")
    table["log_hazard"] = table.cancer_type.map(PROGNOSIS).fillna(0.0) * activity[:, k]
    for column in ("os_time", "os_event", "pfi_time", "pfi_event"):
        table[column] = np.nan
    kinds = rng.choice(3, len(table), p=[ZERO_TIME, MISSING_TIME, 1 - ZERO_TIME - MISSING_TIME])
    for code, rows in table.groupby("cancer_type", sort=True):
        fact: Any = figures.loc[str(code)]
        index, n = rows.index, len(rows)
        usable = ((kinds[index] == 2) & ~rows.redacted).to_numpy()
        hazard = np.exp(rows.log_hazard + AGE_EFFECT * (rows.age - fact.age_mean) / fact.age_sd).to_numpy()
        censoring = rng.gamma(2.0, 1.0, n)
        least = LEAST_POSITIVES if fact.probed_events and n >= 100 else 0
        death = (rng.exponential(size=n) / hazard) ** (1 / WEIBULL_SHAPE)
        scale = _scale_for_events(death, censoring, usable, max(round(fact.os_rate * n), least))
        days = fact.os_days / np.median(np.minimum(death * scale, censoring))
        table.loc[index, "log_hazard"] -= WEIBULL_SHAPE * np.log(scale * days)
        time = np.maximum(np.round(np.minimum(death * scale, censoring) * days), 1.0)
        event = death * scale < censoring
        progression = (rng.exponential(size=n) / hazard) ** (1 / WEIBULL_SHAPE)
        alive = usable & ~event  # death counts as progression, so only the others add to the published rate
        wanted = round(fact.pfi_rate * n) - int((usable & event).sum())
        shrink = _scale_for_events(progression, time, alive, wanted) if fact.pfi_rate else np.inf
        table.loc[index, "os_time"], table.loc[index, "os_event"] = time, event.astype(float)
        if np.isfinite(shrink):
            table.loc[index, "pfi_time"] = np.maximum(np.round(np.minimum(progression * shrink, time)), 1.0)
            table.loc[index, "pfi_event"] = ((progression * shrink < time) | event).astype(float)
    return pd.Series(np.array(["zero", "missing", ""])[kinds], index=table.index)


def _spoil_times(table: pd.DataFrame, untimed: pd.Series[str]) -> None:
    """Set follow-up to zero days, or take it away."""
    zero, missing = untimed == "zero", untimed == "missing"
    table.loc[zero, "os_time"] = np.where(table.os_time[zero].isna(), np.nan, 0.0)
    table.loc[zero & table.pfi_time.notna(), "pfi_time"] = 0.0
    table.loc[missing, ["os_time", "os_event", "pfi_time", "pfi_event"]] = np.nan


def _scale_for_events(latent: np.ndarray, censoring: np.ndarray, usable: np.ndarray, n_events: int) -> float:
    """The time scale at which exactly `n_events` of the usable patients have the event before censoring."""
    ratios = np.sort((censoring / latent)[usable])[::-1]
    n_events = int(np.clip(n_events, 1, len(ratios) - 1))
    return float(np.sqrt(ratios[n_events - 1] * ratios[n_events]))


def _draw_samples(table: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Sequenced samples: primary tumours, and as in TCGA some normals, recurrences and metastases beside them."""
    rows = []
    for i, code in enumerate(table.cancer_type):
        draw, extra = rng.random(), rng.random()
        if code == "LAML":
            rows.append((i, "03"))
        elif code == "SKCM":
            rows.extend([(i, "06")] if draw < 0.7 else [(i, "01"), (i, "06")] if draw < 0.75 else [(i, "01")])
        else:
            rows.append((i, "01"))
            if extra < 0.03:
                rows.append((i, "11"))
            elif extra < 0.04 or (code in ("GBM", "LGG") and extra < 0.08):
                rows.append((i, "02"))
            elif extra > 0.998:
                rows.append((i, "05"))
    samples = pd.DataFrame(rows, columns=["patient", "sample_type"])
    samples["sample_id"] = table.patient_id.to_numpy()[samples.patient] + "-" + samples.sample_type
    samples["do_not_use"] = rng.random(len(samples)) < 0.003
    samples["library"] = np.exp(rng.normal(np.log(LIBRARY_MEDIAN), LIBRARY_SD, len(samples)))
    return samples.iloc[rng.permutation(len(samples))].reset_index(drop=True)


def _spare(
    table: pd.DataFrame, mutated: pd.DataFrame, samples: pd.DataFrame, untimed: pd.Series[str], figures: pd.DataFrame
) -> None:
    """Undo drops where chance took so many that a probed type or a planted label would be too small.

    What is left after the drops of the stage `cohort` are LEAST_PATIENTS and LEAST_EVENTS in a type whose survival
    is probed, and as many positives of a label that is probed within the type.
    """
    tumours = samples.sample_type.isin(["01", "03", "06"])
    gone = table.redacted | table.index.isin(samples.patient[samples.do_not_use & tumours])
    for code, rows in table.groupby("cancer_type", sort=True):
        if len(rows) < LEAST_PATIENTS:
            continue
        here = table.cancer_type == code
        wanted: list[tuple[pd.Series[bool], pd.Series[bool], int]] = []
        if bool(figures.at[str(code), "probed_events"]):
            dropped = gone | (untimed != "")
            wanted += [(here & (table.os_event == 1), dropped, LEAST_EVENTS), (here, dropped, LEAST_PATIENTS)]
        for gene in WITHIN_TYPE.get(str(code), ()):
            wanted.append((here & table.profiled & mutated[gene], gone, LEAST_EVENTS))
        spared: set[int] = set()
        for members, dropped, least in wanted:
            lost = members & dropped & ~table.index.isin(sorted(spared))
            short = least - int(members.sum()) + int(lost.sum())
            spared |= set(table.index[lost][: max(short, 0)])
        chosen = sorted(spared)
        table.loc[chosen, "redacted"] = False
        samples.loc[samples.patient.isin(chosen), "do_not_use"] = False
        untimed.loc[chosen] = ""


def _true_scores(table: pd.DataFrame, activity: np.ndarray, figures: pd.DataFrame) -> pd.DataFrame:
    """The best possible predictors: log odds of mutation given activity and type, and the log hazard.

    Columns patient_id, target (gene, or "survival"), score. Where nothing is planted the score is the type's own
    log odds; within a type it is constant.
    """
    parts = []
    for gene in GENES:
        fraction = np.clip(figures[gene].loc[table.cancer_type].to_numpy(float), 1e-3, 1 - 1e-3)
        score = np.log(fraction / (1 - fraction))
        if EFFECTS[gene]:
            effect = EFFECTS[gene]
            score = score + effect * activity[:, PROGRAMS.index(gene)] - effect**2 / 2
        parts.append(pd.DataFrame({"patient_id": table.patient_id, "target": gene, "score": score}))
    parts.append(pd.DataFrame({"patient_id": table.patient_id, "target": "survival", "score": table.log_hazard}))
    return pd.concat(parts, ignore_index=True)
