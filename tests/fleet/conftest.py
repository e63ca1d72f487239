"""Gunicorn with the hooks, as processes; every process ends with its test."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.servers.conftest import Run, loads, run
from tests.servers.harness import OWN_WORKER, Server

__all__ = ["loads", "ready_pids", "rows", "run"]

CONF = Path(__file__).with_name("conf")
STOCK_WORKER = "uvicorn.workers.UvicornWorker"


def rows(server: Server) -> list[dict]:
    """The workers, as whichever of them answers shows them."""
    found: list[dict] = server.ask("/statusz?format=json").json["workers"]
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
        whole = {"WEB_CONCURRENCY": str(workers), "READY_WORKERS_MIN": str(workers), **(env or {})}
        return run(
            ("gunicorn", *arguments, "gated:app"), env=whole, directory=CONF, workers=workers
        )

    return start
