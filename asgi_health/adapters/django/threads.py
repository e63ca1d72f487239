"""The threads that are lent: a bounded pool, and a way out of the bound for what may last."""

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol

__all__ = ["Borrower", "Thread", "Threads", "Work"]


class Borrower(Protocol):
    """Who asks for a thread."""

    is_beyond_limit: bool

    def receive(self, thread: "Thread", /) -> None:
        """The thread that `lend` had promised."""


class Work(NamedTuple):
    """A call, and who waits for it."""

    future: "Future[Any]"
    call: Callable[[], Any]


class Thread:
    """One thread that does what it is given, in order, until it is retired."""

    def __init__(self) -> None:
        self._inbox: SimpleQueue[Work | None] = SimpleQueue()
        threading.Thread(target=self._run, name="asgi_health hand-off", daemon=True).start()

    def give(self, work: Work) -> None:
        """Do it after all that was given before."""
        self._inbox.put(work)

    def retire(self) -> None:
        """End after all that was given before."""
        self._inbox.put(None)

    def _run(self) -> None:
        while (work := self._inbox.get()) is not None:
            future, call = work
            if future.set_running_or_notify_cancel():
                try:
                    result = call()
                except BaseException as error:  # noqa: BLE001 - it belongs to who waits for it
                    future.set_exception(error)
                else:
                    future.set_result(result)
                    del result
            del work, future, call  # nothing of a request stays alive until the next one


class Threads:
    """A bounded pool; belongs to one process.

    Args:
        limit: threads at most; who needs one more waits for the first that comes back. Responses
            that stream stand outside of it: they may last for hours.
        on_retire: called on a thread that ends.
    """

    def __init__(self, *, limit: int, on_retire: Callable[[], None] | None = None) -> None:
        self.limit = limit
        self._on_retire = on_retire
        self._forget_all()

    def _forget_all(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[Thread] = []
        self._waiting: deque[Borrower] = deque()
        self._counted = 0
        self._beyond = 0
        self._pid = os.getpid()

    @property
    def lent(self) -> int:
        """Threads that requests have now."""
        return self._counted - len(self._idle) + self._beyond

    @property
    def waiting(self) -> int:
        """Requests that wait for a thread."""
        return len(self._waiting)

    def lend(self, to: Borrower) -> Thread | None:
        """A thread, or None when `to` will get one later."""
        if self._pid != os.getpid():  # forked: threads stay behind, and perhaps a held lock
            self._forget_all()
        with self._lock:
            thread = self._idle.pop() if self._idle else None
            if to.is_beyond_limit:
                self._counted -= thread is not None
                self._beyond += 1
                return thread or Thread()
            if thread is None and self._counted < self.limit:
                self._counted += 1
                return Thread()
            if thread is None:
                self._waiting.append(to)
            return thread

    def let_beyond_limit(self) -> None:
        """A lent thread stops counting; the next request that waits gets a new one."""
        heir = None
        with self._lock:
            self._counted -= 1
            self._beyond += 1
            if self._waiting and self._counted < self.limit:
                self._counted += 1
                heir = self._waiting.popleft()
        if heir is not None:
            heir.receive(Thread())

    def take_back(self, thread: Thread, *, is_beyond_limit: bool) -> None:
        """The request is over; the next one that waits gets its thread."""
        with self._lock:
            if is_beyond_limit:
                self._beyond -= 1
                self._counted += 1
            if is_surplus := self._counted > self.limit:
                self._counted -= 1
            heir = self._waiting.popleft() if self._waiting and not is_surplus else None
            if not (is_surplus or heir):
                self._idle.append(thread)
        if heir is not None:
            heir.receive(thread)
        if is_surplus:
            self._retire(thread)

    def _retire(self, thread: Thread) -> None:
        if self._on_retire is not None:
            thread.give(Work(Future(), self._on_retire))
        thread.retire()

    def __del__(self) -> None:
        """Nobody will lend these again: let them end."""
        for thread in self._idle:
            self._retire(thread)

    def forget(self, lent: Borrower) -> bool:
        """Whether `lent` waited for a thread, which it needs no longer."""
        with self._lock:
            with suppress(ValueError):
                self._waiting.remove(lent)
                return True
            return False
