"""A line that comes again and again is written only so often: one fault must not hide all others.

Platforms drop what is too much (Railway: 500 lines a second), and not the least important first.
"""

import logging
import time
from collections.abc import Callable

__all__ = ["Flood"]

_OWN_QUOTA = "project.access"

_KindOfLine = tuple[str, int, str, int]


class Flood(logging.Filter):
    """Lets at most so many lines of one kind pass in a while; the next one says how many did not.

    Of one kind are lines of one logger and level that the same line of code has written.
    Critical lines always pass, and those of `project.access`, which has a limit of its own.

    Args:
        lines: of one kind.
        period_s: in which so many may pass.
        clock: monotonic seconds.
    """

    def __init__(
        self, *, lines: int, period_s: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._lines, self._period_s, self._clock = lines, period_s, clock
        self._ends_s = 0.0
        self._passed: dict[_KindOfLine, int] = {}
        self._skipped: dict[_KindOfLine, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.CRITICAL or record.name == _OWN_QUOTA:
            return True
        now_s = self._clock()
        kind = (record.name, record.levelno, record.pathname, record.lineno)
        if now_s >= self._ends_s:
            self._ends_s, self._passed = now_s + self._period_s, {}
        count = self._passed[kind] = self._passed.get(kind, 0) + 1
        if count > self._lines:
            self._skipped[kind] = self._skipped.get(kind, 0) + 1
            return False
        if skipped := self._skipped.pop(kind, 0):
            record.skipped = skipped
        return True
