"""Real servers as subprocesses on loopback, a client that speaks bytes, and imports on command.

Nothing here waits for a clock: every wait ends by an event, and its limit only bounds a failure.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import asgi_health

LIMIT_S = 60.0
"""For any single wait: long enough for a busy machine, short enough for a red test."""

APPS = Path(__file__).with_name("apps")
ROOT = Path(asgi_health.__file__).parents[1]
OWN_WORKER = "asgi_health.adapters.uvicorn.Worker"


@dataclass(frozen=True, slots=True)
class Kind:
    """A way of starting: the arguments of `python -m` and how many workers load."""

    name: str
    arguments: tuple[str, ...]
    workers: int = 1

    @property
    def is_gunicorn(self) -> bool:
        return self.arguments[0] == "gunicorn"


def _gunicorn(worker_class: str) -> Kind:
    arguments = ("gunicorn", "--bind", "127.0.0.1:0", "--access-logfile", "-", "-k", worker_class)
    return Kind(f"gunicorn -k {worker_class}", arguments)


UVICORN = Kind("uvicorn", ("uvicorn", "--port", "0"))
UVICORN_WORKERS = Kind("uvicorn --workers 2", (*UVICORN.arguments, "--workers", "2"), workers=2)
GUNICORN = _gunicorn(OWN_WORKER)
GUNICORN_ASGI = _gunicorn("asgi")
"""Gunicorn's own worker: denies handshakes with 403, and stops late for idle connections."""
KINDS = (
    UVICORN,
    UVICORN_WORKERS,
    _gunicorn("uvicorn.workers.UvicornWorker"),
    _gunicorn("uvicorn_worker.UvicornWorker"),
    GUNICORN,
)


def until(condition: Callable[[], Any], what: str, *, pause_s: float = 0.02) -> Any:
    """Wait for a true value of `condition`; a process of others tells nobody, so it is asked."""
    pause, end_s = threading.Event(), time.monotonic() + LIMIT_S
    while not (value := condition()):
        if time.monotonic() > end_s:
            raise TimeoutError(f"not within {LIMIT_S:g} s: {what}")
        pause.wait(pause_s)
    return value


class Load:
    """One import (or request) of a server, which waits for its order."""

    def __init__(self, wire: socket.socket) -> None:
        self._wire = wire
        wire.settimeout(LIMIT_S)
        self._lines = wire.makefile("r")
        self.what, pid = self._lines.readline().split()
        self.pid = int(pid)

    def release(self) -> None:
        """Let it go on."""
        self.order("go")

    def order(self, text: str) -> None:
        """What the import shall do.

        `go`, `raise TEXT`, `raise-NAME TEXT` (a built-in exception), `exit TEXT`, `hold-gil` (until
        `release_gil` or a signal), `hold-gil-firmly` (also through signals), `hold-gil-for S`,
        `deflect-stops` (see `deflect_stops`).
        """
        self._wire.sendall(f"{text}\n".encode())

    def deflect_stops(self) -> None:
        """From now on a stop signal interrupts another thread, not the one that loads."""
        self.order("deflect-stops")
        assert self._lines.readline() == "deflected\n"

    def release_gil(self) -> None:
        """End `hold-gil`."""
        self._wire.sendall(b"\n")

    def close(self) -> None:
        self._lines.close()
        self._wire.close()


