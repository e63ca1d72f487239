"""What Django does around a request: its two signals, on the thread that they are for.

`request_started` and `request_finished` see to what belongs to a thread, database connections above
all. Without a lent thread there is nothing for Django's own receivers to see to; any other receiver
gets what the stock handler gives it.
"""

import asyncio
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from functools import cache, partial
from typing import Any

from asgiref.sync import sync_to_async
from django.core import signals
from django.core.cache import close_caches
from django.core.handlers.base import reset_urlconf
from django.db import close_old_connections, connections, reset_queries
from django.dispatch import Signal
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from asgi_health.adapters.django.lending import Lent
from asgi_health.adapters.django.threads import Threads
from asgi_health.types import Scope

__all__ = ["Cycle", "foreign_receivers"]


@cache
def _own() -> frozenset[int]:
    """Django's own receivers, as a signal keeps them."""
    return frozenset(map(id, (close_caches, close_old_connections, reset_queries, reset_urlconf)))


def _is_plain(signal: Signal) -> bool:
    """Whether a signal has none but Django's own receivers."""
    own = _own()
    return all(entry[0][0] in own for entry in signal.receivers)


def foreign_receivers(signal: Signal) -> list[str]:
    """The names of the receivers that are not Django's own and not asynchronous."""
    own = _own()
    found = []
    for entry in signal.receivers:
        reference, is_async = entry[1], entry[-1]
        receiver = reference() if isinstance(reference, weakref.ReferenceType) else reference
        if entry[0][0] not in own and receiver is not None and not is_async:
            named = receiver if hasattr(receiver, "__qualname__") else type(receiver)
            found.append(f"{named.__module__}.{named.__qualname__}")
    return found


class Cycle:
    """The signals of one request.

    Args:
        sender: of both: the handler's class.
        threads: where the request's thread comes from; None when synchronous code goes elsewhere.
    """

    __slots__ = ("_has_begun", "_scope", "_sender", "lent")

    def __init__(self, sender: type, scope: Scope, *, threads: Threads | None) -> None:
        self._sender = sender
        self._scope = scope
        self._has_begun = False
        self.lent = None if threads is None else Lent(threads, on_begin=self._begin_on_thread)

    async def begin(self) -> None:
        """Send `request_started`, unless nobody but the thread that is not lent yet would care."""
        if self.lent is None or not _is_plain(signals.request_started):
            self._has_begun = True
            await signals.request_started.asend(sender=self._sender, scope=self._scope)

    def _begin_on_thread(self) -> None:
        """On a thread that was lent just now: what `request_started` would have done there."""
        if not self._has_begun:
            self._has_begun = True
            signals.request_started.send(sender=self._sender, scope=self._scope)

    def stream(self) -> None:
        """The response may take for ever: it must not keep others from a thread."""
        if self.lent is not None:
            self.lent.go_beyond_limit()

    async def end(self, response: Any) -> None:
        """Close the response, which sends `request_finished`; on the thread if there is one.

        Django's own receivers tell nobody anything: the request need not wait for them.
        """
        is_plain = _closes_plainly(response) and _is_plain(signals.request_finished)
        if self.lent is None or not is_plain:
            await sync_to_async(response.close)()
            return
        await self._settle(self.lent)
        if self._give_back(self.lent, response.close) is None:
            response.close()

    async def abort(self) -> None:
        """Send `request_finished` without a response; what runs on the thread ends before."""
        finished = signals.request_finished
        if self.lent is None or not _is_plain(finished):
            await finished.asend(sender=self._sender)
            return
        await self._settle(self.lent)
        if self.lent.is_used and not self.lent.is_waiting:
            await finished.asend(sender=self._sender)
        elif self._give_back(self.lent, partial(finished.send, sender=self._sender)) is None:
            finished.send(sender=self._sender)

    async def leave(self) -> None:
        """Give back what is still lent: something went wrong, or the signals were others' affair.

        Waits for what runs on the thread, as asgiref does.
        """
        if self.lent is None:
            return
        ended = None
        try:
            await self._settle(self.lent)
        finally:
            ended = self._give_back(self.lent, close_old_connections)
        if ended is not None:
            await asyncio.shield(asyncio.wrap_future(ended))

    def _give_back(self, lent: Lent, after: Callable[[], Any]) -> "Future[None] | None":
        return lent.give_back(after=partial(_end_on_thread, after))

    async def _settle(self, lent: Lent) -> None:
        """Let a call that was given up tell so: it does in the next round of the loop."""
        if lent.is_waiting:
            await asyncio.sleep(0)


def _end_on_thread(close: Callable[[], Any]) -> None:
    """Leave the next request no transaction that nobody ended, such as one canceled in its begin.

    Inside one, Django never opens a closed connection again; it counts on a new thread a request.
    Whoever disconnects its receiver, as its test client does, shares a connection with others.
    """
    try:
        close()
    finally:
        receivers = signals.request_finished.receivers
        if any(entry[0][0] == id(close_old_connections) for entry in receivers):
            for connection in connections.all(initialized_only=True):
                if connection.in_atomic_block:
                    connection.close()
                    del connections[connection.alias]


def _closes_plainly(response: Any) -> bool:
    """Whether closing closes nothing but a request without uploaded files."""
    closers = response._resource_closers  # noqa: SLF001 - nobody tells it otherwise
    if len(closers) > 1 or type(response).close is not HttpResponseBase.close:
        return False
    owners = [getattr(closer, "__self__", None) for closer in closers]
    return all(
        isinstance(owner, HttpRequest) and not getattr(owner, "_files", None) for owner in owners
    )
