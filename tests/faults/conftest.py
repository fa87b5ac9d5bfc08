"""The undisturbed study, once a process."""

from __future__ import annotations

import pytest
from harness import Study, make_study


@pytest.fixture(scope="session", name="study")
def fixture_study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Made by every stage without a fault; nobody writes into it."""
    return make_study(tmp_path_factory.mktemp("undisturbed") / "study")
