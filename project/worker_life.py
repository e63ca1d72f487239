"""What lives as long as a worker: begun in each of them after the fork, ended when it stops."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from asgi_health.types import App, Receive, Scope, Send

__all__ = ["Lived", "WorkerLife"]

Lived = Callable[[], AbstractAsyncContextManager[None]]


class WorkerLife:
    """Serves with `app`; enters each of `lived` at the worker's startup, leaves them at its end.

    Source: https://asgi.readthedocs.io/en/latest/specs/lifespan.html
    """

    def __init__(self, app: App, lived: Sequence[Lived]) -> None:
        self._app = app
        self._lived = tuple(lived)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        await receive()  # lifespan.startup
        async with AsyncExitStack() as stack:
            for begin in self._lived:
                await stack.enter_async_context(begin())
            await send({"type": "lifespan.startup.complete"})
            await receive()  # lifespan.shutdown
        await send({"type": "lifespan.shutdown.complete"})
