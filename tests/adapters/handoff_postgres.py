"""A site on a real PostgreSQL, and what the server itself knows of our connections."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.sessions.models import Session
from django.db import connections, transaction
from django.db.backends.signals import connection_created
from django.db.models import Func, IntegerField
from django.http import HttpResponse

from asgi_health.adapters.django.handler import Handler
from tests.adapters.handoff_site import LIMIT_S, Site, ask
from tests.services.postgres import Postgres

ALIAS = "postgres"
ROLE = "shop"
LOCK = 4711
KEPT: dict[str, Any] = {"CONN_MAX_AGE": 600}
PREPARE = (
    "DROP TABLE IF EXISTS django_session, made",
    "DROP ROLE IF EXISTS shop",
    "CREATE TABLE made (n int)",
    "CREATE TABLE django_session (session_key text, session_data text, expire_date timestamptz)",
    "INSERT INTO django_session VALUES ('one', '', now())",
    "CREATE ROLE shop LOGIN PASSWORD 'of-the-tests'",
    "GRANT ALL ON made, django_session TO shop",
)

_numbers = count()


def prepare(server: Postgres) -> None:
    """Tables, and a role that the server's limits hold for."""
    for statement in PREPARE:
        server.execute(statement)


def settings_for(server: Postgres, *, name: str) -> dict[str, Any]:
    """A DATABASES entry; its connections can be told by their name."""
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "postgres",
        "USER": ROLE,
        "PASSWORD": "of-the-tests",
        "HOST": server.host,
        "PORT": str(server.port),
        "OPTIONS": {"application_name": name},
    }


async def until(is_so: Callable[[], bool]) -> None:
    """Wait until something is so; the server tells nobody, so it is asked.

    Not all the time: on a busy machine that keeps other threads from Python's lock for seconds.
    """
    async with asyncio.timeout(LIMIT_S):
        while not is_so():  # noqa: ASYNC110 - no event of ours tells it
            await asyncio.sleep(0.002)


class Database:
    """The alias of one test."""

    def __init__(self, server: Postgres) -> None:
        self._server = server
        self._name = f"test {next(_numbers)}"
        self._handlers: list[Handler] = []
        self._opened: list[Any] = []
        connection_created.connect(self._note)
        entry = settings_for(server, name=self._name)
        made = connections.configure_settings(
            {"default": connections.settings["default"], ALIAS: entry}
        )
        self.settings: dict[str, Any] = made[ALIAS]

    def _note(self, connection: Any, **_rest: Any) -> None:
        if connection.alias == ALIAS:
            self._opened.append(connection.connection)

    def use(self, *, pool: dict[str, Any] | None = None, **settings: Any) -> None:
        """Change the settings; before the first connection."""
        self.settings |= settings
        if pool is not None:
            self.settings["OPTIONS"] = self.settings["OPTIONS"] | {"pool": pool}

    def serve(self, *, threads: int = 1) -> Handler:
        """A handler whose connections are closed with the test."""
        handler = Handler(threads=threads)
        self._handlers.append(handler)
        return handler

    def backends(self) -> list[int]:
        """The server's processes for our connections."""
        query = "SELECT pid FROM pg_stat_activity WHERE application_name = %s"
        return [pid for (pid,) in self._server.execute(query, self._name)]

    def states(self) -> set[str]:
        """What our connections do, as the server sees it."""
        query = "SELECT state FROM pg_stat_activity WHERE application_name = %s"
        return {state for (state,) in self._server.execute(query, self._name)}

    def allow(self, connections: int) -> None:
        """Let the server refuse more connections than these."""
        self._server.execute(f"ALTER ROLE {ROLE} CONNECTION LIMIT {connections}")

    async def terminate(self) -> None:
        """End the server's side of our connections, as an operator or a fail-over does."""
        for pid in (ended := self.backends()):
            self._server.execute("SELECT pg_terminate_backend(%s)", pid)
        await until(lambda: set(ended).isdisjoint(self.backends()))

    def rows(self) -> list[int]:
        """What was committed to the table `made`."""
        return [n for (n,) in self._server.execute("SELECT n FROM made ORDER BY n")]

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """Hold back all that `wait_in_server` for as long as the block lasts."""
        self._server.execute("SELECT pg_advisory_lock(%s)", LOCK)
        try:
            yield
        finally:
            self._server.execute("SELECT pg_advisory_unlock(%s)", LOCK)

    async def until_one_waits(self) -> None:
        """Wait until a query is held back."""
        query = "SELECT wait_event FROM pg_stat_activity WHERE application_name = %s"
        await until(lambda: ("advisory",) in self._server.execute(query, self._name))

    @property
    def pool(self) -> Any:
        """psycopg's pool, which all threads share."""
        return connections[ALIAS].pool

    async def until_pool_is_full(self) -> None:
        """Wait until every connection of the pool lies in it."""

        def is_full() -> bool:
            found = self.pool.get_stats()
            return found["pool_available"] == found["pool_size"] and self.all_are_idle()

        await until(is_full)

    def all_are_idle(self) -> bool:
        return all(handler.threads.lent == 0 for handler in self._handlers)

    async def close(self) -> None:
        """End the threads and the pool; and what was forgotten, as stock Django does."""
        connection_created.disconnect(self._note)
        try:
            await until(self.all_are_idle)
        finally:
            for opened in self._opened:
                opened.close()
            for handler in self._handlers:
                while handler.threads._idle:
                    handler.threads._counted -= 1
                    handler.threads._retire(handler.threads._idle.pop())
            connections[ALIAS].close_pool()
            del connections[ALIAS]
            await until(lambda: not self.backends())
            self._server.execute("TRUNCATE made")
            self._server.execute(f"ALTER ROLE {ROLE} CONNECTION LIMIT -1")


