"""What every test may use. The material beside the project is read through the `shared` fixture only."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

# A shell that runs the tests in the background lets them ignore Ctrl-C, and everything that they start inherits that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture
def shared(request: pytest.FixtureRequest) -> Path:
    """The folder of real material beside the project; the test is skipped where there is none."""
    if request.node.get_closest_marker("shared") is None:
        raise RuntimeError("a test that reads the shared folder must carry @pytest.mark.shared")
    if not SHARED.is_dir():
        pytest.skip("no shared material beside the project")
    return SHARED
