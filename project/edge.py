"""Around Django, as pure ASGI: each request's id, its client's address, its log line, its figures,
and the headers that protect browsers.

A middleware of Django's would cost more, and would not see static files.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import Final

from asgi_health.steps import Apart
from asgi_health.types import App, Header, Message, Receive, Scope, Send
from asgi_health.warmup import WARMUP_EXTENSION
from project.access_log import AccessLog, Answered
from project.context import RequestContext, current_request
from project.peers import Peers

__all__ = ["CLIENT_LEFT", "Edge", "Observe"]

Observe = Callable[[str, str, int, float], None]
"""Called with method, route, status and seconds when a request is over."""

_log = logging.getLogger("project.edge")

CLIENT_LEFT: Final = 499
"""The status of a request whose client left before an answer was begun; the number is nginx's."""

_FAILED: Final = 500
_UNMATCHED: Final = "unmatched"
_PATH_MAX: Final = 500
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Edge:
    """Serves with `app`.

    Args:
        app: the application.
        peers: whom to believe.
        access_log: gets each request.
        observe: gets each request's figures; None where nobody measures.
        headers: added to each response that does not have them.
        folders: the route of what lies below a path and has none in the URLconf, by that path.
    """

    def __init__(
        self,
        app: App,
        *,
        peers: Peers,
        access_log: AccessLog,
        observe: Observe | None = None,
        headers: Mapping[str, str] | None = None,
        folders: Mapping[str, str] | None = None,
    ) -> None:
        self._app = app
        self._peers = peers
        self._access_log = access_log
        self._observe = observe
        self._headers: list[Header] = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in (headers or {}).items()
        ]
        self._folders = dict(folders or {})
        self._ids = _Ids()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"} or _is_warmup(scope):
            await self._app(scope, receive, send)
            return
        client = self._peers.client_of(scope, receive, send)
        if client is not None:
            scope = {**scope, "client": client}
        context = RequestContext(self._peers.id_of(scope, receive, send) or self._ids.next())
        token = current_request.set(context)
        try:
            if scope["type"] == "http":
                await self._serve(scope, receive, send, context)
            else:
                await self._app(scope, receive, send)
        finally:
            current_request.reset(token)

    async def _serve(
        self, scope: Scope, receive: Receive, send: Send, context: RequestContext
    ) -> None:
        begun_s = time.perf_counter()
        status, sent_bytes = CLIENT_LEFT, 0
        request_id = (b"x-request-id", context.request_id.encode("ascii"))

        async def send_on(message: Message) -> None:
            nonlocal status, sent_bytes
            if message["type"] == "http.response.start":
                status = message["status"]
                given = message.get("headers", ())
                there = {name.lower() for name, _ in given}
                added = [header for header in self._headers if header[0] not in there]
                headers = [*given, request_id, *added]
                message = {**message, "headers": headers}
            elif message["type"] == "http.response.body":
                sent_bytes += len(message.get("body", b""))
                if not message.get("more_body"):
                    await Apart(send(message))
                    return
            await send(message)

        async def receive_on() -> Message:
            return await Apart(receive())

        try:
            await self._app(scope, receive_on, send_on)
        except Exception:
            if status == CLIENT_LEFT:  # the server answers
                status = _FAILED
            raise
        finally:
            duration_s = time.perf_counter() - begun_s
            route = context.route or self._folder_of(scope["path"])
            answered = Answered(
                method=scope["method"] if scope["method"] in _METHODS else "OTHER",
                route=route,
                status=status,
                duration_s=duration_s,
                sent_bytes=sent_bytes,
                path=scope["path"][:_PATH_MAX] if route == _UNMATCHED else None,
            )
            self._access_log.note(context, answered)
            self._count(answered)

    def _count(self, answered: Answered) -> None:
        if self._observe is None:
            return
        try:
            self._observe(answered.method, answered.route, answered.status, answered.duration_s)
        except Exception:  # noqa: BLE001 - the edge: who counts must not fail who is served
            _log.exception("a request is not counted")

    def _folder_of(self, path: str) -> str:
        """The route of a request that reached no view: a path of one's own makes no new route."""
        for folder, route in self._folders.items():
            if path.startswith(folder):
                return route
        return _UNMATCHED


def _is_warmup(scope: Scope) -> bool:
    """Whether nobody asks but the gate, before it is ready."""
    return WARMUP_EXTENSION in (scope.get("extensions") or ())


class _Ids:
    """Ids that no other process or request has; they can be guessed, and open nothing."""

    def __init__(self) -> None:
        self._pid, self._prefix, self._count = 0, "", 0

    def next(self) -> str:
        """16 random hexadecimal digits of this process, then a count."""
        if self._pid != os.getpid():  # forked: the parent's were its own
            self._pid, self._prefix, self._count = os.getpid(), os.urandom(8).hex(), 0
        self._count += 1
        return f"{self._prefix}-{self._count:x}"
