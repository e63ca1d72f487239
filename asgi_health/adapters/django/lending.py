"""Threads that are lent to requests, instead of a new one for each.

Synchronous Django code keeps its state by thread (database connections above all), so a request
needs one thread for all of it. asgiref would make a new one for each request.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any

from asgi_health.adapters.django.threads import Thread, Threads, Work

__all__ = ["Lent"]

_log = logging.getLogger("django.request")


class Lent(Executor):
    """The thread of one request; taken at the first call, given back with `give_back`.

    Args:
        on_begin: called on the thread before anything else of this request.
    """

    def __init__(self, threads: Threads, *, on_begin: Callable[[], None] | None = None) -> None:
        self._threads = threads
        self._on_begin = on_begin
        self._lock = threading.Lock()
        self._thread: Thread | None = None
        self._pending: list[Work] = []
        self._last: Work | None = None
        self._is_over = False
        self.is_beyond_limit = False
        self.is_used = False
        """Whether anything of this request ran, or waits to run, on a thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Run `fn` on the thread of this request.

        Raises:
            RuntimeError: the request is over.
        """
        work = Work(Future(), partial(self._call, partial(fn, *args, **kwargs)))
        with self._lock:
            if self._is_over:
                raise RuntimeError("The request is over: its thread serves others.")
            thread, is_first, self.is_used = self._thread, not self.is_used, True
            if thread is None:
                self._pending.append(work)
        if thread is not None:
            thread.give(work)
        elif is_first and (found := self._threads.lend(self)) is not None:
            self.receive(found)
        return work.future

    @property
    def is_waiting(self) -> bool:
        """Whether the thread is still to come."""
        return self.is_used and self._thread is None and not self._is_over

    def receive(self, thread: Thread) -> None:
        """A thread is here: do what has waited for it."""
        with self._lock:
            pending, self._pending = self._pending, []
            for work in pending:
                thread.give(work)
            if not self._is_over:
                self._thread = thread
            elif self._last is not None:
                thread.give(self._ending(self._last, thread))

    def go_beyond_limit(self) -> None:
        """From now on the request has, or gets, a thread outside of the bound."""
        with self._lock:
            if self.is_beyond_limit or (self.is_used and self._thread is None):
                return  # one that waits keeps its place in the queue
            self.is_beyond_limit = True
        if self.is_used:
            self._threads.let_beyond_limit()

    def give_back(self, *, after: Callable[[], Any] | None = None) -> "Future[None] | None":
        """The request is over; `after` is called on the thread first. Waits for nothing.

        Whatever is still running on the thread ends before the next request gets it. The result
        tells when all of that is done; it is None, and `after` is not called, when there is no
        thread to give back.
        """
        with self._lock:
            if self._is_over or not self.is_used:
                self._is_over = True
                return None
            self._is_over = True
            self._last = last = Work(Future(), after or _nothing)
            thread, self._thread = self._thread, None
            is_needed = any(not work.future.cancelled() for work in self._pending)
        if thread is not None:
            thread.give(self._ending(last, thread))
        elif not is_needed and self._threads.forget(self):
            return None
        return last.future

    def _call(self, call: Callable[[], Any]) -> Any:
        if self._on_begin is not None:
            begin, self._on_begin = self._on_begin, None
            begin()
        return call()

    def _ending(self, last: Work, thread: Thread) -> Work:
        return Work(last.future, partial(self._end, thread, last.call))

    def _end(self, thread: Thread, after: Callable[[], Any]) -> None:
        try:
            after()
        except Exception:  # noqa: BLE001 - the edge of the thread
            _log.exception("closing a response failed")
        finally:
            self._threads.take_back(thread, is_beyond_limit=self.is_beyond_limit)


def _nothing() -> None:
    """Nothing has to be done first."""
