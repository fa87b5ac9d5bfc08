"""Running a notebook from its first cell to its last: `python tests/notebook_runner.py FILE` stores what it shows."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

SOURCE = Path(__file__).resolve().parents[1] / "src"


def run(path: Path) -> nbformat.NotebookNode:
    """Return the notebook with new outputs; an error in a cell is raised. It runs in an empty folder."""
    notebook = nbformat.read(path, as_version=4)
    language = dict(notebook.metadata.language_info)
    with tempfile.TemporaryDirectory() as empty:
        resources = {"metadata": {"path": empty}}
        environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
        NotebookClient(notebook, record_timing=False, timeout=600, resources=resources).execute(env=environment)
    notebook.metadata.language_info = language  # without the version of this machine's Python
    return notebook


if __name__ == "__main__":
    nbformat.write(run(Path(sys.argv[1])), sys.argv[1])
