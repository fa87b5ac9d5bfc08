"""The site, built from docs/ without a network, and the example notebook, run again."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import bulkprobe

TOP = Path(__file__).resolve().parents[1]
NOTEBOOK = TOP / "docs/example.ipynb"
NUMBER = re.compile(r"-?\d+\.?\d*(?:e-?\d+)?")
pytestmark = pytest.mark.slow


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(TOP / "src")}
    return subprocess.run([sys.executable, *arguments], cwd=TOP, env=environment, capture_output=True, text=True)


def outputs(content: dict[str, Any]) -> list[list[str]]:
    return [[output["output_type"] for output in cell.get("outputs", [])] for cell in content["cells"]]


def shown(content: dict[str, Any]) -> list[str]:
    """What the cells show as text."""
    found = [output["data"]["text/plain"] for cell in content["cells"] for output in cell.get("outputs", [])]
    return ["".join(text) for text in found]


def test_the_site_is_built_whole_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    done = python("-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site"))
    assert done.returncode == 0, done.stderr
    assert "not included in the" not in done.stderr  # a page that no menu leads to
    reference = (tmp_path / "site/api.html").read_text(encoding="utf-8")
    for name in bulkprobe.__all__:
        assert f'id="bulkprobe.{name}"' in reference
    made = reference.split('id="bulkprobe.probe"')[1].split('id="bulkprobe.predict"')[0]
    assert "undefined is None with its <code>reason</code>" in re.sub(r"\s+", " ", made)  # one sentence, one item
    assert {path.name for path in (TOP / "docs").glob("*.md")} == {
        f"{path.stem}.md" for path in (tmp_path / "site").glob("*.html") if path.stem != "404"
    }
    for page in (tmp_path / "site").rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"""<(?:script|link|img|iframe)[^>]+(?:src|href)=["'](?:https?:)?//[^>]+>""", text), page
        assert str(TOP) not in text
        assert "extra.css" in text  # wide tables scroll by themselves
    for style in (tmp_path / "site").rglob("*.css"):
        assert not re.findall(r"url\(['\"]?(?:https?:)?//", style.read_text(encoding="utf-8")), style
    assert (tmp_path / "site/example.ipynb").read_bytes() == NOTEBOOK.read_bytes()


def test_the_notebook_is_stored_with_what_it_shows() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    content = json.loads(text)
    assert NOTEBOOK.stat().st_size <= 300_000
    assert [cell["execution_count"] for cell in content["cells"] if cell["cell_type"] == "code"] == [1, 2, 3, 4, 5, 6]
    assert {kind for kinds in outputs(content) for kind in kinds} == {"execute_result", "display_data"}
    assert '"image/png"' in text
    assert "AUROC" in text
    assert "untrained" in content["cells"][0]["source"] or "untrained" in "".join(content["cells"][0]["source"])
    assert not re.search(r"/(home|root|tmp|Users)/|site-packages|20\d\d-\d\d-\d\d", text)
    assert all(set(cell["metadata"]) == set() for cell in content["cells"])


def test_the_notebook_runs_from_its_first_cell_to_its_last(tmp_path: Path) -> None:
    copy = tmp_path / "example.ipynb"
    copy.write_bytes(NOTEBOOK.read_bytes())
    done = python("tests/notebook_runner.py", str(copy))
    assert done.returncode == 0, done.stderr[-3000:]
    again, stored = (json.loads(path.read_text(encoding="utf-8")) for path in (copy, NOTEBOOK))
    assert outputs(again) == outputs(stored)
    for now, before in zip(shown(again), shown(stored), strict=True):
        assert NUMBER.sub("", now).split() == NUMBER.sub("", before).split()
        numbers = [[float(found) for found in NUMBER.findall(text)] for text in (now, before)]
        assert numbers[0] == pytest.approx(numbers[1], abs=2e-3)  # what another processor and rounding may move
    assert again["metadata"] == stored["metadata"]
