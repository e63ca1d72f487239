"""On a real PostgreSQL no transaction and no broken connection outlives its request."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.core.handlers.asgi import ASGIHandler
from django.db import connections, transaction
from django.http import HttpResponse

from asgi_health.adapters.django.handler import Handler
from tests.adapters.handoff_postgres import (
    ALIAS,
    KEPT,
    Database,
    add_queries,
    backend,
    until,
    wait_in_server,
    write,
)
from tests.adapters.handoff_site import LIMIT_S, Exchange, Site, ask

POOL: dict[str, Any] = {"pool": {"min_size": 1, "max_size": 1, "timeout": LIMIT_S / 3}}
HANDLERS = [ASGIHandler, Handler]
WHO_ENDS = [(ASGIHandler, "left"), (Handler, "left"), (Handler, "cancel")]
"""Stock Django tells a view nothing of a server that cancels: it would wait for ever."""


def serve(kind: Any, site: Site, database: Database) -> Any:
    return database.serve() if kind is Handler else site.serve(kind)


async def ask_in_turn(handler: Any, *routes: str) -> list[tuple[int, bytes]]:
    """Status and body of one request after the other, each on the thread of the one before."""
    found = []
    for route in routes:
        answer = await ask(handler, route)
        found.append((answer.status, answer.body))
        await until(lambda: handler.threads.lent == 0)
    return found


async def nothing_is_left(handler: Any, database: Database) -> bool:
    """Whether no transaction stays open, and the next requests on the same thread work."""
    await until(lambda: handler.threads.lent == 0 and database.states() <= {"idle"})
    answers = await ask_in_turn(handler, "/sync", "/orm", "/hopping")
    return [status for status, _ in answers] == [200, 200, 200]


async def end(exchange: Exchange, how: str) -> None:
    """The client leaves, or the server gives the request up; both have the time to be heard."""
    if how == "left":
        exchange.leave()
    else:
        exchange.task.cancel()  # type: ignore[union-attr]
    for _ in range(3):
        await asyncio.to_thread(lambda: None)


async def over(exchange: Exchange) -> None:
    """Wait until the handler is done; it was given up at most."""
    await asyncio.wait([exchange.task], timeout=LIMIT_S)  # type: ignore[type-var]
    assert exchange.task.done()  # type: ignore[union-attr]
    assert exchange.task.cancelled() or exchange.task.exception() is None  # type: ignore[union-attr]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(("kind", "how"), WHO_ENDS)
async def test_atomic_requests_ends_as_in_stock_when_the_client_leaves(
    kind: Any,
    how: str,
    fails: bool,  # noqa: FBT001
    site: Site,
    database: Database,
) -> None:
    def view(_request: Any) -> Any:
        write(1)
        wait_in_server()
        if fails:
            raise ValueError("after writing")
        return HttpResponse()

    database.use(ATOMIC_REQUESTS=True, **(KEPT if kind is Handler else {}))
    site.view(view)
    add_queries(site)
    with site.open():
        handler = serve(kind, site, database)
        async with database.locked():
            exchange = Exchange("/view").start(handler)
            await database.until_one_waits()
            await end(exchange, how)
        await over(exchange)
        assert database.rows() == ([] if fails else [1])
        assert kind is ASGIHandler or await nothing_is_left(handler, database)


@pytest.mark.parametrize("kind", HANDLERS)
async def test_an_async_view_is_refused_where_requests_are_atomic(
    kind: Any, site: Site, database: Database
) -> None:
    async def view(_request: Any) -> Any:
        return HttpResponse()

    database.use(ATOMIC_REQUESTS=True)
    site.view(view)
    with site.open():
        assert (await ask(serve(kind, site, database), "/view")).status == 500


class Atomic:
    """`transaction.atomic` step by step, as projects have it for asynchronous code."""

    async def __aenter__(self) -> None:
        self._atomic = transaction.atomic(using=ALIAS)
        await sync_to_async(self._enter)()

    def _enter(self) -> None:
        self._atomic.__enter__()

    async def __aexit__(self, *error: object) -> None:
        await sync_to_async(self._atomic.__exit__)(*error)


class Transactions:
    """Asynchronous views that write in a transaction and then wait."""

    def __init__(self) -> None:
        self.inside = asyncio.Event()

    async def on_the_thread(self, _request: Any) -> Any:
        def work() -> None:
            with transaction.atomic(using=ALIAS):
                write(1)
                wait_in_server()

        await sync_to_async(work)()
        return HttpResponse()

    async def on_the_thread_around_the_loop(self, _request: Any) -> Any:
        def work() -> None:
            with transaction.atomic(using=ALIAS):
                write(1)
                async_to_sync(self._wait)()

        await sync_to_async(work)()
        return HttpResponse()

    async def step_by_step(self, _request: Any) -> Any:
        async with Atomic():
            await sync_to_async(write)(1)
            await self._wait()
        return HttpResponse()

    async def _wait(self) -> None:
        self.inside.set()
        await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("name", "rows"),
    [("on_the_thread", [1]), ("on_the_thread_around_the_loop", []), ("step_by_step", [])],
)
@pytest.mark.parametrize("settings", [KEPT, POOL], ids=["kept", "pool"])
@pytest.mark.parametrize("who", WHO_ENDS, ids=lambda who: f"{who[0].__name__}-{who[1]}")
async def test_a_transaction_of_an_async_view_ends_as_in_stock_when_the_client_leaves(
    who: tuple[Any, str],
    settings: dict[str, Any],
    name: str,
    rows: list[int],
    site: Site,
    database: Database,
) -> None:
    kind, how = who
    database.use(**(settings if kind is Handler or settings is POOL else {}))
    views = Transactions()
    site.view(getattr(views, name), route="view")
    add_queries(site)
    with site.open():
        handler = serve(kind, site, database)
        async with database.locked():
            exchange = Exchange("/view").start(handler)
            if name == "on_the_thread":
                await database.until_one_waits()
            else:
                await until(views.inside.is_set)
                assert database.states() == {"idle in transaction"}
            await end(exchange, how)
        await over(exchange)
        assert database.rows() == rows
        assert kind is ASGIHandler or await nothing_is_left(handler, database)


@pytest.mark.parametrize("settings", [KEPT, POOL, {}], ids=["kept", "pool", "age 0"])
async def test_a_transaction_that_nobody_ended_does_not_spoil_the_thread(
    settings: dict[str, Any], site: Site, database: Database
) -> None:
    inside, go = threading.Event(), threading.Event()

    class Slow(Atomic):
        def _enter(self) -> None:
            super()._enter()
            write(1)
            inside.set()
            assert go.wait(LIMIT_S)

    async def view(_request: Any) -> Any:
        async with Slow():  # is canceled before it is entered: nobody will leave it
            return HttpResponse()

    database.use(**settings)
    site.view(view)
    add_queries(site)
    with site.open():
        handler = database.serve()
        exchange = Exchange("/view").start(handler)
        await until(lambda: inside.is_set() and exchange.read.is_set())
        await end(exchange, "left")
        go.set()
        await over(exchange)
        assert database.rows() == []
        assert await nothing_is_left(handler, database)


@pytest.mark.parametrize("settings", [KEPT, POOL, {}], ids=["kept", "pool", "age 0"])
async def test_an_error_page_that_queries_leaves_no_connection_behind(
    settings: dict[str, Any], site: Site, database: Database
) -> None:
    def page(_request: Any, **_rest: Any) -> Any:
        return HttpResponse(str(backend()), status=404)

    def is_closed() -> bool:
        return connections[ALIAS].connection is None

    def close() -> None:
        connections[ALIAS].close()

    database.use(**settings)
    site.more_urls = {"handler404": staticmethod(page)}
    add_queries(site)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))  # Django asks it
    try:
        with site.open():
            handler = database.serve()
            assert (await ask(handler, "/nowhere")).status == 404
            assert await asyncio.to_thread(is_closed)
            assert await nothing_is_left(handler, database)
    finally:
        await asyncio.to_thread(close)


@pytest.mark.parametrize(
    ("settings", "statuses"),
    [
        (KEPT, [500, 200, 200]),
        (KEPT | {"CONN_HEALTH_CHECKS": True}, [200, 200, 200]),
        (POOL, [500, 200, 200]),
        (POOL | {"CONN_HEALTH_CHECKS": True}, [200, 200, 200]),
    ],
    ids=["kept", "kept and checked", "pool", "pool and checked"],
)
@pytest.mark.parametrize("route", ["/sync", "/hopping", "/orm"])
async def test_a_connection_that_the_server_ended_fails_one_request_or_none_if_it_is_checked(
    route: str,
    settings: dict[str, Any],
    statuses: list[int],
    site: Site,
    database: Database,
) -> None:
    database.use(**settings)
    add_queries(site)
    with site.open():
        handler = database.serve()
        ((_, before),) = await ask_in_turn(handler, route)
        await database.terminate()
        answers = await ask_in_turn(handler, *[route] * 3)
        assert [status for status, _ in answers] == statuses
        assert [body for _, body in answers[1:]] == [b"%d" % pid for pid in database.backends()] * 2
        assert answers[-1][1] != before


@pytest.mark.parametrize("settings", [KEPT, POOL], ids=["kept", "pool"])
async def test_a_transaction_that_the_server_ended_is_rolled_back_and_the_next_request_works(
    settings: dict[str, Any], site: Site, database: Database
) -> None:
    def view(_request: Any) -> Any:
        write(1)
        wait_in_server()
        return HttpResponse()

    database.use(ATOMIC_REQUESTS=True, **settings)
    site.view(view)
    add_queries(site)
    with site.open():
        handler = database.serve()
        async with database.locked():
            exchange = Exchange("/view").start(handler)
            await database.until_one_waits()
            await database.terminate()
        assert (await exchange.end()).status == 500
        assert database.rows() == []
        assert await nothing_is_left(handler, database)


@pytest.mark.parametrize("settings", [KEPT, POOL], ids=["kept", "pool"])
@pytest.mark.parametrize("is_async", [False, True])
async def test_a_connection_left_without_autocommit_is_given_up_with_what_it_wrote(
    is_async: bool,  # noqa: FBT001
    settings: dict[str, Any],
    site: Site,
    database: Database,
) -> None:
    def leave(_request: Any) -> Any:
        connections[ALIAS].set_autocommit(False)
        write(1)
        return HttpResponse()

    async def aleave(request: Any) -> Any:
        return await sync_to_async(leave)(request)

    def look(_request: Any) -> Any:
        write(2)
        return HttpResponse(str(connections[ALIAS].get_autocommit()))

    database.use(**settings)
    site.view(aleave if is_async else leave, route="leave")
    site.view(look)
    add_queries(site)
    with site.open():
        handler = database.serve()
        (_, before), left = await ask_in_turn(handler, "/sync", "/leave")
        assert left[0] == 200
        await until(lambda: database.states() <= {"idle"})
        assert await ask_in_turn(handler, "/look") == [(200, b"True")]
        assert database.rows() == [2]
        ((_, after),) = await ask_in_turn(handler, "/sync")
        assert (after == before) == (settings is POOL)  # the pool rolls back, and keeps it
