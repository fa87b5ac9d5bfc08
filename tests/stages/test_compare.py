"""What the stage `compare` says of differences, from scores small enough to average by hand and from the pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bulkprobe.errors import UserError
from bulkprobe.files import read_json, write_json
from bulkprobe.params import load_params
from bulkprobe.report.tables import TASKS
from bulkprobe.stages import compare, comparing
from bulkprobe.stages.comparing import Study, Unit
from bulkprobe.statistics import paired_test
from workspace import copy_workspace, inside, shared_workspace

SPLITS = 5


def scored(cohort: str, values: list[float | None], common: list[float | None] | None = None) -> dict[str, Any]:
    entry: dict[str, Any] = {"cohort": cohort, "kind": "nonsilent", "per_split": values, "mean": None, "reason": None}
    known = [value for value in values if value is not None]
    if len(known) == len(values):
        entry["mean"] = float(np.mean(known))
    else:
        entry["reason"] = f"undefined in {len(values) - len(known)} of {len(values)} splits: constant score"
    if common is not None:
        entry["common_width"] = {"width": 4, "per_split": common, "mean": float(np.mean(np.array(common, float)))}
    return entry


def around(mean: float, seed: int) -> list[float]:
    return [float(value) for value in mean + np.random.default_rng(seed).normal(0, 0.01, SPLITS).round(6)]


def make_study(**encoders: dict[str, Any]) -> Study:
    """Encoders with BRCA labels and one of survival, as the probes write them."""
    metrics = {}
    for name, labels in encoders.items():
        head = {"absent": None, **labels.pop("head", {})}
        mutation = {label: entry for label, entry in labels.items() if not label.endswith("/OS")}
        survival = {label: {**entry, "endpoint": "OS"} for label, entry in labels.items() if label.endswith("/OS")}
        metrics[name] = {"mutation": {**head, "labels": mutation}, "survival": {**head, "labels": survival}}
    return Study(metrics, test_fraction=0.2, level=0.95)


@pytest.fixture(name="study")
def fixture_study() -> Study:
    nothing: list[float | None] = [None] * SPLITS
    return make_study(
        pca={
            "BRCA/TP53": scored("BRCA", around(0.7, 1), around(0.65, 8)),
            "BRCA/PIK3CA": scored("BRCA", around(0.6, 2)),
        },
        good={"BRCA/TP53": scored("BRCA", around(0.9, 3)), "BRCA/PIK3CA": scored("BRCA", around(0.8, 4))},
        same={"BRCA/TP53": scored("BRCA", around(0.7, 5)), "BRCA/PIK3CA": scored("BRCA", around(0.605, 6))},
        part={"BRCA/TP53": scored("BRCA", around(0.99, 7)), "BRCA/PIK3CA": scored("BRCA", nothing)},
        gone={"head": {"absent": "switched off"}},
    )


def test_a_difference_is_the_mean_over_labels_of_every_split(study: Study) -> None:
    units = comparing.task_units(study)["mutation_BRCA"]
    entry = comparing.against(study, units, "pca")["good"]
    a, b = (study.metrics[name]["mutation"]["labels"] for name in ("good", "pca"))
    by_hand = [
        np.mean([a[label]["per_split"][split] - b[label]["per_split"][split] for label in a]) for split in range(SPLITS)
    ]
    expected = paired_test(by_hand, 0.2)
    assert entry["mean"] == pytest.approx(np.mean(by_hand), abs=1e-6)
    assert (entry["n_splits"], entry["labels"], entry["left_out"]) == (SPLITS, ["BRCA/TP53", "BRCA/PIK3CA"], {})
    assert entry["p_calibrated"] == pytest.approx(expected.p_calibrated, rel=1e-3)
    assert entry["p_nadeau_bengio"] < entry["p_calibrated"] <= entry["p_holm"]
    assert entry["low"] < 0.2 < entry["high"]


def test_only_labels_defined_for_both_enter_a_pair(study: Study) -> None:
    units = comparing.task_units(study)["mutation_BRCA"]
    entries = comparing.against(study, units, "pca")
    assert entries["part"]["labels"] == ["BRCA/TP53"]
    assert entries["part"]["left_out"] == {"BRCA/PIK3CA": "part: undefined in 5 of 5 splits: constant score"}
    assert entries["part"]["mean"] == pytest.approx(0.29, abs=0.02)
    assert entries["gone"]["mean"] is None
    assert entries["gone"]["p_holm"] is None
    assert entries["gone"]["reason"] == "no label is defined for both (gone: switched off)"


def test_holm_counts_the_tested_encoders_only(study: Study) -> None:
    units = [Unit("BRCA/TP53", "auroc")]
    entries = comparing.against(study, units, "pca")
    p = sorted(entry["p_calibrated"] for name, entry in entries.items() if name != "gone")
    smallest = min(entries.values(), key=lambda entry: entry["p_calibrated"] or 1.0)
    assert smallest["p_holm"] == pytest.approx(3 * p[0], rel=1e-3)


def test_the_best_needs_every_label_and_is_named_with_its_equals(study: Study) -> None:
    units = comparing.task_units(study)["mutation_BRCA"]
    found = comparing.against_best(study, units)
    assert found["best"] == "good"  # "part" is higher, on one label of two
    assert found["not_distinguishable"] == []
    assert set(found["undecided"]) == {"gone"}
    close = comparing.against_best(Study({k: study.metrics[k] for k in ("pca", "same")}, 0.2, 0.95), units)
    assert {close["best"], *close["not_distinguishable"]} == {"pca", "same"}


def test_without_any_defined_label_there_is_no_best(study: Study) -> None:
    found = comparing.against_best(study, comparing.task_units(study)["mutation_LUAD"])
    assert (found["best"], found["against_best"], found["reason"]) == (None, {}, "no label is defined")


def test_own_width_against_common_width(study: Study) -> None:
    units = comparing.task_units(study)["mutation_BRCA"]
    found = comparing.widths(study, units)
    assert found["pca"]["labels"] == ["BRCA/TP53"]
    assert found["pca"]["mean"] == pytest.approx(0.05, abs=0.02)
    assert found["pca"]["bootstrap"]["reason"] == comparing.NO_BOOTSTRAP
    assert "good: not probed at a common width" in found["good"]["reason"]


def test_added_value_is_clinical_with_and_without_the_embedding() -> None:
    clinical, both = around(0.6, 1), around(0.65, 2)
    label = {
        **scored("LUAD", around(0.7, 3)),
        "clinical": {"per_split": clinical},
        "with_clinical": {"per_split": both},
    }
    study = make_study(pca={"LUAD/OS": label}, bare={"LUAD/OS": scored("LUAD", around(0.7, 4))})
    found = comparing.added_value(study, comparing.survival_units(study, "OS"))
    assert found["pca"]["mean"] == pytest.approx(np.mean(np.subtract(both, clinical)), abs=1e-6)
    assert found["pca"]["p_holm"] == found["pca"]["p_calibrated"]
    assert "bare: not joined with clinical data" in found["bare"]["reason"]
    assert comparing.survival_units(study, "PFI") == []


def test_comparison_at_the_common_width() -> None:
    within = {"per_split": around(0.62, 5), "reason": None}
    label = {**scored("pan_cancer", around(0.8, 6), around(0.75, 7)), "within_type": {"per_split": around(0.6, 8)}}
    label["common_width"]["within_type"] = within
    study = make_study(pca={"pan_cancer/TP53": label}, twice={"pan_cancer/TP53": label})
    unit = Unit("pan_cancer/TP53", comparing.WITHIN)
    assert study.scores("pca", unit, "common_width") == within["per_split"]
    found = comparing.against(study, [unit], "pca", "common_width")["twice"]
    assert (found["mean"], found["p_holm"]) == (0.0, 1.0)


def test_twins_by_name_and_by_header() -> None:
    label = {"BRCA/TP53": scored("BRCA", around(0.7, 1))}
    study = make_study(
        scgpt=dict(label),
        scgpt_untrained=dict(label),
        cellfm=dict(label),
        noise={**label, "head": {"twin_of": "cellfm"}},
        lonely=dict(label),
        pure_untrained=dict(label),
    )
    twins = comparing.twins_of(study)
    assert twins == {"scgpt": "scgpt_untrained", "cellfm": "noise", "lonely": None, "pure_untrained": None}
    entries = comparing.against_twin(study, [Unit("BRCA/TP53", "auroc")], twins)
    assert set(entries) == {"scgpt", "cellfm"}
    assert (entries["scgpt"]["mean"], entries["scgpt"]["p_holm"]) == (0.0, 1.0)
    assert compare._encoder({"untrained": True}, "lonely", twins)["twin_reason"] == (
        "the study has no untrained twin of lonely"
    )
    assert "untrained twin itself" in compare._encoder({}, "noise", twins)["twin_reason"]


def test_ranks_leave_out_encoders_that_lack_a_label(study: Study) -> None:
    found = comparing.ranks(study, comparing.task_units(study))
    assert found["mutation"]["average_ranks"]["good"] == 1.0
    assert found["mutation"]["left_out"] == {
        "part": "undefined on 1 of 2 labels",
        "gone": "undefined on 2 of 2 labels",
    }
    assert found["mutation"]["n_blocks"] == 2
    assert found["survival"]["average_ranks"] == {}
    assert found["survival"]["reason"] == "fewer than two encoders"


def test_small_p_values_are_never_zero() -> None:
    steady = [0.3 + 1e-7 * step for step in range(10)]
    study = make_study(
        pca={"BRCA/TP53": scored("BRCA", [0.5] * 10)}, x={"BRCA/TP53": scored("BRCA", [0.5 + s for s in steady])}
    )
    entry = comparing.against(study, [Unit("BRCA/TP53", "auroc")], "pca")["x"]
    assert 0 < entry["p_calibrated"] < 1e-20


@pytest.fixture(name="made", scope="module")
def fixture_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_workspace(tmp_path_factory)


@pytest.mark.xdist_group("workspace")
def test_the_stage_compares_tasks_and_labels(made: Path) -> None:
    content = read_json(made / "metrics/compare.json")
    metrics = {name: read_json(made / f"metrics/mutation/{name}.json")["labels"] for name in ("pca", "expression")}
    assert set(content["tasks"]) == set(TASKS)
    assert (content["reference"], content["simulated"], content["n_boot"]) == ("pca", True, 50)
    assert set(content["encoders"]) == {"pca", "expression", "cancer_type"}
    entry = content["labels"]["pan_cancer/TP53"]["auroc"]["against_reference"]["expression"]
    difference = metrics["expression"]["pan_cancer/TP53"]["mean"] - metrics["pca"]["pan_cancer/TP53"]["mean"]
    assert entry["mean"] == pytest.approx(difference, abs=2e-6)
    assert entry["bootstrap"]["low"] <= entry["mean"] <= entry["bootstrap"]["high"]
    predictions = pd.read_parquet(made / "data/predictions/pca.parquet")
    tested = predictions[predictions.label == "pan_cancer/TP53"].patient_id.nunique()
    assert entry["bootstrap"]["n_patients"] == tested
    within = content["labels"]["pan_cancer/TP53"]["within_type_auroc"]["against_reference"]
    assert "constant score" in within["cancer_type"]["reason"]
    assert within["cancer_type"]["bootstrap"]["low"] is None
    survival = content["tasks"]["survival"]["against_reference"]["expression"]
    assert survival["labels"] == content["ranks"]["survival"]["labels"]
    assert content["tasks"]["survival"]["against_twin"] == {}


@pytest.mark.xdist_group("workspace")
def test_the_stage_gives_the_same_bytes_again(made: Path, tmp_path: Path) -> None:
    copy = copy_workspace(made, tmp_path / "copy")
    before = (copy / "metrics/compare.json").read_bytes()
    (copy / "metrics/compare.json").unlink()
    with inside(copy):
        said = compare.main()
    assert (copy / "metrics/compare.json").read_bytes() == before
    assert "metrics/compare.json is written" in said


@pytest.mark.xdist_group("workspace")
def test_predictions_that_are_not_those_of_the_metrics_are_refused(made: Path, tmp_path: Path) -> None:
    copy = copy_workspace(made, tmp_path / "copy")
    path = copy / "metrics/survival/pca.json"
    content = read_json(path)
    content["labels"]["GBMLGG/OS"]["per_split"][1] += 0.001
    write_json(path, content)
    with (
        inside(copy),
        pytest.raises(UserError, match=r"GBMLGG/OS, split 1 of pca: the metrics say c_index .*dvc repro"),
    ):
        compare.main()
    write_json(path, read_json(made / "metrics/survival/pca.json"))
    predictions = copy / "data/predictions/expression.parquet/mutation.parquet"
    table = pd.read_parquet(predictions)
    predictions.unlink()
    chosen = (table.label == "pan_cancer/TP53") & (table.split == 2)
    table.drop(table.index[chosen][:1]).to_parquet(predictions)
    with inside(copy), pytest.raises(UserError, match=r"split 2: expression was tested on other patients than pca"):
        compare.main()
    table[table.label != "pan_cancer/TP53"].to_parquet(predictions)
    with inside(copy), pytest.raises(UserError, match=r"pan_cancer/TP53 of expression has metrics but no predictions"):
        compare.main()


@pytest.mark.xdist_group("workspace")
def test_without_draws_the_tests_stay(made: Path) -> None:
    with inside(made):
        params = load_params()
        metrics = {
            name: {task: read_json(Path(f"metrics/{task}/{name}.json")) for task in ("mutation", "survival")}
            for name in params.encoders
        }
        content = compare.run(metrics, {}, pd.Series(dtype=str), params, n_boot=0)
    full = read_json(made / "metrics/compare.json")
    entry, known = (one["tasks"]["survival"]["against_reference"]["expression"] for one in (content, full))
    assert entry["bootstrap"]["reason"] == "without predictions there is nothing to draw"
    assert {key: value for key, value in entry.items() if key != "bootstrap"} == {
        key: value for key, value in known.items() if key != "bootstrap"
    }
