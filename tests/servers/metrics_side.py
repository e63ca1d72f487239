"""Clients of `/metrics`: what a scrape tells, and load that counts its answers."""

import os
import secrets
import threading
from collections.abc import Sequence
from typing import Self

from tests.servers.harness import ROOT, Client, Server

__all__ = ["PRODUCT", "STARTS", "Pings", "pings_told", "scraped"]

WORKERS = 2
PING = 'http_requests_total{method="GET",route="/api/ping",status="200"}'
PRODUCT = {
    "ENV_FILE": os.devnull,
    "SECRET_KEY": secrets.token_urlsafe(64),
    "ALLOWED_HOSTS": "localhost",
    "HTTPS_ONLY": "0",
    "DRAIN_S": "0",
    "WEB_CONCURRENCY": str(WORKERS),
    "READY_WORKERS_MIN": str(WORKERS),
    "PYTHONPATH": str(ROOT),
}
GUNICORN = ("gunicorn", "project.asgi:app", "-b", "127.0.0.1:0")
STARTS: dict[str, tuple[Sequence[str], dict[str, str]]] = {
    "gunicorn, one load": (GUNICORN, {}),
    "gunicorn, a load each": (GUNICORN, {"WARM_BOOT": "0"}),
    "uvicorn --workers": (("uvicorn", "project.asgi:app", "--port", "0", "--workers", "2"), {}),
}


def scraped(server: Server) -> dict[str, float]:
    """All samples of one scrape, each name once."""
    answer = server.ask("/metrics")
    assert answer.status == 200, answer.text
    lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
    told = {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}
    assert len(told) == len(lines)
    assert answer.text.endswith("\n# EOF\n")
    return told


def pings_told(server: Server) -> int:
    return int(scraped(server).get(PING, 0))


class Pings:
    """Clients that ask for the ping until they are told to stop."""

    def __init__(self, server: Server, *, clients: int = 6) -> None:
        self.answered, self.lost = [0] * clients, [0] * clients
        self._port, self._is_over = server.port, threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(number,)) for number in range(clients)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        while not self._is_over.is_set():
            try:
                with Client(self._port) as client:
                    client.request("/api/ping")
                    assert client.answer().status == 200
            except OSError:
                self.lost[number] += 1
            else:
                self.answered[number] += 1
