"""Co-expression of genes in the cohort, and how much of it gene vectors know.

Everything is measured after each gene's mean in each cancer type is taken out: genes that differ between types alone
are not co-expressed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold
from sklearn.utils.extmath import randomized_svd

from bulkprobe.biology.levels import unit_vectors
from bulkprobe.biology.sets import permutation_p
from bulkprobe.probes.metrics import Undefined

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Ints = npt.NDArray[np.intp]
Blocks = Callable[[], Iterator[Singles]]  # log expression of the same samples in the same order, (n, n_genes) a block

MOST_GENES = 5000  # the most variable; bounds memory at 40 MB a thousand tumours and 400 MB for pairs
COMPONENTS = 20  # of the profile of a gene
FOLDS = 5
LEAST_GENES = 50  # ten a fold; with fewer nothing is said
LEAST_TUMOURS = 30
PAIRS = 20_000
PERMUTATIONS = 100
PENALTIES = np.logspace(-4, 5, 19)  # of ridge, for vectors of mean square 1
NO_VARIANCE = 1e-6  # standard deviations below this share of the largest are rounding


@dataclass(frozen=True)
class Coexpression:
    """Co-expression of the cohort's variable genes.

    columns: (n_genes,) ascending columns of the cohort. residual: (n_samples, n_genes) float32, each gene with mean 0
    and sum of squares 1, so that a product of two columns is their correlation. profile: (n_genes, COMPONENTS), the
    genes' correlations with the principal components.
    """

    columns: Ints
    residual: Singles
    profile: Floats


@dataclass(frozen=True)
class Score:
    """R2 over held-out genes, mean and standard deviation over folds; Spearman over pairs of genes and its p."""

    r2: float
    sd: float
    spearman: float | None
    spearman_p: float | None
    n_genes: int
    n_pairs: int


def coexpression(blocks: Blocks, types: npt.NDArray[np.object_], *, seed: int) -> Coexpression:
    """Measure co-expression of the MOST_GENES most variable genes; types: (n_samples,) the samples' cancer types.

    Samples of a type that only one has carry nothing and are left out. Raises Undefined with too few samples or genes.
    """
    names, code = np.unique(types.astype(str), return_inverse=True)
    kept = np.bincount(code)[code] > 1
    if kept.sum() < LEAST_TUMOURS:
        raise Undefined("too few tumours of types with several", {"tumours": int(kept.sum()), "needed": LEAST_TUMOURS})
    means, spread = _moments(blocks, code, len(names))
    columns = variable_genes(spread, MOST_GENES)
    if len(columns) < LEAST_GENES:
        raise Undefined("too few genes vary", {"genes": len(columns), "needed": LEAST_GENES})
    residual = np.empty((int(kept.sum()), len(columns)), dtype=np.float32)
    row = start = 0
    for block in blocks():
        chosen = kept[start : start + len(block)]
        centred = block[chosen][:, columns] - means[code[start : start + len(block)][chosen]][:, columns]
        residual[row : row + len(centred)] = centred
        row, start = row + len(centred), start + len(block)
    residual /= np.sqrt((residual.astype(np.float64) ** 2).sum(axis=0)).astype(np.float32)
    return Coexpression(columns, residual, loadings(residual, COMPONENTS, seed))


def _moments(blocks: Blocks, code: Ints, n_types: int) -> tuple[Floats, Floats]:
    """Mean of every gene in every type, (n_types, n_genes), and its standard deviation around those means."""
    totals: Floats | None = None
    start = 0
    for block in blocks():
        wide = block.astype(np.float64)
        if totals is None:
            totals, squares = np.zeros((n_types, block.shape[1])), np.zeros(block.shape[1])
        totals += np.eye(n_types)[code[start : start + len(block)]].T @ wide
        squares += (wide**2).sum(axis=0)
        start += len(block)
    if totals is None:
        raise ValueError("no block of expression was given")
    sizes = np.bincount(code, minlength=n_types)[:, None]
    means = totals / sizes
    return means, np.sqrt(np.maximum(squares - (sizes * means**2).sum(axis=0), 0.0) / start)


def variable_genes(spread: Floats, most: int) -> Ints:
    """Return the ascending columns of the `most` genes of largest standard deviation that have any."""
    order = np.argsort(-spread, kind="stable")[:most]
    chosen: Ints = np.sort(order[spread[order] > NO_VARIANCE * max(1.0, float(spread.max(initial=0.0)))])
    return chosen


def loadings(standard: Singles, components: int, seed: int) -> Floats:
    """Return genes' correlations with the first principal components, (n_genes, components).

    standard: (n_samples, n_genes), each gene with mean 0 and sum of squares 1. A component's sign is free; its largest
    loading is made positive.
    """
    size = min(components, *standard.shape)
    _, lengths, axes = randomized_svd(standard, size, random_state=seed, flip_sign=False)
    found: Floats = (axes * lengths[:, None]).T.astype(np.float64)
    signs = np.sign(found[np.abs(found).argmax(axis=0), np.arange(size)])
    found *= np.where(signs == 0, 1.0, signs)
    return found


def principal_gene_vectors(blocks: Blocks, components: int, most: int, *, seed: int) -> tuple[Ints, Floats]:
    """Return columns and gene vectors of the baseline pca: loadings on the components of standardised log expression.

    At most the `most` most variable genes; types are not taken out, as the encoder does not.
    """
    n_samples = sum(len(block) for block in blocks())
    means, spread = _moments(blocks, np.zeros(n_samples, dtype=np.intp), 1)
    columns = variable_genes(spread, most)
    standard = np.concatenate([block[:, columns] - means[0, columns] for block in blocks()]).astype(np.float32)
    standard /= (spread[columns] * np.sqrt(n_samples)).astype(np.float32)
    return columns, loadings(standard, components, seed)


def score_coexpression(vectors: npt.NDArray[np.floating], columns: Ints, known: Coexpression, *, seed: int) -> Score:
    """Score gene vectors (n, width) of the cohort's genes `columns` (ascending) against its co-expression.

    Raises Undefined with fewer than LEAST_GENES genes in common.
    """
    both, mine, theirs = np.intersect1d(columns, known.columns, assume_unique=True, return_indices=True)
    if len(both) < LEAST_GENES:
        raise Undefined("too few genes with a vector vary", {"genes": len(both), "needed": LEAST_GENES})
    chosen = np.asarray(vectors[mine], dtype=np.float64)
    r2 = held_out_r2(chosen, known.profile[theirs], seed=seed)
    first, second = gene_pairs(len(both), seed=seed)
    residual = known.residual[:, theirs].T
    correlation = np.concatenate(
        [
            np.einsum("ij,ij->i", residual[first[part]], residual[second[part]])
            for part in np.array_split(np.arange(len(first)), max(1, len(first) // 1000))
        ]
    )
    spearman, p = mantel(unit_vectors(chosen), correlation, first, second, seed=seed)
    return Score(float(r2.mean()), float(r2.std(ddof=1)), spearman, p, len(both), len(first))


def held_out_r2(vectors: Floats, profile: Floats, *, seed: int) -> Floats:
    """Return R2 of each fold of genes: the share of the profile's variance that ridge regression predicts.

    The penalty is chosen within the training genes (generalised cross-validation), and centring and scaling are theirs
    too. Vectors are scaled by one number, so turning or stretching all of them alike changes nothing.
    """
    found = []
    for train, test in KFold(FOLDS, shuffle=True, random_state=seed).split(vectors):
        middle = vectors[train].mean(axis=0)
        size = np.sqrt(((vectors[train] - middle) ** 2).mean())
        scaled = (vectors - middle) / (size if size > 0 else 1.0)
        model = RidgeCV(PENALTIES).fit(scaled[train], profile[train])
        found.append(r2_score(profile[test], model.predict(scaled[test]), multioutput="variance_weighted"))
    return np.array(found)


def gene_pairs(n_genes: int, *, seed: int) -> tuple[Ints, Ints]:
    """Return up to PAIRS different pairs of genes, drawn at random."""
    all_pairs = n_genes * (n_genes - 1) // 2
    if all_pairs <= PAIRS:
        first, second = np.triu_indices(n_genes, 1)
        return first, second
    number = np.random.default_rng([seed, 2]).choice(all_pairs, PAIRS, replace=False, shuffle=False)
    # Pair number k of the upper triangle by rows, counted from its end.
    left = all_pairs - 1 - number
    row = ((np.sqrt(8.0 * left + 1.0) - 1.0) // 2.0).astype(np.intp)
    first = n_genes - 2 - row
    return first, n_genes - 1 - (left - row * (row + 1) // 2)


def mantel(
    unit: Floats, correlation: npt.NDArray[np.floating], first: Ints, second: Ints, *, seed: int
) -> tuple[float | None, float | None]:
    """Return Spearman's correlation of cosine and co-expression over pairs, and its one-sided p (Mantel 1967).

    Pairs that share a gene are not independent, so it is the genes that are shuffled. None where either is constant.
    """
    cosine = np.round(unit @ unit.T, 6)
    target = rankdata(correlation)
    target = (target - target.mean()) / (np.linalg.norm(target - target.mean()) or 1.0)

    def spearman(order: Ints) -> float:
        ranks = rankdata(cosine[order[first], order[second]])
        ranks -= ranks.mean()
        length = np.linalg.norm(ranks)
        return float(ranks @ target / length) if length > 0 else float("nan")

    observed = spearman(np.arange(len(unit)))
    if not np.isfinite(observed) or not target.any():
        return None, None
    rng = np.random.default_rng([seed, 3])
    return observed, permutation_p(
        observed, np.array([spearman(rng.permutation(len(unit))) for _ in range(PERMUTATIONS)])
    )
