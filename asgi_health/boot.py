"""One boot: load behind a running loop, start the inner lifespan, warm up, report."""

import asyncio
import logging
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple

from asgi_health.config import HealthConfig
from asgi_health.errors import BootDeadlineExceeded, LoadError
from asgi_health.lifespan import InnerLifespan
from asgi_health.phase import Event, Failure, Lifecycle
from asgi_health.report import Recorder, clean_traceback, step
from asgi_health.target import LoadedApp, Target, load_target
from asgi_health.types import App
from asgi_health.warmup import Warmup, send_warmup
from asgi_health.watchdog import stacks

__all__ = ["Boot", "LoadedApp", "Preloaded", "Target", "Warmup", "load_in_place", "step"]

_log = logging.getLogger("asgi_health.boot")

_SWITCH_INTERVAL_S = 0.0005
"""Seconds; while loading only. The figures stand in docs/benchmarks.md, "probe while booting"."""


class Preloaded(NamedTuple):
    """What was loaded before this process was forked, and how that went."""

    app: LoadedApp
    recorder: Recorder


class Boot:
    """The boot of one process.

    `run` moves the phase from starting to ready or failed, once.
    """

    def __init__(
        self, target: Target | Preloaded, *, config: HealthConfig, lifecycle: Lifecycle
    ) -> None:
        self._target = target
        self._config = config
        self._lifecycle = lifecycle
        self._lifespan: InnerLifespan | None = None
        self.recorder: Recorder | None = None
        self.app: App | None = None
        """The inner application; None until ready."""
        self.serves_websockets = True
        self.details: Callable[[], Mapping[str, Any]] | None = None
        """What the application says of itself, once it is ready."""
        self.metrics: Callable[[], str] | None = None
        """What the application adds to the metrics, once it is ready."""

    async def run(self, *, state: dict[str, Any] | None) -> None:
        """Boot; `state` is the server's lifespan state, None when the server has no lifespan.

        Never raises for a failed boot: the phase is `failed` then, and the failure is logged once.
        """
        self._lifecycle.advance(Event.LOAD)
        self.recorder = recorder = _recorder_of(self._target)
        limit = asyncio.timeout(self._config.boot_deadline_s)
        try:
            async with limit:
                loaded = await _load(self._target, recorder)
                await self._start_inner(loaded, state)
                await self._warm_up(loaded, state)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and _is_being_cancelled():
                raise
            raised = error.carried if isinstance(error, _Carrier) else error
            self._fail(self._deadline_exceeded(recorder) if limit.expired() else raised)
        else:
            if limit.expired():  # the application swallowed the cancellation
                self._fail(self._deadline_exceeded(recorder))
            else:
                self._succeed(loaded, recorder)

    def _succeed(self, loaded: LoadedApp, recorder: Recorder) -> None:
        _log.disabled = False  # an application's LOGGING disables loggers that exist, by default
        if not self._lifecycle.can(Event.LOADED):
            return  # told to stop, and the application swallowed the cancellation
        self.app, self.details, self.metrics = loaded.app, loaded.details, loaded.metrics
        self.serves_websockets = loaded.websocket
        recorder.end()
        self._lifecycle.advance(Event.LOADED)
        _log.info("ready after %.3f s", recorder.report().total_s)

    def _deadline_exceeded(self, recorder: Recorder) -> BootDeadlineExceeded:
        return BootDeadlineExceeded(
            deadline_s=self._config.boot_deadline_s, step=recorder.latest_step
        )

    async def shutdown(self) -> str | None:
        """Shut the inner lifespan down; the reason when the application says that this failed."""
        return None if self._lifespan is None else await self._lifespan.shutdown()

    async def _start_inner(self, loaded: LoadedApp, state: dict[str, Any] | None) -> None:
        if not loaded.lifespan or state is None or self.recorder is None:
            return
        self._lifespan = InnerLifespan(loaded.app, state=state)
        with self.recorder.step("lifespan startup"):
            await self._lifespan.startup()

    async def _warm_up(self, loaded: LoadedApp, state: dict[str, Any] | None) -> None:
        warmup = loaded.warmup or self._config.warmup
        if warmup is not None and self.recorder is not None:
            with self.recorder.step("warm-up"):
                await send_warmup(loaded.app, warmup, state=state)

    def _fail(self, error: BaseException) -> None:
        if not self._lifecycle.can(Event.FAIL):
            return  # told to stop; what the application made of it is no failed boot
        if self.recorder is not None:
            self.recorder.end()
        failure = describe(error)
        self._lifecycle.advance(Event.FAIL, failure=failure)
        _log.disabled = False  # as above: the reason must not be lost
        text, fields = f"{failure.code}: {failure.message}", {"code": failure.code}
        if isinstance(error, BootDeadlineExceeded):
            _log.error("boot failed: %s\n%s", text, stacks().rstrip(), extra=fields)
        else:
            _log.error("boot failed: %s", text, exc_info=error, extra=fields)


