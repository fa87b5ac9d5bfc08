"""The page: valid, self-contained, deterministic, and honest about what is missing."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from typing import Any

import pandas as pd
import pytest
from fakes import block

from bulkprobe.report import figures, tables
from bulkprobe.report.context import ReportContext
from bulkprobe.report.drawings import composition
from bulkprobe.report.page import render_page, split_count

VOID = {"meta", "br", "hr", "img", "input", "link", "col", "wbr"}
HOSTILE = "<script>alert('x')</script>\"&$\\frac{1}$"


class Balance(HTMLParser):
    """Checks that every element is closed in order and collects identifiers, links and shown text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.identifiers: list[str] = []
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.shown: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name == "id":
                self.identifiers.append(value or "")
            elif name in ("src", "href", "xlink:href", "srcset", "data", "action"):
                (self.links if tag == "a" else self.loaded).append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.shown.append(data)


def parse(page: str) -> Balance:
    parser = Balance()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def visible(page: str) -> str:
    return re.sub(r"\s+", " ", "".join(parse(page).shown))


def with_encoders(report: ReportContext, names: dict[str, str]) -> ReportContext:
    """A report with encoders copied under other names (new -> old), without curves: they take longest to draw."""
    mutation = {new: report.mutation[old] for new, old in names.items()}
    survival = {new: report.survival[old] for new, old in names.items()}
    return dataclasses.replace(
        report,
        summary=tables.summarise(mutation, survival),
        mutation=mutation,
        survival=survival,
        cards={new: report.cards[old] for new, old in names.items()},
        predictions={},
        planted=[
            {**row, "scores": {new: row["scores"][old] for new, old in names.items()}} for row in report.planted or []
        ],
    )


def few_curves(report: ReportContext, encoder: str) -> pd.DataFrame:
    """Predictions for three panels, not twenty."""
    rows = report.predictions[encoder]
    return rows[rows["label"].isin(["pan_cancer/TP53", "LUAD/OS", "KIRC/OS"])]


def test_page_is_balanced_with_unique_identifiers(page: str) -> None:
    assert page.startswith("<!DOCTYPE html>")
    parsed = parse(page)
    assert len(parsed.identifiers) == len(set(parsed.identifiers))
    inside = {link[1:] for link in parsed.links if link.startswith("#")}
    assert inside <= set(parsed.identifiers)


def test_page_loads_nothing(page: str) -> None:
    parsed = parse(page)
    assert [target for target in parsed.loaded if not target.startswith("#")] == []
    beside = re.compile(r"figures/[\w-]+\.(svg|png)|tables/[\w-]+\.csv")
    assert [link for link in parsed.links if not link.startswith("#") and not beside.fullmatch(link)] == [
        "https://doi.org/10.1158/1538-7445.AM2026-5478"
    ]
    assert re.findall(r"@import|url\((?!#)", page) == []
    assert "default-src 'none'" in page
    assert len(page.encode()) < 5_000_000
    assert "<link" not in page
    assert re.search(r"<script[^>]+src", page) is None


def test_same_input_gives_same_bytes(report: ReportContext) -> None:
    small = with_encoders(report, {"pca": "pca"})
    small = dataclasses.replace(small, predictions={"pca": few_curves(report, "pca")})
    assert render_page(small) == render_page(small)


def test_figures_hold_no_pictures(page: str) -> None:
    assert "<image" not in page


def test_warnings_come_before_the_numbers(page: str) -> None:
    text = visible(page)
    simulated = text.index("Simulated cohort: these numbers say nothing about real tumours.")
    untrained = text.index("All foundation models are untrained")
    assert simulated < untrained < text.index("How to read the numbers.")
    assert "it is not a standard error" in text
    assert "No winner is declared." in text
    assert "scbert (release panglao_pretrain is not in models/scbert" in text


def test_real_cohort_with_trained_models_has_no_grave_warning(report: ReportContext) -> None:
    cards = {name: {**card, "untrained": False} for name, card in report.cards.items()}
    real = dataclasses.replace(report, simulated=False, cards=cards, planted=None, predictions={})
    page = render_page(real)
    text = visible(page)
    assert 'class="warning grave"' not in page
    assert "Simulated cohort" not in text
    assert "Planted and recovered" not in text
    assert "Saw TCGA in pre-training: bulkformer." in text


def test_missing_value_is_a_dash_with_tooltip_and_footnote(page: str) -> None:
    reason = "the score is constant within every cancer type, so no pair of one type can be ordered"
    assert re.search(rf'data-sort="" title="{reason}">–<sup>\[\d\]</sup>', page)
    assert re.search(rf'<li id="n-headline-1">{reason}</li>', page)
    assert "defined for 6 of 7 labels, so its mean would not compare with the others&#39;" in page


def test_within_type_stands_beside_pan_cancer(page: str) -> None:
    head = page[page.index('id="t-headline"') :]
    columns = re.findall(r"<button type=\"button\">([^<]+)</button>", head[: head.index("</thead>")])
    assert columns[:4] == ["Encoder", "Width", "Pan-cancer", "Within type"]


def test_numbers_of_the_page_are_those_of_the_summary(report: ReportContext, page: str) -> None:
    head = page[page.index('id="t-headline"') :]
    head = head[: head.index("</table>")]
    for encoder, row in report.summary.items():
        line = head[head.index(f">{encoder}") :]
        line = line[: line.index("</tr>")]
        for value in row.values():
            assert value is None or f">{value:.3f}<" in line


