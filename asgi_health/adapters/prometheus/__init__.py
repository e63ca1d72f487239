"""Figures of all workers of an instance in one scrape, by prometheus_client's files."""

from asgi_health.adapters.prometheus.files import Places
from asgi_health.adapters.prometheus.multiprocess import Multiprocess

__all__ = ["Multiprocess", "Places"]
