"""Planted against recovered: the true predictor on the encoders' own test patients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bulkprobe.files import write_json
from bulkprobe.stages.planted import mean_over_splits, planted_rows

PATIENTS = ["a", "b", "c", "d", "e", "f"]
TYPES = pd.Series(["KIRC", "KIRC", "KIRC", "GBM", "GBM", "GBM"], index=PATIENTS)
TRUTH = {
    "simulated": True,
    "genes": {"TP53": {"effect": 2.0, "strength": "strong"}, "BAP1": {"effect": 0.0, "strength": "none"}},
    "prognosis": {
        "KIRC": {"strength": "none"},
        "GBM": {"strength": "weak"},
        "LGG": {"strength": "strong"},
    },
}


@pytest.fixture(name="truth")
def fixture_truth(tmp_path: Path) -> Path:
    write_json(tmp_path / "truth.json", TRUTH)
    parts = {
        "TP53": [3.0, 1.0, 2.0, 9.0, 7.0, 8.0],  # the type alone would mislead
        "BAP1": [1.0, 1.0, 1.0, 2.0, 2.0, 2.0],  # constant within a type
        "survival": [1.0, 2.0, 3.0, 1.0, 2.0, 3.0],
    }
    rows = [
        (target, patient, score) for target, of in parts.items() for patient, score in zip(PATIENTS, of, strict=True)
    ]
    pd.DataFrame(rows, columns=["target", "patient_id", "score"]).to_parquet(tmp_path / "scores.parquet")
    return tmp_path


def predictions() -> pd.DataFrame:
    parts = []
    for label, truth in (
        ("pan_cancer/TP53", [True, False, False, True, False, False]),
        ("pan_cancer/BAP1", [True, False, False, True, False, False]),
        ("pan_cancer/KRAS_hotspot", [True, False, False, True, False, False]),
    ):
        part = {"task": "mutation", "label": label, "patient_id": PATIENTS, "truth": truth}
        parts.append(pd.DataFrame(part | {"time": np.nan, "event": None}))
    for label in ("KIRC/OS", "GBMLGG/OS"):
        chosen = PATIENTS[:3] if label == "KIRC/OS" else PATIENTS[3:]
        part = {"task": "survival", "label": label, "patient_id": chosen, "truth": None}
        parts.append(pd.DataFrame(part | {"time": [30.0, 20.0, 10.0], "event": True}))
    table = pd.concat(parts, ignore_index=True).assign(score=0.0)
    return pd.concat([table.assign(split=0), table.assign(split=1)], ignore_index=True)


MUTATION: dict[str, Any] = {
    "absent": {"labels": {}},
    "pca": {"labels": {"pan_cancer/TP53": {"mean": 0.7, "positives": 2, "within_type": {"mean": 0.6}}}},
}
SURVIVAL: dict[str, Any] = {"absent": {"labels": {}}, "pca": {"labels": {"GBMLGG/OS": {"mean": None, "events": 3}}}}


def test_the_true_predictor_is_scored_on_the_same_patients(truth: Path) -> None:
    rows = planted_rows(truth, {"pca": predictions()}, MUTATION, SURVIVAL, TYPES)
    assert rows is not None
    found = {(row["label"], row["measure"]): row for row in rows}
    assert set(found) == {
        ("pan_cancer/TP53", "AUROC"),
        ("pan_cancer/TP53", "within-type AUROC"),
        ("pan_cancer/BAP1", "AUROC"),
        ("pan_cancer/BAP1", "within-type AUROC"),
        ("KIRC/OS", "C-index"),
        ("GBMLGG/OS", "C-index"),
    }  # no hotspot labels: they are a part of what is planted
    # By hand: scores of the mutated 3 and 9 against 1, 2, 7, 8 win six of eight pairs, and all four within types.
    assert found["pan_cancer/TP53", "AUROC"]["true"] == 0.75
    assert found["pan_cancer/TP53", "within-type AUROC"]["true"] == 1.0
    assert found["pan_cancer/TP53", "AUROC"]["scores"] == {"absent": None, "pca": 0.7}
    assert found["pan_cancer/TP53", "within-type AUROC"]["scores"] == {"absent": None, "pca": 0.6}
    assert found["pan_cancer/TP53", "AUROC"]["positives"] == 2
    assert found["GBMLGG/OS", "C-index"]["true"] == 1.0
    assert found["GBMLGG/OS", "C-index"]["positives"] == 3
    assert found["KIRC/OS", "C-index"]["scores"] == {"absent": None, "pca": None}


def test_where_nothing_is_planted_the_yardstick_is_null_and_not_a_half(truth: Path) -> None:
    rows = planted_rows(truth, {"pca": predictions()}, MUTATION, SURVIVAL, TYPES)
    assert rows is not None
    (row,) = [r for r in rows if (r["label"], r["measure"]) == ("pan_cancer/BAP1", "within-type AUROC")]
    assert row["true"] is None
    assert row["strength"] == "none"


def test_a_group_is_as_strong_as_its_strongest_type(truth: Path) -> None:
    rows = planted_rows(truth, {"pca": predictions()}, MUTATION, SURVIVAL, TYPES)
    assert rows is not None
    strength = {row["label"]: row["strength"] for row in rows}
    assert strength["GBMLGG/OS"] == "strong"
    assert strength["KIRC/OS"] == "none"
    assert strength["pan_cancer/TP53"] == "strong"


def test_real_data_and_a_run_without_encoders_have_no_planted_rows(truth: Path, tmp_path: Path) -> None:
    assert planted_rows(truth, {}, {}, {}, TYPES) is None
    write_json(tmp_path / "real" / "truth.json", {"simulated": False})
    assert planted_rows(tmp_path / "real", {"pca": predictions()}, MUTATION, SURVIVAL, TYPES) is None


def test_undefined_splits_are_left_out_of_the_mean() -> None:
    table = pd.DataFrame({"split": [0, 0, 1, 1], "truth": [True, True, True, False], "score": [1.0, 2.0, 2.0, 1.0]})
    from bulkprobe.stages.planted import auroc_of

    assert mean_over_splits(table, auroc_of) == 1.0
    assert mean_over_splits(table[table.split == 0], auroc_of) is None
