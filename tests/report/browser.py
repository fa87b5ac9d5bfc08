"""A headless Chromium for the tests of the page, with the network blocked."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
# The contrast of every visible text in `selector` with what lies behind it: [ratio, text] of the lowest.
LOWEST_CONTRAST = """selector => {
  const channels = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const luminance = (rgb) => rgb.slice(0, 3).map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, place) => sum + c * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = (one) => {
    for (let box = one; box; box = box.parentElement) {
      const colour = channels(getComputedStyle(box).backgroundColor);
      if (colour.length === 3 || colour[3] > 0.99) { return colour; }
    }
    return [255, 255, 255];
  };
  const onDots = ["rgb(1, 1, 1)", "rgb(254, 254, 254)"]; // numbers on coloured dots are tested by the shade
  const own = (one) => Array.from(one.childNodes).some((node) => node.nodeType === 3 && node.textContent.trim());
  let lowest = [99, ""];
  document.querySelectorAll(selector).forEach((one) => {
    const style = getComputedStyle(one), ink = one.closest("svg") ? style.fill : style.color;
    if (!own(one) || !one.checkVisibility() || (one.closest("svg") && onDots.includes(ink))) { return; }
    const [low, high] = [luminance(channels(ink)), luminance(behind(one))].sort((a, b) => a - b);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < lowest[0]) { lowest = [ratio, one.outerHTML.slice(0, 200)]; }
  });
  return lowest;
}"""


def missing(why: str) -> None:
    """Skip, or fail where the browser must be there."""
    if os.environ.get("BULKPROBE_BROWSER") == "required":
        pytest.fail(f"BULKPROBE_BROWSER=required, but {why}")
    pytest.skip(why)


@contextmanager
def chromium() -> Iterator[Any]:
    """Start Debian's Chromium, or the one that BULKPROBE_CHROMIUM names."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright is not installed")
    path = os.environ.get("BULKPROBE_CHROMIUM") or shutil.which("chromium")
    if path is None:
        missing("there is no chromium (apt-get install chromium, or set BULKPROBE_CHROMIUM)")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, path: Path, **options: Any) -> Iterator[Any]:
    """Open a file in a fresh profile; afterwards nothing may have been asked of the network and nothing complained."""
    options = {"viewport": {"width": 1200, "height": 900}, **options}
    context = browser.new_context(**options)
    asked: list[str] = []
    complaints: list[str] = []

    def refuse(route: Any) -> None:
        if route.request.url.startswith("file://"):
            route.continue_()
        else:
            asked.append(route.request.url)
            route.abort()

    context.route("**/*", refuse)
    page = context.new_page()
    page.on("request", lambda request: None if request.url == path.as_uri() else asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(path.as_uri())
    yield page
    assert asked == []
    assert complaints == []
    context.close()
