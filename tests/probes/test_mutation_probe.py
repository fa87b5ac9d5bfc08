from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from bulkprobe.errors import UserError
from bulkprobe.probes.metrics import auroc, average_precision, within_type_auroc
from bulkprobe.probes.mutation import informative_types, probe_mutation
from bulkprobe.probes.transform import Transform
from bulkprobe.splits import Cohort, assemble

if TYPE_CHECKING:
    from tests.probes.conftest import Study

PENALTIES = [1e-3, 1e-2, 1e-1, 1.0]
STRONG, NONE, RARE, SINGLE = "pan_cancer/TP53", "pan_cancer/KRAS_hotspot", "pan_cancer/BAP1", "BRCA/TP53"


def run(study: Study, **changes: Any) -> tuple[dict[str, Any], pd.DataFrame]:
    settings: dict[str, Any] = {
        "embedding": study.embedding,
        "patients": study.patients,
        "types": study.types,
        "labels": study.labels,
        "splits": study.splits,
        "transform": Transform(),
        "penalties": PENALTIES,
        "hypermutated": study.hypermutated,
        "n_jobs": 1,
    }
    return probe_mutation(**{**settings, **changes})


def same(one: tuple[dict[str, Any], pd.DataFrame], other: tuple[dict[str, Any], pd.DataFrame]) -> bool:
    pd.testing.assert_frame_equal(one[1], other[1], check_exact=True)
    return json.dumps(one[0], sort_keys=True) == json.dumps(other[0], sort_keys=True)


def test_metrics_follow_from_predictions(study: Study) -> None:
    metrics, predictions = run(study)
    json.dumps(metrics, allow_nan=False)
    found = metrics[STRONG]
    assert found["mean"] > 0.8
    assert 0.3 < metrics[NONE]["mean"] < 0.7
    assert found["n"] == 180
    assert metrics[NONE]["n"] == 174
    assert found["kind"] == "nonsilent"
    assert (metrics[NONE]["gene"], metrics[NONE]["kind"]) == ("KRAS", "hotspot")
    flagged = study.hypermutated.fillna(False).astype(bool)
    for split, rows in predictions[predictions["label"] == STRONG].groupby("split"):
        truth, score = rows["truth"].to_numpy(dtype=bool), rows["score"].to_numpy()
        names = rows["patient_id"].astype(str).to_numpy()
        types = study.types[names].to_numpy()
        assert found["per_split"][split] == round(auroc(truth, score), 6)
        assert found["average_precision"]["per_split"][split] == round(average_precision(truth, score), 6)
        assert found["within_type"]["per_split"][split] == round(within_type_auroc(truth, score, types).value, 6)
        keep = ~flagged[names].to_numpy()
        assert found["without_hypermutated"]["per_split"][split] == round(auroc(truth[keep], score[keep]), 6)
        table = study.splits[(study.splits["label"] == STRONG) & (study.splits["split"] == split)]
        assert set(names) == set(table.loc[table["role"] == "test", "patient_id"].astype(str))
        assert (truth == study.labels.loc[names, STRONG].to_numpy(dtype=bool)).all()
    assert found["mean"] == pytest.approx(np.mean(found["per_split"]), abs=1e-6)
    assert found["sd"] == pytest.approx(np.std(found["per_split"], ddof=1), abs=1e-6)
    assert found["without_hypermutated"]["n"] == 180 - int(flagged.sum())
    assert len(found["tuning_curve"]) == len(PENALTIES)
    assert found["informative_types"]["types"] == ["BRCA", "COAD", "LUAD"]
    assert "within_type" not in metrics[SINGLE]
    assert "informative_types" not in metrics[SINGLE]
    assert predictions["time"].isna().all()


def test_too_few_positives_are_null_with_counts(study: Study) -> None:
    metrics, predictions = run(study)
    rare = metrics[RARE]
    assert rare["mean"] is None
    assert rare["per_split"] == [None] * 3
    assert "4 mutated and 176 wild type of 180 patients" in rare["reason"]
    for part in ("average_precision", "within_type", "without_hypermutated", "informative_types"):
        assert rare[part]["mean"] is None
    assert RARE not in set(predictions["label"])
    lone = run(study, labels=study.labels[[RARE]], min_positives=4)[0][RARE]
    assert lone["mean"] is None or all(value is not None for value in lone["per_split"])
    assert (
        run(study, labels=study.labels[[STRONG]], hypermutated=None)[0][STRONG]["without_hypermutated"]["mean"] is None
    )


