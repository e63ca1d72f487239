"""How long the next worker waits after a crash, and whether the fleet is in a crash loop.

Gunicorn replaces a dead worker without a pause, so a worker that cannot live would be forked many
times a second. Pure logic for the master: no lock, no input or output.
"""

import random
import time
from collections import deque
from collections.abc import Callable
from enum import StrEnum

__all__ = ["Brake", "DeathKind"]

_FIRST_WAIT_S = 0.1
_WAIT_MAX_S = 30.0
_DOUBLINGS_MAX = 16  # far over the limit; keeps the power small after thousands of crashes
_QUIET_S = 60.0
_ONE_EVENT_S = 1.0
_KILLS_FORGIVEN = 2


class DeathKind(StrEnum):
    """What a death says of the worker."""

    CRASH = "crash"
    """An exit code, or a fatal signal other than SIGKILL and SIGTERM."""
    KILLED = "killed"
    """SIGKILL or SIGTERM from outside."""
    CLEAN = "clean"
    """It left by itself with exit code 0, or was asked to."""


class Brake:
    """Counts the workers that die young.

    A crash within the window of the worker's start makes the next worker wait 0.1 s, doubled with
    each further one up to 30 s. The first two kills in a window are forgiven; kills within one
    second of the first of them are one kill, so that killing the whole fleet at once costs no wait.
    """

    def __init__(
        self,
        *,
        window_s: float,
        limit: int,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Start with nobody dead.

        Args:
            window_s: how long a death is counted, and how young a worker must die to be counted.
            limit: deaths in the window that make a crash loop.
            clock: monotonic seconds.
            jitter: a number from 0 to 1; the wait is between half of its nominal value and all.
        """
        self._window_s = window_s
        self._limit = limit
        self._clock = clock
        self._jitter = jitter
        self._crashes_s: deque[float] = deque()
        self._kills_s: deque[float] = deque()  # the first kill of each event
        self._in_a_row = 0
        self._last_crash_s = 0.0
        self._is_looping = False

    def died(self, *, started_s: float, kind: DeathKind) -> None:
        """Note a death.

        Args:
            started_s: when the worker began its work, on the brake's clock: its fork, and what it
                had to wait then. (A wait that counts as life would hide a crash after it.)
            kind: of death.
        """
        now = self._clock()
        if kind is DeathKind.CLEAN or now - started_s > self._window_s:
            return
        if kind is DeathKind.CRASH or self._is_kill_too_many(now):
            self._count(now)

    def delay_s(self) -> float:
        """What the worker that is forked now must wait; normally 0."""
        if self._in_a_row == 0 or self._is_quiet(self._clock()):
            return 0.0
        return self._nominal_s() * (0.5 + 0.5 * self._jitter())

    @property
    def is_looping(self) -> bool:
        """Whether deaths in a window have reached the limit, and no window without any followed.

        The waits grow, so that in the end few deaths fit into a window; it is still the same loop.
        """
        self._is_looping = self._is_looping and self._clock() <= self._quiet_from_s()
        return self._is_looping

    @property
    def looping_until_s(self) -> float:
        """When the loop is over if nobody dies any more, on the brake's clock; 0 without a loop."""
        return self._quiet_from_s() if self.is_looping else 0.0

    def reconfigure(self, *, window_s: float, limit: int) -> None:
        """Go on with other values; what was counted stays counted."""
        self._window_s, self._limit = window_s, limit

    @property
    def deaths_in_window(self) -> int:
        """The deaths that count, in the last `window_s` seconds."""
        self._forget_old(self._crashes_s, self._clock())
        return len(self._crashes_s)

    def _is_kill_too_many(self, now: float) -> bool:
        """Whether this kill is an event of its own, and the third or a later one in the window."""
        if self._kills_s and now - self._kills_s[-1] <= _ONE_EVENT_S:
            return False
        self._forget_old(self._kills_s, now)
        self._kills_s.append(now)
        return len(self._kills_s) > _KILLS_FORGIVEN

    def _count(self, now: float) -> None:
        self._in_a_row = 1 if self._is_quiet(now) else self._in_a_row + 1
        self._last_crash_s = now
        self._forget_old(self._crashes_s, now)
        self._crashes_s.append(now)
        self._is_looping = self._is_looping or len(self._crashes_s) >= self._limit

    def _is_quiet(self, now: float) -> bool:
        """Whether a minute has passed without a crash; a worker that waits cannot crash."""
        return now - self._last_crash_s >= self._nominal_s() + _QUIET_S

    def _quiet_from_s(self) -> float:
        """When a whole window has passed since the last death; a wait is no part of it."""
        return self._last_crash_s + self._nominal_s() + self._window_s

    def _nominal_s(self) -> float:
        if self._in_a_row == 0:
            return 0.0
        doublings = min(self._in_a_row - 1, _DOUBLINGS_MAX)
        return min(_FIRST_WAIT_S * 2.0**doublings, _WAIT_MAX_S)

    def _forget_old(self, times_s: deque[float], now: float) -> None:
        while times_s and now - times_s[0] > self._window_s:
            times_s.popleft()
