"""The stop of a whole instance: say so first, serve on for a while, then let the workers leave."""

import logging
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from asgi_health.fleet.alarm import Alarm
from asgi_health.fleet.masterboard import Masterboard, Stage
from asgi_health.phase import Phase

__all__ = ["MasterDrain"]

_log = logging.getLogger("asgi_health.fleet")


class MasterDrain:
    """Stands before the master's own handlers of stop signals.

    The first SIGTERM or SIGINT raises the flag that all workers see; the master's handler gets a
    SIGTERM when `drain_s` is over, or at the second signal. SIGQUIT is passed on at once.

    Args:
        board: shared with the workers; its configuration says how long.
        alarm: of this process.
        on_drain: called once, when the drain begins.
    """

    def __init__(self, board: Masterboard, *, alarm: Alarm, on_drain: Callable[[], None]) -> None:
        self._board = board
        self._alarm = alarm
        self._on_drain = on_drain
        self._previous: dict[int, Callable[[int, FrameType | None], Any]] = {}

    def install(self) -> None:
        """Take the signals over, from a process that handles them; once."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            previous = signal.getsignal(number)
            if callable(previous):
                self._previous[number] = previous
                signal.signal(number, self._hear)

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGQUIT:
            self._stop(number)
        elif self._board.stage is Stage.SERVING:
            self._on_drain()
            self._begin()
        else:
            self._stop(signal.SIGTERM)

    def _begin(self) -> None:
        drain_s = self._board.config.drain_s
        if drain_s <= 0 or not self._serves():
            self._stop(signal.SIGTERM)
            return
        self._board.stage = Stage.DRAINING
        self._alarm.after(drain_s, self._end)

    def _serves(self) -> bool:
        """Whether a balancer may have sent anybody here."""
        return any(row.phase is Phase.READY for _, row in self._board.workers.rows())

    def _end(self) -> None:
        if self._board.stage is Stage.DRAINING:
            self._stop(signal.SIGTERM)

    def _stop(self, number: int) -> None:
        self._board.stage = Stage.STOPPING
        self._previous[signal.SIGTERM if number == signal.SIGTERM else number](number, None)
