"""Nothing planted, nothing found: the whole nested procedure over twenty cohorts drawn anew, and over 200 shuffles.

The standard error is taken across cohorts; splits of one cohort share its patients, so their spread says nothing about
how far a mean over splits may lie from 0.5.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from joblib import Parallel, delayed
from scipy import stats

from bulkprobe.probes.transform import Transform
from bulkprobe.stages.planted import auroc_of, c_index_of, mean_over_splits, within
from study import People, mutation_study, people, survival_study

SEEDS = 20
LEVEL = 0.01  # chance that any of the tasks exceeds the bound although nothing is wrong
NULL_TYPES = ["HNSC", "LUSC", "STAD", "SKCM", "UCEC"]
SHUFFLED_TYPES = ["KIRC", "GBMLGG"]


def null_scores(seed: int) -> dict[str, float]:
    """Scores that must be 0.5 on average: null genes, types without prognosis, shuffled labels and outcomes."""
    who = people(seed, patients=2130, genes=400)
    transform = Transform("pca", 24)
    rng = np.random.default_rng(np.random.SeedSequence([seed, 99]))
    table = who.drawn.patients.set_index("patient_id").loc[who.ids]
    profiled = table.profiled.to_numpy()
    mutated = who.drawn.mutated.set_axis(who.drawn.patients.patient_id).loc[who.ids]
    known = mutated[profiled].astype("boolean").reindex(who.ids)
    shuffled = known.TP53.dropna().sample(frac=1, random_state=seed)
    known["shuffled"] = pd.Series(shuffled.to_numpy(), index=known.TP53.dropna().index).reindex(who.ids)
    labels = pd.DataFrame(
        {
            "pan_cancer/EGFR": known.EGFR,
            "pan_cancer/BAP1": known.BAP1,
            "pan_cancer/shuffled": known.shuffled,
            "LUAD/EGFR": known.EGFR.where(who.types == "LUAD"),
            "KIRC/BAP1": known.BAP1.where(who.types == "KIRC"),
            "BRCA/shuffled": known.shuffled.where(who.types == "BRCA"),
        }
    )
    mutation, _ = mutation_study(who, labels, transform, seed)
    scores = {
        name: mutation[name]["mean"] for name in ("LUAD/EGFR", "KIRC/BAP1", "BRCA/shuffled", "pan_cancer/shuffled")
    }
    for gene in ("EGFR", "BAP1"):
        scores[f"pan_cancer/{gene} within type"] = mutation[f"pan_cancer/{gene}"]["within_type"]["mean"]
    survival, _ = survival_study(who, NULL_TYPES, transform, seed, np.zeros(0))
    scores |= {f"{kind} survival": survival[f"{kind}/OS"]["mean"] for kind in NULL_TYPES}
    survival, _ = survival_study(who, SHUFFLED_TYPES, transform, seed, rng.random(len(who.ids)))
    return scores | {f"{kind} shuffled": survival[f"{kind}/OS"]["mean"] for kind in SHUFFLED_TYPES}


@pytest.mark.slow
def test_null_effects_and_shuffled_labels_are_consistent_with_one_half() -> None:
    table = pd.DataFrame(Parallel(n_jobs=2)(delayed(null_scores)(seed) for seed in range(SEEDS)))
    assert table.notna().all(axis=None)
    z = (table.mean() - 0.5) / (table.std(ddof=1) / np.sqrt(SEEDS))
    bound = stats.t.isf(LEVEL / 2 / table.shape[1], SEEDS - 1)
    print(pd.DataFrame({"mean": table.mean(), "sd": table.std(ddof=1), "z": z}).round(3).to_string())
    print(f"max |z| {z.abs().max():.2f}, Bonferroni bound {bound:.2f}")
    assert z.abs().max() < bound


SHUFFLES = 200


def shuffled_scores(seed: int, who: People, n_splits: int) -> dict[str, float]:
    """Scores of one cohort's labels and outcomes, shuffled over its patients: 0.5 on average (added value: 0)."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 7]))
    table = who.drawn.patients.set_index("patient_id").loc[who.ids]
    mutated = who.drawn.mutated.set_axis(who.drawn.patients.patient_id).loc[who.ids]
    columns = {}
    for gene in ("TP53", "KRAS", "BAP1"):
        known = mutated[gene][table.profiled.to_numpy()].astype("boolean")
        mixed = pd.Series(rng.permutation(known.to_numpy()), index=known.index, dtype="boolean")
        columns[f"pan_cancer/{gene}"] = mixed.reindex(who.ids)
    columns["BRCA/TP53"] = columns["pan_cancer/TP53"].where(who.types == "BRCA")
    metrics, _ = mutation_study(who, pd.DataFrame(columns), Transform("pca", 24), seed, 6, n_splits)
    scores = {}
    for label, entry in metrics.items():
        scores |= {label: entry["mean"], f"{label} common": entry["common_width"]["mean"]}
        if "within_type" in entry:
            scores[f"{label} within"] = entry["within_type"]["mean"]
            scores[f"{label} within common"] = entry["common_width"]["within_type"]["mean"]
    age = table.age.to_numpy(dtype=float)
    covariates = np.stack([age, table.female.to_numpy(dtype=float)], axis=1)
    kinds = ["GBMLGG", "KIRC", "HNSC"]
    metrics, _ = survival_study(
        who, kinds, Transform("pca", 24), seed, rng.random(len(who.ids)), 6, covariates, n_splits
    )
    for kind in kinds:
        entry = metrics[f"{kind}/OS"]
        scores[f"{kind} C"] = entry["mean"]
        for block in ("common_width", "uno_c", "clinical", "with_clinical"):
            scores[f"{kind} {block}"] = entry[block]["mean"]
        scores[f"{kind} added value + 0.5"] = entry["added_value"]["mean"] + 0.5
    return scores


