"""Requests that are lost by a boot, a long boot, a reload and a drain behind a balancer: none.

Lost means refused, reset, cut, or any 5xx. Gunicorn with two plain Uvicorn workers and the files
that `init` wrote, in front of Django.
"""

import http.client
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from harness import (
    ask,
    free_port,
    heavy_site,
    options,
    publish,
    start_fleet,
    stop,
    until_200,
)

CLIENTS = 20
AFTER_S = 5.0
PROBE_S = 1.0
FAILURES = 2
DRAIN_S = 5
DRAINED_REQUESTS = 10_000
LIMIT_S = 90.0


class Load:
    """`CLIENTS` threads with kept connections; each request goes to a port that `choose` names."""

    def __init__(self, choose: Callable[[], int], *, posts: bool) -> None:
        self._choose = choose
        self._posts = posts
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.served = 0
        self.lost: list[str] = []
        self.starting = 0
        self._threads = [threading.Thread(target=self._run) for _ in range(CLIENTS)]

    def begin(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        pool: dict[int, http.client.HTTPConnection] = {}
        number = 0
        while not self._stop.is_set():
            number += 1
            port = self._choose()
            connection = pool.pop(port, None) or http.client.HTTPConnection(
                "127.0.0.1", port, timeout=LIMIT_S
            )
            is_post = self._posts and number % 2 == 0
            try:
                body = b"x" * 20_000 if is_post else None
                connection.request("POST" if is_post else "GET", "/hello/", body=body)
                answer = connection.getresponse()
                text = answer.read()
            except (OSError, http.client.HTTPException) as error:
                self._note(repr(error), 0, b"")
                connection.close()
                continue
            self._note("", answer.status, text)
            if not answer.will_close:
                pool[port] = connection
        for connection in pool.values():
            connection.close()

    def _note(self, error: str, status: int, text: bytes) -> None:
        with self._lock:
            if status == 200:
                self.served += 1
            elif b"service.starting" in text:
                self.starting += 1
            else:
                self.lost.append(error or str(status))


def boot(folder: Path) -> Load:
    """20 clients from the first bind until some seconds after ready."""
    port = free_port()
    server = start_fleet(folder, port=port)
    load = Load(lambda: port, posts=True)
    try:
        until_200(port, "/livez")
        load.begin()
        until_200(port, "/readyz", pause_s=0.05)
        time.sleep(AFTER_S)
        load.end()
    finally:
        stop(server)
    return load


def reload_(folder: Path) -> Load:
    """Three HUPs under the same clients."""
    port = free_port()
    server = start_fleet(folder, port=port)
    load = Load(lambda: port, posts=True)
    try:
        until_200(port, "/readyz", pause_s=0.05)
        load.begin()
        for _ in range(3):
            time.sleep(1.0)
            server.send_signal(signal.SIGHUP)
            time.sleep(3.0)
        load.end()
    finally:
        stop(server)
    return load


def drain(folder: Path) -> Load:
    """A balancer with pooled connections in front of two servers, one of which is told to stop."""
    ports = [free_port(), free_port()]
    servers = [start_fleet(folder, port=p, environment={"DRAIN_S": str(DRAIN_S)}) for p in ports]
    rotation, is_over = list(ports), threading.Event()

    def look() -> None:
        failures = dict.fromkeys(ports, 0)
        while not is_over.wait(PROBE_S):
            for port in list(rotation):
                failures[port] = 0 if ask(port, "/readyz") == 200 else failures[port] + 1
                if failures[port] >= FAILURES:
                    rotation.remove(port)

    prober = threading.Thread(target=look)
    load = Load(lambda: random.choice(rotation), posts=False)
    try:
        for port in ports:
            until_200(port, "/readyz", pause_s=0.05)
        prober.start()
        load.begin()
        time.sleep(2.0)
        servers[0].send_signal(signal.SIGTERM)
        servers[0].wait(LIMIT_S)
        end_s = time.monotonic() + LIMIT_S
        while load.served < DRAINED_REQUESTS and time.monotonic() < end_s:
            time.sleep(0.1)
        load.end()
    finally:
        is_over.set()
        for server in servers:
            stop(server)
        with suppress(RuntimeError):
            prober.join()
    return load


def main() -> None:
    found = options(__doc__)
    rows, losses = [], 0
    with (
        heavy_site() as heavy,
        heavy_site(modules=1, wait_s=40.0) as slow,
        heavy_site(modules=1) as light,
    ):
        for name, measure, folder, rounds in (
            ("boot, 5–8 s of computing", boot, heavy, found.rounds),
            ("boot, 40 s of waiting", boot, slow, 1),
            ("reload (HUP), three times", reload_, light, found.rounds),
            (f"drain behind a balancer, drain_s {DRAIN_S}", drain, light, found.rounds),
        ):
            loads = [measure(folder) for _ in range(rounds)]
            lost = [loss for load in loads for loss in load.lost]
            losses += len(lost)
            if lost:
                print(name, lost[:10], file=sys.stderr)
            rows.append(
                (
                    name,
                    f"{sum(load.served for load in loads):,}",
                    str(len(lost)),
                    str(sum(load.starting for load in loads)),
                    "0",
                )
            )
    publish(
        "bench_losses",
        title="Requests lost",
        how=f"{CLIENTS} clients with kept connections, GET and POST, on a Django project. "
        "Boot: from the first bind until 5 s after ready. Drain: a balancer that probes `/readyz` "
        "each second and takes a server out after two failures, in front of two servers; SIGTERM "
        "to one of them.",
        head=("what", "served", "lost", "503 service.starting", "bar"),
        rows=rows,
        found=found,
    )
    sys.exit(1 if losses else 0)


if __name__ == "__main__":
    main()
