"""Hear of the stop when it is asked for, not when the server gets to it.

A server sends `lifespan.shutdown` after its requests have ended, so a held request would keep it
waiting. The signal itself comes first. The server's own handler gets it at once, or after a drain:
until then the server goes on accepting, while balancers notice that readiness has ended.
"""

import asyncio
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

__all__ = ["chain_stop_signals"]

_Handler = Callable[[int, FrameType | None], Any]

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)

_SAME_ORDER_S = 2.0
"""What a terminal or platform tells all processes, a managing parent repeats to its workers.

`uvicorn --workers` and `--reload` look at their signals every half a second at most.
"""


def chain_stop_signals(
    on_stop: Callable[[], None], *, delay_s: float | Callable[[], float] = 0.0
) -> Callable[[], None]:
    """Call `on_stop` on the running loop when the process is told to stop; return what undoes it.

    Works on the main thread and only for signals that the server handles itself: a default action
    stays default. A server that listens by `loop.add_signal_handler` hears without delay.

    With a delay, the server's handler gets the first SIGTERM or SIGINT that much later, on the
    loop; a second signal ends the delay and is handed over at once, as are all that follow. Below
    a multiprocessing parent, a second signal within 2 s counts as the same order. SIGQUIT is
    never delayed.

    After the undoing nothing fires: a signal that is still kept back is dropped, because whoever
    undoes the chain is stopping already.

    Args:
        on_stop: called on the loop, soon after the signal.
        delay_s: seconds; a function is asked once, when the first signal comes and before
            `on_stop` runs.
    """
    if threading.current_thread() is not threading.main_thread():
        return _nothing
    chain = _Chain(on_stop, delay_s=delay_s)
    chain.install()
    return chain.undo


def _nothing() -> None:
    """There was nothing to chain."""


class _Chain:
    """The handler of all stop signals, between the process and the server's own handlers.

    A signal handler runs between any two bytecodes of the loop's thread, so it leaves the loop's
    timers to the loop.
    """

    def __init__(
        self, on_stop: Callable[[], None], *, delay_s: float | Callable[[], float]
    ) -> None:
        self._on_stop = on_stop
        self._delay_s = delay_s
        self._loop = asyncio.get_running_loop()
        self._same_order_s = _SAME_ORDER_S if _has_parent() else 0.0
        self._previous: dict[int, _Handler] = {}
        self._kept: int | None = None
        self._kept_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._passes = False

    def install(self) -> None:
        for signum in _SIGNALS:
            previous = signal.getsignal(signum)
            if callable(previous):
                self._previous[signum] = previous
                signal.signal(signum, self)

    def undo(self) -> None:
        self._passes = True
        if self._timer is not None:
            self._timer.cancel()
        for signum, previous in self._previous.items():
            if signal.getsignal(signum) is self:
                signal.signal(signum, previous)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self._loop.is_closed():
            if self._keeps(number):
                return
            self._loop.call_soon_threadsafe(self._on_stop)
        self._passes = True
        self._previous[number](number, frame)

    def _keeps(self, number: int) -> bool:
        """Whether the server shall not hear of this signal now."""
        if self._passes or number == signal.SIGQUIT:
            return False
        if self._kept is not None:
            return self._loop.time() - self._kept_s < self._same_order_s
        delay_s = self._delay_s() if callable(self._delay_s) else self._delay_s
        if delay_s <= 0:
            return False
        self._kept, self._kept_s = number, self._loop.time()
        self._loop.call_soon_threadsafe(self._begin, delay_s)
        return True

    def _begin(self, delay_s: float) -> None:
        self._on_stop()
        if not self._passes:
            self._timer = self._loop.call_later(delay_s, self._pass_on)

    def _pass_on(self) -> None:
        if self._kept is not None and not self._passes:
            self._passes = True
            self._previous[self._kept](self._kept, None)


def _has_parent() -> bool:
    """Whether multiprocessing started this process; a process without it need not import it."""
    processes = sys.modules.get("multiprocessing.process")
    return processes is not None and processes.parent_process() is not None