def test_where_no_hypermutation_is_known_there_is_no_result_without_it(study: Study) -> None:
    nothing = pd.Series(pd.NA, index=study.hypermutated.index, dtype="boolean")
    part = run(study, labels=study.labels[[STRONG]], hypermutated=nothing)[0][STRONG]["without_hypermutated"]
    assert part["mean"] is None
    assert part["reason"] == "hypermutation is not known in this cohort"
    assert part["n"] is None


def test_neither_order_nor_processes_change_a_byte(study: Study) -> None:
    first = run(study)
    assert same(run(study, n_jobs=2), first)
    mixed = np.random.default_rng(3).permutation(len(study.patients))
    moved = run(
        study,
        embedding=study.embedding[mixed],
        patients=[study.patients[k] for k in mixed],
        types=study.types.sample(frac=1, random_state=0),
        labels=study.labels.sample(frac=1, random_state=1),
        splits=study.splits.sample(frac=1, random_state=2),
        hypermutated=study.hypermutated.sample(frac=1, random_state=3),
    )
    assert same(moved, first)


@pytest.mark.parametrize("transform", [Transform(), Transform("pca", 5), Transform("hvg", 8)])
def test_nothing_of_the_test_part_reaches_the_model(study: Study, transform: Transform) -> None:
    """Other values in a test patient's row change that patient's score and no other's: not a bit of the model."""
    splits = study.splits[study.splits["split"] == 0]
    labels = study.labels[[STRONG]]
    role = splits[splits["label"] == STRONG].set_index("patient_id")["role"].astype(str)
    tested = [place for place, name in enumerate(study.patients) if role[name] == "test"]
    _, before = run(study, splits=splits, labels=labels, transform=transform)
    changed = study.embedding.copy()
    changed[tested[1:]] = 1000 * np.random.default_rng(4).normal(size=(len(tested) - 1, changed.shape[1]))
    flipped = labels.copy()
    flipped.iloc[tested] = ~flipped.iloc[tested]
    _, after = run(study, embedding=changed, splits=splits, labels=flipped, transform=transform)
    kept = study.patients[tested[0]]
    score = [float(table.loc[table["patient_id"] == kept, "score"].iloc[0]) for table in (before, after)]
    assert score[0] == score[1]
    assert (before["truth"] != after["truth"]).all()


def test_a_feature_that_leaks_in_test_rows_only_earns_nothing(study: Study) -> None:
    splits = study.splits[study.splits["split"] == 0]
    labels = study.labels[[NONE]]
    role = splits[splits["label"] == NONE].set_index("patient_id")["role"].astype(str)
    tested = np.array([role.get(name, "") == "test" for name in study.patients])
    truth = labels[NONE].fillna(False).to_numpy(dtype=bool)
    found = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        noise = rng.normal(size=(180, 1))
        leak = np.where(tested[:, None], 3.0 * truth[:, None] - 1.5, noise)
        honest = np.where(tested[:, None], rng.permutation(leak[tested, 0])[np.cumsum(tested) - 1][:, None], noise)
        pair = [
            run(study, embedding=np.hstack([study.embedding, extra]), splits=splits, labels=labels)
            for extra in (leak, honest)
        ]
        assert pair[0][0][NONE]["penalty"] == pair[1][0][NONE]["penalty"]
        assert pair[0][0][NONE]["tuning_curve"] == pair[1][0][NONE]["tuning_curve"]
        found.append(pair[0][0][NONE]["mean"] - pair[1][0][NONE]["mean"])
    # The weight of a feature that is noise in training has either sign, so a leak cannot gain on average.
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(len(found)) + 0.02


