"""Timers for a process without threads and loop: the kernel's one interval timer, shared."""

import atexit
import heapq
import itertools
import signal
import time
from collections.abc import Callable
from types import FrameType

__all__ = ["Alarm"]

_LEAST_S = 0.001


class Alarm:
    """Calls functions in the handler of SIGALRM, in the main thread; they must be short."""

    def __init__(self) -> None:
        self._calls: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._is_to_be_silenced = False

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call `call` once, `seconds` from now."""
        if not self._is_to_be_silenced:
            self._is_to_be_silenced = True
            atexit.register(_silence)
        heapq.heappush(self._calls, (time.monotonic() + seconds, next(self._order), call))
        signal.signal(signal.SIGALRM, self._ring)
        self._arm()

    def _ring(self, _number: int, _frame: FrameType | None) -> None:
        try:
            while self._calls and self._calls[0][0] <= time.monotonic():
                heapq.heappop(self._calls)[2]()
        finally:  # what one call raises must not cost the others
            self._arm()

    def _arm(self) -> None:
        if self._calls:
            left_s = max(_LEAST_S, self._calls[0][0] - time.monotonic())
            signal.setitimer(signal.ITIMER_REAL, left_s)

    @staticmethod
    def forget() -> None:
        """In a forked process: the timer belongs to the parent, and so does its handler."""
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _silence() -> None:
    """The interpreter takes its handlers away when it ends; then the timer would kill."""
    signal.setitimer(signal.ITIMER_REAL, 0.0)
