"""The figures of requests: how many, how long, by method, route and status.

A route is a template or one of a few fixed words, so that no client can make new series.
"""

import logging
import time
from collections.abc import Callable
from typing import Final

from asgi_health.adapters.prometheus import Multiprocess

__all__ = ["BUCKETS_S", "RequestMetrics"]

_log = logging.getLogger("project.metrics")

BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LABELS: Final = ("method", "route", "status")

_PAUSE_S: Final = 30.0
"""After a failure: the attempt itself waits for a disk."""

_Pair = tuple[Callable[[], None], Callable[[float], None]]


class RequestMetrics:
    """Counts requests where all workers' counts are read.

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
        self._pairs: dict[tuple[str, str, int], _Pair] = {}
        self._again_s = 0.0

    def observe(self, method: str, route: str, status: int, duration_s: float) -> None:
        """A request is over. A few microseconds, but for the first one of its kind."""
        pair = self._pairs.get((method, route, status)) or self._pair(method, route, status)
        pair[0]()
        pair[1](duration_s)

    def _pair(self, method: str, route: str, status: int) -> _Pair:
        """What counts requests of this kind; nothing where no file can be written."""
        if time.monotonic() < self._again_s:
            return _count_nothing, _spend_nothing
        try:
            self._shared.join()
            labels = (method, route, str(status))
            count, spend = self._requests.labels(*labels), self._durations.labels(*labels)
        except OSError as error:  # a full disk is no reason to fail a request
            _log.error("requests are not counted: %s", error)
            self._again_s = time.monotonic() + _PAUSE_S
            return _count_nothing, _spend_nothing
        made = self._pairs[method, route, status] = (count.inc, spend.observe)
        return made


def _count_nothing() -> None:
    """There is nowhere to count."""


def _spend_nothing(_duration_s: float) -> None:
    """There is nowhere to count."""
