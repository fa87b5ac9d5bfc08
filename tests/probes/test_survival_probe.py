from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from bulkprobe.errors import UserError
from bulkprobe.probes import units
from bulkprobe.probes.metrics import harrell_c
from bulkprobe.probes.survival import overall, probe_survival
from bulkprobe.probes.transform import Transform

if TYPE_CHECKING:
    from tests.probes.conftest import Study

Found = tuple[dict[str, Any], dict[str, Any], pd.DataFrame]


def run(study: Study, **changes: Any) -> Found:
    settings: dict[str, Any] = {
        "embedding": study.embedding,
        "patients": study.patients,
        "survival": study.survival,
        "splits": study.splits,
        "transform": Transform(),
        "penalties": [1e-3, 1e-2, 1e-1, 1.0],
        "n_jobs": 1,
    }
    return probe_survival(**{**settings, **changes})


def same(one: Found, other: Found) -> bool:
    pd.testing.assert_frame_equal(one[2], other[2], check_exact=True)
    return json.dumps(one[:2], sort_keys=True) == json.dumps(other[:2], sort_keys=True)


def test_metrics_follow_from_predictions(study: Study) -> None:
    metrics, means, predictions = run(study, advice={"all/OS": "short follow-up"})
    json.dumps([metrics, means], allow_nan=False)
    found = metrics["all/OS"]
    assert found["mean"] > 0.65
    assert found["n"] == 180
    assert found["advice"] == "short follow-up"
    assert metrics["LUAD/OS"]["advice"] is None
    for split, rows in predictions[predictions["label"] == "all/OS"].groupby("split"):
        c = harrell_c(rows["time"], rows["event"].to_numpy(dtype=bool), rows["score"])
        assert found["per_split"][split] == round(c, 6)
    assert predictions["truth"].isna().all()
    few = metrics["all/PFI"]
    assert few["mean"] is None
    assert f"too few events: {few['events']} of 180 patients" in few["reason"]
    assert means["PFI"] == {"mean": None, "types": 0, "undefined": ["LUAD/PFI", "all/PFI"]}
    assert means["OS"]["mean"] == pytest.approx((found["mean"] + metrics["LUAD/OS"]["mean"]) / 2, abs=1e-6)


def test_neither_order_nor_processes_change_a_byte(study: Study) -> None:
    first = run(study)
    assert same(run(study, n_jobs=2), first)
    mixed = np.random.default_rng(3).permutation(len(study.patients))
    moved = run(
        study,
        embedding=study.embedding[mixed],
        patients=[study.patients[k] for k in mixed],
        survival=study.survival.sample(frac=1, random_state=1),
        splits=study.splits.sample(frac=1, random_state=2),
    )
    assert same(moved, first)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_long_run_begins_with_an_estimate(
    study: Study, n_jobs: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(study, n_jobs=n_jobs)
    assert "at most about" not in capsys.readouterr().err
    monkeypatch.setattr(units, "LONG_RUN", 0.0)
    run(study, n_jobs=n_jobs)
    assert capsys.readouterr().err.count("survival probes: at most about 1 minutes\n") == 1


@pytest.mark.parametrize("transform", [Transform(), Transform("pca", 5)])
def test_nothing_of_the_test_part_reaches_the_model(study: Study, transform: Transform) -> None:
    splits = study.splits[study.splits["split"] == 0]
    role = splits[splits["label"] == "all/OS"].set_index("patient_id")["role"].astype(str)
    tested = [place for place, name in enumerate(study.patients) if role[name] == "test"]
    names = {study.patients[k] for k in tested}
    changed = study.embedding.copy()
    changed[tested[1:]] = 1000 * np.random.default_rng(4).normal(size=(len(tested) - 1, changed.shape[1]))
    other = study.survival.copy()
    here = other["patient_id"].isin(names)
    other.loc[here, "time_days"] *= 17
    other.loc[here, "event"] = ~other.loc[here, "event"]
    _, _, before = run(study, splits=splits, labels=["all/OS"], transform=transform)
    _, _, after = run(study, embedding=changed, survival=other, splits=splits, labels=["all/OS"], transform=transform)
    kept = study.patients[tested[0]]
    score = [float(table.loc[table["patient_id"] == kept, "score"].iloc[0]) for table in (before, after)]
    assert score[0] == score[1]
    assert not np.allclose(before["score"], after["score"])


def test_shuffled_outcomes_score_one_half(study: Study) -> None:
    means = []
    first = study.survival[study.survival["endpoint"] == "OS"]
    for seed in range(15):
        mixed = np.random.default_rng(seed).permutation(len(first))
        shuffled = first.assign(patient_id=first["patient_id"].to_numpy()[mixed])
        means.append(run(study, survival=shuffled, labels=["all/OS"])[0]["all/OS"]["mean"])
    assert abs(np.mean(means) - 0.5) < 3 * np.std(means, ddof=1) / np.sqrt(len(means))


def test_undefined_splits_and_constant_scores(study: Study) -> None:
    constant = run(study, embedding=np.ones_like(study.embedding), labels=["all/OS"])
    assert constant[0]["all/OS"]["mean"] is None
    assert constant[0]["all/OS"]["reasons"]["0"].startswith("constant score")
    splits = study.splits[study.splits["label"] == "all/OS"].copy()
    splits["role"], splits["fold"] = splits["role"].astype(str), splits["fold"].astype(int)
    died = study.survival.loc[(study.survival["endpoint"] == "OS") & study.survival["event"], "patient_id"]
    deaths = (splits["split"] == 1) & splits["patient_id"].isin(died)
    splits.loc[deaths, ["role", "fold"]] = ["test", -1]
    found = run(study, splits=splits)[0]["all/OS"]
    assert found["reasons"]["1"].startswith("no event in the training part")
    assert found["mean"] is None
    splits.loc[deaths, ["role", "fold"]] = ["train", 0]
    found = run(study, splits=splits)[0]["all/OS"]
    assert found["reasons"]["1"].startswith("no comparable pair")
    assert found["per_split"][0] is not None


def test_overall_takes_the_plain_mean() -> None:
    entry = {"endpoint": "OS", "mean": 0.6}
    found = overall({"A/OS": entry, "B/OS": {**entry, "mean": 0.8}, "C/OS": {**entry, "mean": None}})
    assert found == {"OS": {"mean": 0.7, "types": 2, "undefined": ["C/OS"]}}


def test_refusals(study: Study) -> None:
    zero = study.survival.copy()
    zero.loc[0, "time_days"] = 0.0
    gone = study.survival.drop(index=0)
    for changes, match in (
        ({"survival": zero}, "is not above 0 days for"),
        ({"survival": gone}, "have no follow-up"),
        ({"survival": pd.concat([gone, gone])}, "stand twice in the survival table for OS"),
        ({"survival": study.survival[study.survival["endpoint"] == "OS"]}, "no endpoint 'PFI'; it has OS"),
        ({"labels": ["XYZ/OS"]}, "no survival rows for XYZ/OS"),
        ({"patients": study.patients[1:], "embedding": study.embedding[1:]}, "have no row in the embedding"),
    ):
        with pytest.raises(UserError, match=match):
            run(study, **changes)
