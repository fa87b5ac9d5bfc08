"""A leak is impossible to miss: end to end through the stages, nothing of a test patient is read before scoring."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bulkprobe.cohort.read import Cohort, read_cohort
from bulkprobe.files import file_hash, read_json, write_json
from bulkprobe.params import Params
from bulkprobe.probes.metrics import auroc, harrell_c
from bulkprobe.stages import cohort as cohort_stage
from bulkprobe.stages import embed, probe_mutation, probe_survival, probing, weights
from bulkprobe.stages import splits as splits_stage
from bulkprobe.stages.tasks import make_splits
from bulkprobe.store import Store
from pipeline import ENCODERS, small_params
from workspace import inside, shared_workspace

pytestmark = pytest.mark.xdist_group("workspace")
N, WIDTH = 240, 12
TRANSFORMS = {"none": {"kind": "none"}, "pca": {"kind": "pca", "size": 6}, "hvg": {"kind": "hvg", "size": 8}}
RUNS = {"mutation": probe_mutation.run, "survival": probe_survival.run}
LABELS = {"mutation": "pan_cancer/TP53", "survival": "RCC/OS"}
REPEATS = 6
SPREAD = 0.5  # of the planted column among test patients; 1 among those of training


@pytest.fixture(autouse=True)
def fixture_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "CORES", 1)


@pytest.fixture(name="made", scope="module")
def fixture_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_workspace(tmp_path_factory)


def study(seed: int) -> tuple[Cohort, np.ndarray, Params, pd.DataFrame]:
    """Patients whose embedding carries a middling signal of both tasks, and one split of them."""
    rng = np.random.default_rng([907, seed])
    ids = [f"P{i:03d}" for i in range(N)]
    rows = rng.normal(size=(N, WIDTH))
    samples = pd.DataFrame(
        {
            "sample_id": [f"{name}-01" for name in ids],
            "patient_id": ids,
            "cancer_type": np.where(np.arange(N) % 2, "KIRC", "KIRP"),
            "site": "A1",
            "hypermutated": pd.array([False] * N, dtype="boolean"),
            "for_probing": True,
            "age": 50.0 + np.arange(N) % 31,
            "sex": np.where(np.arange(N) % 3, "female", "male"),
            "stage": np.array(["I", "II", "III", "IV"])[np.arange(N) % 4],
        }
    )
    mutated = rng.random(N) < 1 / (1 + np.exp(-1.2 * rows[:, 0]))
    mutations = pd.DataFrame({"patient_id": ids, "gene": "TP53", "mutated": mutated, "hotspot": False})
    survival = pd.DataFrame(
        {
            "patient_id": ids,
            "endpoint": "OS",
            "time_days": rng.exponential(900 * np.exp(-0.8 * rows[:, 1])) + 1,
            "event": rng.random(N) < 0.7,
        }
    )
    content = small_params()
    content["base"]["seed"] = seed
    content["splits"] |= {"n_splits": 1, "inner_folds": 3}
    content["probe_mutation"] |= {"genes": ["TP53"], "hotspot_genes": [], "within_type": {}}
    content["probe_survival"] |= {"types": ["RCC"]}
    params = Params.model_validate(content)
    provenance = {"source": "simulated"}
    cohort = Cohort(samples, survival, mutations, {"rules": []}, provenance, Path("expression.zarr"))
    return cohort, rows, params, make_splits(cohort, params)


def target_of(task: str, cohort: Cohort) -> np.ndarray:
    """What a perfect score would be: the mutation status, or minus the survival time."""
    if task == "mutation":
        return cohort.mutations.mutated.to_numpy(float)
    return -np.log(cohort.survival.time_days.to_numpy())


def probe(
    task: str, transform: str, cohort: Cohort, rows: np.ndarray, params: Params, splits: pd.DataFrame
) -> tuple[dict[str, Any], pd.Series]:
    """The label's entry of the metrics file and the scores of its test patients, by patient."""
    attributes = {"probe_transform": TRANSFORMS[transform]}
    store = Store(rows.astype(np.float32), cohort.samples.sample_id.tolist(), attributes)
    content, predictions = RUNS[task](store, "x", cohort, splits, params)
    scores = predictions.set_index(predictions.patient_id.astype(str)).score
    return content["labels"][LABELS[task]], scores


