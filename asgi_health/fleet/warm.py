"""Load once, before any worker is forked, while a small child of this process answers.

The child (the responder) holds and answers; this process, the master, loads in its main thread and
never owns a connection. When the load is done, the child puts its connections into a queue that the
workers take from.
"""

import faulthandler
import gc
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from asgi_health.boot import Preloaded, describe, load_in_place
from asgi_health.errors import BootDeadlineExceeded
from asgi_health.fleet.forkguard import ForkGuard, report
from asgi_health.fleet.handover import Handover
from asgi_health.fleet.masterboard import Masterboard
from asgi_health.fleet.reception import Orders, Reception
from asgi_health.phase import Failure
from asgi_health.report import Recorder

if TYPE_CHECKING:
    from asgi_health.gate import HealthGate

__all__ = ["WarmBoot"]

_log = logging.getLogger("asgi_health.boot")

_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
_DUMP_STACKS = getattr(signal, "SIGRTMIN", 0)
_END = _DUMP_STACKS + 1
_EXIT_BOOT_FAILED = 3
_STDERR = 2
_GOODBYE_S = 2.0
"""For the responder to answer all that it holds: a moment, on a busy machine a longer one."""

_REPLY_S = 5.0
_RESTARTS_MAX = 3
_BULLETIN_INTERVAL_S = 0.25
_LAST_RESORT_S = 2.0
_MESSAGE_MAX = 2000
_TRACEBACK_MAX = 25_000
"""Characters; each may take six bytes on its way, and the kernel refuses more than 200 kB."""


