"""A small load balancer: probes, pooled connections, and clients that go through it."""

import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from tests.servers.harness import LIMIT_S, Client

__all__ = ["Balancer", "Loss"]

_PAUSE_S = 0.002
_FAILURES_MAX = 2


@dataclass(frozen=True, slots=True)
class Loss:
    """A request that a user would have lost; `idle_s` is None on a new connection."""

    port: int
    idle_s: float | None
    why: str


@dataclass(slots=True)
class _Pooled:
    client: Client
    since_s: float


class Balancer:
    """In front of several instances of one service.

    An instance is asked `/readyz` every `interval_s`, on a new connection, and gets nothing more
    after two failures. Its connections are kept and shared, the one that has been idle for the
    longest time first, so that they are reused at any age.

    Args:
        ports: of the instances.
        interval_s: seconds between two probes.
        clients: how many ask, each on a thread of its own.
    """

    def __init__(self, ports: Sequence[int], *, interval_s: float, clients: int = 12) -> None:
        self._pools: dict[int, deque[_Pooled]] = {port: deque() for port in ports}
        self._serving = tuple(ports)
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._served = [0] * clients
        self.losses: list[Loss] = []
        self._threads = [
            *(threading.Thread(target=self._probe, args=(port,)) for port in ports),
            *(threading.Thread(target=self._visit, args=(number,)) for number in range(clients)),
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(3 * LIMIT_S)
            assert not thread.is_alive(), "a client never got its answer"
        for pool in self._pools.values():
            while pool:
                pool.pop().client.close()

    @property
    def served(self) -> int:
        """Answers with 200."""
        return sum(self._served)

    def serves(self, port: int) -> bool:
        """Whether this instance gets requests."""
        return port in self._serving

    def _probe(self, port: int) -> None:
        failures = 0
        while failures < _FAILURES_MAX and not self._stop.wait(self._interval_s):
            failures = 0 if _is_ready(port) else failures + 1
        if failures:
            self._serving = tuple(other for other in self._serving if other != port)

    def _visit(self, number: int) -> None:
        while not self._stop.wait(_PAUSE_S):
            ports = self._serving
            if self._ask(ports[self._served[number] % len(ports)]):
                self._served[number] += 1

    def _ask(self, port: int) -> bool:
        client, idle_s = None, None
        try:
            client, idle_s = self._connection(port)
            client.request("/hello")
            answer = client.answer()
        except (OSError, ValueError, IndexError) as error:
            self.losses.append(Loss(port, idle_s, repr(error)))
            if client is not None:
                client.close()
            return False
        if answer.status != 200:
            self.losses.append(Loss(port, idle_s, f"{answer.status} {answer.text[:80]}"))
        if answer.headers.get("connection", "").lower() == "close":
            client.close()
        else:
            self._pools[port].append(_Pooled(client, time.monotonic()))
        return answer.status == 200

    def _connection(self, port: int) -> tuple[Client, float | None]:
        with suppress(IndexError):
            pooled = self._pools[port].popleft()
            return pooled.client, time.monotonic() - pooled.since_s
        return Client(port), None


def _is_ready(port: int) -> bool:
    try:
        with Client(port) as probe:
            probe.request("/readyz")
            return probe.answer().status == 200
    except (OSError, ValueError, IndexError):
        return False
