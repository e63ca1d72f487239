"""Clients of many habits, each on a thread of its own, who note whatever was not served."""

import base64
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

from tests.servers.harness import LIMIT_S, Answer, Client

__all__ = ["HABITS", "Habit", "Traffic"]

Habit = Callable[["Visitor"], None]
"""One visit: requests that must all be served; `visitor.expect` notes each answer."""

PAUSE_S = 0.005
IDLE_MAX_S = 0.9


@dataclass(slots=True)
class Visitor:
    """One client; `kept` is the connection that a habit may keep from visit to visit."""

    port: int
    name: str
    served: int = 0
    losses: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    kept: Client | None = None
    answered_s: float = 0.0

    def connect(self) -> Client:
        return Client(self.port)

    def expect(self, answer: Answer, status: int = 200) -> None:
        """Note an answer; anything but `status` is a loss."""
        self.statuses[answer.status] += 1
        if answer.status == status:
            self.served += 1
        else:
            self.losses.append(f"{self.name}: {answer.status} {answer.text[:100]}")

    def leave(self) -> None:
        if self.kept is not None:
            self.kept.close()
            self.kept = None


def get(visitor: Visitor) -> None:
    """A new connection for each request."""
    with visitor.connect() as client:
        client.request("/hello")
        visitor.expect(client.answer())


def post(visitor: Visitor) -> None:
    """A body of 100 kB that comes back."""
    body = os.urandom(100_000)
    with visitor.connect() as client:
        client.request("/echo", method="POST", body=body)
        answer = client.answer()
        visitor.expect(answer)
        if answer.status == 200 and answer.body != body:
            visitor.losses.append(f"{visitor.name}: another body came back")


def keep_alive(visitor: Visitor) -> None:
    """One connection until the server ends it, as a balancer's pool does.

    A stopping worker closes connections that are idle for a second: on a busy machine this client
    may be the late one, which is no loss.
    """
    is_late = visitor.kept is not None and time.monotonic() - visitor.answered_s > IDLE_MAX_S
    client = visitor.kept = visitor.kept or visitor.connect()
    try:
        client.request("/hello")
        answer = client.answer()
    except OSError:
        if not is_late:
            raise
        visitor.leave()
        return
    visitor.expect(answer)
    visitor.answered_s = time.monotonic()
    if answer.headers.get("connection", "").lower() == "close":
        visitor.leave()


def pipeline(visitor: Visitor) -> None:
    """Three requests in one packet, a probe among them."""
    one = b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n"
    probe = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    last = b"GET /hello HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with visitor.connect() as client:
        client.send(probe + one + last)
        for _ in range(3):
            answer = client.answer()
            visitor.expect(answer)
            if answer.headers.get("connection", "").lower() == "close":
                break


def handshake(visitor: Visitor) -> None:
    """A WebSocket handshake."""
    key = base64.b64encode(os.urandom(16)).decode()
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade"}
    with visitor.connect() as client:
        client.request(
            "/live",
            headers=upgrade | {"Sec-WebSocket-Key": key, "Sec-WebSocket-Version": "13"},
        )
        visitor.expect(client.answer(has_body=False), 101)


def byte_by_byte(visitor: Visitor) -> None:
    """A slow client: each byte in a packet of its own."""
    with visitor.connect() as client:
        for byte in b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n":
            client.send(bytes([byte]))
        visitor.expect(client.answer())


def leaver(visitor: Visitor) -> None:
    """Asks and does not wait for the answer."""
    with visitor.connect() as client:
        client.request("/hello")
    visitor.served += 1


HABITS: Sequence[Habit] = (get, post, keep_alive, pipeline, handshake, byte_by_byte, leaver)


class Traffic:
    """`count` clients, who visit again and again until told to stop.

    Args:
        port: where the server listens.
        count: of clients; they take `habits` in turns.
    """

    def __init__(self, port: int, *, count: int = 20, habits: Sequence[Habit] = HABITS) -> None:
        self.visitors = [
            Visitor(port, f"{habits[n % len(habits)].__name__} {n}") for n in range(count)
        ]
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._visit, args=(visitor, habits[n % len(habits)]))
            for n, visitor in enumerate(self.visitors)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Let every client finish its visit."""
        self._stop.set()
        for thread in self._threads:
            thread.join(3 * LIMIT_S)
            assert not thread.is_alive(), "a client never got its answer"

    @property
    def served(self) -> int:
        return sum(visitor.served for visitor in self.visitors)

    @property
    def losses(self) -> list[str]:
        return [loss for visitor in self.visitors for loss in visitor.losses]

    def wait_served(self, more: int) -> None:
        """Wait until so many more requests have been served."""
        target, end_s = self.served + more, time.monotonic() + LIMIT_S
        while self.served < target:
            assert time.monotonic() < end_s, f"too few served; losses: {self.losses[:5]}"
            self._stop.wait(0.02)

    def _visit(self, visitor: Visitor, habit: Habit) -> None:
        while not self._stop.wait(PAUSE_S):
            try:
                habit(visitor)
            except (OSError, ValueError, IndexError) as error:
                visitor.losses.append(f"{visitor.name}: {error!r}")
                visitor.leave()
        visitor.leave()