@pytest.mark.slow
def test_200_shuffles_score_one_half() -> None:
    """Three splits a seed: standard errors are taken across seeds, so more splits would only cost time."""
    who = people(1, patients=900, genes=300)
    table = pd.DataFrame(Parallel(n_jobs=2)(delayed(shuffled_scores)(seed, who, 3) for seed in range(SHUFFLES)))
    assert table.notna().all(axis=None)
    z = (table.mean() - 0.5) / (table.std(ddof=1) / np.sqrt(SHUFFLES))
    bound = stats.t.isf(LEVEL / 2 / table.shape[1], SHUFFLES - 1)
    print(pd.DataFrame({"mean": table.mean(), "sd": table.std(ddof=1), "z": z}).round(4).to_string())
    print(f"max |z| {z.abs().max():.2f} over {table.shape[1]} tasks, Bonferroni bound {bound:.2f}")
    assert z.abs().max() < bound


@pytest.mark.slow
def test_strong_effects_are_recovered_within_three_hundredths_of_the_true_predictor() -> None:
    """On the same test patients, averaged over splits; also shows that the check above can fail."""
    who = people(0, patients=2130, genes=3000)
    profiled = who.drawn.patients.set_index("patient_id").profiled.loc[who.ids].to_numpy()
    mutated = who.drawn.mutated.set_axis(who.drawn.patients.patient_id).loc[who.ids]
    known = mutated[profiled].astype("boolean").reindex(who.ids)
    labels = pd.DataFrame({f"pan_cancer/{gene}": known[gene] for gene in ("TP53", "KRAS")})
    truth = {str(name): part.set_index("patient_id").score for name, part in who.drawn.scores.groupby("target")}
    transform = Transform("pca", 128)
    metrics, predictions = mutation_study(who, labels, transform, 0)
    for label, gene in (("pan_cancer/TP53", "TP53"), ("pan_cancer/KRAS", "KRAS")):
        assert metrics[label]["positives"] >= 100
        part = predictions[predictions.label == label]
        part = part.assign(score=part.patient_id.astype(str).map(truth[gene]))
        for best, found in (
            (mean_over_splits(part, auroc_of), metrics[label]["mean"]),
            (mean_over_splits(part, within(who.types)), metrics[label]["within_type"]["mean"]),
        ):
            assert best is not None
            assert abs(found - best) < 0.03
    metrics, predictions = survival_study(who, ["GBMLGG"], transform, 0, np.zeros(0))
    assert metrics["GBMLGG/OS"]["events"] >= 100
    best = mean_over_splits(
        predictions.assign(score=predictions.patient_id.astype(str).map(truth["survival"])), c_index_of
    )
    assert best is not None
    assert abs(metrics["GBMLGG/OS"]["mean"] - best) < 0.03
