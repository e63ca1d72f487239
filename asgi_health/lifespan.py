"""Drive the inner application's own lifespan, as a server would.

Source: https://asgi.readthedocs.io/en/latest/specs/lifespan.html
"""

import asyncio
import logging
from typing import Any

from asgi_health.errors import InnerStartupFailed
from asgi_health.types import App, Message

__all__ = ["InnerLifespan"]

_log = logging.getLogger("asgi_health.lifespan")


class InnerLifespan:
    """The lifespan of one application, in one task from startup to shutdown.

    An application that raises before it has answered the startup does not support the protocol: the
    specification asks servers to go on without it.
    """

    def __init__(self, app: App, *, state: dict[str, Any]) -> None:
        self._app = app
        self._state = state
        self._task: asyncio.Task[None] | None = None
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._started: asyncio.Future[Message | None] | None = None
        self._stopped: asyncio.Future[Message | None] | None = None
        self.supported = False

    async def startup(self) -> None:
        """Send the startup and wait for its answer.

        Raises:
            InnerStartupFailed: the application answered `lifespan.startup.failed`.
        """
        loop = asyncio.get_running_loop()
        self._started, self._stopped = loop.create_future(), loop.create_future()
        self._inbox.put_nowait({"type": "lifespan.startup"})
        self._task = loop.create_task(self._run(), name="asgi_health inner lifespan")
        try:
            answer = await asyncio.shield(self._started)
        except asyncio.CancelledError:
            await self._cancel()
            raise
        if answer is None:
            return
        if answer["type"] == "lifespan.startup.failed":
            await self._cancel()
            raise InnerStartupFailed(message=str(answer.get("message", "")))

    async def shutdown(self) -> str | None:
        """Send the shutdown and wait for its answer; the reason when it failed."""
        if not self.supported or self._stopped is None:
            return None
        self._inbox.put_nowait({"type": "lifespan.shutdown"})
        answer = await asyncio.shield(self._stopped)
        await self._cancel()
        if answer is not None and answer["type"] == "lifespan.shutdown.failed":
            return str(answer.get("message", "")) or "no message given"
        return None

    async def _run(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self._state,
        }
        try:
            await self._app(scope, self._inbox.get, self._send)
        except Exception as error:  # noqa: BLE001 - the edge of another's code: what it means depends on the moment
            self._explain(error)
        except SystemExit as error:  # raised further, it would end the loop and the probes with it
            self._end(error)
        finally:
            for future in (self._started, self._stopped):
                if future is not None and not future.done():
                    future.set_result(None)

    def _end(self, error: SystemExit) -> None:
        """The application asked the process to end: before its startup that is a failed one."""
        if self._started is not None and not self._started.done():
            message = f"SystemExit: {error}"
            self._started.set_result({"type": "lifespan.startup.failed", "message": message})
        else:
            _log.error("the application's lifespan ended with SystemExit: %s", error)

    def _explain(self, error: Exception) -> None:
        if self.supported:
            _log.error("the application's lifespan ended with an error", exc_info=error)
        elif self._started is not None and not self._started.done():
            _log.info("the application does not support the lifespan protocol: %r", error)

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        future = self._started if kind.startswith("lifespan.startup.") else self._stopped
        if future is None or future.done() or kind not in _ANSWERS:
            raise RuntimeError(
                f"lifespan message {kind!r} now; allowed: one of {_ANSWERS}, each once"
            )
        self.supported = self.supported or kind == "lifespan.startup.complete"
        future.set_result(message)

    async def _cancel(self) -> None:
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=5.0)


_ANSWERS = (
    "lifespan.startup.complete",
    "lifespan.startup.failed",
    "lifespan.shutdown.complete",
    "lifespan.shutdown.failed",
)
