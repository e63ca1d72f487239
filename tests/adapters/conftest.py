"""Fixtures of the adapters' tests."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from django.db import connections

from tests.adapters.handoff_postgres import ALIAS, Database, prepare
from tests.adapters.handoff_site import Site, all_idle
from tests.servers.conftest import loads, run
from tests.services.postgres import Postgres

__all__ = ["loads", "run"]


@pytest.fixture
def site() -> Site:
    """An empty site for the hand-off."""
    return Site()


@pytest.fixture
async def settled() -> None:
    """No request of an earlier test will be finished from now on."""
    await all_idle()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL: one for each process of the test run that asks for it."""
    server = Postgres()
    try:
        prepare(server)
        yield server
    finally:
        server.stop()


@pytest.fixture
async def database(
    postgres: Postgres, django_db_blocker: Any, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Database]:
    """The alias `postgres` of Django, with connections of its own."""
    made = Database(postgres)
    monkeypatch.setitem(connections.settings, ALIAS, made.settings)
    with django_db_blocker.unblock():
        yield made
        await made.close()
