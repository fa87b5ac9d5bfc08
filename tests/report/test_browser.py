"""The page in a real browser: without a network, by mouse and keyboard, light and dark, narrow, wide, on paper."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import browser as browsing
import pytest

from bulkprobe.report.context import ReportContext

pytestmark = pytest.mark.xdist_group("browser")
HEADLINE = "#t-headline"
COLUMN = f"{HEADLINE} thead tr:last-child th"
SHOWN = "rows => rows.filter(row => row.checkVisibility()).map(row => row.dataset.encoder)"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browsing.chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def file(page: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


@pytest.fixture
def view(chromium: Any, file: Path) -> Iterator[Any]:
    with browsing.opened(chromium, file) as view:
        yield view


def order(view: Any) -> list[str]:
    return view.eval_on_selector_all(f"{HEADLINE} tbody tr", SHOWN)


def values(view: Any, column: int) -> list[str]:
    cells = f"{HEADLINE} tbody tr > :nth-child({column + 1})"
    return view.eval_on_selector_all(cells, "cells => cells.map(cell => cell.dataset.sort)")


def test_sorting_by_mouse_puts_the_largest_first_and_missing_last(view: Any) -> None:
    before, column = values(view, 3), 3
    assert "" in before  # the within-type AUROC of cancer_type is undefined
    head = view.locator(COLUMN).nth(column)
    for expected, descending in (("descending", True), ("ascending", False), ("descending", True)):
        head.locator("button").click()
        known = sorted((value for value in before if value), key=float, reverse=descending)
        assert values(view, column) == [*known, *[""] * before.count("")]
        assert head.get_attribute("aria-sort") == expected
    assert view.locator("#said").text_content() == "Mean ± sd over 10 splits: sorted by Within type, descending"
    view.locator(COLUMN).nth(0).locator("button").click()
    assert order(view) == sorted(order(view))
    assert head.get_attribute("aria-sort") == "none"


def test_sorting_by_keyboard(view: Any) -> None:
    head = view.locator(COLUMN).nth(2)
    head.locator("button").focus()
    for key, descending in (("Enter", True), ("Space", False)):
        view.keyboard.press(key)
        numbers = [float(value) for value in values(view, 2)]
        assert numbers == sorted(numbers, reverse=descending)
    assert view.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"


def test_the_filter_hides_rows_and_dims_marks(view: Any, report: ReportContext) -> None:
    everybody = order(view)
    status = view.locator("#bar .status")
    assert status.text_content() == "showing 9 of 9 encoders"  # the absent one stands in the register
    view.get_by_role("checkbox", name="baseline", exact=True).uncheck()
    models = [name for name in everybody if report.cards[name]["kind"] == "foundation"]
    assert order(view) == models
    assert status.text_content() == f"showing {len(models) + 1} of 9 encoders"
    mark = view.locator('#headline figure .mark.tip[data-encoder="pca"]').first
    other = view.locator('#headline figure .mark.tip[data-encoder="scgpt"]').first
    view.wait_for_timeout(300)  # marks fade
    assert float(mark.evaluate("one => getComputedStyle(one).opacity")) < 0.2
    assert float(other.evaluate("one => getComputedStyle(one).opacity")) == 1
    view.get_by_text("Choose one by one").click()
    view.locator("#bar input[value=scgpt]").uncheck()
    assert order(view) == [name for name in models if name != "scgpt"]
    view.locator("#bar input[type=search]").fill("CELL, former")
    assert order(view) == ["cellfm", "bulkformer", "geneformer_v2"]
    assert status.text_content() == "showing 3 of 9 encoders"
    view.get_by_role("button", name="Reset").click()
    assert order(view) == everybody
    assert status.text_content() == "showing 9 of 9 encoders"
    assert view.locator(".mark.off").count() == 0


def test_a_long_table_has_a_filter_of_its_own_that_goes_with_the_other(view: Any) -> None:
    view.locator("summary", has_text="Every label with all variants").click()
    table = view.locator(".table[data-long]", has=view.locator("#t-every-label"))
    rows = table.locator("tbody tr:visible")
    total = rows.count()
    table.locator(".find input").fill("pan_cancer tp53")
    assert rows.count() == 8
    assert table.locator(".found").text_content() == f"8 of {total} rows"
    view.locator("#bar input[type=search]").fill("pca")
    assert rows.count() == 1
    assert table.locator(".found").text_content() == f"1 of {total} rows"
    view.get_by_role("button", name="Reset").click()
    assert rows.count() == total
    assert table.locator(".find input").input_value() == ""


def test_a_mark_tells_its_value_on_hover_and_focus(view: Any, report: ReportContext) -> None:
    value = report.summary["scgpt"]["mutation_BRCA"]
    said = f"scgpt, BRCA: AUROC {value:.3f}"
    tip = view.locator("#tip")
    assert tip.is_hidden()
    mark = view.locator(f'#headline figure [aria-label^="{said}"]').last
    mark.scroll_into_view_if_needed()
    mark.hover()
    assert tip.is_visible()
    assert tip.text_content().startswith(said)
    view.keyboard.press("Escape")
    assert tip.is_hidden()
    view.locator("#headline figure [tabindex='0']").focus()
    first = tip.text_content()
    assert first.startswith("cellfm, Pan-cancer: AUROC")
    view.keyboard.press("ArrowRight")
    assert tip.text_content().startswith("scfoundation, Pan-cancer: AUROC")
    view.keyboard.press("Home")
    assert tip.text_content() == first
    box, edge = tip.bounding_box(), view.viewport_size
    assert 0 <= box["x"] <= edge["width"] - box["width"]
    assert 0 <= box["y"] <= edge["height"] - box["height"]
    view.keyboard.press("Escape")
    assert tip.is_hidden()


def test_a_tap_shows_the_value_and_a_tap_elsewhere_hides_it(chromium: Any, file: Path) -> None:
    with browsing.opened(chromium, file, has_touch=True, viewport={"width": 400, "height": 800}) as view:
        view.locator("#headline figure .mark.tip[tabindex='0']").tap()
        assert view.locator("#tip").is_visible()
        view.locator("h2").first.tap()
        assert view.locator("#tip").is_hidden()


def test_text_is_legible_in_light_and_dark(chromium: Any, file: Path) -> None:
    for scheme, other in (("light", "dark"), ("dark", "light")):
        with browsing.opened(chromium, file, color_scheme=scheme) as view:
            view.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
            papers = []
            for _ in range(2):
                for selector in ("body *:not(svg *)", "figure svg text"):
                    ratio, text = view.evaluate(browsing.LOWEST_CONTRAST, selector)
                    assert 4.5 <= ratio < 99, text
                papers.append(view.evaluate("getComputedStyle(document.body).backgroundColor"))
                view.get_by_role("button", name=f"{other.capitalize()} colours").click()
                scheme, other = other, scheme
            assert papers[0] != papers[1]
            view.get_by_role("button", name="colours").click()
            chosen = view.evaluate("document.documentElement.dataset.theme")
            view.reload()
            assert view.evaluate("document.documentElement.dataset.theme") == chosen


@pytest.mark.parametrize("width", [400, 760, 1200, 1600])
def test_nothing_is_wider_than_the_window(chromium: Any, file: Path, width: int) -> None:
    with browsing.opened(chromium, file, viewport={"width": width, "height": 900}) as view:
        view.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        wide, room = view.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert wide <= room


def test_paper_shows_everything_and_cuts_no_table(chromium: Any, file: Path) -> None:
    portrait, landscape = 710, 1036  # CSS pixels between the margins of A4
    for javascript in (True, False):
        with browsing.opened(
            chromium,
            file,
            java_script_enabled=javascript,
            viewport={"width": portrait, "height": 1000},
            color_scheme="dark",
        ) as view:
            view.emulate_media(media="print", color_scheme="dark")
            for selector in ("#bar", "nav", ".files", ".skip"):
                assert not view.locator(selector).first.is_visible()
            hidden = "rows => rows.filter(row => !row.checkVisibility()).length"
            assert view.eval_on_selector_all("tbody tr", hidden) == 0
            assert view.locator("details tbody tr").count() > 100
            assert view.locator("details tbody tr").first.bounding_box()["height"] > 0
            assert view.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
            cut = """([selector, room]) => Array.from(document.querySelectorAll(selector))
                .filter(table => table.getBoundingClientRect().width > room).map(table => table.id)"""
            assert view.evaluate(cut, [".table:not(.broad) table", portrait]) == []
            view.set_viewport_size({"width": landscape, "height": 700})
            assert view.evaluate(cut, [".broad table", landscape]) == []
            if javascript:
                view.emulate_media(media="screen")
                view.locator("details:not([open]) #t-every-label").wait_for(state="attached")


def test_a_filtered_print_says_so(view: Any) -> None:
    view.locator("#bar input[type=search]").fill("pca")
    view.emulate_media(media="print")
    assert view.locator("#bar .status").is_visible()
    assert not view.locator("#bar input").first.is_visible()


def test_without_javascript_everything_is_there(chromium: Any, file: Path) -> None:
    with browsing.opened(chromium, file, java_script_enabled=False) as view:
        assert view.locator("#bar").is_hidden()
        assert view.locator("#tip").is_hidden()
        assert view.locator(f"{HEADLINE} tbody tr:visible").count() == 8
        assert view.locator("figure svg:visible[role=img]").count() >= 8
        assert view.locator("#headline figure .mark.tip title").count() > 50
        view.locator("summary", has_text="Every label with all variants").click()
        assert view.locator("#t-every-label").is_visible()


def test_the_keyboard_reaches_the_filter_the_numbers_and_the_first_head(view: Any) -> None:
    focused = "document.activeElement.className || document.activeElement.name || document.activeElement.type"
    view.keyboard.press("Tab")
    assert view.evaluate(focused) == "skip"
    assert view.locator(".skip").bounding_box()["x"] >= 0
    seen = []
    for _ in range(40):
        view.keyboard.press("Tab")
        seen.append(view.evaluate("document.activeElement.closest('nav, #bar, th') ?.tagName || ''"))
        if seen[-1] == "TH":
            break
    assert seen[-1] == "TH"
    assert seen.index("NAV") < seen.index("DIV")
    assert view.evaluate("document.activeElement.textContent") == "Encoder"
    view.locator(".skip").focus()
    view.keyboard.press("Enter")
    assert view.evaluate("document.activeElement.id") == "main"
    view.keyboard.press("Tab")
    assert view.evaluate("document.activeElement.closest('main') !== null")


def test_headings_landmarks_and_pictures_have_names(view: Any) -> None:
    levels = view.eval_on_selector_all("h1, h2, h3, h4", "heads => heads.map(head => Number(head.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    for landmark in ("banner", "navigation", "search", "main", "contentinfo"):
        assert view.get_by_role(landmark).count() == 1, landmark
    unnamed = "all => all.filter(one => !(one.getAttribute('aria-label') || '').trim()).length"
    assert view.eval_on_selector_all("figure svg, .scroll, [role=search], nav", unnamed) == 0
    assert view.eval_on_selector_all("table", "all => all.filter(one => !one.caption).length") == 0
    assert view.eval_on_selector_all("th", "all => all.filter(one => !one.scope).length") == 0


def test_copying(chromium: Any, tmp_path: Path, page: str) -> None:
    path = tmp_path / "copy.html"
    box = '<button type="button" data-copy="#some">Copy</button><pre id="some">@article{a}\n</pre></main>'
    path.write_text(page.replace("</main>", box), encoding="utf-8")
    permissions = ["clipboard-read", "clipboard-write"]
    with browsing.opened(chromium, path, permissions=permissions) as view:
        view.locator('[data-copy="#some"]').click()
        view.get_by_role("button", name="Copied").wait_for()
        assert view.evaluate("navigator.clipboard.readText()") == "@article{a}\n"
