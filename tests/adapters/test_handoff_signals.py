"""Whoever listens to the signals of requests hears what Django's handler tells."""

import asyncio
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.core import signals
from django.core.handlers.asgi import ASGIHandler
from django.db import close_old_connections
from django.http import HttpResponse, StreamingHttpResponse

from asgi_health.adapters.django.cycle import foreign_receivers
from asgi_health.adapters.django.handler import Handler
from tests.adapters.handoff_parity import both
from tests.adapters.handoff_site import LIMIT_S, Exchange, Site, ask, until

HANDLERS = [ASGIHandler, Handler]
FAILED = signals.got_request_exception


@pytest.fixture
def connect(settled: None) -> Iterator[Any]:
    """Connect receivers until the test is over."""
    made: list[tuple[Any, Any, Any]] = []

    def connect(signal: Any, receiver: Any, sender: Any = None) -> None:
        signal.connect(receiver, sender=sender)
        made.append((signal, receiver, sender))

    yield connect
    for signal, receiver, sender in made:
        signal.disconnect(receiver, sender=sender)


def add_views(site: Site) -> list[str]:
    def view(_request: Any) -> Any:
        site.note("view")
        return HttpResponse()

    async def aview(_request: Any) -> Any:
        site.note("view")
        return HttpResponse()

    async def hop(_request: Any) -> Any:
        await sync_to_async(site.note)("view")
        return HttpResponse()

    def stream(_request: Any) -> Any:
        return StreamingHttpResponse(iter([b"a"]))

    def fail(_request: Any) -> Any:
        raise ValueError("view")

    for made in (view, aview, hop, stream, fail):
        site.view(made)
    return ["view", "aview", "hop", "stream", "fail", "nothing"]


@pytest.mark.usefixtures("settled")
async def test_receivers_hear_the_same_in_the_same_order() -> None:
    def build(site: Site) -> list[Any]:
        return [{"route": f"/{name}"} for name in add_views(site)]

    stock, ours = await both(build, with_receivers=True)
    assert ours == stock
    assert ("request_started", "ASGIHandler", ["scope", "signal"]) in ours["calls"]


@pytest.mark.parametrize("kind", HANDLERS)
async def test_a_receiver_that_asked_for_djangos_handler_is_called(
    kind: Any, site: Site, connect: Any
) -> None:
    def started(scope: Any, **_rest: Any) -> None:
        site.note("started", scope["path"])

    def finished(**_rest: Any) -> None:
        site.note("finished")

    connect(signals.request_started, started, ASGIHandler)
    connect(signals.request_finished, finished, ASGIHandler)
    add_views(site)
    with site.open():
        await ask(site.serve(kind), "/aview")
    assert site.calls == [("started", "/aview"), ("view",), ("finished",)]


async def test_a_subclass_of_the_handler_sends_in_its_own_name(site: Site, connect: Any) -> None:
    class Special(Handler):
        """A project's own."""

    def started(**_rest: Any) -> None:
        site.note("started")

    connect(signals.request_started, started, Special)
    add_views(site)
    with site.open():
        await ask(Special(), "/aview")
        await ask(Handler(), "/aview")
    assert site.calls == [("started",), ("view",), ("view",)]


@pytest.mark.parametrize("kind", HANDLERS)
@pytest.mark.parametrize("name", ["request_started", "request_finished"])
async def test_what_a_receiver_raises_reaches_the_server(
    name: str, kind: Any, site: Site, connect: Any
) -> None:
    def fail(**_rest: Any) -> None:
        raise ValueError(name)

    connect(getattr(signals, name), fail)
    add_views(site)
    with site.open():
        for route in ("/view", "/aview"):
            handler = site.serve(kind)
            with pytest.raises(ValueError, match=name):
                await Exchange(route).start(handler).end()
            if kind is Handler:
                await until(lambda handler=handler: handler.threads.lent == 0)
    assert len(site.calls) == (2 if name == "request_finished" else 0)


async def test_receivers_run_on_the_thread_of_the_request(site: Site, connect: Any) -> None:
    def note(**_rest: Any) -> None:
        site.note(threading.get_ident())

    connect(signals.request_started, note)
    connect(signals.request_finished, note)
    site.view(lambda _request: HttpResponse(str(threading.get_ident())), route="view")
    with site.open():
        answer = await ask(Handler(), "/view")
    assert site.calls == [(int(answer.body),)] * 2


