"""Requests as under a server: in an event loop of another thread, no synchronous code above them.

asgiref brings synchronous code back to a test that waits for it, so that a handler needs no thread
of its own; what it does with threads is not tested then. Here it has to find one. The test's
database connections are lent to all threads meanwhile, as LiveServerTestCase does it.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from asgiref.sync import AsyncToSync, sync_to_async
from django.db import connections
from django.db.utils import ConnectionHandler

__all__ = ["travel_elsewhere"]


class _Sharing:
    """The connections that all threads see; trips may overlap, and are of one test then."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._trips = 0
        self._shared: dict[str, Any] = {}
        self._find = ConnectionHandler.__getitem__

    def find(self, alias: str) -> Any:
        return self._shared[alias] if alias in self._shared else self._find(connections, alias)

    @contextmanager
    def of(self, found: dict[str, Any]) -> Iterator[None]:
        with self._lock:
            self._trips += 1
            if self._trips == 1:
                self._shared = found
                for connection in found.values():
                    connection.inc_thread_sharing()
                ConnectionHandler.__getitem__ = self.find
        try:
            yield
        finally:
            with self._lock:
                self._trips -= 1
                if self._trips == 0:
                    ConnectionHandler.__getitem__ = self._find
                    for connection in self._shared.values():
                        connection.dec_thread_sharing()
                    self._shared = {}


_sharing = _Sharing()


def _of_this_thread() -> dict[str, Any]:
    return {alias: connections[alias] for alias in connections}


_is_elsewhere = ContextVar("_is_elsewhere", default=False)


async def travel_elsewhere(travel: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> Any:
    """Await a coroutine function in an event loop of another thread, which is not the test's.

    A request that a view makes stays where the view is.
    """

    def run() -> Any:
        waiting = getattr(AsyncToSync.executors, "current", None)
        AsyncToSync.executors.current = None  # or asgiref finds the test, even from this thread
        token = _is_elsewhere.set(True)
        try:
            return asyncio.run(travel(*args))
        finally:
            _is_elsewhere.reset(token)
            AsyncToSync.executors.current = waiting

    if _is_elsewhere.get():
        return await travel(*args)
    with _sharing.of(await sync_to_async(_of_this_thread)()):
        return await sync_to_async(run, thread_sensitive=False)()