def backend() -> int:
    """The number of the server's process for the connection of this thread."""
    with connections[ALIAS].cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        found: int = cursor.fetchone()[0]
        return found


def write(n: int) -> None:
    with connections[ALIAS].cursor() as cursor:
        cursor.execute("INSERT INTO made VALUES (%s)", [n])


def wait_in_server() -> None:
    """A query that lasts as long as the test wants; see `Database.locked`."""
    with connections[ALIAS].cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock_shared(%s)", [LOCK])


def sync_view(_request: Any) -> Any:
    """One query."""
    return HttpResponse(str(backend()))


@transaction.non_atomic_requests(ALIAS)
async def hopping_view(_request: Any) -> Any:
    """Two queries, with the event loop in between; on one connection, or it fails."""
    first = await sync_to_async(backend)()
    await asyncio.sleep(0)
    second = await sync_to_async(backend)()
    return HttpResponse(str(first), status=200 if first == second else 500)


@transaction.non_atomic_requests(ALIAS)
async def orm_view(_request: Any) -> Any:
    """The asynchronous ORM."""
    pid = Func(function="pg_backend_pid", output_field=IntegerField())
    found = Session.objects.using(ALIAS).annotate(pid=pid).values_list("pid", flat=True)
    return HttpResponse(str(await found.aget()))


QUERIES = {"sync": sync_view, "hopping": hopping_view, "orm": orm_view}
MIX = ("/sync", "/hopping", "/sync", "/orm", "/sync")


def add_queries(site: Site) -> None:
    """Serve all that query; they answer with the number of their backend."""
    for route, view in QUERIES.items():
        site.view(view, route=route)


async def ask_often(
    handler: Any,
    *,
    requests: int,
    at_once: int = 50,
    routes: Sequence[str] = MIX,
) -> list[tuple[int, bytes]]:
    """Status and body of many requests; each client of `at_once` asks again when it is answered."""
    numbers = iter(range(requests))
    answers: list[tuple[int, bytes]] = []

    async def ask_in_turn() -> None:
        for number in numbers:
            answer = await ask(handler, routes[number % len(routes)])
            answers.append((answer.status, answer.body))

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(ask_in_turn())
    return answers
