"""A small study with planted signal for the tests of both probes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from bulkprobe.splits import Cohort, assemble

PATIENTS = 180


@dataclass(frozen=True)
class Study:
    """embedding: rows of `patients`; labels, splits and the rest as the probes take them."""

    embedding: np.ndarray
    patients: list[str]
    types: pd.Series
    labels: pd.DataFrame
    survival: pd.DataFrame
    splits: pd.DataFrame
    hypermutated: pd.Series


@pytest.fixture(name="study", scope="session")
def fixture_study() -> Study:
    rng = np.random.default_rng(0)
    ids = [f"P{number:03d}" for number in rng.permutation(PATIENTS)]
    types = pd.Series(rng.choice(["BRCA", "COAD", "LUAD"], PATIENTS), index=ids)
    embedding = rng.normal(size=(PATIENTS, 20)).astype(np.float32)
    embedding[:, 1] += types.map({"BRCA": 0, "COAD": 2, "LUAD": -2}).to_numpy()
    strong = pd.array(2 * embedding[:, 0] + 0.5 * embedding[:, 1] + rng.logistic(size=PATIENTS) > 0.5, dtype="boolean")
    absent = pd.array(rng.random(PATIENTS) < 0.4, dtype="boolean")
    rare = pd.array(np.arange(PATIENTS) < 4, dtype="boolean")
    labels = pd.DataFrame(
        {"pan_cancer/TP53": strong, "pan_cancer/KRAS_hotspot": absent, "pan_cancer/BAP1": rare}, index=ids
    )
    labels.iloc[:6, 1] = pd.NA
    labels["BRCA/TP53"] = labels["pan_cancer/TP53"].where(types == "BRCA")
    time = rng.exponential(size=PATIENTS) * np.exp(-embedding[:, 0].astype(float)) * 900 + 1
    event = rng.random(PATIENTS) < 0.7
    first = pd.DataFrame({"patient_id": ids, "endpoint": "OS", "time_days": np.ceil(time), "event": event})
    second = first.assign(endpoint="PFI", event=event & (np.arange(PATIENTS) % 40 == 0))
    survival = pd.concat([first, second], ignore_index=True)
    sites = pd.Series([f"S{k}" for k in rng.integers(0, 9, PATIENTS)], index=ids)
    events = survival.pivot(index="patient_id", columns="endpoint", values="event")
    cohorts = [
        Cohort("mutation", name, types, labels.filter(like=f"{name}/").rename(columns=lambda x: x.split("/")[1]), sites)
        for name in ("pan_cancer", "BRCA")
    ]
    cohorts += [
        Cohort("survival", name, types, events.loc[[p for p in events.index if name in ("all", types[p])]], sites)
        for name in ("all", "LUAD")
    ]
    splits = assemble(cohorts, n_splits=3, inner_folds=2, seed=1)
    hypermutated = pd.Series(pd.array(rng.random(PATIENTS) < 0.1, dtype="boolean"), index=ids)
    hypermutated.iloc[0] = pd.NA
    return Study(embedding, ids, types, labels, survival, splits, hypermutated)
