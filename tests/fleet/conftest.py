"""Gunicorn with the hooks, as processes; every process ends with its test."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.servers.conftest import Run, loads, run
from tests.servers.harness import APPS, OWN_WORKER, ROOT, Server

__all__ = ["loads", "page", "ready_pids", "rows", "run"]

CONF = Path(__file__).with_name("conf")
FLEET_APPS = Path(__file__).with_name("apps")
STOCK_WORKER = "uvicorn.workers.UvicornWorker"

REPEATS = int(os.environ.get("FLEET_REPEATS", "3"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Processes race: whatever is tested with them is tried again and again."""
    metafunc.fixturenames.append("repeat")
    metafunc.parametrize("repeat", range(REPEATS), indirect=True)


@pytest.fixture
def repeat(request: pytest.FixtureRequest) -> int:
    """The number of this try."""
    return request.param


def page(server: Server) -> dict:
    """The status page of whichever worker answers."""
    found: dict = server.ask("/statusz?format=json").json
    return found


def rows(server: Server) -> list[dict]:
    """The workers, as whichever of them answers shows them."""
    found: list[dict] = page(server)["workers"]
    return found


def ready_pids(server: Server) -> set[int]:
    return {row["pid"] for row in rows(server) if row["phase"] == "ready"}


@pytest.fixture(params=[OWN_WORKER, STOCK_WORKER], ids=["own", "stock"])
def worker_class(request: pytest.FixtureRequest) -> str:
    """Our worker class, and the plain one that most people name."""
    return request.param


@pytest.fixture
def fleet(run: Run) -> Callable[..., Server]:
    """Start Gunicorn with the configuration of tests/fleet/conf: `fleet(workers=2, env={...})`."""

    def start(*arguments: str, workers: int = 2, env: dict[str, str] | None = None) -> Server:
        path = os.pathsep.join(map(str, (ROOT, APPS, FLEET_APPS)))
        whole = {
            "WEB_CONCURRENCY": str(workers),
            "READY_WORKERS_MIN": str(workers),
            "PYTHONPATH": path,
            **(env or {}),
        }
        return run(
            ("gunicorn", *arguments, "gated:app"), env=whole, directory=CONF, workers=workers
        )

    return start
