"""The default study's probing for one encoder, on a cohort of the sizes and label frequencies of TCGA.

    python -m probe_bench.study FOLDER PATIENTS WIDTH SPLITS

Times our probes with two processes and writes study.json. One inner fold of the first split becomes problems that
the peers can be timed on: FOLDER/mutation/problem-0.npz, … and FOLDER/survival/problem-0.npz, …, with our objectives
beside them as reference-0.npy, ….
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from bulkprobe.cohort.read import Cohort
from bulkprobe.params import Params, load_params
from bulkprobe.probes.mutation import probe_mutation
from bulkprobe.probes.survival import probe_survival
from bulkprobe.probes.transform import Transform
from bulkprobe.stages.probe_survival import clinical_covariates
from bulkprobe.stages.tasks import Patients, make_splits, mutation_labels, probing_patients, survival_labels
from probe_bench.problems import Problem, Singles, embedding, objectives, prepared, score
from probe_bench.sides import SIDES, Options

TOP = Path(__file__).resolve().parents[2]
PROCESSES = 2
SEED = 20260421
SAMPLED = 8  # every so many-th survival label is given to the peer, which takes minutes
GENES = ("TP53", "PIK3CA", "KRAS", "EGFR", "PBRM1", "BAP1")
PROFILED = 0.95  # share of patients with mutation calls
HOTSPOT_SHARE = 0.7  # of the mutations
SUM_SCALE = 1.14  # a normal and a logistic variable add up to about a logistic one of this scale
TYPE_SPREAD = 0.6  # how far types lie apart, in standard deviations of a feature


class Kind(NamedTuple):
    """A cancer type: patients, events of OS and of PFI in percent, mutated patients of each of GENES in percent."""

    patients: int
    os: int
    pfi: int
    mutated: tuple[float, ...]


# Rounded figures of TCGA: what counts here is sizes and base rates, which set the work.
KINDS = {
    "ACC": Kind(78, 35, 52, (18, 1, 1, 1, 1, 1)),
    "BLCA": Kind(405, 44, 44, (48, 21, 4, 3, 5, 5)),
    "BRCA": Kind(1080, 14, 13, (33, 33, 1, 1, 1, 1)),
    "CESC": Kind(300, 24, 23, (9, 28, 5, 3, 3, 4)),
    "COAD": Kind(440, 22, 27, (55, 28, 41, 4, 4, 2)),
    "ESCA": Kind(180, 42, 48, (83, 10, 3, 3, 4, 1)),
    "GBM": Kind(160, 80, 83, (31, 9, 1, 25, 1, 1)),
    "HNSC": Kind(500, 43, 38, (69, 18, 1, 3, 3, 1)),
    "KICH": Kind(65, 14, 18, (32, 1, 1, 1, 1, 1)),
    "KIRC": Kind(520, 33, 31, (3, 3, 1, 1, 38, 10)),
    "KIRP": Kind(285, 15, 20, (2, 1, 2, 1, 4, 6)),
    "LAML": Kind(150, 62, 62, (8, 1, 4, 1, 1, 1)),
    "LGG": Kind(510, 25, 37, (46, 8, 1, 6, 1, 1)),
    "LIHC": Kind(370, 35, 48, (29, 4, 1, 1, 3, 6)),
    "LUAD": Kind(510, 36, 41, (50, 6, 30, 13, 3, 2)),
    "LUSC": Kind(490, 43, 30, (80, 11, 2, 3, 3, 2)),
    "MESO": Kind(86, 85, 70, (16, 1, 1, 1, 2, 24)),
    "OV": Kind(370, 61, 72, (87, 2, 1, 2, 1, 1)),
    "PAAD": Kind(177, 52, 58, (60, 3, 65, 1, 3, 1)),
    "PCPG": Kind(178, 3, 11, (1, 1, 1, 1, 1, 1)),
    "PRAD": Kind(490, 2, 19, (11, 3, 1, 1, 2, 1)),
    "READ": Kind(150, 17, 21, (70, 15, 40, 3, 2, 1)),
    "SARC": Kind(255, 38, 54, (35, 2, 1, 1, 1, 1)),
    "SKCM": Kind(460, 48, 68, (15, 3, 2, 6, 5, 3)),
    "STAD": Kind(400, 39, 33, (46, 16, 9, 5, 7, 2)),
    "TGCT": Kind(145, 3, 25, (1, 3, 11, 1, 1, 1)),
    "THCA": Kind(500, 3, 10, (1, 1, 1, 1, 1, 1)),
    "THYM": Kind(119, 7, 18, (3, 1, 1, 1, 1, 1)),
    "UCEC": Kind(530, 17, 23, (37, 49, 19, 6, 9, 8)),
    "UVM": Kind(80, 29, 38, (1, 1, 1, 1, 1, 30)),
}


def simulated_cohort(patients: int, width: int) -> tuple[Cohort, Singles]:
    """Draw the tables of a cohort of about `patients` patients, and their vectors (n, width) in its order."""
    rng = np.random.default_rng([SEED, patients, width])
    scale = patients / sum(kind.patients for kind in KINDS.values())
    sizes = {name: max(1, round(kind.patients * scale)) for name, kind in KINDS.items()}
    names = np.repeat(list(sizes), list(sizes.values()))
    n = len(names)
    vectors, factors = embedding(n, width, rng)
    for name in sizes:
        vectors[names == name] += TYPE_SPREAD * rng.normal(size=width).astype(np.float32)
    ids = np.array([f"P{number:05d}" for number in range(n)], dtype=object)
    samples = pd.DataFrame({"sample_id": ids, "patient_id": ids, "cancer_type": names.astype(object)})
    samples = samples.assign(site=rng.integers(0, 40, n).astype(str).astype(object), for_probing=True)
    samples["age"] = rng.normal(62, 12, n).round()
    samples["sex"] = rng.choice(["female", "male"], n).astype(object)
    samples["stage"] = rng.choice(["I", "II", "III", "IV"], n).astype(object)
    samples["hypermutated"] = pd.Series(rng.random(n) < 0.05, dtype="boolean")
    profiled = rng.random(n) < PROFILED
    mutations, survival = [], []
    for number, gene in enumerate(GENES):
        rate = np.array([KINDS[name].mutated[number] / 100 for name in names])
        mutated = score(factors, rng) + rng.logistic(size=n) > SUM_SCALE * np.log(1 / rate - 1)
        part = {
            "patient_id": ids,
            "gene": gene,
            "mutated": mutated,
            "hotspot": mutated & (rng.random(n) < HOTSPOT_SHARE),
        }
        mutations.append(pd.DataFrame(part)[profiled])
    for endpoint in ("OS", "PFI"):
        died = rng.exponential(size=n) * np.exp(-score(factors, rng))
        lost = rng.exponential(size=n)
        for name, kind in KINDS.items():
            inside = names == name
            share = (kind.os if endpoint == "OS" else kind.pfi) / 100
            lost[inside] *= np.quantile(died[inside] / lost[inside], share)
        days = np.ceil(1_500 * np.minimum(died, lost))
        part = {"patient_id": ids, "endpoint": endpoint, "time_days": days, "event": died <= lost}
        survival.append(pd.DataFrame(part))
    tables = samples, pd.concat(survival, ignore_index=True), pd.concat(mutations, ignore_index=True)
    return Cohort(*tables, flow={}, provenance={}, expression_path=Path()), vectors


def settings(n_splits: int) -> Params:
    """The params.yaml of this checkout, with other splits."""
    params = load_params(TOP / "params.yaml")
    return params.model_copy(update={"splits": params.splits.model_copy(update={"n_splits": n_splits})})


def fold_problems(
    cohort: Cohort, patients: Patients, vectors: Singles, splits: pd.DataFrame, params: Params
) -> dict[str, list[Problem]]:
    """Return the problems of the first inner fold of the first split: one a mutation cohort, one a survival label."""
    first = splits[(splits.split == 0) & (splits.role == "train") & (splits.fold != 0)]
    place = pd.Series(np.arange(len(vectors)), index=patients.types.index)
    labels = mutation_labels(cohort, patients, params.probe_mutation)
    times = survival_labels(cohort, patients, params.probe_survival)
    problems: dict[str, list[Problem]] = {"mutation": [], "survival": []}
    for name in dict.fromkeys(label.split("/")[0] for label in labels.columns):
        own = [label for label in labels.columns if label.split("/")[0] == name]
        inside = first[(first.task == "mutation") & (first.label == own[0])].patient_id.astype(object)
        truth = labels.loc[inside, own].astype(bool).to_numpy()
        truth = truth[:, np.minimum(truth.sum(axis=0), (~truth).sum(axis=0)) >= params.probe_mutation.min_positives]
        if truth.shape[1]:
            X, grid = prepared(vectors[place[inside]]), np.array(params.probe_mutation.penalties)
            problems["mutation"].append(Problem(X, grid, Y=truth))
    for label, rows in times.groupby("label", sort=False):
        inside = first[(first.task == "survival") & (first.label == label)].patient_id.astype(object)
        known = rows.set_index("patient_id").loc[inside]
        if known.event.sum() >= params.probe_survival.min_events:
            X, grid = prepared(vectors[place[inside]]), np.array(params.probe_survival.penalties)
            time_days, event = known.time.to_numpy(np.float64), known.event.to_numpy(bool)
            problems["survival"].append(Problem(X, grid, time=time_days, event=event))
    return problems


def main() -> None:
    """Simulate, split, probe with the clock running, and write the problems of one fold."""
    folder, sizes = Path(sys.argv[1]), [int(text) for text in sys.argv[2:5]]
    cohort, vectors = simulated_cohort(*sizes[:2])
    params = settings(sizes[2])
    patients = probing_patients(cohort)
    labels = mutation_labels(cohort, patients, params.probe_mutation)
    splits = make_splits(cohort, params)
    split = set(splits.label[splits.task == "mutation"])
    ids = patients.types.index.tolist()
    start = time.perf_counter()
    mutation, _ = probe_mutation(
        vectors,
        ids,
        patients.types,
        labels[[label for label in labels.columns if label in split]],
        splits,
        transform=Transform(),
        penalties=params.probe_mutation.penalties,
        common_width=params.probe_mutation.common_width,
        hypermutated=patients.hypermutated,
        min_positives=params.probe_mutation.min_positives,
        n_jobs=PROCESSES,
    )
    between = time.perf_counter()
    survival, _, _ = probe_survival(
        vectors,
        ids,
        cohort.survival,
        splits,
        transform=Transform(),
        penalties=params.probe_survival.penalties,
        common_width=params.probe_survival.common_width,
        covariates=clinical_covariates(cohort, patients),
        min_events=params.probe_survival.min_events,
        n_jobs=PROCESSES,
    )
    end = time.perf_counter()
    probed = {"mutation": mutation, "survival": survival}
    result = {
        "seconds": end - start,
        "mutation_seconds": between - start,
        "patients": len(ids),
        "folds": params.splits.inner_folds,
        "labels": {task: sum(entry["mean"] is not None for entry in of.values()) for task, of in probed.items()},
    }
    (folder / "study.json").write_text(json.dumps(result), encoding="utf-8")
    for task, of_fold in fold_problems(cohort, patients, vectors, splits, params).items():
        (folder / task).mkdir()
        problems = of_fold[::SAMPLED] if task == "survival" else of_fold
        (folder / task / "count.txt").write_text(str(len(of_fold)), encoding="utf-8")
        ours = SIDES["ours_logistic" if task == "mutation" else "ours_breslow"]
        for number, problem in enumerate(problems):
            problem.save(folder / task / f"problem-{number}.npz")
            answer = ours.solve(problem, Options(repeats=1), None)
            reached = objectives(problem, answer.coef, answer.intercept, ours.ties)
            np.save(folder / task / f"reference-{number}.npy", reached)


if __name__ == "__main__":
    main()