def who_is_tested(task: str, cohort: Cohort, splits: pd.DataFrame) -> np.ndarray:
    rows = splits[(splits.label == LABELS[task]) & (splits.role == "test")]
    return np.asarray(cohort.samples.patient_id.isin(rows.patient_id.astype(str)))


@pytest.mark.parametrize("task", ["mutation", "survival"])
@pytest.mark.parametrize("transform", list(TRANSFORMS))
def test_a_feature_that_varies_among_test_patients_only_changes_no_byte(task: str, transform: str) -> None:
    """It is the label itself, a thousandfold: whoever looks at test rows to scale, choose or rotate must see it."""
    cohort, rows, params, splits = study(1)
    tested = who_is_tested(task, cohort, splits)
    planted = np.where(tested, 1000 * target_of(task, cohort), 0.0)
    without = probe(task, transform, cohort, np.column_stack([rows, np.zeros(N)]), params, splits)
    with_label = probe(task, transform, cohort, np.column_stack([rows, planted]), params, splits)
    assert without[0] == with_label[0]
    pd.testing.assert_series_equal(without[1], with_label[1], check_exact=True)
    assert without[0]["mean"] is not None


@pytest.mark.parametrize("task", ["mutation", "survival"])
@pytest.mark.parametrize("transform", list(TRANSFORMS))
def test_a_label_in_test_rows_only_earns_nothing(task: str, transform: str) -> None:
    """A column of noise in training rows: in test rows the label, the label shuffled, or noise of the same spread.

    What is fitted is the same to the last bit: the penalty, the tuning curve, and the column's weight, so the scores
    of the three differ by one number times the difference of the columns. With the training noise turned round that
    number turns its sign, so what the label wins by one it loses by the other: the mean gain over such pairs lies
    within four of its standard errors of zero, and these are small.
    """
    gains = np.zeros((REPEATS, 2, 2))
    used = 0
    for seed in range(REPEATS):
        cohort, rows, params, splits = study(seed)
        rng = np.random.default_rng([11, seed])
        tested, target = who_is_tested(task, cohort, splits), target_of(task, cohort)
        noise = rng.normal(size=N)
        label = (target - target[tested].mean()) / target[tested].std()
        in_test = {"label": label, "shuffled": np.zeros(N), "noise": noise}
        in_test["shuffled"][tested] = rng.permutation(label[tested])
        weights = []
        for turn, sign in enumerate((1.0, -1.0)):
            columns = {name: np.where(tested, SPREAD * values, sign * noise) for name, values in in_test.items()}
            results = {
                name: probe(task, transform, cohort, np.column_stack([rows, column]), params, splits)
                for name, column in columns.items()
            }
            entry, scores = results["label"]
            for number, name in enumerate(("shuffled", "noise")):
                other, other_scores = results[name]
                for key in ("penalty", "tuning_curve", "grid_edge_hits", "n"):
                    assert entry[key] == other[key], (seed, name, key)
                place = cohort.samples.patient_id.to_numpy()[tested]
                change = (columns["label"] - columns[name])[tested]
                gap = (scores - other_scores).loc[place].to_numpy()
                weight = float(gap @ change / (change @ change))
                np.testing.assert_allclose(gap, weight * change, atol=2e-6)
                gains[seed, turn, number] = entry["mean"] - other["mean"]
            weights.append(weight)
        assert weights[0] == pytest.approx(-weights[1], abs=1e-5)
        used += weights[0] != 0
    assert used >= REPEATS / 4  # the column does reach the model, in every transform
    gain = gains.mean(axis=(1, 2))
    error = gain.std(ddof=1) / np.sqrt(REPEATS)
    assert error < 0.01  # a label that is seen would bring the score from 0.7 to 1
    assert abs(gain.mean()) < 4 * error


