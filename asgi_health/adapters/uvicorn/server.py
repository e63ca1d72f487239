"""A Uvicorn server as one worker of an instance with a master.

What it changes about the stock server: it takes the connections that came while the master loaded,
leaves only when the master means it, drains before it closes, and is replaced when it grows too
large. Source of the stock behavior: uvicorn.server.
"""

import asyncio
import logging
import os
import random
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

from uvicorn.config import Config
from uvicorn.server import Server

from asgi_health.fleet.draining import release_stop_signals
from asgi_health.fleet.handover import Handover
from asgi_health.fleet.looplag import LoopWatch
from asgi_health.fleet.masterboard import Stage
from asgi_health.fleet.seat import Load, Seat, Succession
from asgi_health.gate import HealthGate
from asgi_health.phase import UNSETTLED, Phase

__all__ = ["FleetServer", "Post", "serve_in_fleet"]

_log = logging.getLogger("asgi_health.fleet")

_LOOK_S = 0.05
_TAKE_S = 0.01
_FIRST_TICK_S = 0.2
_OWN_BUSINESS_S = 0.5
"""A stop that the master has not heard of by then is meant for this worker alone."""

_IDLE_S = 1.0
"""How long idle connections are kept at a stop: a client that asks again is told to close."""

_SETTLE_S = 10.0
_MARGIN_S = 1.5
"""What canceled requests and the application's shutdown get before the master kills."""

_CLEANUP_SHARE = 0.5
"""Of the margin, for `finally` blocks: the application is not shut down under them."""

_LEFT_OVER_S = 0.2
_RECYCLE_LOOK_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """What a worker of the fleet is given.

    Args:
        gate: the application.
        seat: the worker's place.
        handover: the connections that came while the master loaded; None without a warm boot.
        requests_max: after so many the worker is replaced.
        master: process id.
        graceful_s: seconds for requests in flight at a stop.
    """

    gate: HealthGate
    seat: Seat
    handover: Handover | None
    requests_max: int
    master: int
    graceful_s: float


