"""How late the event loop is, and what blocks it.

A thread of the operating system pings the loop. The loop cannot be asked while it is blocked; the
stack of its thread can be read.
"""

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable

__all__ = ["LoopWatch"]

_log = logging.getLogger("asgi_health.loop")
_JOIN_LIMIT_S = 1.0
_STEP_MIN_S = 0.001
_WARN_EVERY_S = 60.0
_BLOCKED = "the event loop has been blocked for %.2f s; its thread stands here:\n%s"
_STARVED = (
    "the event loop was late by %.2f s, and the thread that watches it by %.2f s: something held "
    "the GIL (a C call), or the machine is overloaded. This stack of the loop's thread shows who "
    "has it now, not who held it:\n%s"
)
_OVER = "the event loop answers again after %.2f s"


class LoopWatch:
    """Measures the lag of a loop and warns of a block, with the stack of the loop's thread.

    Threads do not survive a fork: make and start it in the worker.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        warn_s: float,
        interval_s: float = 0.25,
        clock: Callable[[], float] = time.monotonic,
        log: logging.Logger = _log,
    ) -> None:
        """Prepare to watch `loop`.

        Args:
            loop: the loop.
            warn_s: the lag that is a block; 0 measures only, and counts and logs no block.
            interval_s: from one ping to the next.
            clock: monotonic seconds.
            log: takes at most one warning a minute.
        """
        self._loop = loop
        self._warn_s = warn_s
        self._interval_s = interval_s
        self._clock = clock
        self._log = log
        self._stopped = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="asgi-health-loop-watch", daemon=True
        )
        self._loop_thread = 0
        self._ping: tuple[float, float | None] = (0.0, 0.0)  # due, answered
        self._awake_s = 0.0
        self._late_s = 0.0
        self._warned_s: float | None = None
        self._worst_s = 0.0
        self.blocked_total = 0
        """How often the lag has been over `warn_s`."""
        self.last_block_s = 0.0
        """How long the last block was that has ended; 0 when there was none."""

    def start(self) -> None:
        """Watch from now on. Call it once, on the thread that runs the loop."""
        self._loop_thread = threading.get_ident()
        self._awake_s = self._clock()
        self._thread.start()

    def stop(self) -> None:
        """Watch no longer; waits a second at most. Safe before the start, twice, without a loop."""
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join(_JOIN_LIMIT_S)

    @property
    def lag_s(self) -> float:
        """How long the last ping took, or has been unanswered; 0 while not watching."""
        sent_s, answered_s = self._ping
        return (self._clock() if answered_s is None else answered_s) - sent_s

    def take_worst_s(self) -> float:
        """The worst lag since the last call, one that lasts included."""
        worst_s, self._worst_s = max(self._worst_s, self.lag_s), 0.0
        return worst_s

    def _run(self) -> None:
        while self._send() and self._follow():
            pass
        self._ping = (0.0, 0.0)

    def _send(self) -> bool:
        """Ping the loop; False when it is closed.

        The ping counts from when it was due: who holds the GIL keeps it from being sent, too.
        """
        due_s = self._awake_s - self._late_s
        self._ping = (due_s, None)
        try:
            self._loop.call_soon_threadsafe(self._answer, due_s)
        except RuntimeError:
            return False
        return True

    def _answer(self, due_s: float) -> None:
        """On the loop."""
        self._loop_thread = threading.get_ident()
        if not self._stopped.is_set():
            self._ping = (due_s, self._clock())

    def _follow(self) -> bool:
        """Wait for the answer, an interval at least; False when there is no more to watch."""
        late_s, has_paused, is_counted, is_warned = 0.0, False, False, False
        while True:
            # Outside its waits the watch needs no time, unless it does not get the GIL.
            late_s = max(late_s, self._late_s, self._clock() - self._awake_s)
            is_answered = self._ping[1] is not None  # read before the lag: it may come in between
            lag_s = self.lag_s
            self._worst_s = max(self._worst_s, lag_s)
            if not is_counted and 0 < self._warn_s < lag_s:
                is_counted = True
                self.blocked_total += 1
                is_warned = self._warn(lag_s, late_s, is_over=is_answered)
            if is_answered and has_paused:
                self._end(lag_s, is_counted=is_counted, is_warned=is_warned)
                return True
            self._pause()
            has_paused = True
            if self._stopped.is_set() or self._loop.is_closed():
                return False

    def _pause(self) -> None:
        """Wait for an interval, or until a warning is due, and note how much too long it took."""
        before_s = self._clock()
        wait_s = self._interval_s
        if (left_s := self._ping[0] + self._warn_s - before_s) > 0:
            wait_s = min(wait_s, left_s + _STEP_MIN_S)
        self._stopped.wait(wait_s)
        now = self._clock()
        self._late_s = max(0.0, now - self._awake_s - wait_s)
        self._awake_s = now

    def _warn(self, lag_s: float, late_s: float, *, is_over: bool) -> bool:
        """Write the warning, unless one was written in the last minute; whether it was."""
        is_starved = late_s > self._warn_s / 2
        if is_over and not is_starved:
            return False  # the stack would accuse the innocent
        now = self._clock()
        if self._warned_s is not None and now - self._warned_s < _WARN_EVERY_S:
            return False
        self._warned_s = now
        if is_starved:
            self._log.warning(_STARVED, lag_s, late_s, self._stack())
        else:
            self._log.warning(_BLOCKED, lag_s, self._stack())
        self._awake_s = self._clock()  # a slow log is not the GIL
        return True

    def _end(self, lag_s: float, *, is_counted: bool, is_warned: bool) -> None:
        if is_counted:
            self.last_block_s = lag_s
            self._late_s = 0.0  # told; the next ping must not count it again
        if is_warned:
            self._log.info(_OVER, lag_s)
            self._awake_s = self._clock()

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001 - documented API
        return "".join(traceback.format_stack(frame)).rstrip() if frame else "(no such thread)"