class Loads:
    """Where the imports of the fixture applications ask what to do (tests/servers/apps/orders.py).

    Until they are told, they block in a read; no test waits for the clock.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._loads: list[Load] = []
        self.port = self._listener.getsockname()[1]

    def next(self, what: str = "import") -> Load:
        """The next one that asks."""
        self._listener.settimeout(LIMIT_S)
        load = Load(self._listener.accept()[0])
        self._loads.append(load)
        assert load.what == what
        return load

    def release(self, count: int = 1) -> None:
        """Let the next imports go on."""
        for load in [self.next() for _ in range(count)]:
            load.release()

    @property
    def none_asked(self) -> bool:
        """Whether nobody has asked since the last `next`."""
        self._listener.settimeout(0)
        try:
            wire, _ = self._listener.accept()
        except BlockingIOError:
            return True
        self._loads.append(Load(wire))
        return False

    def close(self) -> None:
        for load in self._loads:
            load.close()
        self._listener.close()


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole HTTP answer; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One connection that sends what it is told, byte for byte, and reads whole answers."""

    def __init__(self, port: int, *, host: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection((host, port), timeout=LIMIT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def send(self, raw: bytes) -> None:
        self.socket.sendall(raw)

    def request(
        self,
        target: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> None:
        """Send a request; `Host` and `Content-Length` are added when they are not given."""
        lines = {"Host": "localhost"} | dict(headers or {})
        if body and "Transfer-Encoding" not in lines:
            lines.setdefault("Content-Length", str(len(body)))
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self.send(f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body)

    def answer(self, *, has_body: bool = True) -> Answer:
        """Read the next answer; `has_body` is False for HEAD.

        Raises:
            ConnectionError: the server has closed the connection.
        """
        status_line = self._file.readline()
        if not status_line:
            raise ConnectionError("closed without an answer")
        status = int(status_line.split()[1])
        headers: dict[str, str] = {}
        while line := self._file.readline().strip():
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        if not has_body or status < 200 or status in {204, 304}:
            return Answer(status, headers, b"")
        return Answer(status, headers, self._body(headers))

    def lines(self) -> list[bytes]:
        """What still comes until the server closes the connection."""
        return self._file.readlines()

    def line(self) -> bytes:
        """The next line of a stream."""
        return self._file.readline()

    def has_nothing_to_read(self) -> bool:
        """Whether the server has sent nothing yet, and not closed."""
        self.socket.settimeout(0)
        try:
            self.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        finally:
            self.socket.settimeout(LIMIT_S)
        return False

    def is_closed_by_server(self) -> bool:
        """Wait for the end of the connection; False when something else comes first."""
        with suppress(ConnectionResetError):
            return self._file.read(1) == b""
        return True

    def _body(self, headers: Mapping[str, str]) -> bytes:
        if headers.get("transfer-encoding") == "chunked":
            chunks = []
            while size := int(self._file.readline(), 16):
                chunks.append(self._file.read(size))
                self._file.readline()
            self._file.readline()
            return b"".join(chunks)
        if "content-length" in headers:
            return self._file.read(int(headers["content-length"]))
        return self._file.read()


class Server:
    """A server process with all that it starts, in a process group of its own."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str],
        directory: Path,
        workers: int = 1,
    ) -> None:
        self.workers = workers
        self._lines: list[str] = []
        self._news = threading.Condition()
        self._is_silent = False
        self.process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            env=dict(env),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()

    @property
    def log(self) -> str:
        with self._news:
            return "".join(self._lines)

    @property
    def port(self) -> int:
        """The port that the kernel gave it."""
        found = self.wait_for_log(r"(?:running on|Listening at:) http://\S+?:(\d+)[ \n]")
        return int(found[1])

    def wait_for_log(self, pattern: str, *, count: int = 1) -> re.Match[str]:
        """Wait until the log has `count` matches; the last of them."""
        found: list[re.Match[str]] = []

        def is_there() -> bool:
            found[:] = re.finditer(pattern, "".join(self._lines), re.MULTILINE)
            return len(found) >= count or self._is_silent

        with self._news:
            self._news.wait_for(is_there, LIMIT_S)
            if len(found) >= count:
                return found[count - 1]
            text = "".join(self._lines)
        raise AssertionError(f"{count} x {pattern!r} did not come; the log:\n{text}")

    def wait_ended(self) -> int:
        """Wait until this process and every process that it started have ended; the exit code.

        They share one pipe for their log: it ends when the last of them has.
        """
        try:
            code = self.process.wait(LIMIT_S)
        except subprocess.TimeoutExpired as error:
            error.add_note(f"the log:\n{self.log}")
            raise
        self._reader.join(LIMIT_S)
        assert self._is_silent, f"a process outlives the server; the log:\n{self.log}"
        return code

    def connect(self) -> Client:
        """A new connection; waits until the server listens."""

        def attempt() -> Client | None:
            assert self.process.poll() is None, f"the server has ended; the log:\n{self.log}"
            try:
                return Client(self.port)
            except ConnectionRefusedError:
                return None

        client: Client = until(attempt, "a connection")
        return client

    def ask(
        self,
        target: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Answer:
        """One request on a connection of its own."""
        with self.connect() as client:
            client.request(target, method=method, headers=headers, body=body)
            return client.answer(has_body=method != "HEAD")

    def held(self) -> int:
        """How many requests are held now, as the status page tells."""
        held: int = self.ask("/statusz?format=json").json["requests"]["held_now"]
        return held

    def wait_held(self, count: int) -> None:
        until(lambda: self.held() == count, f"{count} held requests")

    def wait_ready(self) -> None:
        asks = 1 if self.workers == 1 else 5 * self.workers  # each remembers for a moment
        until(
            lambda: all(self.ask("/readyz").status == 200 for _ in range(asks)),
            f"ready; the log:\n{self.log}",
        )

    def tell(self, number: signal.Signals) -> None:
        """Send to the first process only, as a platform does."""
        self.process.send_signal(number)

    def tell_group(self, number: signal.Signals) -> None:
        """Send to every process of the server."""
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """End whatever is left of the group."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(LIMIT_S)
        self._reader.join(LIMIT_S)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def _read_log(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self._lines.append(line.decode("utf-8", "replace"))
                self._news.notify_all()
        with self._news:
            self._is_silent = True
            self._news.notify_all()


def environment(folder: Path, loads: Loads) -> dict[str, str]:
    """A small environment of its own: nothing of the person's or the test run's leaks in."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(APPS)]),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONWARNINGS": "default,ignore::DeprecationWarning",
        "LOADS_PORT": str(loads.port),
        "HEALTH_DETAILS_LOOPBACK": "1",
    }
