"""Run every stage once, in one process, and write down how long each took and how often it changed the file system.

Started by the harness with the folder of the study and the file for the figures; see hook/sitecustomize.py.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path

import sitecustomize  # the one of the hook

from pipeline import write_params
from workspace import inside


def main(folder: Path, stages: list[tuple[str, list[str]]], params: Path, figures: Path) -> None:
    """Make the study in `folder`."""
    folder.mkdir(parents=True)
    write_params(folder, json.loads(params.read_text(encoding="utf-8")))
    found = {}
    for name, arguments in stages:
        with inside(folder, *arguments):
            begun, before = time.monotonic(), sitecustomize.changes()
            importlib.import_module(f"bulkprobe.stages.{name}").main()
            figure = {"seconds": time.monotonic() - begun, "changes": sitecustomize.changes() - before}
        found[" ".join([name, *arguments])] = figure
    figures.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
