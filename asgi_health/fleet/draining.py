"""The stop of a whole instance: say so first, serve on for a while, then let the workers leave."""

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from asgi_health.fleet.alarm import Alarm
from asgi_health.fleet.masterboard import Masterboard, Stage
from asgi_health.phase import Phase

__all__ = ["MasterDrain", "release_stop_signals"]

_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


def release_stop_signals() -> None:
    """In a worker: the server listens now; what came since the fork is delivered."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)


class MasterDrain:
    """Stands before the master's own handlers of stop signals.

    The first SIGTERM or SIGINT raises the flag that all workers see; the master's handler gets a
    SIGTERM when `drain_s` is over, or at the second signal. SIGQUIT, and what comes later, is
    passed on at once.

    Args:
        board: shared with the workers; its configuration says how long.
        alarm: of this process.
        on_drain: called when the stop begins, with a drain or without; it may be called again.
    """

    def __init__(self, board: Masterboard, *, alarm: Alarm, on_drain: Callable[[], None]) -> None:
        self._board = board
        self._alarm = alarm
        self._on_drain = on_drain
        self._previous: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._pid = os.getpid()
        self._early: set[int] = set()

    def install(self) -> None:
        """Take the signals over, from a process that handles them; once."""
        for number in _STOPS:
            previous = signal.getsignal(number)
            if callable(previous):
                self._previous[number] = previous
                signal.signal(number, self._hear)

    def keep_for_worker(self) -> None:
        """In a forked worker: keep the stop signals back until its server listens to them.

        In between the server resets them to their default action, which would end the worker
        without a word, and with it the connections that nobody else will take.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
        for number in self._early:
            os.kill(os.getpid(), number)

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a worker just forked: it has no handler of its own yet
            self._early.add(number)
            return
        if number == signal.SIGQUIT:
            self._on_drain()
            self._stop(number)
        elif self._board.stage is Stage.SERVING:
            self._board.stage = Stage.DRAINING  # first: a signal that interrupts is the second
            self._on_drain()
            self._begin()
        elif self._board.stage is Stage.DRAINING:
            self._stop(signal.SIGTERM)
        else:  # the workers leave already: a second SIGINT makes haste, if the server knows how
            self._stop(number)

    def _begin(self) -> None:
        drain_s = self._board.config.drain_s
        if drain_s <= 0 or not self._serves():
            self._end()
        else:
            self._alarm.after(drain_s, self._end)

    def _serves(self) -> bool:
        """Whether a balancer may have sent anybody here."""
        return any(row.phase is Phase.READY for _, row in self._board.workers.rows())

    def _end(self) -> None:
        if self._board.stage is Stage.DRAINING:
            self._stop(signal.SIGTERM)

    def _stop(self, number: int) -> None:
        self._board.stage = Stage.STOPPING
        self._previous[number](number, None)