async def test_asynchronous_receivers_run_on_the_loop(site: Site, connect: Any) -> None:
    async def note(**_rest: Any) -> None:
        await asyncio.sleep(0)
        site.note(threading.get_ident())

    connect(signals.request_started, note)
    connect(signals.request_finished, note)
    add_views(site)
    with site.open():
        await ask(Handler(), "/aview")
    assert site.calls == [(threading.get_ident(),), ("view",), (threading.get_ident(),)]


@pytest.mark.parametrize("kind", HANDLERS)
@pytest.mark.parametrize("is_async", [False, True])
async def test_an_exception_is_told_once_and_can_be_examined(
    is_async: bool,  # noqa: FBT001
    kind: Any,
    site: Site,
    connect: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def failed(request: Any, **_rest: Any) -> None:
        site.note(request.path, str(sys.exc_info()[1]))

    def fail(_request: Any) -> Any:
        raise ValueError("view")

    async def afail(_request: Any) -> Any:
        raise ValueError("view")

    connect(FAILED, failed)
    site.view(afail if is_async else fail, route="fail")
    for path in ("security.SecurityMiddleware", "common.CommonMiddleware"):
        site.middleware(f"django.middleware.{path}")
    with site.open(), caplog.at_level("ERROR", "django.request"):
        await ask(site.serve(kind), "/fail")
    assert site.calls == [("/fail", "view")]
    logged = [r for r in caplog.records if r.name == "django.request"]
    assert [r.getMessage() for r in logged] == ["Internal Server Error: /fail"]


async def test_who_disconnects_djangos_own_receiver_keeps_connections_open(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Django's test client does, so that a view shares the connection of its test."""
    asked: list[int] = []
    monkeypatch.setattr(
        "django.db.connections.all", lambda **_more: asked.append(threading.get_ident()) or []
    )
    site.view(lambda _request: HttpResponse(str(threading.get_ident())), route="")

    async def count() -> int:
        """How often the thread looked for connections during a request."""
        asked.clear()
        thread = int((await ask(handler)).body)
        await until(lambda: handler.threads.lent == 0)
        return asked.count(thread)

    with site.open():
        handler = Handler()
        for signal in (signals.request_started, signals.request_finished):
            signal.disconnect(close_old_connections)
        try:
            without = await count()
        finally:
            for signal in (signals.request_started, signals.request_finished):
                signal.connect(close_old_connections)
        assert (without, await count()) == (1, 4)  # reset_queries looks as well


async def test_what_a_response_closes_of_its_own_is_closed_on_the_thread(site: Site) -> None:
    class Closing(HttpResponse):
        def close(self) -> None:
            site.note("own close", threading.get_ident())
            super().close()

    async def own_close(_request: Any) -> Any:
        return Closing()

    async def closer(_request: Any) -> Any:
        response = HttpResponse()
        response._resource_closers.append(lambda: site.note("closer", threading.get_ident()))
        return response

    site.view(own_close)
    site.view(closer)
    with site.open():
        await ask(Handler(), "/own_close")
        await ask(Handler(), "/closer")
    assert [name for name, _ in site.calls] == ["own close", "closer"]
    assert threading.get_ident() not in {ident for _, ident in site.calls}


async def test_the_answer_does_not_wait_for_djangos_own_receivers(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    site.view(lambda _request: HttpResponse(), route="")

    def slow(self: Any) -> None:
        assert go.wait(LIMIT_S)

    monkeypatch.setattr("django.http.HttpRequest.close", slow)
    with site.open():
        handler = Handler()
        assert (await ask(handler)).status == 200
        assert handler.threads.lent == 1
        go.set()
        await until(lambda: handler.threads.lent == 0)


class Callable:
    """A receiver without a name."""

    def __call__(self, **_rest: Any) -> None:
        """Hear nothing."""


def test_foreign_receivers_are_named(connect: Any) -> None:
    receiver = Callable()

    def plain(**_rest: Any) -> None:
        """Hear nothing."""

    async def aplain(**_rest: Any) -> None:
        """Cost no thread."""

    assert foreign_receivers(signals.request_started) == []
    for made in (receiver, plain, aplain):
        connect(signals.request_started, made)
    names = [name.rsplit(".", 1)[-1] for name in foreign_receivers(signals.request_started)]
    assert names == ["Callable", "plain"]
