"""Probes on another cohort: what must be equal, the library size that travels, scores there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest

from bulkprobe.cohort.read import Cohort
from bulkprobe.errors import UserError
from bulkprobe.params import load_params, with_settings
from bulkprobe.stages.applying import genes_lost, made_like, require_same, scores
from bulkprobe.stages.embed_input import embed_input
from bulkprobe.stages.probe_lines import told
from bulkprobe.store import read_attributes, read_store
from encoders.made import made_counts, made_genes
from workspace import inside

TOP = Path(__file__).resolve().parents[1]
GENES = made_genes(250, seed=1)


def write(path: Path, seed: int, times: int = 1) -> Path:
    counts = made_counts(5, 250, seed=seed) * times
    var = GENES.set_index(GENES.ensembl_id.astype(str), drop=False).rename_axis(None)
    anndata.AnnData(counts, pd.DataFrame(index=[f"S{i}" for i in range(5)]), var).write_h5ad(path)
    return path


def test_the_library_size_travels(tmp_path: Path) -> None:
    with inside(tmp_path):
        ours, theirs = write(tmp_path / "a.h5ad", 2), write(tmp_path / "b.h5ad", 3, times=4)
        embed_input("scfoundation", ours, tmp_path / "a.zarr", release="untrained")
        embed_input("scfoundation", theirs, tmp_path / "b.zarr", release="untrained")
        trained, other = read_attributes(tmp_path / "a.zarr"), read_attributes(tmp_path / "b.zarr")
        number = trained["target_sum"]
        said = rf"target_sum {number} \(the median of its own cohort\), but .* again with --set target_sum={number}, or"
        with pytest.raises(UserError, match=said):
            require_same(trained, other, tmp_path / "b.zarr")
        like = made_like(tmp_path / "a.zarr")
        assert like.options["target_sum"] == number
        embed_input("scfoundation", theirs, tmp_path / "c.zarr", like=tmp_path / "a.zarr")
        embed_input("scfoundation", theirs, tmp_path / "d.zarr", release="untrained", options={"target_sum": number})
        for name in ("c.zarr", "d.zarr"):
            require_same(trained, read_attributes(tmp_path / name), tmp_path / name)
        same = read_store(tmp_path / "c.zarr").embedding
        np.testing.assert_array_equal(same, read_store(tmp_path / "d.zarr").embedding)
        assert not np.allclose(same, read_store(tmp_path / "b.zarr").embedding)
        with pytest.raises(UserError, match="was made with scfoundation, not with pca: embed with scfoundation"):
            embed_input("pca", theirs, tmp_path / "e.zarr", like=tmp_path / "a.zarr")
        fewer = anndata.read_h5ad(theirs)[:, :200].copy()
        fewer.write_h5ad(tmp_path / "f.h5ad")
        with pytest.raises(UserError, match="was made with another checkpoint"):
            embed_input("scfoundation", tmp_path / "f.h5ad", tmp_path / "f.zarr", like=tmp_path / "a.zarr")


@pytest.mark.parametrize(
    ("key", "advice"),
    [("genes_sha256", "of the same genes"), ("values", "on the same scale"), ("options", "embed --like PROBES")],
)
def test_what_must_be_equal(key: str, advice: str) -> None:
    trained: dict[str, Any] = {"model": "pca", "options": {"components": 8}, "values": "x", "genes_sha256": "y"}
    require_same(trained, dict(trained), Path("s"))
    with pytest.raises(UserError, match=advice):
        require_same(trained, trained | {key: {"components": 9} if key == "options" else "z"}, Path("s"))


def test_genes_that_are_missing_are_said() -> None:
    trained = {"genes_matched": 240, "genes_of_model": 250}
    assert genes_lost(trained, trained) is None
    assert genes_lost({}, trained) is None  # a baseline's genes are the cohort's
    said = genes_lost(trained, trained | {"genes_matched": 90})
    assert said == "the encoder met 90 of its 250 genes here and 240 in the training cohort: scores may suffer"


def other_cohort() -> Cohort:
    n = 8
    samples = pd.DataFrame(
        {
            "sample_id": [f"S{i}" for i in range(n)],
            "patient_id": [f"P{i}" for i in range(n)],
            "cancer_type": ["KIRC"] * 5 + ["KIRP"] * 3,
            "site": None,
            "hypermutated": False,
            "for_probing": [True] * 7 + [False],
        }
    )
    patients = samples.patient_id
    survival = pd.DataFrame({"patient_id": patients, "endpoint": "OS", "time_days": np.arange(n) + 1.0, "event": True})
    status = [True, False, True, False, False, True, True, True]
    mutations = pd.DataFrame({"patient_id": patients, "gene": "BAP1", "mutated": status, "hotspot": pd.NA})
    return Cohort(samples, survival, mutations, {}, {}, Path())


def test_scores_elsewhere() -> None:
    tables = [
        pd.DataFrame({"task": task, "label": label, "sample_id": [f"S{i}" for i in range(8)], "score": score})
        for task, label, score in (
            ("survival", "KIRC/OS", -np.arange(8.0)),
            ("survival", "KIRC/PFI", -np.arange(8.0)),
            ("mutation", "KIRC/BAP1", np.array([3.0, 1, 2, 0, 2.5, 1, 1, 1])),
        )
    ]
    assert list(scores(pd.concat(tables), other_cohort())) == [
        "survival KIRC/OS on KIRC: C-index 1.000 (5 patients, 5 events)",
        "survival KIRC/OS on KIRP: C-index 1.000 (2 patients, 2 events)",
        "survival KIRC/PFI: the cohort does not say PFI of any patient",
        "mutation KIRC/BAP1 on KIRC: AUROC 0.833 (5 patients, 2 mutated)",
        "mutation KIRC/BAP1 on KIRP: undefined, one class only (2 patients)",
        "mutation KIRC/BAP1 on all types: AUROC 0.667 (7 patients, 4 mutated)",
    ]
    with pytest.raises(UserError, match="no patient of the store"):
        list(scores(tables[0].assign(sample_id="X"), other_cohort()))


def test_settings_in_place_of_params() -> None:
    params = load_params(TOP / "params.yaml")
    changed = with_settings(params, {"probe_survival.types": ["ACC"], "splits.n_splits": 4})
    assert changed.probe_survival.types == ["ACC"]
    assert changed.splits.n_splits == 4
    assert changed.probe_mutation == params.probe_mutation
    with pytest.raises(UserError, match="has the unknown key 'typs'; did you mean 'types'"):
        with_settings(params, {"probe_survival.typs": ["ACC"]})
    with pytest.raises(UserError, match=r"--set: splits\.n_splits is 0"):
        with_settings(params, {"splits.n_splits": 0})


def test_a_line_a_label() -> None:
    whole = {"n": 50, "events": 20, "mean": 0.65432, "sd": 0.02}
    labels = {
        "KIRC/OS": whole,
        "KIRC/PFI": {"n": 30, "events": 2, "mean": None, "reason": "too few events: 2"},
        "ACC/OS": {"n": 0, "events": 0, "mean": None, "reason": "nobody"},
    }
    content = {"task": "survival", "labels": labels, "protocol": {"n_splits": 10}}
    assert list(told(content)) == [
        "KIRC/OS: C-index 0.654 ± 0.020 over 10 splits (50 patients, 20 events)",
        "KIRC/PFI: no C-index (too few events: 2)",
    ]
