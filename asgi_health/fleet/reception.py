"""The responder process: holds and answers while its parent loads, then hands over, then ends."""

import gc
import json
import logging
import os
import resource
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asgi_health.errors import BootDeadlineExceeded
from asgi_health.fleet.desk import Desk
from asgi_health.fleet.handover import Handover
from asgi_health.fleet.masterboard import Masterboard
from asgi_health.fleet.responder import Limits, Responder
from asgi_health.fleet.scoreboard import RESPONDER
from asgi_health.phase import Failure, Phase

if TYPE_CHECKING:
    from asgi_health.gate import HealthGate

__all__ = ["Orders", "Reception"]

_log = logging.getLogger("asgi_health.boot")

_GOODBYE_S = 0.1
_NUDGE_S = 0.2
"""Between reminders of a stop: Python handles a signal only between two steps of its main thread,
and one that comes just before a blocking call, or in another thread, does not interrupt that call.
"""

_OPEN_SHARE = 0.8
_MANY = 1 << 20
_STOPS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})
_IGNORED = ("TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "TTIN", "TTOU", "WINCH")


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What a responder is forked for.

    Args:
        listeners: to accept on.
        control: where its parent speaks.
        handover: where the connections go.
        takers: how many workers will share them.
        begun_s: monotonic seconds of the start of the load.
        failure: of the load, when it has failed already.
        dump_stacks: the signal that has the parent write its stacks.
        end: the signal that ends the parent after a load that took too long.
    """

    listeners: Sequence[socket.socket]
    control: socket.socket
    handover: Handover
    takers: int
    begun_s: float
    failure: Failure | None
    dump_stacks: int
    end: int


class Reception:
    """What the responder does, told by its parent over `control`.

    The parent says `go` (hand over), `fail` with the reason as JSON, or `end`; a byte below 32 is
    a signal that the parent got. The end of the stream is the end of the parent.
    """

    def __init__(self, gate: "HealthGate", *, board: Masterboard, orders: Orders) -> None:
        self._config = gate.config
        self._board = board
        self._orders = orders
        self._master = os.getppid()
        self._due_s: float | None = orders.begun_s + gate.config.boot_deadline_s
        self._must_nudge = False
        gate.vitals.load_report = self._load_report
        self._hold = gate.hold
        gate.vitals.count_on(board.workers, board.workers.tallies.take(RESPONDER))
        self._desk = Desk(gate)
        limits = Limits(
            hold_s=gate.config.hold_s,
            hold_limit=gate.config.hold_limit,
            open_max=int(_OPEN_SHARE * _descriptor_limit()),
        )
        self._responder = Responder(
            orders.listeners, desk=self._desk, hold=gate.hold, limits=limits
        )
        if orders.failure is not None:
            self._fail(orders.failure)

    def run(self) -> None:
        """Serve until the parent has taken over or has ended."""
        signal.set_wakeup_fd(-1)
        for name in _IGNORED:  # a signal to the whole group: the parent decides
            signal.signal(getattr(signal, f"SIG{name}"), signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        gc.freeze()
        self._orders.control.settimeout(0.0)
        self._responder.watch(self._orders.control.fileno(), self._listen)
        self._responder.run(until_s=lambda: self._due_s, on_time=self._time_is_over)
        self._responder.farewell(limit_s=_GOODBYE_S)

    def _listen(self) -> None:
        try:
            message = self._orders.control.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if message == b"go":
            self._hand_over()
        elif message.startswith(b"fail"):
            code, text, trace = json.loads(message[4:])
            self._fail(Failure(code=code, message=text, traceback=trace))
        elif not message or message == b"end":
            self._stop()
            self._responder.end()
        elif message[0] in _STOPS:
            self._stop()
            self._must_nudge, self._due_s = True, time.monotonic() + _NUDGE_S

    def _hand_over(self) -> None:
        if self._desk.phase is not Phase.LOADING:
            self._orders.control.send(b"late")
            return
        fds = self._responder.open_connections()
        counts = {"open": len(fds), "held": self._hold.now}
        self._orders.control.send(json.dumps(counts).encode())
        try:
            self._orders.handover.put(fds, takers=self._orders.takers)
        except OSError:
            _log.exception("connections that were held are lost")
        self._responder.end()

    def _stop(self) -> None:
        self._desk.drain()
        self._responder.refuse_held()
        self._responder.end_streams()

    def _fail(self, failure: Failure) -> None:
        self._due_s = None
        self._desk.fail(failure)
        self._responder.refuse_held()

    def _time_is_over(self) -> None:
        """At the deadline say so and have the stacks written; after the linger end the parent.

        A parent that was told to stop is woken up instead, again and again.
        """
        if self._must_nudge:
            self._due_s = time.monotonic() + _NUDGE_S
            self._send_master(signal.SIGCHLD)  # means nothing else to it
            return
        if self._desk.phase is not Phase.LOADING:
            self._due_s = None
            self._send_master(self._orders.end)
            return
        step = self._running_step()
        error = BootDeadlineExceeded(deadline_s=self._config.boot_deadline_s, step=step)
        self._fail(Failure(code=error.code, message=str(error), traceback=""))
        self._due_s = time.monotonic() + self._config.failed_linger_s
        _log.error("boot failed: %s: %s", error.code, error, extra={"code": error.code})
        self._send_master(self._orders.dump_stacks)

    def _send_master(self, number: int) -> None:
        with suppress(ProcessLookupError):  # it has ended, and the end of the stream says so
            os.kill(self._master, number)

    def _running_step(self) -> str | None:
        report = self._board.bulletin.read() or {"steps": []}
        running = [step["name"] for step in report["steps"] if step["duration_s"] is None]
        return running[-1] if running else None

    def _load_report(self) -> dict[str, Any] | None:
        report = self._board.bulletin.read()
        elapsed_s = round(time.monotonic() - self._orders.begun_s, 3)
        return None if report is None else {**report, "total_s": elapsed_s}


def _descriptor_limit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MANY if soft == resource.RLIM_INFINITY else soft
