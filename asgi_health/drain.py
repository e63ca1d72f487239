"""Hear of the stop when it is asked for, not when the server gets to it.

A server sends `lifespan.shutdown` after its requests have ended, so a held request would keep it
waiting. The signal itself comes first; the server's own handler still gets it.
"""

import asyncio
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

__all__ = ["chain_stop_signals"]


def chain_stop_signals(on_stop: Callable[[], None]) -> Callable[[], None]:
    """Call `on_stop` on the running loop when the process is told to stop; return what undoes it.

    Works on the main thread and only for signals that the server handles itself: a default action
    stays default.
    """
    undo: list[Callable[[], None]] = []
    if threading.current_thread() is threading.main_thread():
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            previous = signal.getsignal(signum)
            if callable(previous):
                undo.append(_chain(signum, previous, loop, on_stop))

    def undo_all() -> None:
        while undo:
            undo.pop()()

    return undo_all


def _chain(
    signum: int,
    previous: Callable[[int, FrameType | None], Any],
    loop: asyncio.AbstractEventLoop,
    on_stop: Callable[[], None],
) -> Callable[[], None]:
    def handler(number: int, frame: FrameType | None) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(on_stop)
        previous(number, frame)

    signal.signal(signum, handler)

    def undo() -> None:
        if signal.getsignal(signum) is handler:
            signal.signal(signum, previous)

    return undo
