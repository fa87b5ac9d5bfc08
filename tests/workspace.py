"""The pipeline run stage by stage in this process, in a folder of its own: what `dvc repro` makes, in seconds."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline import ENCODERS, MEASURED, small_params, write_params


@contextmanager
def inside(folder: Path, *arguments: str) -> Iterator[None]:
    """Stand in `folder`, with these arguments on the command line."""
    before, argv = Path.cwd(), sys.argv
    os.chdir(folder)
    sys.argv = ["stage", *arguments]
    try:
        yield
    finally:
        os.chdir(before)
        sys.argv = argv


def make_workspace(folder: Path) -> Path:
    """Run every stage on the small cohort."""
    from bulkprobe.stages import (
        biology,
        cohort,
        compare,
        embed,
        fetch,
        gene_sets,
        probe_mutation,
        probe_survival,
        shift,
        splits,
        summary,
        weights,
    )

    folder.mkdir(parents=True)
    write_params(folder, small_params())
    with inside(folder):
        for stage in (fetch, cohort, splits, gene_sets):
            stage.main()
    for name in ENCODERS:
        with inside(folder, name):
            for stage in (weights, embed, probe_mutation, probe_survival):
                stage.main()
    with inside(folder, MEASURED):
        for stage in (shift, biology):
            stage.main()
    with inside(folder):
        compare.main()
        summary.main()
    return folder


def copy_workspace(made: Path, folder: Path) -> Path:
    """A copy to spoil: its results and params.yaml, without the raw files."""
    return Path(shutil.copytree(made, folder, ignore=shutil.ignore_patterns("raw")))


_MADE: dict[Path, Path] = {}


def shared_workspace(factory: object) -> Path:
    """The workspace that the tests of one process share, from pytest's tmp_path_factory; nobody writes into it."""
    base = Path(factory.getbasetemp())  # type: ignore[attr-defined]
    if base not in _MADE:
        _MADE[base] = make_workspace(base / "workspace")
    return _MADE[base]