@pytest.mark.parametrize("task", ["mutation", "survival"])
def test_the_planted_label_would_be_seen_if_training_rows_held_it(task: str) -> None:
    cohort, rows, params, splits = study(0)
    target = target_of(task, cohort)
    params = params.model_copy(
        update={"probe_survival": params.probe_survival.model_copy(update={"penalties": [1.0, 0.001]})}
    )
    seen, _ = probe(task, "none", cohort, np.column_stack([rows, 5 * target]), params, splits)
    plain, _ = probe(task, "none", cohort, rows, params, splits)
    assert seen["mean"] > 0.97
    assert plain["mean"] < 0.9


# ------------------------------------------------ several samples of one patient


def add_columns(raw: Path, added: dict[str, str], first: bool) -> None:
    """Give samples a second time under another id: the values of quite another sample."""
    for name in ("tcga_gene_expected_count.gz", "tcga_RSEM_gene_tpm.gz"):
        with gzip.open(raw / name, "rt") as handle:
            table = [line.rstrip("\n").split("\t") for line in handle]
        places = [table[0].index(source) for source in added.values()]
        lines = []
        for number, row in enumerate(table):
            more = list(added) if number == 0 else [row[place] for place in places]
            lines.append("\t".join([row[0], *more, *row[1:]] if first else [*row, *more]))
        (raw / name).unlink()
        with gzip.open(raw / name, "wt") as handle:
            handle.write("\n".join(lines) + "\n")
    source = read_json(raw / "source.json")
    for name, entry in source["files"].items():
        entry |= {"bytes": (raw / name).stat().st_size, "sha256": file_hash(raw / name)}
    write_json(raw / "source.json", source)


@pytest.mark.parametrize("first", [True, False], ids=["before the others", "after the others"])
def test_a_second_sample_of_a_patient_changes_no_split_and_no_score(made: Path, tmp_path: Path, first: bool) -> None:
    people = read_cohort(made / "data/cohort").probing
    tumours = people[people.sample_type == "01"]
    chosen = tumours[tumours.cancer_type.isin(["KIRC", "GBM", "BRCA"])].sample_id.tolist()[:9]
    kinds = ["06", "02", "01B", "11", "06", "02", "01B", "11", "06"]  # metastasis, recurrence, second vial, normal
    others = tumours.sample_id.tolist()[::-1]
    added = {f"{sample[:12]}-{kind}": others[i] for i, (sample, kind) in enumerate(zip(chosen, kinds, strict=True))}
    had = set(read_cohort(made / "data/cohort").samples.sample_id)
    added = {name: source for name, source in added.items() if name not in had}
    assert len(added) >= 6
    folder = tmp_path / "again"
    folder.mkdir()
    (folder / "params.yaml").write_bytes((made / "params.yaml").read_bytes())
    (folder / "data/raw").mkdir(parents=True)
    for path in (made / "data/raw").iterdir():
        (folder / "data/raw" / path.name).write_bytes(path.read_bytes())
    add_columns(folder / "data/raw", added, first)
    with inside(folder):
        cohort_stage.main()
        splits_stage.main()
    again = read_cohort(folder / "data/cohort")
    assert set(added) <= set(again.samples.sample_id)
    assert sorted(again.probing.sample_id) == sorted(people.sample_id)
    assert not again.probing.patient_id.duplicated().any()
    assert (folder / "data/splits.parquet").read_bytes() == (made / "data/splits.parquet").read_bytes()
    for name in ENCODERS:
        with inside(folder, name):
            for stage in (weights, embed, probe_mutation, probe_survival):
                stage.main()
        for result in (
            f"metrics/mutation/{name}.json",
            f"metrics/survival/{name}.json",
            f"data/predictions/{name}.parquet/mutation.parquet",
            f"data/predictions/{name}.parquet/survival.parquet",
        ):
            assert (folder / result).read_bytes() == (made / result).read_bytes(), result