class WarmBoot:
    """One load in the main thread of a process without threads; Linux.

    Args:
        gate: the entry point, whose target is loaded.
        board: shared with the processes forked from now on.
        listeners: bound and listening; none when another server answers on them meanwhile.
        takers: how many workers will share the connections.
        on_stop: called in a signal handler when the process is told to stop; then the process ends
            with the exit code that it is given.
        prepare: called after the load: imports what every worker would import for itself.
    """

    def __init__(
        self,
        gate: "HealthGate",
        *,
        board: Masterboard,
        listeners: Sequence[socket.socket],
        takers: int,
        on_stop: Callable[[int], None],
        prepare: Callable[[], None],
    ) -> None:
        self._gate = gate
        self._board = board
        self._listeners = listeners
        self._takers = takers
        self._on_stop = on_stop
        self._prepare = prepare
        self._handover = Handover()
        self._pid = 0
        self._restarts = 0
        self._begun_s = time.monotonic()
        self._failure: Failure | None = None
        self._guard = ForkGuard()
        self._told_s = 0.0
        self._obeys = False
        self._must_look = False
        self._is_looking = False
        self._control, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def run(self) -> Handover:
        """Load; the queue of the connections that came meanwhile.

        Does not return when the load fails: the reason is answered and logged, and the process ends
        with 3 after the linger.
        """
        os.register_at_fork(after_in_child=self._forget)
        for number in (_DUMP_STACKS, _END):  # the responder may send one a moment too late
            signal.signal(number, signal.SIG_IGN)
        self._fork_responder()
        with self._signals(), self._deadline():
            self._look_after_responder()  # it may have ended before anybody listened
            self._gate.preloaded = self._load()
        self._hand_over()
        for number in (_DUMP_STACKS, _END):
            signal.signal(number, signal.SIG_DFL)
        gc.collect()
        gc.freeze()  # what was loaded stays shared: collecting would write to every page of it
        return self._handover

    def _load(self) -> Preloaded:
        self._guard.begin()
        self._recorder = recorder = Recorder(self._observe, on_step=self._announce)
        self._announce()
        try:
            loaded = load_in_place(self._gate.target, recorder=recorder)
            if loaded.app.before_fork is not None:
                loaded.app.before_fork()
            self._prepare()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the clients must learn of it
            self._fail(error)
        _enable_own_loggers()
        report(self._guard.end(), _log)
        return loaded

    def _observe(self, label: str) -> None:
        """A part of the load has ended: who left what, and how far it is."""
        self._guard.look(label)
        if time.monotonic() - self._told_s >= _BULLETIN_INTERVAL_S:
            self._announce()

    def _announce(self) -> None:
        """Let the responder know how far the load is."""
        self._told_s = time.monotonic()
        self._board.bulletin.write(self._recorder.report().as_json())

    def _fail(self, error: BaseException) -> NoReturn:
        failure = describe(error)
        _enable_own_loggers()
        _log.error(
            "boot failed: %s: %s",
            failure.code,
            failure.message,
            exc_info=error,
            extra={"code": failure.code},
        )
        self._tell(failure)
        self._linger(self._gate.config.failed_linger_s if self._pid else 0.0)

    def _tell(self, failure: Failure) -> None:
        self._failure = failure = Failure(
            code=failure.code,
            message=_shortened(failure.message, _MESSAGE_MAX),
            traceback=_shortened(failure.traceback, _TRACEBACK_MAX),
        )
        text = json.dumps(failure, ensure_ascii=False).encode("utf-8", "backslashreplace")
        with suppress(OSError):
            self._control.send(b"fail" + text)

    def _linger(self, seconds: float) -> NoReturn:
        """Let the responder say what is wrong, then end."""
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            time.sleep(left_s)
        self._leave(_EXIT_BOOT_FAILED)

    def _hand_over(self) -> None:
        """Ask for the connections, and wait until they are in the queue."""
        self._theirs.close()  # so that the end of the responder is the end of the stream
        reply = self._ask_for_connections() if self._pid else b""
        if reply == b"late":
            self._refuse_late_load()
        self._control.close()
        self._handover.close_entrance()
        if reply:
            counts = json.loads(reply)
            _log.info("handed %(open)d connections over, %(held)d with a request", counts)
        else:
            self._end_responder()

    def _ask_for_connections(self) -> bytes:
        self._control.settimeout(_REPLY_S)
        try:
            self._control.send(b"go")
            reply, problem = self._control.recv(4096), "it has ended"
        except OSError as error:
            reply, problem = b"", str(error)
        if not reply:
            _log.error("what was held is lost: the responder does not answer (%s)", problem)
        return reply

    def _refuse_late_load(self) -> NoReturn:
        """The deadline is over; the responder has said so, and ends this process."""
        deadline_s = self._gate.config.boot_deadline_s
        error = BootDeadlineExceeded(deadline_s=deadline_s, step=self._recorder.latest_step)
        _log.error("the load ended after the deadline; it is refused: %s", error)
        with self._signals():
            self._linger(self._gate.config.failed_linger_s)

    def _leave(self, code: int) -> NoReturn:
        """End without waiting for the import that was interrupted."""
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # the responder that ends now has no heir
        with suppress(OSError):
            self._control.settimeout(0.0)
            self._control.send(b"end")
        self._end_responder(after_s=_GOODBYE_S)
        try:
            self._on_stop(code)
            logging.shutdown()
            _flush()
        finally:
            os._exit(code)

    def _end_responder(self, *, after_s: float = 0.0) -> None:
        """Wait for the child, then kill it."""
        if not self._pid:
            return
        end_s = time.monotonic() + after_s
        with suppress(ChildProcessError, ProcessLookupError):
            while time.monotonic() < end_s:
                if os.waitpid(self._pid, os.WNOHANG)[0]:
                    return
                time.sleep(0.002)
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)

    def _fork_responder(self) -> None:
        if not self._listeners:
            return
        _flush()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)  # until the child ignores them
        try:
            pid = os.fork()
        except OSError as error:
            pid = -1
            _log.error("nobody answers until ready: no process can be started (%s)", error)
        self._pid = max(0, pid)
        if pid == 0:
            self._receive()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _receive(self) -> NoReturn:
        """In the child: be the responder."""
        code = 1
        try:
            self._control.close()
            _enable_own_loggers()
            orders = Orders(
                listeners=self._listeners,
                control=self._theirs,
                handover=self._handover,
                takers=self._takers,
                begun_s=self._begun_s,
                failure=self._failure,
                dump_stacks=_DUMP_STACKS,
                end=_END,
            )
            Reception(self._gate, board=self._board, orders=orders).run()
            code = 0
        except BaseException:  # noqa: BLE001 - the edge of the process
            _log.exception("the responder broke")
        finally:
            os._exit(code)

    def _forget(self) -> None:
        """In a process that the load forks: signals there are no business of the responder's."""
        if self._obeys:
            self._obeys = False
            signal.set_wakeup_fd(-1)
            for number in (*_STOPS, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            self._control.close()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Obey a stop while loading; the responder hears of it even while C code runs here."""
        before: dict[int, Any] = {}

        def stop(number: int, _frame: FrameType | None) -> None:
            _log.info("told to stop (%s) while loading", signal.Signals(number).name)
            self._leave(0)

        def end(_number: int, _frame: FrameType | None) -> None:
            _log.error("boot failed: boot.deadline: the application was not loaded in time")
            self._leave(_EXIT_BOOT_FAILED)

        def child(_number: int, _frame: FrameType | None) -> None:
            self._look_after_responder()  # other children are the load's own affair

        handlers: dict[int, Callable[[int, FrameType | None], None]] = {
            **dict.fromkeys(_STOPS, stop), _END: end, signal.SIGCHLD: child,
        }  # fmt: skip
        for number, handler in handlers.items():
            before[number] = signal.getsignal(number)
            signal.signal(number, handler)
        self._control.settimeout(0.0)
        woken = signal.set_wakeup_fd(self._control.fileno(), warn_on_full_buffer=False)
        self._obeys = True
        try:
            yield
        finally:
            self._obeys = False
            signal.set_wakeup_fd(woken)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _look_after_responder(self) -> None:
        """Replace a responder that was killed; what it held is lost, what comes is not.

        Called in a signal handler, which another signal may interrupt anywhere: in the middle of
        the fork as well, when the new responder ends before its number is known.
        """
        self._must_look = True
        if self._is_looking:
            return  # the interrupted one looks again
        self._is_looking = True
        while self._must_look:
            self._must_look = False
            if self._pid and self._has_responder_ended():
                self._replace_responder()
                self._must_look = True
        self._is_looking = False

    def _has_responder_ended(self) -> bool:
        try:
            return os.waitpid(self._pid, os.WNOHANG)[0] != 0
        except ChildProcessError:  # reaped by others
            return True

    def _replace_responder(self) -> None:
        if self._restarts >= _RESTARTS_MAX:
            _log.error("the responder has ended once more; nobody answers until ready")
            self._pid = 0
            return
        self._restarts += 1
        _log.error("the responder has ended; another one takes its place")
        self._fork_responder()

    @contextmanager
    def _deadline(self) -> Iterator[None]:
        """Stacks on the responder's order, also while a C call holds the GIL, and a last resort."""
        config = self._gate.config
        faulthandler.register(_DUMP_STACKS, file=_STDERR, all_threads=True, chain=False)
        last_s = config.boot_deadline_s + config.failed_linger_s + _LAST_RESORT_S
        faulthandler.dump_traceback_later(last_s, file=_STDERR, exit=True)
        try:
            yield
        finally:  # here, in the master: cancelling in a forked child hangs
            faulthandler.cancel_dump_traceback_later()
            faulthandler.unregister(_DUMP_STACKS)


def _enable_own_loggers() -> None:
    """An application's LOGGING disables the loggers that exist, by default."""
    for name, logger in logging.root.manager.loggerDict.items():
        if isinstance(logger, logging.Logger) and name.partition(".")[0] == "asgi_health":
            logger.disabled = False


def _shortened(text: str, length: int) -> str:
    """Its begin and its end, when it is longer."""
    half = length // 2
    return text if len(text) <= length else f"{text[:half]} [...] {text[-half:]}"


def _flush() -> None:
    """Write what is buffered; also where a signal has interrupted a write."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(
            AttributeError, OSError, RuntimeError, ValueError
        ):  # none, gone, busy, closed
            stream.flush()
