"""On a real PostgreSQL there are as many connections as docs/handoff.md promises, and no more."""

import asyncio
import json
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle, islice, repeat
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.sessions.models import Session
from django.db import connections
from django.http import HttpResponse, StreamingHttpResponse

from asgi_health.adapters.django.threads import Work
from tests.adapters.handoff_postgres import (
    ALIAS,
    KEPT,
    MIX,
    Database,
    add_queries,
    ask_often,
    backend,
    settings_for,
    until,
    wait_in_server,
)
from tests.adapters.handoff_site import LIMIT_S, Exchange, Site, ask
from tests.servers.conftest import Run
from tests.servers.harness import Server
from tests.services.postgres import Postgres

THREADS = 16
OFTEN, LESS_OFTEN = 10_000, 1_000

POOL: dict[str, Any] = {"pool": {"min_size": 1, "max_size": 4, "timeout": LIMIT_S}}
POOL_OF_ONE = {"min_size": 1, "max_size": 1, "timeout": LIMIT_S / 3}


def check(answers: list[tuple[int, bytes]], *, count: int) -> set[int]:
    """The backends that answered; no request failed."""
    assert len(answers) == count
    assert {status for status, _ in answers} == {200}
    return {int(body) for _, body in answers}


async def test_ten_thousand_requests_use_one_connection_a_thread(
    site: Site, database: Database
) -> None:
    database.use(**KEPT)
    database.allow(THREADS)
    add_queries(site)
    with site.open():
        handler = database.serve(threads=THREADS)
        used = check(await ask_often(handler, requests=OFTEN), count=OFTEN)
    assert used == set(database.backends())
    assert len(used) <= THREADS


async def test_ten_thousand_requests_share_a_pool_that_is_smaller_than_the_threads(
    site: Site, database: Database
) -> None:
    database.use(**POOL)
    database.allow(4)
    add_queries(site)
    with site.open():
        handler = database.serve(threads=THREADS)
        used = check(await ask_often(handler, requests=OFTEN), count=OFTEN)
    await database.until_pool_is_full()
    found = database.pool.get_stats()
    assert used == set(database.backends())
    assert len(used) <= 4
    assert found["requests_queued"] > 0  # some had to wait, and none failed
    assert found.get("requests_errors", 0) == found.get("returns_bad", 0) == 0


@pytest.mark.parametrize("how", [KEPT, POOL], ids=["kept", "pool"])
async def test_a_connection_that_is_checked_for_health_is_kept_as_well(
    how: dict[str, Any], site: Site, database: Database
) -> None:
    database.use(**how, CONN_HEALTH_CHECKS=True)
    limit = 4 if how is POOL else THREADS
    database.allow(limit)
    add_queries(site)
    with site.open():
        handler = database.serve(threads=THREADS)
        used = check(await ask_often(handler, requests=LESS_OFTEN), count=LESS_OFTEN)
    assert used == set(database.backends())
    assert len(used) <= limit


async def test_without_an_age_each_request_has_its_own_connection_and_none_is_left(
    site: Site, database: Database
) -> None:
    database.use(CONN_MAX_AGE=0)
    add_queries(site)
    with site.open():
        handler = database.serve(threads=THREADS)
        used = check(await ask_often(handler, requests=LESS_OFTEN), count=LESS_OFTEN)
        assert len(used) == LESS_OFTEN
        await until(lambda: not database.backends())


async def test_a_connection_that_grew_too_old_while_its_thread_was_idle_serves_nobody(
    site: Site, database: Database
) -> None:
    def grow_old() -> None:
        connections[ALIAS].close_at = 0

    database.use(**KEPT)
    add_queries(site)
    with site.open():
        handler = database.serve()
        before = await ask(handler, "/sync")
        await until(lambda: handler.threads.lent == 0)
        handler.threads._idle[0].give(Work(growing := Future(), grow_old))
        growing.result(LIMIT_S)
        after = await ask(handler, "/sync")
    assert before.body != after.body
    await until(lambda: database.backends() == [int(after.body)])


async def test_a_stream_has_a_connection_beyond_the_threads_which_ends_with_it(
    site: Site, database: Database
) -> None:
    database.use(**KEPT)
    end = asyncio.Event()

    async def parts() -> Any:
        yield b"%d" % await sync_to_async(backend)()
        await end.wait()

    async def stream(_request: Any) -> Any:
        return StreamingHttpResponse(parts())

    site.view(stream)
    add_queries(site)
    with site.open():
        handler = database.serve(threads=1)
        first = await ask(handler, "/sync")
        await until(lambda: handler.threads.lent == 0)
        streams = [Exchange("/stream").start(handler) for _ in range(3)]
        await until(lambda: all(len(exchange.sent) == 2 for exchange in streams))
        used = {exchange.body for exchange in streams}
        assert len(used) == len(database.backends()) == 3
        assert first.body in used
        end.set()
        for exchange in streams:
            await exchange.end()
        await until(lambda: len(database.backends()) == 1)
        assert (await ask(handler, "/sync")).status == 200
        assert len(database.backends()) == 1


