"""Counts of the simulated samples: tissue, programs, sites and sex on a log scale, then negative binomial draws."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bulkprobe.sources.simulate_plan import GENES, N_PROGRAMS, PROGNOSIS_SHARE, PROGRAMS, SEX_GENES


def draw_counts(
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
    tissue = {name: sparse(rng, n_genes, 0.15, 1.2) for name in sorted(set(figures.tissue))}
    by_type = {code: tissue[t] + sparse(rng, n_genes, 0.10, 1.0) for code, t in figures.tissue.items()}
    by_type["READ"] = by_type["COAD"]  # one disease molecularly
    by_site = {site: sparse(rng, n_genes, 0.30, 0.25) for site in sorted(set(table.site))}
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


def sparse(rng: np.random.Generator, n: int, fraction: float, sd: float) -> np.ndarray:
    return np.where(rng.random(n) < fraction, rng.normal(0, sd, n), 0.0)
