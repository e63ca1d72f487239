"""The servers' fixtures; every process ends with its test, also when the test fails."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import pytest

from tests.servers.harness import APPS, KINDS, Kind, Loads, Server, environment

_SLIPS = ("never retrieved", "was destroyed but it is pending", "never awaited")
"""What asyncio and Python say of a mistake that no answer shows."""


class Start(Protocol):
    def __call__(
        self,
        kind: Kind,
        app: str = "gated:app",
        *arguments: str,
        env: Mapping[str, str] | None = None,
        directory: Path = APPS,
    ) -> Server: ...


class Run(Protocol):
    def __call__(
        self,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        directory: Path = APPS,
        workers: int = 1,
    ) -> Server: ...


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Every way of starting."""
    return request.param


@pytest.fixture
def loads() -> Iterator[Loads]:
    orders = Loads()
    yield orders
    orders.close()


@pytest.fixture
def run(tmp_path: Path, loads: Loads) -> Iterator[Run]:
    """Start `python -m ARGUMENTS`."""
    servers: list[Server] = []

    def run_module(
        arguments: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        directory: Path = APPS,
        workers: int = 1,
    ) -> Server:
        whole = environment(tmp_path, loads) | dict(env or {})
        server = Server(arguments, env=whole, directory=directory, workers=workers)
        servers.append(server)
        return server

    yield run_module
    for server in servers:
        server.kill()
    for server in servers:
        assert not [slip for slip in _SLIPS if slip in server.log], server.log


@pytest.fixture
def start(run: Run) -> Callable[..., Server]:
    """Start a server of a kind."""

    def start_kind(
        kind: Kind,
        app: str = "gated:app",
        *arguments: str,
        env: Mapping[str, str] | None = None,
        directory: Path = APPS,
    ) -> Server:
        whole = (*kind.arguments, *arguments, app)
        return run(whole, env=env, directory=directory, workers=kind.workers)

    return start_kind
