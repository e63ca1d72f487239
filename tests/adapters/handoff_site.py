"""A small Django site for the tests of the hand-off, and the server's side of the ASGI protocol."""

import asyncio
import contextvars
import gc
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

from django.core.handlers.asgi import ASGIHandler
from django.test import override_settings
from django.urls import clear_url_caches, path

from asgi_health.adapters.django.threads import Threads

LIMIT_S = 30


class Site:
    """Views and middlewares of one test, and what they noted.

    Middlewares need an import path: they become attributes of this module while the site is open.
    """

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self._middleware: list[str] = []
        self._names: list[str] = []
        self._views: dict[str, Any] = {}
        self._bodies: list[Any] = []
        self.more_urls: dict[str, Any] = {}

    def note(self, *entry: Any) -> None:
        self.calls.append(entry)

    def view(self, function: Any, *, route: str | None = None) -> Any:
        """Serve a view, at its name if nothing else is said."""
        self._views[function.__name__ if route is None else route] = function
        return function

    def middleware(self, factory: Any) -> Any:
        """Add an innermost middleware: a factory, or the path of one."""
        if isinstance(factory, str):
            self._middleware.append(factory)
            return factory
        name = f"made_{len(self._names)}_{id(self)}"
        setattr(sys.modules[__name__], name, factory)
        self._names.append(name)
        self._middleware.append(f"{__name__}.{name}")
        return factory

    def serve(self, kind: type[ASGIHandler], **options: Any) -> Any:
        """A handler. Stock leaves bodies to the garbage collector, which warns: they are kept."""
        handler: Any = kind(**options)
        read_body = handler.read_body

        async def read_and_keep(receive: Any) -> Any:
            self._bodies.append(await read_body(receive))
            return self._bodies[-1]

        handler.read_body = read_and_keep
        return handler

    @contextmanager
    def open(self, **settings: Any) -> Any:
        patterns = [path(route, view) for route, view in self._views.items()]
        urls = type("Urls", (), {"urlpatterns": patterns} | self.more_urls)
        base = {
            "ROOT_URLCONF": urls,
            "MIDDLEWARE": list(self._middleware),
            "ALLOWED_HOSTS": ["shop.example"],
            "SESSION_ENGINE": "django.contrib.sessions.backends.cache",
        }
        with override_settings(**(base | settings)):
            try:
                yield self
            finally:
                clear_url_caches()
                for body in self._bodies:
                    body.close()
                for name in self._names:
                    delattr(sys.modules[__name__], name)


class Exchange:
    """One request as a server conducts it.

    Args:
        pieces: the body, message by message.
        hold: asked for each message that is sent; what it awaits holds the server's buffer full.
    """

    def __init__(
        self,
        route: str = "/",
        *,
        method: str = "GET",
        headers: Sequence[tuple[bytes, bytes]] = ((b"host", b"shop.example"),),
        pieces: Sequence[bytes] = (b"",),
        query: bytes = b"",
        hold: Callable[[Any], Any] | None = None,
        **more: Any,
    ) -> None:
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": route,
            "raw_path": route.encode(),
            "query_string": query,
            "root_path": "",
            "headers": list(headers),
            "client": ("192.0.2.7", 4711),
            "server": ("shop.example", 80),
        } | more
        self._inbox: list[dict[str, Any]] = [
            {"type": "http.request", "body": piece, "more_body": i < len(pieces) - 1}
            for i, piece in enumerate(pieces)
        ]
        self.left = asyncio.Event()
        self.read = asyncio.Event()
        self.sent: list[Any] = []
        self._hold = hold
        self.task: asyncio.Task[None] | None = None

    async def receive(self) -> Any:
        if self._inbox:
            return self._inbox.pop(0)
        self.read.set()
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)
        if self._hold is not None:
            await self._hold(message)

    def start(self, handler: Any) -> "Exchange":
        """Serve it in a task of its own."""
        context = contextvars.Context()
        call = handler(self.scope, self.receive, self.send)
        self.task = asyncio.get_running_loop().create_task(call, context=context)
        return self

    def leave(self) -> "Exchange":
        """The client leaves."""
        self.left.set()
        return self

    async def leave_now(self) -> None:
        """The client leaves, and the handler has the time to hear of it."""
        self.left.set()
        await asyncio.sleep(0)

    async def end(self) -> "Exchange":
        """Wait until it is served; raises what the handler raised."""
        assert self.task is not None
        async with asyncio.timeout(LIMIT_S):
            await self.task
        return self

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        return list(self.sent[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent[1:])


async def ask(handler: ASGIHandler, route: str = "/", **more: Any) -> Exchange:
    """Send one request and wait for its answer."""
    return await Exchange(route, **more).start(handler).end()


async def all_idle() -> None:
    """Wait for the threads of all handlers so far: they finish requests a little later."""
    for pool in [made for made in gc.get_objects() if type(made) is Threads]:
        await until(lambda pool=pool: pool.lent == 0)


async def until(is_so: Callable[[], bool]) -> None:
    """Let the loop and the threads go on until something is so.

    Not all the time: on a busy machine that keeps other threads from Python's lock for seconds.
    """
    async with asyncio.timeout(LIMIT_S):
        for _ in range(100):
            if is_so():
                return
            await asyncio.to_thread(lambda: None)
        while not is_so():  # noqa: ASYNC110 - no event of ours tells it
            await asyncio.sleep(0.002)
