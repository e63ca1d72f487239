"""How many threads are lent at once: few while they compute, all of them while they wait.

Threads that compute take turns at the interpreter's lock, and each more makes all of them slower:
they lose it at every query, and find their caches cold when they have it again. Threads that wait,
for a database or for another service, cost nothing. Figures: docs/benchmarks.md, "How many threads
to lend".
"""

import os
import time
from collections.abc import Callable

__all__ = ["LOOK_S", "Pace"]

LOOK_S = 0.01
"""Between two looks, while somebody waits for a thread."""

_LEAST = 2
_BUSY = 0.75
"""Share of one core: who uses more computes; and share of all cores: who uses more has them all."""

_PARALLEL = 1.2
"""Cores: who uses more computes without the interpreter's lock, as hashing does."""

_LATE_S = 0.002
_LATE_BUSY = 0.4
"""A look that comes so late had to wait for the interpreter's lock, or for a core that other
processes have too: then less says that this one computes as much as it can.
"""

_STUCK_S = 0.1
"""Long calculations share the core with others from then on."""


class Pace:
    """The quota, between `least` and `limit`; changes with each look, every `LOOK_S`.

    While requests wait it doubles as long as the process has computing time to spare. It falls when
    there is none, also below what is lent: then requests wait until enough threads are back.

    Args:
        limit: of the quota.
        cores: that this process may use; all that the system gives it when None.
        clock: monotonic seconds.
        cpu: seconds that this process has computed.
    """

    def __init__(
        self,
        *,
        limit: int,
        cores: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.process_time,
    ) -> None:
        self._limit = limit
        self.least = min(_LEAST, limit)
        self._cores = cores or _cores()
        self._clock = clock
        self._cpu = cpu
        self.quota = self.least
        self.begin(given_back=0)

    def begin(self, *, given_back: int) -> None:
        """From now on there is something to see, which was not so before. As for `look`."""
        self._looked_s, self._computed_s = self._clock(), self._cpu()
        self._given_back, self._moved_s = given_back, self._looked_s

    def look(self, *, in_use: int, waiting: int, given_back: int) -> None:
        """See what has happened since the last look.

        Args:
            in_use: threads that are lent now.
            waiting: requests that wait for one.
            given_back: how many threads have been, ever.
        """
        before_s, computed_s = self._looked_s, self._computed_s
        self._looked_s, self._computed_s = now_s, _ = self._clock(), self._cpu()
        if given_back != self._given_back:
            self._given_back, self._moved_s = given_back, now_s
        if self._has_time(self._computed_s - computed_s, now_s - before_s):
            self.quota = min(self._limit, 2 * self.quota) if waiting else self.quota
        elif waiting and now_s - self._moved_s >= _STUCK_S:
            self.quota, self._moved_s = min(self._limit, in_use + 1), now_s
        else:
            most = min(self.quota, in_use)
            self.quota = max(self.least, most - max(1, most // 8))

    def _has_time(self, computed_s: float, passed_s: float) -> bool:
        """Whether one more thread would find the interpreter's lock free, and a core."""
        if passed_s > LOOK_S + _LATE_S:
            return computed_s <= _LATE_BUSY * passed_s
        is_parallel = computed_s > _PARALLEL * passed_s
        return computed_s <= _BUSY * passed_s * (self._cores if is_parallel else 1)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
