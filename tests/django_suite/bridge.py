"""Django's test clients, sent through an ASGI handler as a server would call it.

`install(handler_class)` replaces what `Client` and `AsyncClient` call. Each request becomes a scope
and a body, passes `handler(scope, receive, send)` in a task of its own, and the messages that come
back decide the response. The test gets the request and response objects that the handler made, for
tests look inside them, but status, headers, cookies and content must be what went over the wire.

To see those objects, the bridge wraps two methods of its handler instance that `ASGIHandler` has
and that a subclass must keep on calling: `create_request` and `run_get_response`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import wraps
from threading import Lock
from typing import Any

import django.core.asgi
import django.core.handlers.asgi
from asgiref.sync import async_to_sync
from django.contrib.staticfiles import handlers as _  # noqa: F401 - its base stays the stock one
from django.core.handlers.asgi import ASGIHandler
from django.core.signals import request_finished, request_started
from django.db import close_old_connections
from django.http import HttpRequest, HttpResponse
from django.test import client as test_client

from tests.django_suite.elsewhere import travel_elsewhere
from tests.django_suite.wire import ProtocolError, Wire, scope_from_environ

__all__ = ["COUNTS", "Counts", "install"]

EXTENSION = "tests.django_suite"


@dataclass(slots=True)
class Counts:
    """What happened so far in this process."""

    requests: int = 0
    """Made by a test's client."""
    served: int = 0
    """Of these, those that entered the handler's `__call__`."""
    calls: int = 0
    """All entries into the handler's `__call__`."""


COUNTS = Counts()


@dataclass(slots=True, kw_only=True)
class Trip:
    """One request of a client, from its scope to its response."""

    scope: dict[str, Any]
    wire: Wire
    enforce_csrf_checks: bool
    meta: dict[str, Any]
    request: Any = None
    response: Any = None


def install(handler_class: type[ASGIHandler], *, elsewhere: bool = False) -> None:
    """Let everything in this process use the handler class: clients, tests, get_asgi_application().

    Once a process; before test modules are imported. `elsewhere`: no synchronous code waits for the
    handler; it needs threads of its own.
    """
    _count_calls(handler_class)
    _count_requests()
    django.core.handlers.asgi.ASGIHandler = handler_class
    django.core.asgi.ASGIHandler = handler_class
    _Bridge.asgi_class = handler_class
    _Bridge.is_elsewhere = elsewhere
    test_client.ClientHandler = BridgedClientHandler
    test_client.AsyncClientHandler = BridgedAsyncClientHandler


class _Bridge:
    """An ASGI handler of its own for every client, as Django's client handlers are."""

    asgi_class: type[ASGIHandler]
    is_elsewhere: bool
    enforce_csrf_checks: bool
    _asgi: Any = None

    async def trip(self, *args: Any) -> tuple[Any, Any]:
        if self.is_elsewhere:
            return await travel_elsewhere(self.travel, *args)
        return await self.travel(*args)

    async def travel(
        self, scope: dict[str, Any], body: bytes, meta: dict[str, Any]
    ) -> tuple[Any, Any]:
        """The response and the request that the handler made."""
        if self._asgi is None:  # not before the first request: the settings may change until then
            self._asgi = _observed(self.asgi_class())
        trip = Trip(
            scope=scope, wire=Wire(body), enforce_csrf_checks=self.enforce_csrf_checks, meta=meta
        )
        scope.setdefault("extensions", {})[EXTENSION] = trip
        with _connections_kept_open():
            await asyncio.create_task(self._asgi(scope, trip.wire.receive, trip.wire.send))
        trip.wire.check_complete()
        request = trip.request
        if request is None:  # the handler refused to make one
            request = HttpRequest()
            request.method = scope["method"]
        return test_client.conditional_content_removal(request, _as_received(trip)), request


class BridgedClientHandler(_Bridge, test_client.ClientHandler):
    def __call__(self, environ: dict[str, Any]) -> Any:
        response, request = _run(self.trip, *scope_from_environ(environ))
        response.wsgi_request = request
        return response


class BridgedAsyncClientHandler(_Bridge, test_client.AsyncClientHandler):
    async def __call__(self, scope: dict[str, Any]) -> Any:
        body_file = scope.pop("_body_file", None)
        body = bytes(body_file.read()) if body_file else b""
        response, request = await self.trip(_as_sent(scope), body, {})
        response.asgi_request = request
        return response


