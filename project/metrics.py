"""The figures of requests: how many, how long, by method, route and status.

A route is a template or one of a few fixed words, so that no client can make new series.
"""

import logging
import os
import time
from bisect import bisect_left
from typing import Final, NamedTuple

from asgi_health.adapters.prometheus import Multiprocess

__all__ = ["BUCKETS_S", "RequestMetrics"]

_log = logging.getLogger("project.metrics")

BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LABELS: Final = ("method", "route", "status")

_PAUSE_S: Final = 30.0
"""After a failure: the attempt itself waits for a disk."""


class _Kind(NamedTuple):
    """Where requests of one method, route and status are counted."""

    requests: "memoryview[float]"
    number_at: int
    durations: "memoryview[float]"
    sum_at: int
    buckets_at: tuple[int, ...]


_NUMBERS: "Final[memoryview[float]]" = memoryview(bytearray(8)).cast("d")
_NOWHERE: Final = _Kind(_NUMBERS, 0, _NUMBERS, 0, (0,) * (1 + len(BUCKETS_S)))
"""Nobody reads it."""


class RequestMetrics:
    """Counts requests where all workers' counts are read. For one thread: that of the loop.

    Args:
        shared: where that is. Nothing is opened there before the first request.
    """

    def __init__(self, shared: Multiprocess) -> None:
        from prometheus_client import Counter, Histogram  # noqa: PLC0415 - after Multiprocess

        self._shared = shared
        self._requests = Counter("http_requests", "Requests that are over.", _LABELS, registry=None)
        self._durations = Histogram(
            "http_request_duration_seconds",
            "From the first byte for the application to the end of its answer.",
            _LABELS,
            registry=None,
            buckets=BUCKETS_S,
        )
        self._kinds: dict[tuple[str, str, int], _Kind] = {}
        self._again_s = 0.0
        os.register_at_fork(after_in_child=self._kinds.clear)  # they are the parent's

    def observe(self, method: str, route: str, status: int, duration_s: float) -> None:
        """A request is over. A microsecond or two, but for the first one of its kind."""
        kind = self._kinds.get((method, route, status)) or self._find(method, route, status)
        requests, number_at, durations, sum_at, buckets_at = kind
        requests[number_at] += 1
        durations[sum_at] += duration_s
        durations[buckets_at[bisect_left(BUCKETS_S, duration_s)]] += 1

    def _find(self, method: str, route: str, status: int) -> _Kind:
        """Where requests of this kind are counted; nowhere while no file can be written."""
        if time.monotonic() < self._again_s:
            return _NOWHERE
        try:
            self._shared.join()
            labels = (method, route, str(status))
            count, spend = self._requests.labels(*labels), self._durations.labels(*labels)
            # The library's own `inc` and `observe` take a lock, ask for the process and look the
            # place up, three times a request.
            forget = self._kinds.clear
            requests = self._shared.places([count._value], when_withdrawn=forget)  # noqa: SLF001 - the library tells it nowhere else
            durations = self._shared.places([spend._sum, *spend._buckets], when_withdrawn=forget)  # noqa: SLF001 - the same
        except OSError as error:  # a full disk is no reason to fail a request
            _log.error("requests are not counted: %s", error)
            self._again_s = time.monotonic() + _PAUSE_S
            return _NOWHERE
        (number_at,), (sum_at, *buckets_at) = requests.at, durations.at
        found = _Kind(requests.numbers, number_at, durations.numbers, sum_at, tuple(buckets_at))
        self._kinds[method, route, status] = found
        return found
