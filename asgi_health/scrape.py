"""The answer to `/metrics`: what the gate knows, and what the application adds.

The application's part may read files, so it is made on a thread, one at a time: whoever asks
meanwhile gets the same. When it fails or takes too long, the gate's own part is the answer.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress

from asgi_health.metrics import CONTENT_TYPE, END, families_of, render
from asgi_health.probes import Answer
from asgi_health.vitals import Vitals

__all__ = ["Scrape"]

_log = logging.getLogger("asgi_health.metrics")

_LIMIT_S = 5.0
"""Half of what Prometheus waits by default."""


class Scrape:
    """Answers scrapes of one process."""

    def __init__(self, vitals: Vitals, *, limit_s: float = _LIMIT_S) -> None:
        """Read from `vitals`; wait for the application `limit_s` seconds at most."""
        self._vitals = vitals
        self._limit_s = limit_s
        self._running: asyncio.Future[str] | None = None
        self._has_failed = False

    async def answer(self) -> Answer:
        """The whole answer; never waits where nothing is loaded in this process."""
        boot = self._vitals.boot
        collect = None if boot is None else boot.metrics
        more = "" if collect is None else await self._ask(collect)
        text = render(families_of(self._vitals.figures())) + more + END
        body = text.encode("utf-8", "backslashreplace")
        headers = (
            (b"content-type", CONTENT_TYPE),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
        )
        return Answer(status=200, headers=headers, body=body)

    async def _ask(self, collect: Callable[[], str]) -> str:
        if self._running is None:
            self._running = _on_a_thread(collect)
            self._running.add_done_callback(self._conclude)
        try:
            async with asyncio.timeout(self._limit_s):
                text = await asyncio.shield(self._running)
        except Exception as error:  # noqa: BLE001 - the edge of another's code
            self._note(error)
            return ""
        self._has_failed = False
        return text.removesuffix(END)

    def _conclude(self, done: "asyncio.Future[str]") -> None:
        self._running = None
        if not done.cancelled():
            done.exception()  # whoever waited was told; perhaps nobody waits any more

    def _note(self, error: Exception) -> None:
        """Count each, log the first in a row."""
        self._vitals.count_scrape_error()
        if self._has_failed:
            return
        self._has_failed = True
        if isinstance(error, TimeoutError):
            _log.error("the application's metrics took longer than %g s", self._limit_s)
        else:
            _log.error("the application's metrics cannot be had", exc_info=error)


def _on_a_thread(collect: Callable[[], str]) -> "asyncio.Future[str]":
    """Its result; the thread is no reason for a process not to end."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[str] = loop.create_future()

    def settle(text: str, error: Exception | None) -> None:
        if outcome.done():
            return
        if error is None:
            outcome.set_result(text)
        else:
            outcome.set_exception(error)

    def run() -> None:
        text, raised = "", None
        try:
            text = collect()
        except Exception as error:  # noqa: BLE001 - it belongs to who waits for it
            raised = error
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, text, raised)

    threading.Thread(target=run, name="asgi_health scrape", daemon=True).start()
    return outcome
