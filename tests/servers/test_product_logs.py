"""The product's log under load, while workers are killed: JSON, complete, and discreet."""

import json
import os
import secrets
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Self

import pytest

from tests.servers.conftest import Run
from tests.servers.harness import ROOT, Client, Server, until

pytest.importorskip("django")

CLIENTS = 6
SECRET = {
    name: f"{name}Secret{secrets.token_hex(8)}A1"
    for name in (
        "query", "path", "bearer", "basic", "cookie", "csrf", "form", "json", "code", "referer",
        "health", "key",
    )
}  # fmt: skip
HEALTH_TOKEN = SECRET["health"] + 8 * "x"
FORM = f"username=a&password={SECRET['form']}&csrfmiddlewaretoken={SECRET['csrf']}".encode()
JSON = json.dumps({"password": SECRET["json"], "name": "x"}).encode()
REQUESTS: tuple[tuple[str, str, dict[str, str], bytes], ...] = (
    ("GET", "/api/ping", {}, b""),
    ("GET", f"/api/projects?token={SECRET['query']}", {}, b""),
    ("GET", f"/api/projects?page=0&code={SECRET['code']}", {}, b""),
    ("GET", f"/r/{SECRET['path']}", {"Referer": f"http://x/?token={SECRET['referer']}"}, b""),
    ("GET", f"/api/r/{SECRET['path']}/x", {}, b""),
    ("GET", "/api/projects", {"Authorization": f"Bearer {SECRET['bearer']}"}, b""),
    ("GET", "/admin/", {"Authorization": f"Basic {SECRET['basic']}"}, b""),
    ("GET", "/", {"Cookie": f"sessionid={SECRET['cookie']}; csrftoken={SECRET['csrf']}"}, b""),
    ("POST", "/admin/login/", {"Content-Type": "application/x-www-form-urlencoded"}, FORM),
    ("POST", "/api/projects", {"Content-Type": "application/json"}, JSON),
    ("GET", "/static/pages/page.css", {}, b""),
    ("GET", "/livez", {}, b""),
    ("GET", "/readyz?verbose", {"Authorization": f"Bearer {HEALTH_TOKEN}"}, b""),
)
PROBES = ("/livez", "/readyz")


