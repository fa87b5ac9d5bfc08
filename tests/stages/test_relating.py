"""What goes with transfer across models: which models enter, which are left out and why, and what is said."""

from __future__ import annotations

from typing import Any

import pytest
from scipy import stats

from bulkprobe.stages.relating import PREDICTORS, SEEN_NOTHING, relate

NAMES = [f"model_{letter}" for letter in "abcdef"]


def metrics(within: float, survival: float | None, **head: Any) -> dict[str, Any]:
    """What the probes write of one encoder: one pan-cancer gene and one cancer type."""
    head = {"absent": None, "untrained": False, "simulated": True, **head}
    blocks = {"mean": within, "per_split": [within], "reason": None}
    gene = {"cohort": "pan_cancer", "kind": "nonsilent", **blocks, "within_type": blocks}
    type_ = {"cohort": "LUAD", "endpoint": "OS", "mean": survival, "per_split": [survival], "reason": "no events"}
    return {
        "mutation": {**head, "labels": {"pan_cancer/TP53": gene}},
        "survival": {**head, "labels": {"LUAD/OS": type_}},
    }


def shift(domain: float, **head: Any) -> dict[str, Any]:
    mean = {"mean": 0.1}
    return {
        **{"kind": "foundation", "absent": None, "parameters": 1000, "training_samples": 5000, "trained_on": "bulk"},
        "input": {"reason": None, "bulk": {"lost_to_vocabulary": mean, "lost_to_length": {"mean": domain / 10}}},
        "space": {
            **{"reason": None, "bulk": {"effective_rank": 10 * domain}, "mmd": {"value": domain, "reason": None}},
            "domain_auroc": {"value": domain, "reason": None},
        },
        **head,
    }


def biology(recovery: float, circular: str | None = None) -> dict[str, Any]:
    block = {
        **{"reason": None, "recovery": {"mean": recovery, "circular": None, "reason": None}},
        "without_paralogs": {"mean": None, "circular": None, "reason": "no paralog is known"},
        "coexpression": {"r2": recovery - 0.4, "circular": circular, "reason": None},
    }
    return {"absent": None, "vectors": {"input": block, "contextual": {"reason": "not cheap"}}}


def related(**changes: Any) -> dict[str, Any]:
    """Six models whose recovery rises with within-type AUROC, but for one neighbouring pair."""
    within = [0.60, 0.61, 0.62, 0.63, 0.64, 0.65]
    recovery = [0.50, 0.52, 0.51, 0.53, 0.54, 0.55]
    given: dict[str, Any] = {
        "metrics": {name: metrics(w, 0.55) for name, w in zip(NAMES, within, strict=True)},
        "shift": {name: shift(0.9 - r) for name, r in zip(NAMES, recovery, strict=True)},
        "biology": {name: biology(r) for name, r in zip(NAMES, recovery, strict=True)},
        "models": NAMES,
        "twins": [],
        **changes,
    }
    return relate(*(given[key] for key in ("metrics", "shift", "biology", "models", "twins")), seed=1, level=0.95)


def relation_of(found: dict[str, Any], predictor: str, transfer: str = "within_type_auroc") -> dict[str, Any]:
    return next(t for t in found["tests"] if (t["predictor"], t["transfer"]) == (predictor, transfer))


def test_rho_and_exact_p_of_six_models() -> None:
    found = related()
    test = relation_of(found, "biology_recovery")
    # One neighbouring pair swapped: rho = 1 - 6 * 2 / (6 * 35); 6 orders of 720 each way are no less extreme.
    assert (test["n"], test["exact"], test["permutations"]) == (6, True, 720)
    assert test["spearman"] == pytest.approx(1 - 12 / 210, abs=1e-6)
    assert test["p"] == pytest.approx(12 / 720, rel=1e-3)
    falling = relation_of(found, "shift_domain_auroc")
    assert falling["spearman"] == pytest.approx(-test["spearman"])
    rows = {row["encoder"]: row for row in found["rows"]}
    x, y = ([rows[n][side][key] for n in NAMES] for side, key in (("predictors", "shift_mmd"), ("transfer", "c_index")))
    assert len(set(y)) == 1  # all models reach the same C-index: undefined, not 0
    assert relation_of(found, "shift_mmd", "c_index")["reason"] == "one side is the same for all"
    lost = [rows[name]["predictors"]["shift_lost"] for name in NAMES]
    assert lost == pytest.approx([0.1 + value / 10 for value in x])
    within = [rows[n]["transfer"]["within_type_auroc"] for n in NAMES]
    assert relation_of(found, "shift_lost")["spearman"] == pytest.approx(
        stats.spearmanr(lost, within).statistic, abs=1e-6
    )