def _is_being_cancelled() -> bool:
    """Whether our own task is meant: an application may let a cancellation of its own escape."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def describe(error: BaseException) -> Failure:
    """The failure that an exception means."""
    clean_traceback(error)
    if isinstance(error, LoadError):
        code, message = error.code, _text(error)
    else:
        code = (
            "boot.import_error" if isinstance(error, (ImportError, SyntaxError)) else LoadError.code
        )
        message = f"{type(error).__name__}: {_text(error)}"
    return Failure(code=code, message=message, traceback="".join(traceback.format_exception(error)))


def _text(error: BaseException) -> str:
    """What an error says; some errors of others raise while they say it."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - the edge of another's code
        return "its text cannot be had"


def load_in_place(target: Target, *, recorder: Recorder | None = None) -> Preloaded:
    """Load on the calling thread, without a loop; `recorder` None makes one.

    Raises whatever the load raises.
    """
    recorder = recorder or Recorder()
    with recorder.recording():
        loaded = load_target(target)
    recorder.end()
    return Preloaded(loaded, recorder)


@contextmanager
def _frequent_switches() -> Iterator[None]:
    """Let the loop have the GIL sooner; an answer waits for a switch interval, 5 ms by default."""
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(min(before_s, _SWITCH_INTERVAL_S))
    during_s = sys.getswitchinterval()
    try:
        yield
    finally:
        if sys.getswitchinterval() == during_s:  # else the application has set its own
            sys.setswitchinterval(before_s)


def _recorder_of(target: Target | Preloaded) -> Recorder:
    """A new one, or one that goes on where the load ended."""
    return target.recorder.continued() if isinstance(target, Preloaded) else Recorder()


async def _load(target: Target | Preloaded, recorder: Recorder) -> LoadedApp:
    if isinstance(target, Preloaded):
        return target.app
    with _frequent_switches():
        return await _load_in_thread(target, recorder)


async def _load_in_thread(target: Target, recorder: Recorder) -> LoadedApp:
    """Load on a daemon thread.

    Neither an executor's exit hook nor a hung import can keep the process from ending then.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[LoadedApp] = loop.create_future()

    def deliver(settle: Callable[[], None]) -> None:
        if outcome.done():
            _log.warning("the load ended after the boot was over; it is refused")
        else:
            settle()

    def run() -> None:
        try:
            with recorder.recording():
                loaded = load_target(target)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the waiting boot must learn of it
            _post(loop, deliver, partial(outcome.set_exception, _awaitable(error)))
        else:
            _post(loop, deliver, partial(outcome.set_result, loaded))

    threading.Thread(target=run, name="asgi_health load", daemon=True).start()
    return await outcome


def _awaitable(error: BaseException) -> BaseException:
    """Carry what a future refuses (StopIteration) and what a loop ends on (SystemExit)."""
    is_plain = isinstance(error, Exception) and not isinstance(error, StopIteration)
    return error if is_plain else _Carrier(error)


class _Carrier(Exception):
    """No error of its own."""

    def __init__(self, carried: BaseException) -> None:
        super().__init__(carried)
        self.carried = carried


def _post(
    loop: asyncio.AbstractEventLoop, call: Callable[..., None], argument: Callable[[], None]
) -> None:
    with suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(call, argument)
