"""The threads that are lent: a bounded pool, and a way out of the bound for what may last."""

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol

from asgi_health.adapters.django.pacing import LOOK_S, Pace

__all__ = ["Borrower", "Thread", "Threads", "Work"]


_LINGER_LOOKS = 100
"""Looks at a pool that nobody waits for, before they stop."""


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

    While those who have a thread compute, few are lent at once (`Pace`).

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
        self._given_back = 0
        self._pace = Pace(limit=self.limit)
        self._looks_left = 0
        self._pid = os.getpid()

    @property
    def lent(self) -> int:
        """Threads that requests have now."""
        return self._in_use + self._beyond

    @property
    def waiting(self) -> int:
        """Requests that wait for a thread."""
        return len(self._waiting)

    def lend(self, to: Borrower) -> Thread | None:
        """A thread, or None when `to` will get one later."""
        if self._pid != os.getpid():  # forked: threads stay behind, and perhaps a held lock
            self._forget_all()
        with self._lock:
            if to.is_beyond_limit:
                self._beyond += 1
                self._counted -= bool(self._idle)
                return self._idle.pop() if self._idle else Thread()
            thread = self._take() if self._in_use < self._pace.quota else None
            if thread is None:
                self._waiting.append(to)
            if self._has_much_to_do:
                self._begin_looking()
            return thread

    @property
    def _has_much_to_do(self) -> bool:
        return self._in_use > self._pace.least or bool(self._waiting)

    @property
    def _in_use(self) -> int:
        return self._counted - len(self._idle)

    def _take(self) -> Thread:
        if self._idle:
            return self._idle.pop()
        thread = Thread()
        self._counted += 1
        return thread

    def let_beyond_limit(self) -> None:
        """A lent thread stops counting; the next request that waits gets one."""
        with self._lock:
            self._counted -= 1
            self._beyond += 1
            self._given_back += 1
            heirs = self._heirs()
        _hand_out(heirs)

    def take_back(self, thread: Thread, *, is_beyond_limit: bool) -> None:
        """The request is over; the next one that waits gets its thread."""
        with self._lock:
            self._given_back += 1
            if is_beyond_limit:
                self._beyond -= 1
                self._counted += 1
            if is_surplus := self._counted > self.limit:
                self._counted -= 1
            else:
                self._idle.append(thread)
            heirs = self._heirs()
        _hand_out(heirs)
        if is_surplus:
            self._retire(thread)

    def _heirs(self) -> list[tuple[Borrower, Thread]]:
        """Who has waited long enough, and what they get."""
        heirs = []
        while self._waiting and self._in_use < self._pace.quota:
            try:
                thread = self._take()
            except RuntimeError:  # the system has none left: a lent one comes back some time
                break
            heirs.append((self._waiting.popleft(), thread))
        return heirs

    def _begin_looking(self) -> None:
        if not self._looks_left:
            self._pace.begin(given_back=self._given_back)
            ours = weakref.ref(self)
            name = "asgi_health hand-off pace"
            looker = threading.Thread(target=_look_often, args=(ours,), name=name, daemon=True)
            try:
                looker.start()
            except RuntimeError:  # the system has none left: tried again with the next request
                return
        self._looks_left = _LINGER_LOOKS

    def look(self) -> bool:
        """Adapt the pace to what is going on; False when there was little to do for a while."""
        with self._lock:
            if self._has_much_to_do:
                self._looks_left = _LINGER_LOOKS
                self._pace.look(
                    in_use=self._in_use,
                    waiting=len(self._waiting),
                    given_back=self._given_back,
                )
            else:
                self._looks_left -= 1
                self._pace.begin(given_back=self._given_back)
            heirs = self._heirs()
            goes_on = self._looks_left > 0
        _hand_out(heirs)
        return goes_on

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


def _hand_out(heirs: list[tuple[Borrower, Thread]]) -> None:
    for heir, thread in heirs:
        heir.receive(thread)


def _look_often(ours: "weakref.ref[Threads]") -> None:
    while True:
        time.sleep(LOOK_S)
        threads = ours()
        if threads is None or not threads.look():
            return
        del threads