def test_all_relations_are_corrected_together() -> None:
    found = related()
    tested = [t["p"] for t in found["tests"] if t["p"] is not None]
    smallest = min(found["tests"], key=lambda t: t["p"] or 1.0)
    assert smallest["p_holm"] == pytest.approx(min(1.0, len(tested) * smallest["p"]), rel=1e-2)
    said = relation_of(found, "biology_recovery")["sentence"]
    assert said.startswith("Over 6 encoders: the relation between set recovery and within-type AUROC does not outlast")
    assert found["sentence"].startswith(f"Over 6 encoders: of {len(tested)} relations to transfer, none can be told")


def test_a_circular_score_is_left_out_and_named() -> None:
    scores = {name: biology(0.5 + 0.01 * place) for place, name in enumerate(NAMES)}
    scores["model_c"] = biology(0.9, circular="its graph is co-expression")
    found = related(biology=scores)
    test = relation_of(found, "biology_coexpression")
    assert test["n"] == 5
    assert test["left_out"] == {"model_c": "circular by construction: its graph is co-expression"}
    assert test["sentence"].startswith("Over 5 encoders")
    assert test["sentence"].endswith("Left out as circular: model_c.")
    assert relation_of(found, "biology_recovery")["n"] == 6  # only what the prior makes circular


def test_four_models_conclude_nothing_and_three_have_no_number() -> None:
    four = related(models=NAMES[:4])
    test = relation_of(four, "biology_recovery")
    assert (test["n"], test["p"]) == (4, pytest.approx(8 / 24, rel=1e-3))
    assert "Over 4 encoders: too few to conclude anything about set recovery" in test["sentence"]
    assert "too few to conclude" in four["sentence"]
    three = relation_of(related(models=NAMES[:3]), "biology_recovery")
    assert (three["spearman"], three["p"], three["p_holm"]) == (None, None, None)
    assert three["reason"] == "3 pairs; at least 4 are needed"


def test_twins_absent_and_unlisted_models_are_left_out_with_reason() -> None:
    given = {name: metrics(0.6 + 0.01 * place, 0.5 + 0.01 * place) for place, name in enumerate(NAMES)}
    given["model_a"] = metrics(0.6, 0.5, absent="no weights are here")
    found = related(metrics=given, twins=["model_b"], shift={n: shift(0.5) for n in NAMES if n != "model_c"})
    assert found["left_out"] == {"model_a": "no weights are here", "model_b": "an untrained twin"}
    assert found["n_encoders"] == 4
    assert relation_of(found, "shift_mmd")["left_out"] == {"model_c": "not in shift.encoders of params.yaml"}
    reasons = set(relation_of(found, "biology_without_paralogs")["left_out"].values())
    assert reasons == {"no paralog is known"}


def test_a_stand_in_has_seen_nothing() -> None:
    given = {name: metrics(0.6 + 0.01 * place, 0.5, untrained=True) for place, name in enumerate(NAMES)}
    found = related(metrics=given)
    for predictor in ("training_samples", "trained_on_bulk"):
        assert set(relation_of(found, predictor)["left_out"].values()) == {SEEN_NOTHING}
    assert found["untrained"] == NAMES
    assert "Over 6 encoders, all of them untrained stand-ins: " in relation_of(found, "biology_recovery")["sentence"]
    trained = related()["rows"][0]["predictors"]
    assert (trained["training_samples"], trained["trained_on_bulk"], trained["parameters"]) == (5000, 1, 1000)


def test_a_strong_relation_is_told_with_its_direction() -> None:
    names = [f"m{place:02d}" for place in range(12)]
    found = related(
        metrics={name: metrics(0.6 + 0.01 * place, 0.5) for place, name in enumerate(names)},
        shift={name: shift(0.9 - 0.01 * place) for place, name in enumerate(names)},
        biology={},
        models=names,
    )
    test = relation_of(found, "shift_domain_auroc")
    assert (test["exact"], test["permutations"]) == (False, 9999)
    assert "Over 12 encoders: within-type AUROC falls with domain AUROC (Spearman −1.00" in test["sentence"]
    assert "names no cause" in test["sentence"]
    assert "domain AUROC and within-type AUROC" in found["sentence"]
    assert found == related(
        metrics={name: metrics(0.6 + 0.01 * place, 0.5) for place, name in enumerate(names)},
        shift={name: shift(0.9 - 0.01 * place) for place, name in enumerate(names)},
        biology={},
        models=names,
    )


def test_without_any_model_every_relation_is_undefined() -> None:
    found = related(models=[])
    assert len(found["tests"]) == 2 * len(PREDICTORS)
    assert all(test["reason"].startswith("0 pairs") for test in found["tests"])
    assert found["sentence"].startswith("Over no encoder: too few")
