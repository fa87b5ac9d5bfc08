"""Nothing planted, nothing found: the whole nested procedure over twenty cohorts drawn anew.

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
from study import mutation_study, people, survival_study

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
    mutation = mutation_study(who, labels, transform, seed)
    scores = {
        name: mutation[name]["mean"] for name in ("LUAD/EGFR", "KIRC/BAP1", "BRCA/shuffled", "pan_cancer/shuffled")
    }
    for gene in ("EGFR", "BAP1"):
        scores[f"pan_cancer/{gene} within type"] = mutation[f"pan_cancer/{gene}"]["within_type"]["mean"]
    survival = survival_study(who, NULL_TYPES, transform, seed, np.zeros(0))
    scores |= {f"{kind} survival": survival[f"{kind}/OS"]["mean"] for kind in NULL_TYPES}
    survival = survival_study(who, SHUFFLED_TYPES, transform, seed, rng.random(len(who.ids)))
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


@pytest.mark.slow
def test_the_same_procedure_finds_what_is_planted() -> None:
    """The check above could not fail if the procedure found nothing at all."""
    who = people(0, patients=2130, genes=400)
    profiled = who.drawn.patients.set_index("patient_id").profiled.loc[who.ids].to_numpy()
    mutated = who.drawn.mutated.set_axis(who.drawn.patients.patient_id).loc[who.ids]
    labels = pd.DataFrame({"pan_cancer/TP53": mutated.TP53[profiled].astype("boolean").reindex(who.ids)})
    found = mutation_study(who, labels, Transform("pca", 24), 0)["pan_cancer/TP53"]["within_type"]["mean"]
    assert found > 0.85
    assert survival_study(who, ["KIRC"], Transform("pca", 24), 0, np.zeros(0))["KIRC/OS"]["mean"] > 0.68
