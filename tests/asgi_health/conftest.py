"""What the core's tests share; the server's side of ASGI is in `server_side.py`."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

# No deadline: a busy machine is no failure. No database: a test run leaves nothing behind.
settings.register_profile("asgi_health", deadline=None, max_examples=60, database=None)
settings.load_profile("asgi_health")


@pytest.fixture(autouse=True)
def no_head_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of the tests opens no port, so that a boot need not wait for it."""
    monkeypatch.setattr("asgi_health.gate._HEAD_START_S", 0.0)


@pytest.fixture
def stay_starting(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """When called, the next gates stay in the phase `starting` until they are stopped."""
    return lambda: monkeypatch.setattr("asgi_health.gate._HEAD_START_S", 3600.0)
