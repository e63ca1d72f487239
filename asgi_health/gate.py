"""The ASGI application that stands in front: lifespan, probe, or hold and hand over."""

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from asgi_health import answers
from asgi_health.access import Guard
from asgi_health.config import HealthConfig
from asgi_health.django_project import DjangoProject
from asgi_health.drain import chain_stop_signals
from asgi_health.endpoints import Endpoints
from asgi_health.errors import UnsupportedScope
from asgi_health.hold import HeldReceive, Hold, Outcome
from asgi_health.phase import UNSETTLED, Event, Failure, Lifecycle, Phase
from asgi_health.routes import Route, build_routes
from asgi_health.types import App, Receive, Scope, Send
from asgi_health.vitals import Vitals

if TYPE_CHECKING:  # what these bring is not needed for the first answer
    from asgi_health.boot import Boot, Preloaded, Target
    from asgi_health.fleet.membership import Membership
    from asgi_health.fleet.seat import Seat

__all__ = ["EXIT_BOOT_FAILED", "EXIT_JOIN_FAILED", "HealthGate"]

_log = logging.getLogger("asgi_health.gate")

EXIT_BOOT_FAILED = 3
"""Ends the whole server: Gunicorn halts on a worker's 3, Uvicorn's parent process as well."""

EXIT_JOIN_FAILED = 1
"""Ends this worker only, which never accepted; the others go on."""

_HEAD_START_S = 0.01
"""What the server gets to open its port before the load competes with it for the GIL."""

_CLEANUP_S = 10.0
"""How long a stop waits for a load, startup or warm-up that ignores its cancellation."""

_REFUSAL_S = 0.05
"""Uvicorn answers a handshake 500 that is still open when it stops."""

_PUBLISH_INTERVAL_S = 1.0


def exit_now(code: int) -> None:
    """Write the last log lines, then end without waiting, not even for a hung import."""
    try:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    finally:  # whoever read the log may be gone
        os._exit(code)


