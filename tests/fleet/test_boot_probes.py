"""Nobody can tell the process that answers during the load from a gate that loads by itself."""

import json
import random
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from itertools import product
from typing import Any, NamedTuple

import pytest

from tests.fleet.booting import HELLO, cpu_ticks, responder_of, state_of
from tests.servers.conftest import Start, start
from tests.servers.harness import UVICORN, Answer, Client, Loads, Server, until

TOKEN = "right-" + "t" * 30
ORIGIN = "https://app.example"
STRANGER = {"Host": "a.example"}
PATHS = (
    "/livez",
    "/health",
    "/healthz",
    "/api/health/live",
    "/readyz",
    "/api/health",
    "/api/health/ready",
    "/startupz",
    "/livez/",
    "/readyz/",
    "/readyz/boot",
    "/livez/boot",
    "/readyz/unknown",
    "/readyz/unknown/",
    "/%6civez",
    "/livez?verbose",
    "/readyz?verbose",
    "/readyz?format=json",
    "/readyz?verbose&format=json",
    "/readyz?exclude=boot&verbose",
    "/readyz?exclude=unknown",
    "/readyz?exclude=unknown&format=json",
    "/startupz?verbose=1",
    "/statusz",
    "/statusz/events",
    "/statusz?format=json",
    "http://a.example/livez",
    "http://a.example/readyz?format=json",
)
METHODS = ("GET", "HEAD", "POST", "OPTIONS", "DELETE")
WISHES = (
    {},
    {"Accept": "application/json"},
    {"Accept": "application/health+json"},
    {"Accept": "text/html,*/*;q=0.8", "Origin": ORIGIN},
    {"Origin": "https://other.example"},
    {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"},
    {"Connection": "close"},
    {"Forwarded": "for=1.2.3.4", "Accept": "application/json"},
)


class Ask(NamedTuple):
    method: str
    target: str
    headers: dict[str, str]


ASKS = [
    *(Ask(method, path, STRANGER | more) for method, path, more in product(METHODS, PATHS, WISHES)),
    Ask("POST", "/livez", STRANGER | {"Content-Length": "0"}),
    Ask("OPTIONS", "/hello", {"Origin": ORIGIN, "Access-Control-Request-Method": "PUT"}),
    Ask("OPTIONS", "/x", {"Origin": "https://b.example", "Access-Control-Request-Method": "PUT"}),
]

_OWN = ("date", "server", "connection")
"""Headers of the server and of the connection."""

__all__ = ["start"]


@pytest.fixture
def both(fleet, start: Start, loads: Loads) -> Iterator[tuple[Server, Server]]:
    """A fleet and a plain gate, both loading, with one configuration."""
    env = {"HEALTH_TOKEN": TOKEN, "CORS_ORIGIN": ORIGIN}
    servers = (fleet(env=env), start(UVICORN, env=env))
    for _ in servers:
        loads.next()
    return servers


def _told(server: Server, ask: Ask) -> tuple[int, dict[str, str], str]:
    answer = server.ask(ask.target, method=ask.method, headers=ask.headers)
    headers = {name: value for name, value in answer.headers.items() if name not in _OWN}
    return answer.status, headers, _timeless(answer.text)


def _timeless(text: str) -> str:
    return re.sub(r'"time": "[^"]+"', '"time": "now"', text)


def _shape(value: Any) -> Any:
    """The same names, and of each value its kind only."""
    if isinstance(value, dict):
        return {name: _shape(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_shape(inner) for inner in value[:1]]
    return "number" if isinstance(value, (int, float)) else value


def test_probes_pages_and_preflights_are_answered_alike(both: tuple[Server, Server]) -> None:
    fleet, plain = both
    differences = []
    for ask in ASKS:
        told, expected = _told(fleet, ask), _told(plain, ask)
        if told != expected:
            differences.append((ask, told, expected))
    assert differences == []


@pytest.mark.parametrize(
    "target", ["/readyz?verbose&format=json", "/livez?format=json", "/statusz"]
)
def test_details_for_the_right_token_have_the_same_names(
    target: str, both: tuple[Server, Server]
) -> None:
    shapes = []
    for server in both:
        right = STRANGER | {"Authorization": f"Bearer {TOKEN}", "Accept": "application/json"}
        answer = server.ask(target, headers=right)
        assert answer.status in {200, 503}
        told = _shape(answer.json) | {"time": "now", "boot": "of its own"}
        checks = told.get("checks")
        if isinstance(checks, dict):
            told["checks"] = {name: _undated(check) for name, check in checks.items()}
        shapes.append(told)
    assert shapes[0] == shapes[1]


def _undated(check: Any) -> Any:
    return [{**part, "time": "now"} for part in check]


def test_wrong_tokens_are_limited_alike(both: tuple[Server, Server]) -> None:
    statuses = []
    for server in both:
        wrong = STRANGER | {"Authorization": "Bearer " + "w" * 36}
        asks = [Ask("GET", path, wrong) for path in ["/readyz?verbose"] * 12 + ["/statusz"]]
        statuses.append([_told(server, ask) for ask in asks])
    assert statuses[0] == statuses[1]
    assert 429 in {status for status, _, _ in statuses[0]}


def test_the_status_page_shows_the_running_step_and_what_is_held(fleet, loads: Loads) -> None:
    server = fleet()
    loads.next()
    with server.connect() as client:
        client.send(HELLO)
        server.wait_held(1)
        page = server.ask("/statusz", headers={"Accept": "text/html"})
        steps = server.ask("/statusz?format=json").json["boot"]["steps"]
    running = [step["name"] for step in steps if step["duration_s"] is None]
    assert len(running) == 1
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-length"] == str(len(page.body))
    assert f'<th scope="row">{running[0]}</th>' in page.text
    assert 'aria-label="running"' in page.text
    assert "<td>held now</td><td>1</td>" in page.text


def _data(client: Client) -> dict[str, str]:
    """The next event's data that is no comment."""
    while not (line := client.line()).startswith(b"data: "):
        assert line, "the stream has ended"
    found: dict[str, str] = json.loads(line.removeprefix(b"data: "))
    return found


def _stream(server: Server) -> Client:
    client = server.connect()
    client.request("/statusz/events")
    assert client.line() == b"HTTP/1.1 200 OK\r\n"
    return client


def test_the_event_stream_tells_what_changes_and_says_when_it_drains(fleet, loads: Loads) -> None:
    server = fleet()
    loads.next()
    with _stream(server) as events, server.connect() as held:
        assert {"head", "boot", "requests"} <= _data(events).keys()
        held.send(HELLO)
        until(
            lambda: "<td>held now</td><td>1</td>" in _data(events).get("requests", ""),
            "the event of a held request",
        )
        server.tell(signal.SIGTERM)
        assert b"event: end\n" in events.lines()
        assert held.answer().json["code"] == "service.draining"
    assert server.wait_ended() == 0


def test_the_event_stream_goes_on_after_a_failure(fleet, loads: Loads) -> None:
    server = fleet()
    load = loads.next()
    with _stream(server) as events:
        _data(events)
        load.order("raise no such table")
        until(lambda: "no such table" in _data(events).get("failure", ""), "the failure's event")


def test_the_seventeenth_event_stream_is_refused(fleet, loads: Loads) -> None:
    server = fleet()
    loads.next()
    streams = [_stream(server) for _ in range(16)]
    answer = server.ask("/statusz/events")
    assert (answer.status, answer.text) == (503, "too many event streams")
    streams.pop().close()
    until(lambda: _opens(server), "room for one")
    for stream in streams:
        stream.close()


def _opens(server: Server) -> bool:
    with server.connect() as client:
        client.request("/statusz/events")
        return client.line() == b"HTTP/1.1 200 OK\r\n"


def test_an_answer_larger_than_a_packet_leaves_the_connection_usable_or_says_close(
    fleet, loads: Loads
) -> None:
    server = fleet()
    load = loads.next()
    load.order("raise " + "x" * 20_000)
    until(lambda: server.ask("/livez").status == 503, "the failure")
    with server.connect() as client:
        client.request("/statusz?format=json")
        answer = client.answer()
        assert len(answer.body) > 16_384
        if answer.headers.get("connection") != "close":
            client.request("/livez")
            assert client.answer().status == 503


JUNK = (
    b"\0" * 100,
    b"\r\n" * 9000,
    b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(range(256)),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET /livez\r\n\r\n",
    b"GET  /livez HTTP/1.1\r\n\r\n",
    b"GET /livez HTTP/9.9\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nno colon\r\n\r\n",
    b"GET /livez HTTP/1.1\r\n: no name\r\n\r\n",
    b"GET /livez HTTP/1.1\r\nA\0B: \0\xff\r\n\r\n",
    b"GET /\xff\xfe HTTP/1.1\r\n\r\n",
    b"GET /%ff%00%zz HTTP/1.1\r\n\r\n",
    b"GET /livez?%ff&exclude=%00&format=%zz HTTP/1.1\r\n\r\n",
    b"GET http:// HTTP/1.1\r\n\r\n",
    b"GET http://[ HTTP/1.1\r\nAuthorization: Basic ====\r\n\r\n",
    b"GET /statusz HTTP/1.1\r\nHost: \xff\r\nAuthorization: Basic \xff\xfe\r\n\r\n",
    b"GET /statusz HTTP/1.1\r\nHost: localhost\r\nAccept: \xff;q=nan\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nOrigin: \xff\r\nAccess-Control-Request-Method: \xff\r\n\r\n",
    b"CONNECT a:1 HTTP/1.1\r\n\r\n",
    b"POST /livez HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"POST /livez HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\nx",
    b"POST /livez HTTP/1.1\r\nContent-Length: \xb2\r\n\r\n",
    b"POST /livez HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /livez HTTP/1.1\r\nContent-Length: 70000\r\n\r\n" + b"x" * 30_000,
    b"POST /livez HTTP/1.1\r\nContent-Length: 20000\r\n\r\n" + b"x" * 300,
    b"GET /livez HTTP/1.1\r\n" + b"X: " + b"y" * 40_000,
    b"GET /livez HTTP/1.1\r\n" + b"X: y\r\n" * 9000 + b"\r\n",
    b"GET /" + b"z" * 40_000,
    b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n" * 3000,
)


def _garbage(seed: int) -> bytes:
    """Whole and broken requests, cut and stirred."""
    chance = random.Random(seed)
    text = bytearray(
        chance.choice((*JUNK, HELLO, b"GET /statusz HTTP/1.1\r\nHost: localhost\r\n\r\n"))
    )
    for _ in range(chance.randrange(1, 8)):
        place = chance.randrange(len(text))
        text[place : place + chance.randrange(3)] = chance.randbytes(chance.randrange(4))
    return bytes(text[: chance.randrange(1, 40_000)])


def _throw(server: Server, raw: bytes) -> Client:
    client = server.connect()
    client.socket.settimeout(0.0)
    with suppress(OSError):  # answered and closed before all of it was sent
        client.socket.send(raw)
    return client


def test_no_bytes_end_the_responder_or_keep_it_busy(fleet, loads: Loads) -> None:
    server = fleet(env={"CORS_ORIGIN": ORIGIN, "HOLD_LIMIT": "200"})
    load = loads.next()
    pid = responder_of(server)
    thrown = [*JUNK, *map(_garbage, range(400))]
    clients = []
    for number, raw in enumerate(thrown):
        clients.append(_throw(server, raw))
        if number % 20 == 0:
            assert server.ask("/livez").text == "ok"
    until(lambda: state_of(pid) == "S", "the responder to sleep")
    before = cpu_ticks(pid)
    assert [server.ask("/livez").text for _ in range(50)] == ["ok"] * 50
    assert cpu_ticks(pid) - before <= 20, "it computes although nobody asks"
    assert responder_of(server) == pid
    load.release()
    server.wait_ready()
    for client in clients:
        client.close()
    assert "Traceback" not in server.log


def _answers(client: Client, count: int) -> list[Answer]:
    return [client.answer() for _ in range(count)]


def test_pipelined_probes_are_all_answered_in_their_order(fleet, loads: Loads) -> None:
    server = fleet()
    loads.next()
    with server.connect() as client:
        one = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"
        other = b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n"
        client.send((one + other) * 40)
        assert [answer.text for answer in _answers(client, 80)] == ["ok", "loading"] * 40