def _as_sent(scope: dict[str, Any]) -> dict[str, Any]:
    """The scope of an AsyncRequestFactory in the types that the ASGI specification names."""
    query = scope.get("query_string", b"")
    host, port = scope["server"]
    return scope | {
        "query_string": query.encode() if isinstance(query, str) else query,
        "server": (host, int(port)),
        "client": tuple(scope["client"]) if scope.get("client") else None,
        "headers": [(name, value) for name, value in scope["headers"] if value],
    }


def _run(trip: Callable[..., Any], *args: Any) -> Any:
    """Wait for a coroutine function, its synchronous code on this thread if that is possible."""
    loop = None
    with suppress(RuntimeError):  # and called after it, or every traceback of a view would show it
        loop = asyncio.get_running_loop()
    if loop is None:
        return async_to_sync(trip)(*args)
    with ThreadPoolExecutor(max_workers=1) as other:  # a synchronous client in an asynchronous test
        return other.submit(async_to_sync(trip), *args).result()


def _observed(handler: ASGIHandler) -> ASGIHandler:
    """Let the handler tell a trip its request and its response."""
    create_request, run = handler.create_request, handler.run_get_response

    def create_request_of_trip(scope: dict[str, Any], body_file: Any) -> tuple[Any, Any]:
        request, error = create_request(scope, body_file)
        trip = scope["extensions"][EXTENSION]
        if request is not None:
            request.META.update(trip.meta)
            request._dont_enforce_csrf_checks = not trip.enforce_csrf_checks  # as Django's client
            request._trip = trip
            trip.request = request
        return request, error

    async def run_and_tell(request: Any) -> Any:
        request._trip.response = response = await run(request)
        return response

    handler.create_request = create_request_of_trip
    handler.run_get_response = run_and_tell
    return handler


def _as_received(trip: Trip) -> Any:
    """The handler's response object, with the content that went over the wire.

    Raises:
        ProtocolError: the wire says otherwise than the object.
    """
    wire, response = trip.wire, trip.response
    if response is None:
        return _from_wire(wire)
    said = (response.status_code, sorted(_headers(response)))
    sent = (wire.status, sorted((bytes(name), bytes(value)) for name, value in wire.headers))
    if said != sent:
        raise ProtocolError(f"the response says {said!r}, the wire {sent!r}")
    if response.streaming:
        response.streaming_content = _aiter(wire.chunks) if response.is_async else wire.chunks
    elif response.content != wire.body:
        response.content = wire.body
    return response


def _headers(response: Any) -> Iterator[tuple[bytes, bytes]]:
    for name, value in response.items():
        yield (
            name if isinstance(name, bytes) else name.encode("ascii"),
            value if isinstance(value, bytes) else value.encode("latin-1"),
        )
    for cookie in response.cookies.values():
        yield b"Set-Cookie", cookie.output(header="").encode("ascii").strip()


def _from_wire(wire: Wire) -> HttpResponse:
    """A response of a handler that showed none, as it refused to make a request."""
    response = HttpResponse(wire.body, status=wire.status)
    response.headers.clear()
    for name, value in wire.headers:
        response[name.decode("ascii")] = value.decode("latin-1")
    return response


async def _aiter(chunks: list[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


_open_trips = 0
_open_trips_lock = Lock()


@contextmanager
def _connections_kept_open() -> Iterator[None]:
    """As Django's client does: the connections belong to the test. Trips may overlap."""
    global _open_trips  # noqa: PLW0603 - as global as the receivers are
    with _open_trips_lock:
        _open_trips += 1
        if _open_trips == 1:
            request_started.disconnect(close_old_connections)
            request_finished.disconnect(close_old_connections)
    try:
        yield
    finally:
        with _open_trips_lock:
            _open_trips -= 1
            if _open_trips == 0:
                request_started.connect(close_old_connections)
                request_finished.connect(close_old_connections)


def _count_calls(handler_class: type[ASGIHandler]) -> None:
    original = handler_class.__call__

    @wraps(original)
    async def counted(self: Any, scope: dict[str, Any], receive: Any, send: Any) -> None:
        COUNTS.calls += 1
        COUNTS.served += EXTENSION in scope.get("extensions", ())
        await original(self, scope, receive, send)

    handler_class.__call__ = counted


def _count_requests() -> None:
    sync_request, async_request = test_client.Client.request, test_client.AsyncClient.request

    @wraps(sync_request)
    def counted(self: Any, **request: Any) -> Any:
        COUNTS.requests += 1
        return sync_request(self, **request)

    @wraps(async_request)
    async def acounted(self: Any, **request: Any) -> Any:
        COUNTS.requests += 1
        return await async_request(self, **request)

    test_client.Client.request = counted
    test_client.AsyncClient.request = acounted
