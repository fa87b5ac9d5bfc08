"""The comparison as the page tells it: sentences that follow from the numbers, tables, figures and plot tables."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pandas as pd
import pytest
from test_page import parse, visible, with_encoders

from bulkprobe.report import comparison, comparison_figures, tables
from bulkprobe.report.context import ReportContext
from bulkprobe.report.page import render_page

ORDER = ["up", "down", "even", "void", "pca"]


def entry(mean: float | None, p: float | None = None, half: float = 0.02, **more: Any) -> dict[str, Any]:
    known = mean is not None
    return {
        **{"mean": mean, "sd": 0.01 if known else None, "effect": 1.5 if known else None, "n_splits": 10},
        **{"low": mean - half if known else None, "high": mean + half if known else None},
        **{"p_nadeau_bengio": p, "p_calibrated": p, "p_holm": p, "labels": ["x/y"] if known else [], "left_out": {}},
        "bootstrap": {"low": None, "high": None, "n_patients": None, "n_undefined": None, "reason": "none drawn"},
        "reason": None if known else "constant score",
        **more,
    }


def task(title: str, reference: dict[str, Any], to_best: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {
        **{"title": title, "measure": "auroc", "against_reference": reference, "against_twin": {}},
        **{"best": None, "mean": None, "not_distinguishable": [], "undecided": {}, "against_best": to_best or {}},
        **{"against_reference_common_width": {}, "own_width_minus_common_width": {}, **more},
    }


@pytest.fixture
def compare() -> dict[str, Any]:
    differs = {"up": entry(0.05, 0.01), "down": entry(-0.1, 0.0001), "even": entry(0.001, 0.9), "void": entry(None)}
    best = {"down": entry(-0.15, 0.001), "even": entry(-0.049, 0.2), "pca": entry(-0.05, 0.01), "void": entry(None)}
    return {
        **{"reference": "pca", "level": 0.95, "n_boot": 100, "common_width": None, "labels": {}, "added_value": {}},
        "encoders": {name: {"untrained": name == "down", "absent": None, "twin": None} for name in ORDER},
        "tasks": {
            "mutation_BRCA": task("BRCA", {"even": entry(0.001, 0.9), "void": entry(None)}),
            "mutation_COAD": task("COAD", {"void": entry(None)}),
            "mutation_pan_cancer": task(
                "Pan-cancer", differs, best, best="up", mean=0.8, not_distinguishable=["even"], undecided={"void": "x"}
            ),
        },
        "ranks": {
            "mutation": {
                **{"average_ranks": {"up": 1.25, "pca": 2.0, "down": 2.75}, "n_blocks": 4, "groups": [["up", "pca"]]},
                **{"critical_difference": 1.2, "friedman_p": 0.04, "left_out": {"void": "undefined on 4 of 4 labels"}},
                "reason": None,
            }
        },
    }


def test_sentences_follow_from_the_numbers(compare: dict[str, Any]) -> None:
    said = comparison.sentences(compare, ORDER)
    assert said == [
        (
            "Pan-cancer (AUROC)",
            "better than pca after correction: up (+0.050, +0.030 to +0.070); "
            "worse than pca after correction: down (−0.100, −0.120 to −0.080); "
            "even is not distinguishable from it; not compared, for undefined scores: void. "
            "Highest mean: up (0.800; lead over even +0.049, +0.029 to +0.069); not told apart from it: even.",
        ),
        (
            "BRCA (AUROC)",
            "no encoder is distinguishable from pca after correction; not compared, for undefined scores: void.",
        ),
        ("COAD (AUROC)", "nothing can be compared with pca (constant score)."),
        (
            "Trained against untrained",
            "no encoder has an untrained twin in this study, so nothing says what training itself gave.",
        ),
        ("Random stand-ins", "down learned nothing; what is said of them holds for no model."),
    ]


def test_the_significance_is_that_of_the_level(compare: dict[str, Any]) -> None:
    assert comparison.differs(compare, entry(0.1, 0.05))
    assert not comparison.differs(compare, entry(0.1, 0.0501))
    assert not comparison.differs({**compare, "level": 0.99}, entry(0.1, 0.05))


def test_a_best_whom_nobody_reaches_and_one_whom_all_reach(compare: dict[str, Any]) -> None:
    pan = compare["tasks"]["mutation_pan_cancer"]
    pan["not_distinguishable"] = []
    assert (
        "all compared encoders are told apart from it"
        in dict(comparison.sentences(compare, ORDER))["Pan-cancer (AUROC)"]
    )
    pan["not_distinguishable"] = ["down", "even", "pca"]
    assert "no other encoder is told apart from it" in dict(comparison.sentences(compare, ORDER))["Pan-cancer (AUROC)"]


def test_a_twin_is_named_with_its_interval(compare: dict[str, Any]) -> None:
    compare["encoders"]["up"]["twin"] = "down"
    compare["tasks"]["mutation_BRCA"]["against_twin"] = {"up": entry(0.15, 0.001)}
    said = dict(comparison.sentences(compare, ORDER))["Trained against untrained"]
    assert said == "up against down: BRCA (AUROC) +0.150, +0.130 to +0.170, differs."
    names = [table.name for table in comparison.tables_of(compare, ORDER)]
    assert names == ["to-reference", "to-twin", "to-best"]


def test_the_overview_marks_what_differs(compare: dict[str, Any]) -> None:
    compare["tasks"] = {"mutation_pan_cancer": compare["tasks"]["mutation_pan_cancer"]}
    table = comparison.overview(compare, ORDER)
    assert [row[1].text for row in table.rows] == ["+0.050 *", "−0.100 *", "+0.001", "–"]
    assert table.rows[0][1].spread == "+0.030 to +0.070"
    assert table.notes == ["constant score"]


def test_plot_tables_keep_reasons_and_ranks(compare: dict[str, Any]) -> None:
    differences = comparison.difference_plot(compare, ORDER).set_index(["panel", "encoder"])
    assert differences.loc[("Pan-cancer", "up"), ["low", "high", "p_holm"]].tolist() == pytest.approx(
        [0.03, 0.07, 0.01]
    )
    assert differences.loc[("COAD", "void"), "reason"] == "constant score"
    ranks = comparison.rank_plot(compare, ORDER).set_index("encoder")
    assert ranks.loc["up", "average_rank"] == 1.25
    assert ranks.loc["void", "reason"] == "undefined on 4 of 4 labels"
    assert list(comparison.difference_plot(None, ORDER).columns) == comparison.PLOT_COLUMNS
    assert comparison.rank_plot(None, ORDER).empty


def test_nothing_to_draw_gives_no_figure(compare: dict[str, Any]) -> None:
    pan = {"mutation_pan_cancer": compare["tasks"]["mutation_pan_cancer"]}
    assert comparison_figures.forest({**compare, "tasks": pan}, ORDER, {}) is not None
    assert comparison_figures.critical_difference(compare) is not None
    compare["tasks"] = {"mutation_COAD": compare["tasks"]["mutation_COAD"]}
    compare["ranks"]["mutation"]["average_ranks"] = {}
    assert comparison_figures.forest(compare, ORDER, {}) is None
    assert comparison_figures.critical_difference(compare) is None


def test_the_page_shows_the_comparison(page: str, report: ReportContext) -> None:
    text = visible(page)
    assert report.compare is not None
    found = report.compare["tasks"]["mutation_pan_cancer"]["against_reference"]["scgpt"]
    assert f"{found['mean']:+.3f}".replace("-", "−") in text
    assert "No encoder has an untrained twin" not in text
    assert "no encoder has an untrained twin in this study" in text
    identifiers = set(parse(page).identifiers)
    assert {"comparison", "t-differences", "t-to-reference", "t-to-best", "t-widths", "t-at-common"} <= identifiers
    assert {"t-added-OS", "t-added-PFI", "t-survival-means", "t-every-survival"} <= identifiers
    assert "f-forest-figure_1" in identifiers
    assert "f-ranks-figure_1" in identifiers


def test_without_a_comparison_the_section_is_left_out(report: ReportContext) -> None:
    small = dataclasses.replace(with_encoders(report, {"pca": "pca"}), compare=None)
    page = render_page(small)
    assert 'id="comparison"' not in page
    assert "stands under Comparison" not in visible(page)


def test_metrics_of_an_older_run_have_reasons_in_place_of_the_new_blocks(report: ReportContext) -> None:
    new = ("common_width", "uno_c", "integrated_brier", "clinical", "with_clinical", "added_value")

    def older(metrics: Any) -> dict[str, Any]:
        stripped = copy.deepcopy(dict(metrics))
        stripped.pop("common_width", None)
        for label in stripped["labels"].values():
            for block in new:
                label.pop(block, None)
        return stripped

    small = with_encoders(report, {"pca": "pca", "scgpt": "scgpt"})
    old = dataclasses.replace(
        small,
        mutation={name: older(metrics) for name, metrics in small.mutation.items()},
        survival={name: older(metrics) for name, metrics in small.survival.items()},
        compare=None,
    )
    assert tables.summarise(old.mutation, old.survival) == small.summary
    text = visible(render_page(old))
    assert "Uno's C was not computed" in text
    assert "The same at the common width" not in text
    assert "Added value over age, sex and stage" not in text


def test_survival_means_count_each_type_once(report: ReportContext) -> None:
    means = tables.survival_means(report.survival).set_index(["encoder", "endpoint", "measure"])
    labels = report.survival["pca"]["labels"]
    for measure in ("uno_c", "integrated_brier", "added_value"):
        known = [label[measure]["mean"] for label in labels.values() if label["endpoint"] == "PFI"]
        assert means.loc[("pca", "PFI", measure), "mean"] == pytest.approx(sum(known) / len(known), abs=1e-6)
    assert means.loc[("pca", "OS", "own"), "mean"] == report.summary["pca"]["survival"]
    assert pd.isna(means.loc[("clinical", "OS", "common_width"), "mean"])
    assert "narrower" in means.loc[("clinical", "OS", "common_width"), "reason"]


def test_the_headline_stands_at_both_widths(report: ReportContext) -> None:
    common = tables.task_table(report.mutation, report.survival, common=True).set_index(["encoder", "task"])
    labels = report.mutation["pca"]["labels"]
    within = [labels[name]["common_width"]["within_type"]["mean"] for name in labels if name.startswith("pan_cancer/")]
    assert common.loc[("pca", "mutation_within_type"), "mean"] == pytest.approx(sum(within) / len(within), abs=1e-6)
    assert tables.common_width(report.mutation, report.survival) == 64
    assert tables.common_width({}, {}) is None


def test_equal_reasons_with_other_counts_are_one() -> None:
    assert tables.without_counts("constant score (n 204, pairs 416)") == "constant score"
    assert tables.without_counts("too few events: 9 of 27 patients") == "too few events: 9 of 27 patients"
