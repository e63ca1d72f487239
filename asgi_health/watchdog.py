"""Stacks of all threads, and the end of a process, also when a C call holds the GIL."""

import faulthandler
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

__all__ = ["BootWatch", "stacks"]

_GRACE_S = 1.0
"""How long after the deadline the stacks are written without Python's help."""


def stacks() -> str:
    """The stacks of all threads of this process, the calling one included."""
    import tempfile  # noqa: PLC0415 - needed once in a process's life, if ever

    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file=file, all_threads=True)
        file.seek(0)
        return file.read().decode("utf-8", "replace")


class BootWatch:
    """Watches one boot from outside Python.

    The boot keeps its deadline itself. Should a C call hold the GIL over it, then the boot cannot:
    a C thread (`faulthandler.dump_traceback_later`) writes the stacks to stderr one second after
    the deadline, and the kernel (an interval timer whose SIGALRM ends a process that does not
    handle it) ends the process after the linger. A signal handler or timer that the application
    sets itself is left alone.
    """

    def __init__(self, *, deadline_s: float, linger_s: float) -> None:
        self._deadline_s = deadline_s
        self._end_s = deadline_s + linger_s + 2 * _GRACE_S
        self._dumps = False
        self._ends = False
        self._ends_at_s = 0.0

    def arm(self) -> None:
        """Start watching; on any thread."""
        self._dumps = _succeeds(
            lambda: faulthandler.dump_traceback_later(
                self._deadline_s + _GRACE_S, exit=False, file=sys.stderr
            )
        )
        if hasattr(signal, "setitimer") and signal.getsignal(signal.SIGALRM) is signal.SIG_DFL:
            self._ends = signal.getitimer(signal.ITIMER_REAL)[0] == 0.0
        if self._ends:
            self._ends_at_s = time.monotonic() + self._end_s
            signal.setitimer(signal.ITIMER_REAL, self._end_s)

    def silence(self) -> None:
        """The boot is over, well or not: write no stacks.

        A failed process still ends after the linger.
        """
        if self._dumps:
            faulthandler.cancel_dump_traceback_later()
        self._dumps = False

    def disarm(self) -> None:
        """Stop watching."""
        self.silence()
        if self._ends and self._is_timer_ours():
            signal.setitimer(signal.ITIMER_REAL, 0.0)
        self._ends = False

    def _is_timer_ours(self) -> bool:
        """Whether the timer ends when ours would; the application may have set another."""
        left_s = signal.getitimer(signal.ITIMER_REAL)[0]
        return abs(time.monotonic() + left_s - self._ends_at_s) < _GRACE_S


def _succeeds(action: Callable[[], Any]) -> bool:
    """Whether it worked: stderr may have no descriptor, as under pythonw or a test's capture."""
    try:
        action()
    except (AttributeError, OSError, ValueError, RuntimeError):
        return False
    return True
