"""What lives as long as a worker: begun in each of them after the fork, ended when it stops."""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from asgi_health.types import App, Receive, Scope, Send

__all__ = ["Lived", "WorkerLife"]

Lived = Callable[[], AbstractAsyncContextManager[None]]

_log = logging.getLogger("project.worker_life")


class WorkerLife:
    """Serves with `app`; enters each of `lived` at the worker's startup, leaves them at its end.

    None of them may keep the worker from serving: what fails is logged, and is not there.
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
        stack = AsyncExitStack()
        for begin in self._lived:
            try:
                await stack.enter_async_context(begin())
            except Exception:  # noqa: BLE001 - the edge of what is no part of serving
                _log.exception("something that goes with a worker does not begin")
        await send({"type": "lifespan.startup.complete"})
        await receive()  # lifespan.shutdown
        try:
            await stack.aclose()
        except Exception:  # noqa: BLE001 - the same
            _log.exception("something that goes with a worker does not end well")
        await send({"type": "lifespan.shutdown.complete"})