class FleetServer(Server):
    """One worker's server."""

    def __init__(self, config: Config, *, post: Post) -> None:
        super().__init__(config)
        self._post = post
        self._asked_s: float | None = None
        self._is_draining = False
        self._hurries = False
        self._expected: frozenset[int] = frozenset()
        self._told: set[Any] = set()
        self._heeding: asyncio.Task[None] | None = None
        self._adoption: asyncio.Task[None] | None = None
        self._next_recycle_s = 0.0
        self._watch: LoopWatch | None = None
        self._sockets: list[Any] = []

    async def startup(self, sockets: list[Any] | None = None) -> None:
        release_stop_signals()  # this server listens to them by now
        loop = asyncio.get_running_loop()
        warn_s = self._post.seat.board.config.loop_lag_warn_s
        self._watch = LoopWatch(loop, warn_s=warn_s)
        self._watch.start()
        self._post.seat.observe = self._load
        self._heeding = loop.create_task(self._heed(), name="asgi_health stop")
        self._sockets = [*(sockets or [])]
        await super().startup(self._sockets)
        if self._post.handover is not None:
            self._adoption = loop.create_task(self._adopt(), name="asgi_health adoption")

    def handle_exit(self, sig: int, _frame: FrameType | None) -> None:
        """A signal to stop: what it means is decided on the loop."""
        self._asked_s = self._asked_s or time.monotonic()
        # Seen now: they may have died when it is decided.
        self._expected |= self._post.seat.successors()
        if sig == signal.SIGQUIT:
            self._hurries = self.should_exit = True

    async def shutdown(self, sockets: list[Any] | None = None) -> None:
        """Accept no more, finish what came, close idle connections late; then as stock does."""
        end_s = time.monotonic() + self._post.graceful_s - self._margin_s
        self._post.seat.begin_leaving()
        await self._stop_accepting()
        await self._settle()
        self._begin_drain(spread_s=self._idle_s)
        await self._wait(until_s=min(end_s, time.monotonic() + self._idle_s))
        await self._finish(end_s)
        self.config.timeout_graceful_shutdown = _LEFT_OVER_S  # type: ignore[assignment]  # it may be a part of a second
        await super().shutdown(sockets)
        for task in (self._heeding, self._adoption):
            if task is not None:
                task.cancel()
        if self._watch is not None:
            self._watch.stop()

    async def _stop_accepting(self) -> None:
        """Close the listeners in two steps.

        asyncio gives a connection to its server one tick after it has accepted it, and drops it
        when the server has been closed in between.
        """
        loop = asyncio.get_running_loop()
        for server in self.servers:
            for listener in server.sockets:
                loop.remove_reader(listener.fileno())
        await asyncio.sleep(0)
        for server in self.servers:
            server.close()

    async def _wait(self, *, until_s: float) -> None:
        """Wait for open connections and running requests, unless there is no time."""
        state = self.server_state
        while (state.connections or state.tasks) and not self._hurries:
            if time.monotonic() >= until_s:
                return
            await asyncio.sleep(_LOOK_S)

    async def _finish(self, end_s: float) -> None:
        """End each connection with its last answer; cancel the requests that last too long."""
        state = self.server_state
        if state.connections:
            _log.info("waiting for %d connections to close", len(state.connections))
        while (state.connections or state.tasks) and not self._hurries:
            for connection in state.connections - self._told:
                self._end_connection(connection)
            if time.monotonic() >= end_s:
                break
            await asyncio.sleep(_LOOK_S)
        if state.tasks:
            await self._cancel(set(state.tasks))
        for connection in list(state.connections):
            connection.transport.abort()
        state.connections.clear()  # stock would end each of them once more

    async def _cancel(self, requests: set[asyncio.Task[None]]) -> None:
        why = "SIGQUIT" if self._hurries else f"graceful_timeout ({self._post.graceful_s:g} s)"
        _log.error("%d requests are canceled: %s", len(requests), why)
        for request in requests:
            request.cancel()
        await asyncio.wait(requests, timeout=self._margin_s * _CLEANUP_SHARE)

    def _end_connection(self, connection: Any) -> None:
        """Close it when it is idle, after its answer otherwise; a WebSocket with 1012."""
        if connection not in self.server_state.connections or connection in self._told:
            return
        if _is_websocket(connection):
            if not _has_shaken_hands(connection):  # stock would answer 500
                asyncio.get_running_loop().call_later(_LOOK_S, self._end_connection, connection)
                return
            self._told.add(connection)
        try:
            connection.shutdown()
        except Exception as error:  # noqa: BLE001 - it is closing already, each library says so its own way
            _log.debug("a connection closes by itself: %r", error)

    @property
    def _idle_s(self) -> float:
        return min(_IDLE_S, self._post.graceful_s / 4)

    @property
    def _margin_s(self) -> float:
        return min(_MARGIN_S, self._post.graceful_s / 2)

    def _load(self) -> Load:
        lag_s = 0.0 if self._watch is None else self._watch.take_worst_s()
        return Load(len(self.server_state.tasks), self.server_state.total_requests, lag_s)

    async def _settle(self) -> None:
        """A loaded worker finishes its boot first: somebody may have connected to it already."""
        must_not_wait = self._hurries or self._post.seat.delay_s
        if self._post.gate.preloaded is not None and not must_not_wait:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(_SETTLE_S, self._post.graceful_s / 2)):
                    await self._post.gate.lifecycle.left(UNSETTLED)
                    if self._adoption is not None:
                        await asyncio.shield(self._adoption)

    async def _heed(self) -> None:
        """Watch for the stop of the instance, of this worker, and of the master."""
        while not self.should_exit:
            if self._must_leave():
                self.should_exit = True
                self._leave_before_the_start()
            await asyncio.sleep(_LOOK_S)

    def _leave_before_the_start(self) -> None:
        """A worker that boots without accepting: nobody waits for it, and nobody shall come."""
        is_quiet = self._post.gate.preloaded is None or self._post.seat.joins_quietly
        if not self.started and is_quiet:
            self._sockets.clear()  # the stock startup opens them when the gate lets it go on
            self._post.gate.begin_drain()

    def _must_leave(self) -> bool:
        stage = self._post.seat.board.stage
        if os.getppid() != self._post.master:
            _log.error("the master has gone; this worker leaves")
            return True
        if stage is Stage.STOPPING:
            return self._asked_s is not None
        if stage is Stage.DRAINING:
            if self._post.gate.lifecycle.phase is Phase.READY:
                self._begin_drain(spread_s=self._post.seat.board.config.drain_s / 2)
            return False
        if self._asked_s is not None:
            is_alone = time.monotonic() - self._asked_s >= _OWN_BUSINESS_S
            return is_alone and self._may_leave_alone()
        return self._is_worn_out()

    def _may_leave_alone(self) -> bool:
        """Whether enough others serve, or nobody will come in this worker's place before it goes.

        When those who were to come have failed, this worker stays, as if it had not been asked.
        """
        succession = self._post.seat.succession(self._expected)
        if succession is Succession.FAILED:
            self._asked_s, self._expected = None, frozenset()
            _log.error("worker %d stays: those who were to replace it have failed", os.getpid())
        return succession in {Succession.READY, Succession.NONE}

    def _is_worn_out(self) -> bool:
        """Whether this worker has served enough, or is too large, and may be replaced now."""
        now_s = time.monotonic()
        if now_s < self._next_recycle_s or self._post.gate.lifecycle.phase is not Phase.READY:
            return False
        self._next_recycle_s = now_s + _RECYCLE_LOOK_S
        seat = self._post.seat
        if self.server_state.total_requests >= self._post.requests_max:
            reason = f"it has served {self.server_state.total_requests} requests"
        elif seat.is_too_large():
            reason = f"it occupies more than {seat.board.config.worker_rss_limit_mib} MiB"
        else:
            return False
        if not seat.may_be_replaced():
            return False
        _log.warning("worker %d is replaced: %s", os.getpid(), reason)
        return True

    def _begin_drain(self, *, spread_s: float) -> None:
        """Every answer ends its connection from now on; open sockets are told, one by one."""
        if self._is_draining:
            return
        self._is_draining = True
        self._post.gate.begin_drain()
        loop = asyncio.get_running_loop()
        for connection in list(self.server_state.connections):
            if _is_websocket(connection):
                delay_s = spread_s * random.random()  # noqa: S311 - no secret
                loop.call_later(delay_s, self._end_connection, connection)

    async def _adopt(self) -> None:
        """Take connections that came early, a portion at a time, so that others get some too."""
        handover = self._post.handover
        await self._post.gate.lifecycle.left(UNSETTLED)
        first_tick_s = time.monotonic() + _FIRST_TICK_S
        while not self.server_state.default_headers and time.monotonic() < first_tick_s:  # noqa: ASYNC110 - a list
            await asyncio.sleep(_TAKE_S)
        while handover is not None and (portion := handover.take()) is not None:
            for connection in portion:
                await self._welcome(connection)
            await asyncio.sleep(_TAKE_S)

    async def _welcome(self, connection: Any) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(
                lambda: self.config.http_protocol_class(  # type: ignore[call-arg]  # Uvicorn's own
                    config=self.config,
                    server_state=self.server_state,
                    app_state=self.lifespan.state,
                    _loop=loop,
                ),
                connection,
            )
        except OSError:  # it has gone
            connection.close()


async def serve_in_fleet(worker: Any, post: Post) -> None:
    """What a `UvicornWorker` serves with when it is a member of a fleet."""
    config = worker.config
    config.app = worker.wsgi
    config.limit_max_requests = None  # the fleet decides when
    server = FleetServer(config, post=post)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGQUIT, server.handle_exit, signal.SIGQUIT, None)
    await server.serve(sockets=worker.sockets)
    if not server.started:
        sys.exit(3)


def _is_websocket(connection: Any) -> bool:
    return "websockets" in type(connection).__module__


def _has_shaken_hands(connection: Any) -> bool:
    """Whether a WebSocket is open; each of Uvicorn's protocols has its own word for it."""
    event = getattr(connection, "handshake_completed_event", None)
    is_open: bool = connection.handshake_complete if event is None else event.is_set()
    return is_open
