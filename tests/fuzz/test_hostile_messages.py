"""Files made to move a cursor or to write lines of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from reading import ROOT

from bulkprobe.errors import UserError, printable


@pytest.mark.parametrize(
    "text", ["\x1b]0;title\x07", "\x1b[2J", "a\nb", "a\rb", "\u202egnp.exe", "\x9b2J", "\u2028", "\ud800"]
)
def test_messages_cannot_move_the_cursor(text: str) -> None:
    assert str(UserError(f"bad name {text}")).isprintable()
    assert printable("plain – ß 中 'quoted' <b>") == "plain – ß 中 'quoted' <b>"


def test_the_command_shows_foreign_names_escaped(tmp_path: Path) -> None:
    path = tmp_path / "\x1b[2Jx\n.h5ad"
    path.write_bytes(b"no")
    done = subprocess.run(
        [sys.executable, "-c", "from bulkprobe.cli import main; main()", "check", str(path)],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    assert "\x1b" not in done.stderr
    assert r"\x1b[2Jx\n.h5ad" in done.stderr
    assert done.stderr.count("\n") == 1