def test_a_patient_stands_once_in_every_split_and_in_one_inner_fold(made: Path) -> None:
    splits = pd.read_parquet(made / "data/splits.parquet")
    several = read_cohort(made / "data/cohort").samples.patient_id.value_counts()
    several = set(several.index[several > 1])
    assert len(several & set(splits.patient_id)) > 5  # such patients are there to be got wrong
    once = splits.groupby(["task", "label", "split", "patient_id"], observed=True).size()
    assert (once == 1).all()
    assert ((splits.fold == -1) == (splits.role == "test")).all()
    assert set(splits.fold[splits.role == "train"]) == {0, 1}
    # Labels of one cohort share their split: nobody trains one label of a cohort and tests another.
    splits["cohort"] = splits.label.astype(str).str.split("/").str[0]
    roles = splits.groupby(["task", "cohort", "split", "patient_id"], observed=True)[["role", "fold"]].nunique()
    assert (roles == 1).all(axis=None)


# ------------------------------------------------ who is predicted


def predictions_of(made: Path, name: str) -> pd.DataFrame:
    table = pd.read_parquet(made / f"data/predictions/{name}.parquet")
    return table.astype({"patient_id": str, "label": str, "task": str})


@pytest.mark.parametrize("name", ENCODERS)
def test_predictions_hold_every_test_patient_once_and_nobody_else(made: Path, name: str) -> None:
    keys = ["task", "label", "split", "patient_id"]
    table = predictions_of(made, name)
    splits = pd.read_parquet(made / "data/splits.parquet")
    tested = splits[splits.role == "test"].astype({"patient_id": str, "label": str, "task": str})
    predicted = set(table.label)
    for label in set(tested.label) - predicted:
        task = tested.task[tested.label == label].iloc[0]
        entry = read_json(made / f"metrics/{task}/{name}.json")["labels"][label]
        assert entry["mean"] is None, label
        assert entry["reason"], label
    tested = tested[tested.label.isin(predicted)]
    assert not table.duplicated(keys).any()
    assert sorted(table[keys].itertuples(index=False)) == sorted(tested[keys].itertuples(index=False))
    assert np.isfinite(table.score).all()


@pytest.mark.parametrize("name", ENCODERS)
def test_normals_and_unprofiled_patients_are_never_wild_type(made: Path, name: str) -> None:
    cohort = read_cohort(made / "data/cohort")
    truth = json.loads((made / "data/truth/truth.json").read_text())
    probing_patients = set(cohort.probing.patient_id)
    unprofiled = set(truth["unprofiled"])
    normals_only = set(cohort.samples.patient_id) - probing_patients
    assert unprofiled & probing_patients
    assert (cohort.samples.sample_type == "11").any()
    table = predictions_of(made, name)
    mutation = table[table.task == "mutation"]
    assert not set(mutation.patient_id) & unprofiled
    assert not set(table.patient_id) & normals_only
    called = cohort.mutations.set_index(["gene", "patient_id"])
    for label, part in mutation.groupby("label"):
        gene = label.split("/")[1].removesuffix("_hotspot")
        kind = "hotspot" if label.endswith("_hotspot") else "mutated"
        known = called.loc[gene][kind].reindex(part.patient_id)
        assert known.notna().all()  # a wild type is somebody who was profiled and had no call
        assert (known.to_numpy(bool) == part.truth.to_numpy(bool)).all()
    follow_up = cohort.survival.set_index(["endpoint", "patient_id"]).loc["OS"]
    survival = table[table.task == "survival"]
    assert (follow_up.time_days.reindex(survival.patient_id).to_numpy() == survival.time.to_numpy()).all()
    assert (follow_up.event.reindex(survival.patient_id).to_numpy(bool) == survival.event.to_numpy(bool)).all()


def test_metrics_are_those_of_the_predictions_alone(made: Path) -> None:
    table = predictions_of(made, "pca")
    for task in ("mutation", "survival"):
        labels = read_json(made / f"metrics/{task}/pca.json")["labels"]
        for (label, split), part in table[table.task == task].groupby(["label", "split"]):
            if task == "mutation":
                again = auroc(part.truth.to_numpy(bool), part.score.to_numpy())
            else:
                again = harrell_c(part.time.to_numpy(float), part.event.to_numpy(bool), part.score.to_numpy())
            assert labels[label]["per_split"][split] == pytest.approx(again, abs=6e-7)
