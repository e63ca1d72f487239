"""What a worker has in use, told once a second: threads for Django, connections to databases.

Summed over the workers that live.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

from asgi_health.adapters.django.pools import pool_figures
from asgi_health.adapters.prometheus import Multiprocess

__all__ = ["worker_figures"]

_log = logging.getLogger("project.metrics")

_INTERVAL_S: Final = 1.0
_HANDOFF: Final = {
    "threads_lent": ("django_handoff_threads_in_use", "Threads that requests have."),
    "threads_limit": ("django_handoff_threads_limit", "Threads that requests may have."),
    "requests_waiting_for_a_thread": (
        "django_handoff_requests_waiting",
        "Requests that wait for a thread.",
    ),
}
_POOL: Final = {
    "pool_size": ("database_pool_connections", "Connections in the pools."),
    "pool_available": ("database_pool_connections_idle", "Connections that nobody uses."),
    "pool_max": ("database_pool_connections_limit", "Connections that the pools may have."),
    "requests_waiting": ("database_pool_requests_waiting", "Requests that wait for a connection."),
}


def worker_figures(
    shared: Multiprocess, handoff: Callable[[], Mapping[str, Any]]
) -> Callable[[], AbstractAsyncContextManager[None]]:
    """For `WorkerLife`: tell while the worker lives; `handoff` as `handoff_details` gives it."""

    @asynccontextmanager
    async def live() -> AsyncIterator[None]:
        try:
            await asyncio.to_thread(shared.join)
        except OSError as error:
            _log.error("there are no figures of this worker: %s", error)
            yield
            return
        telling = asyncio.create_task(
            _tell_for_ever(shared, _Gauges(), handoff), name="worker figures"
        )
        try:
            yield
        finally:
            telling.cancel()
            await asyncio.wait({telling})
            shared.leave()

    return live


async def _tell_for_ever(
    shared: Multiprocess, gauges: "_Gauges", handoff: Callable[[], Mapping[str, Any]]
) -> None:
    has_failed = False
    while True:
        try:
            await asyncio.to_thread(shared.join)  # somebody may have cleared the folder
            gauges.tell(handoff(), pool_figures())
            has_failed = False
        except Exception as error:  # noqa: BLE001 - the edge: figures harm nobody
            if not has_failed:
                _log.error("a worker cannot tell its figures", exc_info=error)
            has_failed = True
        await asyncio.sleep(_INTERVAL_S)


class _Gauges:
    """Opens its file with the first value."""

    def __init__(self) -> None:
        from prometheus_client import Gauge  # noqa: PLC0415 - after Multiprocess

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=None, multiprocess_mode="livesum")

        self._handoff = {key: gauge(*_HANDOFF[key]) for key in _HANDOFF}
        self._pool = {key: gauge(*_POOL[key], "database") for key in _POOL}

    def tell(self, handoff: Mapping[str, Any], pools: Mapping[str, Mapping[str, int]]) -> None:
        """Set all of them; Django's own handler lends no threads."""
        for key, gauge in self._handoff.items():
            if key in handoff:
                gauge.set(handoff[key])
        for alias, figures in pools.items():
            for key, gauge in self._pool.items():
                gauge.labels(alias).set(figures.get(key, 0))
