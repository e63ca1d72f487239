"""Below other code that decides where synchronous code runs, the hand-off leaves it to them."""

import asyncio
import threading
from typing import Any

import pytest
from asgiref.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
from django.core.handlers.asgi import ASGIHandler
from django.http import HttpResponse
from django.template.response import SimpleTemplateResponse
from django.urls import register_converter

from asgi_health.adapters.django.handler import Handler
from asgi_health.adapters.django.lending import Lent
from tests.adapters.handoff_parity import SHAPES, make_middleware
from tests.adapters.handoff_site import Exchange, Site, ask, until
from tests.adapters.test_handoff_parity import PURE


def ident(_request: Any) -> Any:
    return HttpResponse(str(threading.get_ident()))


async def hop(request: Any) -> Any:
    return await sync_to_async(ident)(request)


def run(handler: Any, route: str) -> bytes:
    """Serve one request for a synchronous caller."""

    async def serve() -> bytes:
        exchange = Exchange(route)
        await handler(exchange.scope, exchange.receive, exchange.send)
        return exchange.body

    return async_to_sync(serve)()


@pytest.mark.django_db  # its thread may have a connection, which the signals look at
def test_synchronous_code_runs_on_the_thread_of_a_synchronous_caller(site: Site) -> None:
    def note(*_args: Any) -> None:
        site.note(threading.get_ident())

    hooks = dict.fromkeys(("process_request", "process_view", "process_response"), note)
    for shape in SHAPES:
        if shape in {"mixin", "sync", "class", "sync mixin"}:
            site.middleware(make_middleware(Site(), shape, shape, hooks))
    site.view(ident)
    site.view(hop)
    own = threading.get_ident()
    with site.open():
        handler = Handler()
        for route in ("/ident", "/hop"):
            assert run(handler, route) == str(own).encode()
    assert set(site.calls) == {(own,)}
    assert handler.threads._counted == 0


async def test_a_synchronous_view_may_call_asynchronous_code_on_the_loop(site: Site) -> None:
    async def inner() -> str:
        thread = await sync_to_async(threading.get_ident)()
        return f"{threading.get_ident()} {thread}"

    def view(_request: Any) -> Any:
        return HttpResponse(f"{async_to_sync(inner)()} {threading.get_ident()}")

    site.view(view)
    with site.open():
        loop, inside, outside = (await ask(Handler(), "/view")).body.split()
    assert loop == str(threading.get_ident()).encode()
    assert inside == outside != loop


async def test_a_handler_that_is_called_in_a_view_shares_the_thread_of_it(site: Site) -> None:
    async def outer(_request: Any) -> Any:
        before = (await hop(None)).content
        inner = Exchange("/ident")
        await handler(inner.scope, inner.receive, inner.send)
        return HttpResponse(b" ".join([before, inner.body, (await hop(None)).content]))

    site.view(outer)
    site.view(ident)
    with site.open():
        handler = Handler(threads=1)
        answer = await ask(handler, "/outer")
        await until(lambda: handler.threads.lent == 0)
    assert len(set(answer.body.split())) == 1
    assert len(answer.body.split()) == 3


async def test_a_context_around_the_handler_decides_about_the_thread(site: Site) -> None:
    site.view(ident)
    site.view(hop)
    with site.open():
        handler = Handler()
        async with ThreadSensitiveContext():
            own = str(await sync_to_async(threading.get_ident)()).encode()
            for route in ("/ident", "/hop"):
                exchange = Exchange(route)
                await handler(exchange.scope, exchange.receive, exchange.send)
                assert exchange.body == own
    assert handler.threads._counted == 0


async def test_what_wraps_djangos_call_wraps_ours_too(site: Site, monkeypatch: Any) -> None:
    """Monitoring tools replace `ASGIHandler.__call__`."""
    original = ASGIHandler.__call__

    async def watched(self: Any, scope: Any, receive: Any, send: Any) -> None:
        site.note("watched", scope["path"])
        await original(self, scope, receive, send)

    monkeypatch.setattr(ASGIHandler, "__call__", watched)
    site.view(ident)
    with site.open():
        assert (await ask(Handler(), "/ident")).status == 200
    assert site.calls == [("watched", "/ident")]


async def hops_of(site: Site, route: str, monkeypatch: Any) -> int:
    """Calls that a request makes to its thread while it is served."""
    count: list[Any] = []
    submit = Lent.submit
    monkeypatch.setattr(Lent, "submit", lambda *args: count.append(1) or submit(*args))
    with site.open():
        handler = Handler()
        answer = await ask(handler, route)
        assert answer.status == 200
        await until(lambda: handler.threads.lent == 0)
    return len(count)


class Late(SimpleTemplateResponse):
    """Rendered on the thread."""

    rendered_content = "late"


async def test_a_synchronous_view_costs_one_call_with_hooks_and_rendering(
    site: Site, monkeypatch: Any
) -> None:
    acts = dict.fromkeys(
        ("process_request", "process_view", "process_template_response", "process_response"),
        lambda *_args: None,
    )
    for number, shape in enumerate(["mixin", "sync", "sync mixin", "class", "mixin"]):
        site.middleware(make_middleware(Site(), str(number), shape, acts))
    site.view(lambda _request: Late("unused"), route="late")
    assert await hops_of(site, "/late", monkeypatch) == 1


async def test_an_async_view_costs_two_calls_for_a_run_of_unknown_middlewares(
    site: Site, monkeypatch: Any
) -> None:
    acts = dict.fromkeys(("process_request", "process_response"), lambda *_args: None)
    for number in range(3):
        site.middleware(make_middleware(Site(), str(number), "mixin", acts))

    async def view(_request: Any) -> Any:
        return HttpResponse()

    site.view(view)
    assert await hops_of(site, "/view", monkeypatch) == 2


async def test_a_path_is_resolved_once(site: Site) -> None:
    class Noting:
        regex = "[a-z]+"

        def to_python(self, value: str) -> str:
            site.note(value)
            return value

        def to_url(self, value: str) -> str:
            return value

    register_converter(Noting, f"noting{id(site)}")

    async def aview(_request: Any, word: str) -> Any:
        return HttpResponse(word)

    def view(_request: Any, word: str) -> Any:
        return HttpResponse(word)

    site.view(view, route=f"s/<noting{id(site)}:word>")
    site.view(aview, route=f"a/<noting{id(site)}:word>")
    with site.open():
        assert (await ask(Handler(), "/s/one")).body == b"one"
        assert (await ask(Handler(), "/a/two")).body == b"two"
    assert site.calls == [("one",), ("two",)]


async def test_many_requests_of_all_kinds_at_once_get_their_own_answers(site: Site) -> None:
    def echo(request: Any) -> Any:
        request.session["n"] = request.GET["n"]
        return HttpResponse(request.GET["n"])

    async def aecho(request: Any) -> Any:
        await asyncio.sleep(0)
        return await sync_to_async(echo)(request)

    for path in PURE:
        site.middleware(path)
    site.middleware(make_middleware(Site(), "x", "mixin", {"process_response": lambda *_a: None}))
    site.view(echo)
    site.view(aecho)
    with site.open():
        handler = Handler(threads=4)
        asked = [
            Exchange(f"/{'a' * (n % 2)}echo", query=b"n=%d" % n).start(handler) for n in range(200)
        ]
        answers = [(await exchange.end()).body for exchange in asked]
        await until(lambda: handler.threads.lent == 0)
    assert answers == [b"%d" % n for n in range(200)]
