"""The audit of the dependencies sees what it is there for."""

from __future__ import annotations

import importlib.util
from email.message import Message
from pathlib import Path
from types import ModuleType

import pytest
from packaging.version import Version

AUDIT = Path(__file__).parents[1] / ".ci" / "audit.py"


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", AUDIT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_dependency_is_pinned_once_within_its_range(audit: ModuleType) -> None:
    pins, wrong = audit.pins_of((AUDIT.parents[1] / "requirements.lock").read_text())
    assert wrong == []
    assert len(pins) > 100


def test_a_lock_that_pins_nothing_is_seen(audit: ModuleType) -> None:
    pins, wrong = audit.pins_of(
        "numpy==2.3.0\nNumPy==2.3.1\npandas>=2\nzarr @ https://example.org/zarr.whl\n# a note\n"
    )
    assert pins == {"numpy": Version("2.3.1")}
    assert [text.split(": ")[-1] for text in wrong] == [
        "requirements.lock pins numpy twice",
        "'pandas>=2' is no exact pin",
        "'zarr @ https://example.org/zarr.whl' is no exact pin",
    ]
    assert audit.unmet(["numpy>=3", "zarr>=3", "absent; python_version < '3'"], pins) == [
        "requirements.lock has numpy 2.3.1, pyproject.toml asks for numpy>=3",
        "zarr is not pinned in requirements.lock",
    ]


@pytest.mark.parametrize(
    ("licence", "classifier", "expected"),
    [
        ("GPL-3.0-or-later", "", True),
        ("", "License :: OSI Approved :: GNU General Public License v3 or later (GPLv3+)", True),
        ("GNU Affero General Public License", "", True),
        ("GPLv2 | EPLv1", "License :: OSI Approved :: GNU General Public License v2 (GPLv2)", False),
        ("LGPL-2.1", "License :: OSI Approved :: GNU Lesser General Public License v2 (LGPLv2)", False),
        ("MIT", "", False),
        ("Apache-2.0\nGPL is spoken of further down", "", False),
    ],
)
def test_the_gpl_is_seen(audit: ModuleType, licence: str, classifier: str, expected: bool) -> None:
    about = Message()
    about["License"] = licence.replace("\n", "\n ")
    if classifier:
        about["Classifier"] = classifier
    assert audit.is_gpl(about) is expected


def test_what_users_install_is_followed_through_extras(audit: ModuleType) -> None:
    found = audit.closure(["pydantic>=2", "scikit-survival; python_version < '3'"])
    assert {"pydantic", "pydantic-core", "typing-extensions"} <= found
    assert "scikit-survival" not in found
