"""Marks that name their encoder and values, colours that follow the page, and equal bytes."""

from __future__ import annotations

import re
from collections.abc import Callable
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from bulkprobe.report import figures, sizes, svg, tables
from bulkprobe.report.context import ReportContext
from bulkprobe.report.page import make_parts

HOSTILE = '</title><script>alert(1)</script>" onload=\'x\' style="fill: #ffffff" & id="a"'
SPACE = "{http://www.w3.org/2000/svg}"


def drawn(encoder: str, says: str) -> svg.Svg:
    with figures.canvas(2, 1) as (figure, result):
        axes = figure.subplots()
        (point,) = axes.plot(0, 0, "o", color="#0072B2")
        axes.set_title(encoder)
        svg.mark(point, encoder, says)
    return result[0]


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    def luminance(colour: tuple[float, ...]) -> float:
        part = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
        return float(np.dot(part, [0.2126, 0.7152, 0.0722]))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_a_mark_is_a_group_with_its_encoder_and_a_title() -> None:
    group = ElementTree.fromstring(drawn("pca", "pca: 0.5").file().encode()).find(f".//{SPACE}g[@data-encoder]")
    assert group is not None
    assert group.attrib == {"class": "mark tip", "data-encoder": "pca"}
    assert group.findtext(f"{SPACE}title") == "pca: 0.5"
    nobody = drawn("", "just a value")
    assert "data-encoder" not in nobody
    assert "<title>just a value</title>" in nobody
    assert "<title>" not in drawn("pca", "")


@pytest.mark.parametrize("prepare", [svg.Svg.file, lambda one: svg.embed(one, "f", "said")])
def test_a_hostile_name_stays_a_name(prepare: Callable[[svg.Svg], str]) -> None:
    tree = ElementTree.fromstring(prepare(drawn(HOSTILE, f"{HOSTILE}: 0.5")).encode())
    groups = [one for one in tree.iter(f"{SPACE}g") if "data-encoder" in one.attrib]
    assert [one.attrib["data-encoder"] for one in groups] == [HOSTILE]
    assert set(groups[0].attrib) == {"class", "data-encoder"}
    assert groups[0].findtext(f"{SPACE}title") == f"{HOSTILE}: 0.5"
    assert tree.find(f".//{SPACE}script") is None
    assert HOSTILE[: figures.NAME_LENGTH] in "".join(tree.itertext())


def test_ink_and_paper_follow_the_page_and_files_do_not() -> None:
    plain = drawn("pca", "x")
    inside = svg.embed(plain, "f-x", "said")
    assert "var(" not in plain
    assert "fill: var(--f-page, #ffffff)" in inside
    assert "var(--f-blue, #0072b2)" in inside
    assert 'role="img" aria-label="said"' in inside
    assert re.findall(r'\bid="(?!f-x-)', inside) == []
    assert set(re.findall(r'href="#([^"]+)"', inside)) <= set(re.findall(r'\bid="([^"]+)"', inside))


def test_numbers_on_every_shade_are_legible() -> None:
    for value in np.linspace(0, 1, 201):
        shade = figures.AROUND_HALF(value)
        text = figures.legible(shade)
        assert text.lower() not in svg.THEMED  # the dot does not change its colour, so its number must not
        assert contrast(shade, tuple(int(text[place : place + 2], 16) / 255 for place in (1, 3, 5))) >= 4.5


def test_equal_figures_give_equal_bytes_without_date_and_version() -> None:
    one, other = drawn("pca", "x"), drawn("pca", "x")
    assert one == other
    assert one.png() == other.png()
    assert one.png() == one.png()
    assert one.png().startswith(b"\x89PNG")
    assert not re.search(rb"matplotlib|Software|tEXt|tIME", one.png())
    assert not re.search(r"matplotlib v|<dc:date>|<metadata>", one)


def test_the_tooltip_of_a_headline_mark_tells_what_the_table_tells(report: ReportContext) -> None:
    tasks = tables.task_table(report.mutation, report.survival)
    text = figures.headline(tasks, report.cards)
    row = tasks.set_index(["encoder", "task"]).loc[("scgpt", "mutation_BRCA")]
    said = (
        f"scgpt, BRCA: AUROC {row['mean']:.3f} ± {row['sd']:.3f} (sd), {row['splits']} splits, {row['labels']} labels"
    )
    assert text.count(f"<title>{said}</title>") == 2  # the interval and its point
    assert "cancer_type, Within type: undefined (" in text


def test_every_figure_says_n(report: ReportContext) -> None:
    drawings = make_parts(report)["drawings"]
    needed = {"headline", "within", "cancers", "forest", "ranks", "roc", "survival_0", "planted", "composition"}
    assert needed <= set(drawings)
    for name, drawing in drawings.items():
        assert re.search(
            r"n: \d|mutated / profiled|deaths / patients|over \d+ labels", drawing.caption + drawing.plain
        ), name
        assert drawing.plain.count("data-encoder=") > 0 or name == "composition"


def test_sizes_stand_below_the_columns() -> None:
    table = pd.DataFrame(
        {
            **{
                "encoder": ["a", "b", "b"],
                "gene": ["TP53", "TP53", "TP53"],
                "kind": ["nonsilent", "nonsilent", "hotspot"],
            },
            **{"n": [90, 90, 90], "positives": [40, 40, 12], "splits": [10, 9, 1]},
            **{
                "within_mean": [0.61, np.nan, 0.5],
                "within_sd": [0.02, np.nan, np.nan],
                "within_reason": [None, "why", None],
            },
        }
    )
    told = sizes.genes(table)
    assert told["size"].tolist() == ["40 / 90", "40 / 90", "12 / 90"]
    assert told["tip"].tolist() == [
        "a, TP53: AUROC within type 0.610 ± 0.020 (sd), 10 splits, 40 mutated of 90 patients",
        "b, TP53: undefined (why), 9 splits, 40 mutated of 90 patients",
        "b, TP53 hotspot: AUROC within type 0.500 (sd), 1 split, 12 mutated of 90 patients",
    ]
    wide = sizes.wide(told, "within_mean")
    assert wide.columns.tolist() == ["TP53", "TP53 hotspot"]
    assert pd.isna(wide.loc["a", "TP53 hotspot"])