def test_hostile_names_are_text(report: ReportContext) -> None:
    hostile = with_encoders(report, {HOSTILE: "cellfm", "pca": "pca"})
    page = render_page(dataclasses.replace(hostile, predictions={HOSTILE: few_curves(report, "cellfm")}))
    parse(page)
    assert "<script>alert" not in page
    assert page.count("<script") == 1
    assert HOSTILE in visible(page)


def test_hostile_genes_and_cancers_are_text(report: ReportContext) -> None:
    def renamed(metrics: Any) -> dict[str, Any]:
        labels = {
            name.replace("TP53", HOSTILE).replace("KIRC", HOSTILE): {
                key: HOSTILE if value in ("TP53", "KIRC") else value for key, value in row.items()
            }
            for name, row in metrics["labels"].items()
        }
        return {**metrics, "labels": labels}

    small = with_encoders(report, {"pca": "pca"})
    mutation, survival = renamed(small.mutation["pca"]), renamed(small.survival["pca"])
    curves = few_curves(report, "pca")
    curves = curves.assign(label=curves["label"].str.replace("TP53|KIRC", lambda _: HOSTILE, regex=True))
    samples = report.samples.assign(cancer_type=HOSTILE)
    page = render_page(
        dataclasses.replace(
            small,
            **{"mutation": {"pca": mutation}, "survival": {"pca": survival}, "samples": samples},
            **{"predictions": {"pca": curves}, "compare": None},
        )
    )
    parse(page)
    assert page.count("<script") == 1
    assert HOSTILE in visible(page)
    assert "pca, &lt;script&gt;alert(&#39;x&#39;)" in page  # the tooltip of a dot


def test_rows_and_marks_name_their_encoder(report: ReportContext, page: str) -> None:
    for name in report.mutation:
        assert page.count(f'<tr data-encoder="{name}">') > 10
        assert page.count(f'<g class="mark tip" data-encoder="{name}">') > 10
        assert f'name="encoder" value="{name}"' in page


def test_twenty_five_encoders_with_long_names(report: ReportContext) -> None:
    known = list(report.mutation)
    names = {f"{known[place % 8]}_a_very_long_release_name_{place:02d}": known[place % 8] for place in range(25)}
    page = render_page(with_encoders(report, names))
    parse(page)
    for name in names:
        assert name in page
        assert figures.short(name) in page


def test_one_encoder_only(report: ReportContext) -> None:
    text = visible(render_page(with_encoders(report, {"cellfm": "cellfm"})))
    assert "1 foundation model 0." in text


def test_survival_undefined_everywhere(report: ReportContext) -> None:
    def emptied(metrics: dict[str, Any]) -> dict[str, Any]:
        labels = {name: {**row, **block([None] * 10, "no event at all")} for name, row in metrics["labels"].items()}
        overall = {name: {**row, "mean": None, "types": []} for name, row in metrics["overall"].items()}
        return {**metrics, "labels": labels, "overall": overall}

    survival = {name: emptied(dict(metrics)) for name, metrics in report.survival.items()}
    summary = tables.summarise(report.mutation, survival)
    assert {row["survival"] for row in summary.values()} == {None}
    page = render_page(dataclasses.replace(report, survival=survival, summary=summary, predictions={}))
    assert "no event at all" in visible(page)
    assert "pca, C-index: no cancer type has a defined C-index" in visible(page)


def test_nothing_was_probed(report: ReportContext) -> None:
    bare = dataclasses.replace(
        report, summary={}, mutation={}, survival={}, predictions={}, planted=None, samples=report.samples.iloc[:0]
    )
    text = visible(render_page(bare))
    assert "no encoder has a defined value" in text
    assert "cellfm, within-type AUROC and C-index: no metrics were given" in text
    assert split_count(bare) == 0


def test_samples_without_the_needed_columns_have_no_figure(report: ReportContext) -> None:
    table, genes = composition(dataclasses.replace(report, samples=report.samples[["patient_id"]]))
    assert table.empty
    assert genes == []


def test_composition_counts_patients_and_shares(report: ReportContext) -> None:
    table, genes = composition(report)
    assert table["patients"].sum() == report.samples["patient_id"].nunique()
    assert genes == ["EGFR", "KRAS", "TP53", "PIK3CA", "PBRM1", "BAP1"]
    assert table[["events", *genes]].to_numpy().min() >= 0
    assert table[["events", *genes]].to_numpy().max() <= 1


def test_composition_prefers_the_columns_of_the_sample_table(report: ReportContext) -> None:
    samples = report.samples.assign(
        os_event=True, TP53=pd.array([None] + [True] * (len(report.samples) - 1), "boolean")
    )
    table, _ = composition(dataclasses.replace(report, samples=samples))
    assert table["events"].tolist() == [1.0] * len(table)
    assert table["TP53"].tolist() == [1.0] * len(table)
    assert table["KRAS"].between(0, 1, inclusive="neither").any()


def test_grid_edge_habit_is_warned_of(report: ReportContext) -> None:
    labels = {name: {**row, "grid_edge_hits": 9} for name, row in report.mutation["pca"]["labels"].items()}
    mutation = {**report.mutation, "pca": {**report.mutation["pca"], "labels": labels}}
    text = visible(render_page(dataclasses.replace(report, mutation=mutation, predictions={})))
    assert "Mutation: the chosen penalty often lay at an end of its grid." in text
    assert "pca 126 of 140 fits" in text


@pytest.mark.parametrize(("name", "expected"), [("pca", "pca"), ("x" * 26, "x" * 26), ("a" * 20 + "z" * 20, None)])
def test_short_names(name: str, expected: str | None) -> None:
    assert figures.short(name) == (expected or "a" * 13 + "…" + "z" * 12)
