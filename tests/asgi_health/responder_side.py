"""Clients of a responder on loopback, and the responder itself, turn by turn under a fake clock."""

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

from server_side import LIMIT_S, SECRET

from asgi_health import CorsPolicy, HealthConfig, HealthGate
from asgi_health.fleet.desk import Desk
from asgi_health.fleet.responder import Limits, Responder
from asgi_health.phase import Failure

PROBE = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"
READY = b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n"
USER = b"GET /user HTTP/1.1\r\nHost: a\r\n\r\n"
FAILURE = Failure(code="boot.error", message="OSError: no", traceback="")


class CountingClock:
    """Stands still unless told; counts how often it was asked, a few times each turn."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.asked = 0

    def __call__(self) -> float:
        self.asked += 1
        return self.now_s


class Client:
    """The other end of one connection."""

    def __init__(self, side: "Side", address: Any, *, receive_bytes: int = 0) -> None:
        self.side = side
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.socket = socket.socket(family)
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(LIMIT_S)
        self.socket.connect(address)
        self.seen = b""
        self.is_ended = False

    def send(self, data: bytes) -> "Client":
        self.socket.sendall(data)
        return self

    def look(self) -> bytes:
        """All that has come; never waits."""
        self.socket.settimeout(0.0)
        with contextlib.suppress(BlockingIOError, ConnectionResetError):
            while data := self.socket.recv(1 << 20):
                self.seen += data
            self.is_ended = True
        self.socket.settimeout(LIMIT_S)
        return self.seen

    def statuses(self) -> list[int]:
        """Of the answers that have come."""
        starts = self.look().split(b"HTTP/1.1 ")[1:]
        return [int(start[:3]) for start in starts]

    def gets(self, *statuses: int) -> bytes:
        """Let the responder work until these answers are here; all that has come."""
        self.side.until(lambda: len(self.statuses()) >= len(statuses))
        assert tuple(self.statuses()) == statuses, self.seen
        return self.seen

    def gets_nothing(self) -> None:
        """The responder has looked, and has not answered."""
        self.side.turn()
        self.side.turn()
        assert self.look() == b""
        assert not self.is_ended

    def ends(self) -> None:
        """The responder ends the connection."""
        self.side.until(lambda: self.look() is not None and self.is_ended)

    def leave(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Leave without a farewell."""
        linger = b"\1\0\0\0\0\0\0\0"
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.socket.close()


class Side:
    """A responder with a listener of its own, run one turn at a time."""

    def __init__(
        self, *, hold_s: float = 30.0, hold_limit: int = 100, open_max: int = 1000, **config: Any
    ) -> None:
        options = {"token": SECRET, "cors": CorsPolicy(origins=("https://a.example",))} | config
        self.gate = HealthGate("nothing:loaded", config=HealthConfig(**options))
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1000)
        self.desk, self.hold, self.clock = Desk(self.gate), self.gate.hold, CountingClock()
        self.clients: list[Client] = []
        limits = Limits(hold_s=hold_s, hold_limit=hold_limit, open_max=open_max)
        self.responder = Responder(
            [self.listener], desk=self.desk, hold=self.hold, limits=limits, clock=self.clock
        )

    def turn(self) -> None:
        """One look at everything that has happened; never waits."""
        responder = self.responder
        responder._is_done = False
        responder.run(until_s=lambda: self.clock.now_s, on_time=responder.end)

    def until(self, happened: Callable[[], bool]) -> None:
        """Work until it has happened."""
        end_s = time.monotonic() + LIMIT_S
        while not happened():
            assert time.monotonic() < end_s, "it never happened"
            self.turn()

    def client(self, first: bytes = b"", **options: Any) -> Client:
        made = Client(self, self.listener.getsockname(), **options)
        self.clients.append(made)
        return made.send(first) if first else made

    def held(self, count: int) -> None:
        """Work until so many requests are held."""
        self.until(lambda: self.hold.now == count)

    @property
    def kinds(self) -> tuple[int, int, int, int]:
        """How many connections are silent, held, closing, streams."""
        one = self.responder
        return len(one._silent), len(one._held), len(one._closing), len(one._streams)

    def unread(self) -> list[bytes]:
        """What lies unread in each open connection, as who takes it over reads it."""
        return [_read_all(fd) for fd in self.responder.open_connections()]

    def close(self) -> None:
        for client in self.clients:
            client.socket.close()
        one = self.responder
        for kind in (one._silent, one._held, one._closing, one._streams):
            for fd in list(kind):
                one._drop(fd)
        one._poll.close()
        self.listener.close()


def _read_all(fd: int) -> bytes:
    with socket.socket(fileno=os.dup(fd)) as taken:
        taken.settimeout(0.0)
        data = b""
        with contextlib.suppress(BlockingIOError):
            while more := taken.recv(1 << 16):
                data += more
        return data


@contextlib.contextmanager
def responding(**options: Any) -> Iterator[Side]:
    """A responder, and nothing left behind."""
    side = Side(**options)
    try:
        yield side
    finally:
        side.close()