class Visitors:
    """Clients that ask for everything in turns, until they are told to stop."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._ends = threading.Event()
        self._pool = ThreadPoolExecutor(CLIENTS + 1)
        self.answered: list[tuple[str, str, int]] = []
        """The id, the path and the status of every answer but those to probes."""

    def __enter__(self) -> Self:
        self._done = [self._pool.submit(self._visit, number) for number in range(CLIENTS)]
        self._done.append(self._pool.submit(self._leave_early))
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._pool.shutdown()
        for done in self._done:
            done.result()

    def wait_answered(self, count: int) -> None:
        """Wait for so many more answers."""
        goal = len(self.answered) + count
        until(lambda: len(self.answered) >= goal, f"{count} more answers")

    def _visit(self, number: int) -> None:
        while not self._ends.is_set():
            with suppress(OSError, EOFError), Client(self._port) as client:
                for method, path, headers, body in REQUESTS[number:] + REQUESTS[:number]:
                    client.request(path, method=method, headers=headers, body=body)
                    answer = client.answer()
                    if not path.startswith(PROBES):
                        given = answer.headers["x-request-id"]
                        self.answered.append((given, path, answer.status))

    def _leave_early(self) -> None:
        """Ask and go, without waiting for the answer."""
        while not self._ends.is_set():
            with suppress(OSError), Client(self._port) as client:
                client.request("/api/projects")


@pytest.fixture
def server(run: Run, tmp_path) -> Server:
    """The command of the README, with two workers."""
    env = {
        "ENV_FILE": os.devnull,
        "SECRET_KEY": SECRET["key"] + secrets.token_urlsafe(64),
        "HEALTH_TOKEN": HEALTH_TOKEN,
        "ALLOWED_HOSTS": "localhost",
        "HTTPS_ONLY": "0",
        "DRAIN_S": "0",
        "WEB_CONCURRENCY": "2",
        "CRASH_LIMIT": "50",
        "DATABASE_URL": f"sqlite:///{tmp_path / 'db.sqlite3'}",
        "ACCESS_LOG_LINES_PER_S": "100000",
        "RELEASE": "f00ba4",
    }
    arguments = ["-k", "uvicorn.workers.UvicornWorker", "project.asgi:app", "-b", "127.0.0.1:0"]
    server = run(["gunicorn", *arguments], env=env, directory=ROOT, workers=2)
    server.wait_ready()
    return server


def workers(server: Server) -> set[int]:
    page = server.ask(
        "/statusz?format=json", headers={"Authorization": f"Bearer {HEALTH_TOKEN}"}
    ).json
    return {row["pid"] for row in page["workers"] if row["phase"] == "ready"}


def kill_one(server: Server) -> int:
    """Kill a worker and wait until another has taken its place."""
    gone = min(until(lambda: len(workers(server)) == 2 and workers(server), "two workers"))
    os.kill(gone, signal.SIGKILL)
    until(lambda: len(workers(server) - {gone}) == 2, "its successor")
    return gone


def lines_of(log: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.splitlines()]


def test_under_load_and_kills_every_line_is_json_and_no_secret_is_in_any(server: Server) -> None:
    with Visitors(server.port) as visitors:
        visitors.wait_answered(150)
        killed = {kill_one(server), kill_one(server)}
        visitors.wait_answered(150)
    server.tell(signal.SIGTERM)
    assert server.wait_ended() == 0, server.log

    log = server.log
    lines = lines_of(log)
    needed = {"message", "level", "timestamp", "logger", "worker", "release"}
    assert [line for line in lines if not line.keys() >= needed] == []
    assert [name for name, secret in SECRET.items() if secret in log] == []
    bad = [line["message"] for line in lines if line["level"] in {"error", "critical"}]
    of_the_killed = tuple(
        text
        for pid in killed
        for text in (f"worker {pid} ended: killed", f"Worker (pid:{pid}) was sent SIGKILL")
    )
    assert [message for message in bad if not message.startswith(of_the_killed)] == []
    master, access = server.process.pid, [line for line in lines if "route" in line]
    assert (lines[0]["worker"], lines[-1]["worker"]) == (master, master)
    assert len({line["worker"] for line in access}) >= 3

    by_id = {line["request_id"]: line for line in access}
    assert len(by_id) == len(access)
    unlogged = [one for one in visitors.answered if one[0] not in by_id]
    # A worker that is killed between its answer and the line cannot write it.
    assert len(unlogged) <= CLIENTS * len(killed)
    assert all(
        by_id[given]["status"] == status for given, _, status in visitors.answered if given in by_id
    )
    assert not [line for line in access if line["route"].startswith(PROBES)]
    routes = {line["route"] for line in access}
    assert routes == {
        "/", "/api/ping", "/api/projects", "/admin/", "/admin/login/", "/static/{file}",
        "unmatched", "/api(?:/.*)?$",
    }  # fmt: skip


def test_a_line_of_django_names_the_request_that_it_belongs_to(server: Server) -> None:
    with server.connect() as client:
        client.request("/admin/login/", method="POST", body=FORM)
        answer = client.answer()
    given = answer.headers["x-request-id"]

    def found() -> list[dict[str, Any]]:
        return [line for line in lines_of(server.log) if line.get("request_id") == given]

    until(lambda: len(found()) == 2, "both lines")
    assert {line["logger"] for line in found()} == {"django.security.csrf", "project.access"}
    [access] = [line for line in found() if line["logger"] == "project.access"]
    assert (access["method"], access["route"], access["status"]) == ("POST", "/admin/login/", 403)
    assert access["bytes"] == len(answer.body)


def test_what_no_route_tells_is_told_by_the_path(server: Server) -> None:
    given = server.ask("/wp-login.php?x=1").headers["x-request-id"]

    def found() -> list[dict[str, Any]]:
        return [line for line in lines_of(server.log) if line.get("request_id") == given]

    [line] = until(found, "its line")
    assert (line["route"], line["path"], line["status"]) == ("unmatched", "/wp-login.php", 404)


def test_a_failure_is_told_whole_once_and_without_the_secrets_of_its_request(
    server: Server,
) -> None:
    target = f"/api/projects?token={SECRET['query']}"
    answer = server.ask(target, headers={"Cookie": f"sessionid={SECRET['cookie']}"})
    given = answer.headers["x-request-id"]

    def found() -> list[dict[str, Any]]:
        return [line for line in lines_of(server.log) if line.get("request_id") == given]

    until(lambda: len(found()) == 2, "both lines")
    [error] = [line for line in found() if line["level"] == "error"]
    assert answer.status == 500
    assert "no such table" in error["exception"]  # nobody has migrated this database
    assert error["exception"].startswith("Traceback")
    assert "token=[redacted]" in error["request"]
    assert [name for name, secret in SECRET.items() if secret in server.log] == []


GUNICORN = ("gunicorn", "project.asgi:app", "-b", "127.0.0.1:0")
STOCK = (*GUNICORN, "-k", "uvicorn.workers.UvicornWorker")
UVICORN = ("uvicorn", "project.asgi:app", "--port", "0")
OTHER_PARTS = (*UVICORN, "--loop", "asyncio", "--http", "h11")
with_each_server = pytest.mark.parametrize(
    "arguments",
    [GUNICORN, STOCK, UVICORN, OTHER_PARTS],
    ids=["ours", "stock", "uvicorn", "uvicorn, asyncio and h11"],
)


@with_each_server
def test_a_line_of_the_gate_never_names_an_earlier_request_of_its_connection(
    arguments: tuple[str, ...], run: Run, tmp_path
) -> None:
    nowhere = tmp_path / "file"
    nowhere.write_text("no folder: the gate tells of scrapes that fail, once in a row")
    env = {
        "ENV_FILE": os.devnull,
        "SECRET_KEY": secrets.token_urlsafe(64),
        "ALLOWED_HOSTS": "localhost",
        "HTTPS_ONLY": "0",
        "DRAIN_S": "0",
        "WEB_CONCURRENCY": "1",
        "HEALTH_DETAILS_LOOPBACK": "1",
        "LOG_FORMAT": "json",
        "PROMETHEUS_MULTIPROC_DIR": str(nowhere),
    }
    server = run(arguments, env=env, directory=ROOT)
    server.wait_ready()
    with server.connect() as client:
        one, metrics = (
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
            for path in ("/api/ping", "/metrics")
        )
        client.send(3 * one + metrics)  # in one piece, as a proxy may that does pipelining
        statuses = [client.answer().status for _ in range(4)]
    assert statuses == [200] * 4

    def told() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
        return [line for line in lines if line["logger"] == "asgi_health.metrics"]

    [line] = until(told, "the gate's line")
    assert "cannot be had" in line["message"]
    assert "request_id" not in line


@with_each_server
@pytest.mark.parametrize("is_proxy", [True, False])
def test_a_proxy_that_writes_ports_is_believed_and_nobody_who_writes_the_same(
    arguments: tuple[str, ...], run: Run, *, is_proxy: bool
) -> None:
    env = {
        "ENV_FILE": os.devnull,
        "SECRET_KEY": secrets.token_urlsafe(64),
        "ALLOWED_HOSTS": "localhost",
        "HTTPS_ONLY": "0",
        "DRAIN_S": "0",
        "WEB_CONCURRENCY": "1",
        "FORWARDED_ALLOW_IPS": "127.0.0.1" if is_proxy else "192.0.2.1",
    }
    server = run(arguments, env=env, directory=ROOT)
    server.wait_ready()
    with server.connect() as client:
        host, port = client.socket.getsockname()[:2]  # a stranger knows its own port, too
        for forwarded in (f"{host}:{port}", "203.0.113.9:5678", "203.0.113.9", "203.0.113.9:0"):
            given = {"X-Forwarded-For": forwarded, "X-Request-ID": "given-by-the-peer"}
            client.request("/api/ping", headers=given)
            taken = client.answer().headers["x-request-id"] == "given-by-the-peer"
            assert taken is is_proxy, forwarded
