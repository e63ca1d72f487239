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

from asgi_health.fleet.handover import Handover
from asgi_health.fleet.looplag import LoopWatch
from asgi_health.fleet.masterboard import Stage
from asgi_health.fleet.seat import Load, Seat
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
_MARGIN_S = 1.0
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
        self._heeding: asyncio.Task[None] | None = None
        self._adoption: asyncio.Task[None] | None = None
        self._next_recycle_s = 0.0
        self._watch: LoopWatch | None = None

    async def startup(self, sockets: list[Any] | None = None) -> None:
        loop = asyncio.get_running_loop()
        warn_s = self._post.seat.board.config.loop_lag_warn_s
        self._watch = LoopWatch(loop, warn_s=warn_s)
        self._watch.start()
        self._post.seat.observe = self._load
        self._heeding = loop.create_task(self._heed(), name="asgi_health stop")
        await super().startup(sockets)
        if self._post.handover is not None:
            self._adoption = loop.create_task(self._adopt(), name="asgi_health adoption")

    def handle_exit(self, sig: int, _frame: FrameType | None) -> None:
        """A signal to stop: what it means is decided on the loop."""
        self._asked_s = self._asked_s or time.monotonic()
        if sig == signal.SIGQUIT:
            self.should_exit = True

    async def shutdown(self, sockets: list[Any] | None = None) -> None:
        """Accept no more, finish what came, close idle connections late; then as stock does."""
        for server in self.servers:
            server.close()
        await self._settle()
        self._begin_drain(spread_s=self._idle_s)
        end_s = time.monotonic() + self._idle_s
        while self.server_state.connections and time.monotonic() < end_s:  # noqa: ASYNC110 - a set
            await asyncio.sleep(_LOOK_S)
        await super().shutdown(sockets)
        for task in (self._heeding, self._adoption):
            if task is not None:
                task.cancel()
        if self._watch is not None:
            self._watch.stop()

    @property
    def _idle_s(self) -> float:
        return min(_IDLE_S, self._post.graceful_s / 4)

    def _load(self) -> Load:
        lag_s = 0.0 if self._watch is None else self._watch.lag_s
        return Load(len(self.server_state.tasks), self.server_state.total_requests, lag_s)

    async def _settle(self) -> None:
        """A loaded worker finishes its boot first: somebody may have connected to it already."""
        if self._post.gate.preloaded is not None:
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
                if not self.started and self._post.gate.preloaded is None:
                    self._post.gate.begin_drain()  # it loads, without accepting: nobody waits
            await asyncio.sleep(_LOOK_S)

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
        if not self._post.seat.successors_are_ready():
            return False
        self._post.seat.begin_leaving()
        return True

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
            if "websockets" in type(connection).__module__:
                loop.call_later(spread_s * random.random(), connection.shutdown)  # noqa: S311 - no secret

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
    if config.timeout_graceful_shutdown is None:
        config.timeout_graceful_shutdown = max(0.0, post.graceful_s - _MARGIN_S - _IDLE_S)
    server = FleetServer(config, post=post)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGQUIT, server.handle_exit, signal.SIGQUIT, None)
    await server.serve(sockets=worker.sockets)
    if not server.started:
        sys.exit(3)
