"""Hold early requests, in their order of arrival, without reading large bodies."""

import asyncio
from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Any

from asgi_health.answers import find_header
from asgi_health.phase import UNSETTLED, Lifecycle, Phase
from asgi_health.types import Message, Receive, Scope

if TYPE_CHECKING:  # a process without siblings never needs it
    from asgi_health.fleet.tally import Tally

__all__ = ["HeldReceive", "Hold", "Outcome"]

_BODY_READ_MAX_BYTES = 65536
"""Lies in the server's buffer anyway; reading it shows when the client leaves.
"""

_DISCONNECTS = frozenset({"http.disconnect", "websocket.disconnect"})


class Outcome(Enum):
    """How the holding of a request ended."""

    SETTLED = "settled"
    EXPIRED = "expired"
    REFUSED = "refused"
    GONE = "gone"


class HeldReceive:
    """The request's `receive`, which gives again what was read while the request was held."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        self.is_socket = scope["type"] == "websocket"
        self._watches = self.is_socket or _has_small_body(scope)
        self._read: deque[Message] = deque()
        self._next: asyncio.Task[Message] | None = None

    async def __call__(self) -> Message:
        if self._read:
            return self._read.popleft()
        if self._next is not None:
            pending, self._next = self._next, None
            return await pending
        return await self._receive()

    async def until(self, settled: "asyncio.Future[Phase]", *, limit_s: float) -> Outcome:
        """Wait for `settled`, for the client to leave, or for the limit."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + limit_s
        while True:
            waited: set[asyncio.Future[Any]] = {settled}
            if self._watches:
                self._next = self._next or asyncio.ensure_future(self._receive())
                waited.add(self._next)
            left_s = end_s - loop.time()
            done, _ = await asyncio.wait(
                waited, timeout=max(0.0, left_s), return_when=asyncio.FIRST_COMPLETED
            )
            if settled in done:
                return Outcome.SETTLED
            if not done:
                return Outcome.EXPIRED
            if self._keep() in _DISCONNECTS:
                return Outcome.GONE

    def close(self) -> None:
        """The request is over; forget what was still awaited."""
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _keep(self) -> str:
        pending, self._next = self._next, None
        message = {"type": "http.disconnect"} if pending is None else pending.result()
        self._read.append(message)
        return str(message["type"])


class Hold:
    """Counts and limits the requests that are held.

    Args:
        lifecycle: whose settling ends the holding.
        hold_s: seconds that a request is held at most.
        hold_limit: requests held at once at most.
    """

    def __init__(self, lifecycle: Lifecycle, *, hold_s: float, hold_limit: int) -> None:
        self._lifecycle = lifecycle
        self._hold_s = hold_s
        self._hold_limit = hold_limit
        self._now = 0
        self.sockets_now = 0
        """How many of them are WebSocket handshakes."""
        self.totals = dict.fromkeys(Outcome, 0)
        self.tally: Tally | None = None
        """Where the whole instance reads how many this process holds and held."""

    @property
    def now(self) -> int:
        """How many are held."""
        return self._now

    @now.setter
    def now(self, count: int) -> None:
        self._now = count
        if self.tally is not None:
            self.tally.hold(count)

    def count(self, outcome: Outcome) -> None:
        """One is held no longer."""
        self.totals[outcome] += 1
        if self.tally is not None:
            self.tally.count_to(outcome.value, self.totals[outcome])

    async def hold(self, held: HeldReceive) -> Outcome:
        """Hold one request."""
        if self.now >= self._hold_limit:
            outcome = Outcome.REFUSED
        else:
            outcome = await self._wait(held)
        self.count(outcome)
        return outcome

    async def _wait(self, held: HeldReceive) -> Outcome:
        settled = self._lifecycle.left(UNSETTLED)
        self.now += 1
        self.sockets_now += held.is_socket
        try:
            return await held.until(settled, limit_s=self._hold_s)
        finally:
            self.now -= 1
            self.sockets_now -= held.is_socket
            settled.cancel()


def _has_small_body(scope: Scope) -> bool:
    """Whether the body may be read while holding; who waits for `100 Continue` goes on waiting."""
    if (
        find_header(scope, b"transfer-encoding") is not None
        or find_header(scope, b"expect") is not None
    ):
        return False
    length = find_header(scope, b"content-length")
    if length is None:
        return True
    return length.isdigit() and len(length) < 10 and int(length) <= _BODY_READ_MAX_BYTES