def test_shuffled_labels_score_one_half(study: Study) -> None:
    means = []
    for seed in range(15):
        shuffled = pd.DataFrame(
            {STRONG: np.random.default_rng(seed).permutation(study.labels[STRONG].to_numpy(dtype=bool))},
            index=study.labels.index,
        )
        site = pd.Series("S", index=study.labels.index)
        cohort = Cohort("mutation", "pan_cancer", study.types, shuffled.rename(columns={STRONG: "TP53"}), site)
        splits = assemble([cohort], n_splits=2, inner_folds=2, seed=seed)
        means.append(run(study, labels=shuffled, splits=splits)[0][STRONG]["mean"])
    assert abs(np.mean(means) - 0.5) < 3 * np.std(means, ddof=1) / np.sqrt(len(means))
    assert abs(np.mean(means) - 0.5) < 0.06


def test_an_encoder_of_the_type_alone_has_no_value_within_types(study: Study) -> None:
    one_hot = pd.get_dummies(study.types).loc[study.patients].to_numpy(dtype=np.float32)
    for transform in (Transform(), Transform("pca", 2)):
        metrics, _ = run(study, embedding=one_hot, transform=transform)
        assert metrics[STRONG]["mean"] > 0.5
        assert metrics[STRONG]["within_type"]["mean"] is None
        assert "constant score within every cancer type" in metrics[STRONG]["within_type"]["reason"]
        assert metrics[SINGLE]["mean"] is None
        assert metrics[SINGLE]["reasons"]["0"].startswith("constant score")


def test_a_split_without_a_class_is_null_with_reason(study: Study) -> None:
    splits = study.splits[study.splits["label"] == STRONG].copy()
    positive = study.labels.index[study.labels[STRONG].to_numpy(dtype=bool)]
    in_first = (splits["split"] == 0) & splits["patient_id"].isin(positive)
    splits["role"], splits["fold"] = splits["role"].astype(str), splits["fold"].astype(int)
    splits.loc[in_first & (splits["role"] == "test"), "fold"] = 0
    splits.loc[in_first, "role"] = "train"
    found = run(study, splits=splits, labels=study.labels[[STRONG]])[0][STRONG]
    assert found["mean"] is None
    assert found["per_split"][0] is None
    assert found["per_split"][1] is not None
    assert found["reasons"]["0"].startswith("one class only (positives 0")
    assert found["reason"].startswith("undefined in 1 of 3 splits")
    splits.loc[in_first, ["role", "fold"]] = ["test", -1]
    found = run(study, splits=splits, labels=study.labels[[STRONG]])[0][STRONG]
    assert found["reasons"]["0"].startswith("one class only in training")
    assert found["penalty"][0] is None


def test_informative_types_need_patients_and_share() -> None:
    truth = np.array([True] * 16 + [False] * 16 + [True] * 15 + [False] * 50 + [True] * 16 + [False] * 400)
    types = np.array(["A"] * 32 + ["B"] * 65 + ["C"] * 416, dtype=object)
    assert informative_types(truth, types) == ["A"]


def test_refusals(study: Study) -> None:
    for changes, match in (
        ({"patients": study.patients[1:], "embedding": study.embedding[1:]}, "have no row in the embedding"),
        ({"patients": study.patients[1:]}, "give one row for each patient"),
        ({"patients": [*study.patients[1:], study.patients[1]]}, "stand twice in the embedding"),
        ({"embedding": np.full_like(study.embedding, np.nan)}, r"NaN or infinite values for .*180 in all"),
        ({"labels": study.labels.iloc[1:]}, "have no label row"),
        ({"labels": pd.concat([study.labels, study.labels])}, "stand twice in the labels"),
        ({"labels": study.labels.rename(columns={STRONG: "pan_cancer/XYZ"})}, "no mutation rows for pan_cancer/XYZ"),
        ({"types": study.types.iloc[1:]}, "Patients without a cancer type"),
        ({"types": pd.concat([study.types, study.types])}, "stand twice in the cancer types"),
        ({"penalties": [0.0]}, "distinct positive numbers"),
        ({"n_jobs": 0}, "n_jobs is 0"),
    ):
        with pytest.raises(UserError, match=match):
            run(study, **changes)
