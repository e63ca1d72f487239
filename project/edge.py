"""Around Django, as pure ASGI: each request's id, its client's address, its log line, its figures,
and the headers that protect browsers.

A middleware of Django's would cost more, and would not see static files.
"""

import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter
from typing import Final, Protocol

from asgi_health.steps import Apart
from asgi_health.types import App, Message, Receive, Scope, Send
from asgi_health.warmup import WARMUP_EXTENSION
from project.access_log import AccessLog, Answered
from project.context import CLIENT_LEFT, UNMATCHED, RequestContext, current_request
from project.peers import Peers
from project.security_headers import Defaults

__all__ = ["Edge", "Observe", "Trace", "Traced"]

Observe = Callable[[str, str, int, float], None]
"""Called with method, route, status and seconds when a request is over."""


class Traced(Protocol):
    """A request whose trace has begun."""

    def fail(self, error: Exception, /) -> None:
        """It was not served, because of this."""

    def end(self, status: int, /) -> None:
        """It is over; 499 when the client left before an answer was begun."""


Trace = Callable[[Scope, RequestContext], Traced | None]
"""Called when a request begins, in the task that serves it; None where it has no trace."""

_log = logging.getLogger("project.edge")

_FAILED: Final = 500
_PATH_MAX: Final = 500
_OTHER: Final = "OTHER"
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Edge:
    """Serves with `app`.

    Args:
        app: the application.
        peers: whom to believe.
        access_log: gets each request.
        observe: gets each request's figures; None where nobody measures.
        trace: begins the trace of each request; None where nobody traces.
        headers: added to each response that does not have them.
        folders: the route of what lies below a path and has none in the URLconf, by that path.
    """

    def __init__(  # noqa: PLR0913 - each by its name, and most with a default
        self,
        app: App,
        *,
        peers: Peers,
        access_log: AccessLog,
        observe: Observe | None = None,
        trace: Trace | None = None,
        headers: Mapping[str, str] | None = None,
        folders: Mapping[str, str] | None = None,
    ) -> None:
        self._app = app
        self._peers = peers
        self._access_log = access_log
        self._observe = observe
        self._trace = trace
        self._defaults = Defaults(headers or {})
        self._folders = dict(folders or {})
        self._ids = _Ids()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Few calls: each costs four times what it costs alone, because Django's work in between
        # drives this code out of the processor's caches (benchmarks/bench_telemetry_cost.py).
        if scope["type"] != "http" or WARMUP_EXTENSION in (scope.get("extensions") or ()):
            await self._pass(scope, receive, send)
            return
        client, request_id, is_believed = self._peers.told(scope, receive, send)
        if client is not None:
            scope = {**scope, "client": client}
        context = RequestContext(request_id or self._ids.next(), is_believed=is_believed)
        wire = _Wire(receive, send, context.request_id, self._defaults)
        token = current_request.set(context)
        begun_s = perf_counter()
        traced = None if self._trace is None else self._trace(scope, context)
        try:
            await self._app(scope, wire.receive_on, wire.send_on)
        except Exception as error:
            if wire.status == CLIENT_LEFT:  # the server answers
                wire.status = _FAILED
            if traced is not None:
                traced.fail(error)
            raise
        finally:
            self._note(scope, context, wire, begun_s)
            if traced is not None:
                traced.end(wire.status)
            current_request.reset(token)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve what is not noted: a lifespan, a WebSocket, and the gate's own warm-up."""
        if scope["type"] != "websocket":
            await self._app(scope, receive, send)
            return
        told = self._peers.told(scope, receive, send)
        if told.client is not None:
            scope = {**scope, "client": told.client}
        token = current_request.set(
            RequestContext(told.request_id or self._ids.next(), is_believed=told.is_believed)
        )
        try:
            await self._app(scope, receive, send)
        finally:
            current_request.reset(token)

    def _note(self, scope: Scope, context: RequestContext, wire: "_Wire", begun_s: float) -> None:
        ended_s = perf_counter()
        method, status, route = scope["method"], wire.status, context.route
        if method not in _METHODS:
            method = _OTHER
        if route is None:
            route = context.route = self._folder_of(scope["path"])
        if self._access_log.has_room(status, ended_s):
            path = scope["path"][:_PATH_MAX] if route == UNMATCHED else None
            self._access_log.write(
                context,
                Answered(method, route, status, ended_s - begun_s, wire.sent_bytes, path),
            )
        if self._observe is not None:
            try:
                self._observe(method, route, status, ended_s - begun_s)
            except Exception:  # noqa: BLE001 - the edge: who counts must not fail who is served
                _log.exception("a request is not counted")

    def _folder_of(self, path: str) -> str:
        """The route of a request that reached no view: a path of one's own makes no new route."""
        for folder, route in self._folders.items():
            if path.startswith(folder):
                return route
        return UNMATCHED


class _Wire:
    """What comes from a client and goes to it. No coroutines of its own, for the same reason.

    What a server begins from within `receive` or the last `send`, the next request of the
    connection for instance, has a copy of the context in which they were awaited: an empty one.
    """

    __slots__ = ("_defaults", "_receive", "_request_id", "_send", "sent_bytes", "status")

    def __init__(self, receive: Receive, send: Send, request_id: str, defaults: Defaults) -> None:
        self._receive, self._send = receive, send
        self._request_id, self._defaults = request_id, defaults
        self.status, self.sent_bytes = CLIENT_LEFT, 0

    def receive_on(self) -> Awaitable[Message]:
        return Apart(self._receive())

    def send_on(self, message: Message) -> Awaitable[None]:
        kind = message["type"]
        if kind == "http.response.start":
            self.status = message["status"]
            request_id = (b"x-request-id", self._request_id.encode("ascii"))
            headers = [*message.get("headers", ()), request_id]
            headers += self._defaults.lacking_in(headers)
            message = {**message, "headers": headers}
        elif kind == "http.response.body":
            self.sent_bytes += len(message.get("body", b""))
            if not message.get("more_body"):
                return Apart(self._send(message))
        return self._send(message)


class _Ids:
    """Ids that no other process or request has; they can be guessed, and open nothing."""

    def __init__(self) -> None:
        self._begin()
        os.register_at_fork(after_in_child=self._begin)  # the parent's were its own

    def _begin(self) -> None:
        self._prefix, self._count = os.urandom(8).hex(), 0

    def next(self) -> str:
        """16 random hexadecimal digits of this process, then a count."""
        self._count += 1
        return f"{self._prefix}-{self._count}"
