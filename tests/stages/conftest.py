"""The small pipeline, run by DVC once a session in a copy of the checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import Copy, make_copy


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """A copy in which `dvc repro` ran and whose results are committed; a test that changes it puts it back."""
    study = make_copy(tmp_path_factory.mktemp("pipeline"))
    study.dvc("repro")
    study.commit("results")
    return study


@pytest.fixture
def untouched(reproduced: Copy) -> Path:
    """The folder of the copy, for tests that only read."""
    return reproduced.folder