class HealthGate:
    """Answers probes at once, loads the application behind them, holds early requests, hands over.

    Args:
        target: `module:function` that takes no argument and returns an ASGI application or a
            LoadedApp; `module:application`; the dotted name of a Django settings module; or the
            function or application itself.
        config: None means all defaults.
        exit_process: ends the process with a code; for tests.
    """

    is_health_gate = True

    def __init__(
        self,
        target: "Target",
        *,
        config: HealthConfig | None = None,
        exit_process: Callable[[int], None] = exit_now,
    ) -> None:
        self.config = config or HealthConfig()
        self.lifecycle = Lifecycle()
        self.target = target
        self._exit_process = exit_process
        self.preloaded: Preloaded | None = None
        """What a master loaded before it forked this process."""
        self.hold = Hold(
            self.lifecycle, hold_s=self.config.hold_s, hold_limit=self.config.hold_limit
        )
        self.vitals = Vitals(self.config, lifecycle=self.lifecycle, hold=self.hold)
        self._routes = routes = build_routes(self.config)
        self._paths, self._check_prefixes = routes.exact, tuple(routes.checks)
        self.endpoints = Endpoints(
            self.config, routes=routes, vitals=self.vitals, guard=Guard(self.config)
        )
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._state: dict[str, Any] | None = None
        self._unchain: Callable[[], None] | None = None
        self.seat: Seat | None = None
        """This worker's place in an instance that has a master."""
        self._is_told = False
        self._app: App | None = None

    @classmethod
    def for_django(
        cls, settings_module: str, *, config: HealthConfig | None = None
    ) -> "HealthGate":
        """The gate of an existing Django project; `DJANGO_SETTINGS_MODULE` wins over the name.

        The project's `ASGI_APPLICATION` is taken when its settings name one, Django's own handler
        otherwise.
        """
        found = config or HealthConfig()
        project = DjangoProject(
            settings_module, handoff=found.handoff, threads=found.handoff_threads
        )
        return cls(project, config=found)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            if scope.get("root_path"):
                path = path.removeprefix(scope["root_path"].rstrip("/"))
            route = self._paths.get(path)
            if route is None and path.startswith(self._check_prefixes):
                route = self.route_of(path)
            if route is not None:
                terse = self.endpoints.terse(path, scope) if self._tasks else None
                if terse is None:
                    await self._answer(route, scope, receive, send)
                else:  # in place: a frame of its own would be a tenth of what this costs
                    headers = [*terse.headers]  # a new list: wrappers around us may append to it
                    start = "http.response.start"
                    await send({"type": start, "status": terse.status, "headers": headers})
                    await send({"type": "http.response.body", "body": terse.body})
                return
        elif await self._is_ours(scope, receive, send):
            return
        if self._app is not None:
            await self._app(scope, receive, send)
        else:
            await self._hold_or_refuse(scope, receive, send)

    def route_of(self, path: str) -> Route | None:
        """What a path of ours means; None for everybody else's."""
        route = self._paths.get(path)
        if route is None and path.startswith(self._check_prefixes):
            route = self._routes.unknown_check(path)
        return route

    def take_seat(self, seat: "Seat", *, drains: bool) -> None:
        """This process is a worker of an instance with a master; before its loop runs.

        `drains` tells that the server calls `begin_drain`, so that no signal need be listened to.
        """
        self.seat, self._is_told = seat, drains
        self.lifecycle.restart()

    def begin_drain(self) -> None:
        """Told to stop: readiness ends now, what is held is answered, event streams end.

        What is asked from now on is still served, with `Connection: close`.
        """
        self._drain()

    async def _answer(self, route: Route, scope: Scope, receive: Receive, send: Send) -> None:
        self._ensure_begun()
        if self.lifecycle.phase is Phase.DRAINING:
            send = answers.closing(send)
        await self.endpoints.serve(route, scope, receive, send)

    async def _is_ours(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Answer the lifespan, and a handshake that the application could never answer."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif scope["type"] == "websocket" and self._is_http_only:
            await self._deny_socket(scope, receive, send)
        else:
            return False
        return True

    @property
    def _is_http_only(self) -> bool:
        return self.vitals.boot is not None and not self.vitals.boot.serves_websockets

    async def _deny_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = answers.no_websocket()
        await answers.send_refusal(answer, scope, receive, send, cors=self.config.cors)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # lifespan.startup
        self._state = scope.get("state", {})
        self._ensure_begun()
        if self._membership is not None and self._membership.joins_quietly:
            await self._join_quietly()
        await send({"type": "lifespan.startup.complete"})
        await receive()  # lifespan.shutdown
        problem = await self._stop()
        if problem is None:
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await send({"type": "lifespan.shutdown.failed", "message": problem})

    async def _join_quietly(self) -> None:
        """Load before accepting: the others serve.

        A failed boot ends this worker, and the server is not told.
        """
        await self.lifecycle.left(UNSETTLED)
        if self.lifecycle.phase is Phase.FAILED:
            await self._stopping.wait()

    def _ensure_begun(self) -> None:
        """Begin the boot, once: at the startup, or at the first scope without lifespan."""
        if self._tasks:
            return
        if not self._is_told:
            self._unchain = chain_stop_signals(self._drain, delay_s=self._stop_delay_s)
        self.vitals.join(self.seat or _join_siblings())
        self._tasks.append(asyncio.create_task(self._boot_and_watch(), name="asgi_health boot"))
        if self._membership is not None:
            self._tasks.append(
                asyncio.create_task(self._publish_for_ever(), name="asgi_health scoreboard")
            )

    def _stop_delay_s(self) -> float:
        """How long the server does not hear of a stop.

        Before ready nobody is served, but a held handshake needs its answer first; then as long as
        this process drains by itself: a master sees to that for all of its workers.
        """
        if self.lifecycle.phase is not Phase.READY:
            return _REFUSAL_S if self.hold.sockets_now else 0.0
        return self.config.drain_s if self.seat is None else 0.0

    @property
    def _loaded(self) -> App | None:
        """The inner application once it is ready, also while draining."""
        return None if self.vitals.boot is None else self.vitals.boot.app

    @property
    def _membership(self) -> "Membership | Seat | None":
        return self.vitals.membership

    async def _boot_and_watch(self) -> None:
        if self.seat is not None and self.seat.delay_s:
            await asyncio.sleep(self.seat.delay_s)
            self.seat.delay_s = 0.0
        if self.preloaded is None:
            await asyncio.sleep(_HEAD_START_S)
        if not self.lifecycle.can(Event.LOAD):  # told to stop before the server's startup
            return
        from asgi_health.boot import Boot  # noqa: PLC0415 - not before the port is open
        from asgi_health.watchdog import BootWatch  # noqa: PLC0415

        self.vitals.boot = boot = Boot(
            self.preloaded or self.target, config=self.config, lifecycle=self.lifecycle
        )
        watch = BootWatch(
            deadline_s=self.config.boot_deadline_s, linger_s=self.config.failed_linger_s
        )
        watch.arm()
        starting = frozenset({Phase.STARTING})
        self.lifecycle.left(starting).add_done_callback(lambda _: self._publish())
        try:
            await self._run(boot)
            watch.silence()
            self._publish()
            if self.lifecycle.phase is Phase.FAILED:
                await self._linger()
        finally:
            watch.disarm()

    async def _run(self, boot: "Boot") -> None:
        """Boot; a fault of ours in it must not leave the process loading for ever."""
        try:
            await boot.run(state=self._state)
            self._app = boot.app
        except Exception as error:  # noqa: BLE001 - the edge of the process
            _log.error("the boot broke", exc_info=error)
            if self.lifecycle.can(Event.FAIL):
                failure = Failure(code="boot.error", message=repr(error), traceback="")
                self.lifecycle.advance(Event.FAIL, failure=failure)

    async def _linger(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLEANUP_S):
                await self._shut_inner_down()
        await asyncio.sleep(self.config.failed_linger_s)
        quiet = self._membership is not None and self._membership.joins_quietly
        ends_all = not quiet and (self.seat is None or self.seat.may_end_the_server())
        self._exit_process(EXIT_BOOT_FAILED if ends_all else EXIT_JOIN_FAILED)

    def _drain(self) -> None:
        self.endpoints.closing = True
        self._stopping.set()
        if self.lifecycle.can(Event.DRAIN):
            if self.lifecycle.phase in UNSETTLED:
                self._cancel_boot()
            self._app = None
            self.lifecycle.advance(Event.DRAIN)
            self._publish()

    def _cancel_boot(self) -> None:
        if self._tasks:
            self._tasks[0].cancel()

    async def _stop(self) -> str | None:
        """Shut the inner application down; the reason when it says that this failed."""
        self._drain()
        for task in self._tasks:
            if not task.cancelling():  # a second time would cut its cleanup short
                task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLEANUP_S)
        problem = await self._shut_inner_down()
        if self.lifecycle.can(Event.STOP):  # else a server runs the same gate a second time
            self.lifecycle.advance(Event.STOP)
        self.vitals.leave()
        if self._unchain is not None:
            self._unchain()
        return problem

    async def _shut_inner_down(self) -> str | None:
        return None if self.vitals.boot is None else await self.vitals.boot.shutdown()

    async def _publish_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_PUBLISH_INTERVAL_S)
            self._publish()

    def _publish(self) -> None:
        membership, phase = self._membership, self.lifecycle.phase
        if membership is not None:
            membership.publish(
                phase, accepting=not membership.joins_quietly or phase is Phase.READY
            )

    async def _hold_or_refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The slow path: before ready, after a failure, while draining."""
        if scope["type"] not in {"http", "websocket"}:
            raise UnsupportedScope(scope_type=scope["type"])
        self._ensure_begun()
        if self._loaded is None and self.config.cors is not None and answers.is_preflight(scope):
            await answers.send_answer(answers.preflight(scope, self.config.cors), send)
        elif self.lifecycle.phase in UNSETTLED:
            held = HeldReceive(scope, receive)
            try:
                outcome = await self.hold.hold(held)
                if outcome is not Outcome.GONE:
                    await self._conclude(scope, held, send)
            finally:
                held.close()
        else:
            await self._conclude(scope, receive, send)

    async def _conclude(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What a request deserves now that it waits no longer."""
        if scope["type"] == "websocket" and self._is_http_only:
            await self._deny_socket(scope, receive, send)
            return
        phase, app = self.lifecycle.phase, self._loaded
        if app is None or phase not in {Phase.READY, Phase.DRAINING}:
            answer = self.refusal(phase)
            await answers.send_refusal(answer, scope, receive, send, cors=self.config.cors)
            return
        if self._state and "state" in scope:
            # the server copied it before the inner startup filled it
            scope["state"].update(self._state)
        closes = phase is Phase.DRAINING and scope["type"] == "http"
        await app(scope, receive, answers.closing(send) if closes else send)

    def refusal(self, phase: Phase) -> answers.Answer:
        """The answer to whom the application cannot serve in this phase."""
        failure = self.lifecycle.failure
        code = (
            "service.starting"
            if phase in UNSETTLED
            else "service.draining"
            if failure is None
            else failure.code
        )
        return answers.refusal(
            code, retry_after_s=self.config.retry_after_s, closes=phase is Phase.DRAINING
        )


def _join_siblings() -> "Membership | None":
    """Enter the table of the instance, where there can be one."""
    if "multiprocessing.process" not in sys.modules:
        return None
    from asgi_health.fleet.membership import Membership  # noqa: PLC0415 - a process without siblings never needs it

    return Membership.join()