class Endings:
    """Requests that query and then end in some way."""

    def __init__(self, site: Site, database: Database) -> None:
        self._database = database
        self._inside = asyncio.Event()
        for view in (self.fail, self.afail, self.wait, self.held, self.stream, self.astream):
            site.view(view, route=view.__name__)

    def fail(self, _request: Any) -> Any:
        backend()
        raise ValueError("after the query")

    async def afail(self, _request: Any) -> Any:
        await sync_to_async(backend)()
        raise ValueError("after the query")

    async def wait(self, _request: Any) -> Any:
        await sync_to_async(backend)()
        self._inside.set()
        await asyncio.Event().wait()

    def held(self, _request: Any) -> Any:
        wait_in_server()
        return HttpResponse()

    def stream(self, _request: Any) -> Any:
        def parts() -> Iterator[str]:
            rows = iter(Session.objects.using(ALIAS).iterator(chunk_size=1))
            yield from repeat(str(next(rows)))  # the cursor on the server stays open

        self._parts = parts()  # nobody but Django closes it
        return StreamingHttpResponse(self._parts)

    async def astream(self, _request: Any) -> Any:
        async def parts() -> Any:
            yield str(await sync_to_async(backend)())
            await asyncio.Event().wait()

        return StreamingHttpResponse(parts())

    async def view_fails(self, handler: Any) -> None:
        assert (await ask(handler, "/fail")).status == 500

    async def async_view_fails(self, handler: Any) -> None:
        assert (await ask(handler, "/afail")).status == 500

    async def client_leaves_an_async_view(self, handler: Any) -> None:
        exchange = Exchange("/wait").start(handler)
        await until(self._inside.is_set)
        await exchange.leave().end()

    async def server_cancels_an_async_view(self, handler: Any) -> None:
        exchange = Exchange("/wait").start(handler)
        await until(self._inside.is_set)
        exchange.task.cancel()  # type: ignore[union-attr]
        with pytest.raises(asyncio.CancelledError):
            await exchange.end()

    async def client_leaves_while_its_query_runs(self, handler: Any) -> None:
        async with self._database.locked():
            exchange = Exchange("/held").start(handler)
            await self._database.until_one_waits()
            await exchange.leave_now()
        await exchange.end()

    async def client_leaves_while_it_waits_for_a_connection(self, handler: Any) -> None:
        async with self._database.locked():
            first = Exchange("/held").start(handler)
            await self._database.until_one_waits()
            second = Exchange("/hopping").start(handler)
            await until(lambda: self._database.pool.get_stats()["requests_waiting"] == 1)
            await second.leave_now()
        await first.end()
        await second.end()

    async def answer_cannot_be_sent(self, handler: Any) -> None:
        async def fail(_message: Any) -> None:
            raise OSError("gone")

        with pytest.raises(OSError, match="gone"):
            await ask(handler, "/sync", hold=fail)

    async def client_leaves_a_stream(self, handler: Any) -> None:
        exchange = Exchange("/stream").start(handler)
        await until(lambda: len(exchange.sent) > 3)
        await exchange.leave().end()

    async def client_leaves_an_async_stream(self, handler: Any) -> None:
        exchange = Exchange("/astream").start(handler)
        await until(lambda: len(exchange.sent) == 2)
        await exchange.leave().end()


@pytest.mark.parametrize(
    "ending",
    [
        Endings.view_fails,
        Endings.async_view_fails,
        Endings.client_leaves_an_async_view,
        Endings.server_cancels_an_async_view,
        Endings.client_leaves_while_its_query_runs,
        Endings.client_leaves_while_it_waits_for_a_connection,
        Endings.answer_cannot_be_sent,
        Endings.client_leaves_a_stream,
        Endings.client_leaves_an_async_stream,
    ],
    ids=lambda ending: ending.__name__,
)
async def test_a_connection_goes_back_to_the_pool_however_the_request_ends(
    ending: Callable[..., Any], site: Site, database: Database
) -> None:
    database.use(pool=POOL_OF_ONE)
    add_queries(site)
    endings = Endings(site, database)
    site.view(lambda _request: HttpResponse(",".join(open_cursors())), route="cursors")
    with site.open():
        handler = database.serve(threads=2)
        before = await ask(handler, "/sync")
        await ending(endings, handler)
        await database.until_pool_is_full()
        after = await ask(handler, "/orm")
        assert (after.status, after.body) == (200, before.body)
        assert (await ask(handler, "/cursors")).body == b""
    await database.until_pool_is_full()


def open_cursors() -> list[str]:
    """What a request before left open on the server, on this connection."""
    with connections[ALIAS].cursor() as cursor:
        cursor.execute("SELECT name FROM pg_cursors")
        return [name for (name,) in cursor.fetchall() if name]


@pytest.fixture
def server(run: Run, postgres: Postgres) -> Server:
    """Gunicorn with two Uvicorn workers, each with eight threads for requests."""
    database = settings_for(postgres, name="server") | KEPT
    arguments = ["-k", "uvicorn_worker.UvicornWorker", "--workers", "2", "--bind", "127.0.0.1:0"]
    return run(
        ["gunicorn", *arguments, "tests.adapters.handoff_postgres_app:application"],
        env={"DATABASE": json.dumps(database), "HANDOFF": "auto", "HANDOFF_THREADS": "8"},
        workers=2,
    )


def ask_on_one_connection(server: Server, routes: Iterator[str]) -> list[tuple[int, bytes]]:
    answers = []
    with server.connect() as client:
        for route in routes:
            client.request(route)
            answer = client.answer()
            answers.append((answer.status, answer.body))
    return answers


def test_two_workers_have_as_many_connections_as_they_have_threads(
    server: Server, postgres: Postgres
) -> None:
    query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'server'"
    clients = 40
    parts = [islice(cycle(MIX), OFTEN // clients) for _ in range(clients)]
    with ThreadPoolExecutor(clients) as pool:
        done = list(pool.map(lambda part: ask_on_one_connection(server, part), parts))
    used = check([answer for part in done for answer in part], count=OFTEN)
    assert used == {pid for (pid,) in postgres.execute(query)}
    assert len(used) <= 2 * 8
    server.tell(signal.SIGTERM)
    assert server.wait_ended() == 0
