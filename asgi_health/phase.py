"""The phase of a process: its legal transitions, when each was entered, who waits for the next.

All changes happen on the event loop's thread (or before there is a loop), so nothing here locks.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from asgi_health.errors import IllegalTransition

__all__ = ["TRANSITIONS", "UNSETTLED", "Event", "Failure", "Lifecycle", "Phase"]


class Phase(StrEnum):
    """What a process is doing.

    Results of checks never move it.
    """

    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


class Event(StrEnum):
    """What happens to a process."""

    LOAD = "load"
    LOADED = "loaded"
    FAIL = "fail"
    DRAIN = "drain"
    STOP = "stop"


TRANSITIONS: Mapping[tuple[Phase, Event], Phase] = MappingProxyType(
    {
        (Phase.STARTING, Event.LOAD): Phase.LOADING,
        (Phase.STARTING, Event.FAIL): Phase.FAILED,
        (Phase.STARTING, Event.DRAIN): Phase.DRAINING,
        (Phase.LOADING, Event.LOADED): Phase.READY,
        (Phase.LOADING, Event.FAIL): Phase.FAILED,
        (Phase.LOADING, Event.DRAIN): Phase.DRAINING,
        (Phase.READY, Event.DRAIN): Phase.DRAINING,
        (Phase.DRAINING, Event.STOP): Phase.STOPPED,
        (Phase.FAILED, Event.STOP): Phase.STOPPED,
    }
)

UNSETTLED = frozenset({Phase.STARTING, Phase.LOADING})
"""The phases in which a request is held: its fate is not known yet."""


class Failure(NamedTuple):
    """Why the boot failed: the first error, kept.

    `code` is public; `message` and `traceback` are for the authorised and for the log.
    """

    code: str
    message: str
    traceback: str


class Lifecycle:
    """The only mutable state of a process: its phase."""

    __slots__ = ("_clock", "_waiters", "entered_s", "failure", "phase")

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiters: dict[asyncio.Future[Phase], frozenset[Phase]] = {}
        self.phase = Phase.STARTING
        self.entered_s: dict[Phase, float] = {Phase.STARTING: clock()}
        """Monotonic seconds at which each phase was entered."""
        self.failure: Failure | None = None

    def restart(self) -> None:
        """Begin anew, in a process that was forked from one that had begun; nobody waits yet."""
        self.phase = Phase.STARTING
        self.entered_s = {Phase.STARTING: self._clock()}
        self.failure = None

    @property
    def was_ready(self) -> bool:
        """Whether the boot has finished once; stays true for ever."""
        return Phase.READY in self.entered_s

    def can(self, event: Event) -> bool:
        """Whether `event` is legal in the present phase."""
        return (self.phase, event) in TRANSITIONS

    def advance(self, event: Event, *, failure: Failure | None = None) -> Phase:
        """Apply `event`, wake whoever waited to leave the old phase, return the new phase.

        Raises:
            IllegalTransition: the present phase does not allow the event; nothing has changed.
            ValueError: `failure` is missing for FAIL, or given for another event.
        """
        if (self.phase, event) not in TRANSITIONS:
            raise IllegalTransition(phase=self.phase, event=event)
        if (failure is not None) != (event is Event.FAIL):
            raise ValueError("a failure belongs to the event FAIL, and to no other")
        self.phase = TRANSITIONS[self.phase, event]
        self.entered_s[self.phase] = self._clock()
        self.failure = self.failure or failure
        self._wake()
        return self.phase

    def left(self, phases: frozenset[Phase]) -> asyncio.Future[Phase]:
        """A future of the first phase outside `phases`.

        Waiters are woken in the order in which they asked. Cancel the future to stop waiting.
        """
        future: asyncio.Future[Phase] = asyncio.get_running_loop().create_future()
        if self.phase not in phases:
            future.set_result(self.phase)
        else:
            self._waiters[future] = phases
            future.add_done_callback(self._forget)
        return future

    def _forget(self, future: asyncio.Future[Phase]) -> None:
        self._waiters.pop(future, None)

    def _wake(self) -> None:
        for future, phases in list(self._waiters.items()):
            if self.phase not in phases and not future.done():
                future.set_result(self.phase)
