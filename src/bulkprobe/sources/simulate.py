"""A simulated tumour cohort with planted truth.

What is drawn here is the biology: patients, mutations, survival, samples and counts. `simulate_files` writes
it in the official file formats, so that everything after `fetch` is the code that real TCGA goes through.

The model, gene g in sample i of patient p with cancer type t, taken at tissue source site s:

    log2 rate = mean_g + tissue_tg + sum_k activity_pk * loading_kg + site_sg + sex_g + noise_ig
    activity_pk = offset_tk + effect_k * mutated_p(gene of k) + N(0, 1)
    counts ~ negative binomial(library_i * rate * length_g, dispersion_g)
    log hazard_p = prognosis_t * (activity_p,prognosis - offset) + 0.25 * age

so mutation shifts known programs (strongly, weakly, or not at all), and one program carries prognosis in some
cancer types only. Hypermutated tumours carry passengers in every gene but no program of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import pandas as pd

from bulkprobe.errors import UserError

GENES = ("TP53", "PIK3CA", "KRAS", "EGFR", "PBRM1", "BAP1")
# Shift of the gene's program in mutated tumours, in standard deviations of its activity.
EFFECTS = {"TP53": 2.6, "KRAS": 2.4, "PBRM1": 1.0, "PIK3CA": 0.8, "EGFR": 0.0, "BAP1": 0.0}
STRENGTHS = {
    "TP53": "strong",
    "KRAS": "strong",
    "PBRM1": "weak",
    "PIK3CA": "weak",
    "EGFR": "none",
    "BAP1": "none",
}
PROGRAMS = ("TP53", "KRAS", "PBRM1", "PIK3CA", "prognosis")  # the remaining programs are mere co-expression
N_PROGRAMS = 20
# Log hazard per standard deviation of the prognostic program.
PROGNOSIS = {
    "KIRC": 1.1, "KIRP": 1.1, "LIHC": 1.1, "GBM": 0.9, "LGG": 0.9, "LUAD": 0.9, "BRCA": 0.5, "PAAD": 0.5, "BLCA": 0.5,
}  # fmt: skip
PROGNOSIS_SHARE = 4.0  # genes of the prognostic program, in units of the other programs
AGE_EFFECT = 0.25  # log hazard per standard deviation of age, in every type
WEIBULL_SHAPE = 1.2
# Labels probed within types: each gets at least this many positives where the type has 100 patients.
WITHIN_TYPE = {
    "BRCA": ("TP53", "PIK3CA"), "COAD": ("KRAS", "TP53"), "LUAD": ("EGFR", "KRAS"), "KIRC": ("PBRM1", "BAP1"),
}  # fmt: skip
LEAST_POSITIVES = 31
HYPERMUTATED = {"UCEC": 0.10, "COAD": 0.10, "STAD": 0.08, "SKCM": 0.05}
UNPROFILED, REDACTED, ZERO_TIME, MISSING_TIME = 0.04, 0.005, 0.009, 0.006
SEX_GENES = {"XIST": "female", "RPS4Y1": "male", "DDX3Y": "male", "KDM5D": "male", "UTY": "male"}
LIBRARY_MEDIAN, LIBRARY_SD = 4.5e7, 0.35  # counts a sample; sd of the natural log


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


def gene_facts() -> pd.DataFrame:
    """Return the carried gene facts: ensembl_id, symbol, length (bp)."""
    path = resources.files("bulkprobe.sources") / "tables" / "genes.tsv.gz"
    with resources.as_file(path) as file:
        return pd.read_csv(file, sep="\t", comment="#", compression="gzip")


def cancer_figures() -> pd.DataFrame:
    """Return the carried figures of TCGA cancer types, indexed by study code."""
    path = resources.files("bulkprobe.sources") / "tables" / "cancer_types.tsv"
    with resources.as_file(path) as file:
        return pd.read_csv(file, sep="\t", comment="#", index_col="code")


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
    _draw_survival(table, activity - offsets, figures, streams[4])
    samples = _draw_samples(table, streams[5])
    counts, loadings = _draw_counts(chosen, table, samples, activity, figures, seed)
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


def _draw_survival(table: pd.DataFrame, activity: np.ndarray, figures: pd.DataFrame, rng: np.random.Generator) -> None:
    """Add OS and PFI with the published event rates; adds `log_hazard`, the part that expression carries."""
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
    zero, missing = kinds == 0, kinds == 1
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


def _draw_counts(
    genes: pd.DataFrame,
    table: pd.DataFrame,
    samples: pd.DataFrame,
    activity: np.ndarray,
    figures: pd.DataFrame,
    seed: int,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Counts (genes × samples) and the program loadings (gene × program, 0 outside the program)."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 7]))
    n_genes, n_samples = len(genes), len(samples)
    free = np.flatnonzero(~genes.symbol.isin([*GENES, *SEX_GENES]))
    loadings = np.zeros((N_PROGRAMS, n_genes))
    # Programs do not overlap, so that the planted one is the only one of its genes. Prognosis is carried broadly, as
    # by proliferation in real tumours.
    order = rng.permutation(free)
    shares = np.array([PROGNOSIS_SHARE if k == PROGRAMS.index("prognosis") else 1.0 for k in range(N_PROGRAMS)])
    ends = np.round(np.cumsum(shares) / shares.sum() * 0.7 * len(order)).astype(int)
    for k, members in enumerate(np.split(order[: ends[-1]], ends[:-1])):
        strength = 1.0 if k == PROGRAMS.index("prognosis") else 0.6
        loadings[k, members] = rng.normal(strength, 0.15, len(members))
    tissue = {name: _sparse(rng, n_genes, 0.15, 1.2) for name in sorted(set(figures.tissue))}
    by_type = {code: tissue[t] + _sparse(rng, n_genes, 0.10, 1.0) for code, t in figures.tissue.items()}
    by_type["READ"] = by_type["COAD"]  # one disease molecularly
    by_site = {site: _sparse(rng, n_genes, 0.30, 0.25) for site in sorted(set(table.site))}
    mean = np.where(rng.random(n_genes) < 0.15, rng.normal(-10.0, 3.0, n_genes), rng.normal(4.0, 1.8, n_genes))
    mean[genes.symbol.isin([*GENES])] = 4.0
    dispersion = 0.05 + rng.gamma(2.0, 0.05, n_genes)
    noise = rng.uniform(0.25, 0.6, n_genes)
    who = samples.patient.to_numpy()
    normal = (samples.sample_type == "11").to_numpy()
    codes, sites = table.cancer_type.to_numpy()[who], table.site.to_numpy()[who]
    acts = np.where(normal[:, None], rng.normal(size=(n_samples, N_PROGRAMS)), activity[who])
    female = table.female.to_numpy()[who]
    rate = np.empty((n_genes, n_samples), dtype=np.float32)
    type_matrix = np.stack([by_type[c] for c in figures.index])
    site_names = sorted(by_site)
    site_matrix = np.stack([by_site[s] for s in site_names])
    type_rows, site_rows = figures.index.get_indexer(codes), np.searchsorted(site_names, sites)
    for start in range(0, n_genes, 512):  # by blocks of genes, each with its own stream
        rows = slice(start, min(start + 512, n_genes))
        block_rng = np.random.default_rng(np.random.SeedSequence([seed, 8, start]))
        log2 = mean[rows, None] + type_matrix[type_rows][:, rows].T + site_matrix[site_rows][:, rows].T
        log2 += (acts @ loadings[:, rows]).T
        log2 += noise[rows, None] * block_rng.normal(size=log2.shape)
        rate[rows] = np.exp2(log2)
    for symbol, sex in SEX_GENES.items():
        row = np.flatnonzero(genes.symbol == symbol)
        rate[row] = np.where(female == (sex == "female"), rate[row] + 10.0, 0.002)
    rate *= genes.length.to_numpy()[:, None]
    rate *= (samples.library.to_numpy() / rate.sum(axis=0, dtype=np.float64)).astype(np.float32)
    ambiguous = rng.random(n_genes) < 0.3  # genes that share reads: their expected counts are fractional
    for start in range(0, n_genes, 512):
        rows = slice(start, min(start + 512, n_genes))
        block_rng = np.random.default_rng(np.random.SeedSequence([seed, 9, start]))
        shape = 1.0 / dispersion[rows, None]
        counts = block_rng.poisson(block_rng.gamma(shape, rate[rows] / shape)).astype(np.float64)
        part = np.where(ambiguous[rows, None] & (counts > 0), block_rng.integers(-50, 51, counts.shape) / 100, 0.0)
        rate[rows] = counts + part
    names = [*PROGRAMS, *(f"module_{k}" for k in range(len(PROGRAMS), N_PROGRAMS))]
    return rate, pd.DataFrame(loadings.T, index=genes.ensembl_id, columns=names)


def _sparse(rng: np.random.Generator, n: int, fraction: float, sd: float) -> np.ndarray:
    return np.where(rng.random(n) < fraction, rng.normal(0, sd, n), 0.0)


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
