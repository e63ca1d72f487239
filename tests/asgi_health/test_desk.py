"""What a process without a server says is what the gate itself would send, byte for byte."""

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import pytest
from server_side import PUBLIC_CLIENT, SECRET, Exchange, GatedLoad, get, http_scope, served

from asgi_health import CorsPolicy, HealthConfig, HealthGate
from asgi_health.fleet.desk import Desk, Reply
from asgi_health.fleet.wire import Head, read_head
from asgi_health.phase import Failure, Phase

ORIGIN = (b"origin", b"https://app.example")
BEARER = (b"authorization", b"Bearer " + SECRET.encode())
WRONG = (b"authorization", b"Bearer " + b"x" * 40)
METRICS_TYPE = b"application/openmetrics-text; version=1.0.0; charset=utf-8"
ASK_POST = (b"access-control-request-method", b"POST")
OPTIONS: dict[str, Any] = {
    "token": SECRET,
    "cors": CorsPolicy(origins=("https://app.example",), allow_credentials=True),
    "retry_after_s": 7,
    "release": "abc123",
    "details_loopback": True,
    "failed_linger_s": 30,
}
FAILURE = Failure(code="boot.error", message="OSError: no", traceback="")
PROBES = ["/livez", "/livez/", "/readyz", "/readyz/", "/startupz", "/startupz/"]
CHECKS = ["/livez/loop", "/livez/boot/", "/readyz/boot", "/readyz/fleet", "/readyz/<x>"]
PHASES = ["loading", "failed", "draining"]
Headers = Iterable[tuple[bytes, bytes]]


def desk_in(phase: str, **options: Any) -> Desk:
    desk = Desk(HealthGate("nothing:loaded", config=HealthConfig(**(OPTIONS | options))))
    if phase == "failed":
        desk.fail(FAILURE)
    elif phase == "draining":
        desk.drain()
    assert desk.phase == phase
    return desk


def head(
    path: str, *, method: str = "GET", query: bytes = b"", headers: Headers = (), **more: Any
) -> Head:
    """The head of the request that `http_scope` makes a scope of."""
    target = path.encode() + (b"?" + query if query else b"")
    made = Head(method, target, "1.1", ((b"host", b"testserver"), *headers), 0, 0)
    return made._replace(**more)


def parts(reply: Reply | None) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, headers without the date, body."""
    assert reply is not None
    start, _, body = reply.data.partition(b"\r\n\r\n")
    line, *fields = start.split(b"\r\n")
    headers = [tuple(field.split(b": ", 1)) for field in fields]
    assert headers[0][0] == b"date"
    return int(line.split()[1]), headers[1:], body  # type: ignore[return-value]


class Gate:
    """A gate that a server runs, in a phase, asked the same as the desk."""

    def __init__(self, booted: Any) -> None:
        self.gate = booted.gate

    async def answer(self, path: str, **options: Any) -> tuple[int, Any, bytes]:
        exchange = await get(self.gate, path, **options)
        body = b"" if options.get("method") == "HEAD" else exchange.body
        return exchange.status, exchange.sent[0]["headers"], body


@pytest.fixture(params=PHASES)
async def both(request: pytest.FixtureRequest) -> Any:
    """The desk and the gate of one configuration, in the same phase."""
    phase = request.param
    target = GatedLoad(error=OSError("no") if phase == "failed" else None)
    async with served(target, **OPTIONS) as booted:
        await target.has_been_entered()
        if phase == "failed":
            target.opened.set()
            await booted.until("failed")
        elif phase == "draining":
            booted.gate.begin_drain()
        yield desk_in(phase), Gate(booted)
        target.opened.set()


WISHES: list[dict[str, Any]] = [
    {},
    {"query": b"verbose"},
    {"query": b"format=json&verbose&exclude=fleet&exclude=x&format=y"},
    {"headers": [(b"accept", b"application/health+json")]},
    {"headers": [ORIGIN]},
    {"headers": [(b"origin", b"https://evil.example"), (b"accept", b"*/*")]},
    {"headers": [BEARER]},
    {"headers": [WRONG], "query": b"verbose"},
]


@pytest.mark.parametrize("path", PROBES + CHECKS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "OPTIONS", "TRACE"])
async def test_every_probe_gets_the_answer_of_the_gate(
    both: tuple[Desk, Gate], path: str, method: str
) -> None:
    desk, gate = both
    for wish in WISHES:
        reply = desk.reply(head(path, method=method, **wish), client=PUBLIC_CLIENT)
        assert parts(reply) == await gate.answer(path, method=method, **wish)
        assert reply is not None
        assert reply.closes is (desk.phase is Phase.DRAINING)
        assert not reply.is_stream


@pytest.mark.parametrize("access", ["token", "loopback", "nobody"])
async def test_details_are_for_those_to_whom_the_gate_tells_them(
    both: tuple[Desk, Gate], access: str
) -> None:
    desk, gate = both
    client = ("127.0.0.1", 9) if access == "loopback" else PUBLIC_CLIENT
    scope = http_scope("/readyz", query=b"format=json", client=client)
    scope["headers"] = [(b"host", b"localhost"), *([BEARER] if access == "token" else [])]
    asked = Head("GET", b"/readyz?format=json", "1.1", tuple(scope["headers"]), 0, 0)
    _, _, body = parts(desk.reply(asked, client=client))
    wanted = json.loads((await Exchange(gate.gate, scope).end()).body)
    assert json.loads(body).keys() == wanted.keys()
    assert ("releaseId" in wanted) is (access != "nobody")
    assert json.loads(body)["phase"] == wanted["phase"] == desk.phase


async def test_ten_wrong_tokens_make_429_as_at_the_gate(both: tuple[Desk, Gate]) -> None:
    desk, gate = both
    for path in ["/livez"] * 11 + ["/statusz", "/statusz/events", "/metrics"]:
        asked = parts(desk.reply(head(path, headers=[WRONG]), client=PUBLIC_CLIENT))
        assert asked == await gate.answer(path, headers=[WRONG])
    assert asked[0] == 429


@pytest.mark.parametrize("path", ["/statusz", "/statusz/", "/statusz/events", "/metrics"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_the_page_is_kept_from_strangers_as_at_the_gate(
    both: tuple[Desk, Gate], path: str, method: str
) -> None:
    desk, gate = both
    reply = desk.reply(head(path, method=method), client=PUBLIC_CLIENT)
    assert parts(reply) == await gate.answer(path, method=method)
    assert parts(reply)[0] == (405 if method == "POST" else 401)


async def test_the_page_shows_what_the_gates_page_shows(both: tuple[Desk, Gate]) -> None:
    desk, gate = both
    wish: dict[str, Any] = {"headers": [BEARER, (b"accept", b"application/json")]}
    status, headers, body = parts(desk.reply(head("/statusz", **wish), client=PUBLIC_CLIENT))
    wanted = await gate.answer("/statusz", **wish)
    assert (status, [name for name, _ in headers]) == (200, [name for name, _ in wanted[1]])
    shown, expected = json.loads(body), json.loads(wanted[2])
    assert shown.keys() == expected.keys()
    for fact in ("ready", "phase", "code", "pid", "release", "title"):
        assert shown[fact] == expected[fact]
    html = parts(desk.reply(head("/statusz", headers=[BEARER]), client=PUBLIC_CLIENT))[2]
    assert html.startswith(b"<!doctype html>")


async def test_the_metrics_tell_what_the_gates_metrics_tell(both: tuple[Desk, Gate]) -> None:
    desk, gate = both
    status, headers, body = parts(
        desk.reply(head("/metrics", headers=[BEARER]), client=PUBLIC_CLIENT)
    )
    wanted = await gate.answer("/metrics", headers=[BEARER])
    assert (status, [name for name, _ in headers]) == (200, [name for name, _ in wanted[1]])
    assert headers[0] == (b"content-type", METRICS_TYPE)
    current = f'asgi_health_phase{{phase="{desk.phase}"}} 1\n'.encode()
    assert current in body
    assert current in wanted[2]
    assert body.endswith(b"# EOF\n")


async def test_a_preflight_gets_the_answer_of_the_gate(both: tuple[Desk, Gate]) -> None:
    desk, gate = both
    for path in ("/livez", "/statusz", "/metrics", "/api/orders"):
        for origin in (ORIGIN, (b"origin", b"https://evil.example")):
            wish: dict[str, Any] = {"method": "OPTIONS", "headers": [origin, ASK_POST]}
            status, headers, body = await gate.answer(path, **wish)
            if desk.phase is Phase.DRAINING:
                headers = [pair for pair in headers if pair[0] != b"connection"]
                headers.append((b"connection", b"close"))
            reply = desk.reply(head(path, **wish), client=PUBLIC_CLIENT)
            assert parts(reply) == (status, headers, body)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
async def test_a_refusal_is_the_gates_and_ends_the_connection(
    both: tuple[Desk, Gate], method: str
) -> None:
    desk, gate = both
    gate.gate.hold._hold_limit = 0
    for origin in ([], [ORIGIN]):
        status, headers, body = await gate.answer("/api", method=method, headers=origin)
        asked = head("/api", method=method, headers=origin)
        reply = desk.refuse(asked, client=PUBLIC_CLIENT)
        wanted = sorted({*headers, (b"connection", b"close")})
        assert status == 503
        assert (parts(reply)[0], sorted(parts(reply)[1]), parts(reply)[2]) == (503, wanted, body)
        assert reply.closes
        assert not reply.is_stream


@pytest.mark.parametrize(
    ("phase", "code"),
    [("loading", "service.starting"), ("failed", "boot.error"), ("draining", "service.draining")],
)
def test_what_cannot_be_read_is_refused_by_the_phase_all_the_same(phase: str, code: str) -> None:
    reply = desk_in(phase).refuse(None, client=None)
    status, headers, body = parts(reply)
    assert (status, json.loads(body)["code"], reply.closes) == (503, code, True)
    assert (b"retry-after", b"7") in headers
    assert headers.count((b"connection", b"close")) == 1


# Whose request it is.


@pytest.mark.parametrize("path", ["/", "/livez/x/y", "//livez", "/LIVEZ", "/livezz", "", "/api"])
def test_the_requests_of_users_get_no_answer(path: str) -> None:
    desk = desk_in("loading")
    assert not desk.must_read("GET", path)
    assert desk.reply(head(path), client=PUBLIC_CLIENT) is None
    assert desk.reply(head(path, method="OPTIONS", headers=[ORIGIN]), client=None) is None


@pytest.mark.parametrize("path", [*PROBES, *CHECKS, "/statusz", "/statusz/events/", "/metrics"])
def test_the_head_of_what_may_be_a_probe_is_needed(path: str) -> None:
    assert desk_in("loading").must_read("GET", path)


@pytest.mark.parametrize(("options", "needed"), [({}, True), ({"cors": None}, False)])
def test_a_preflight_is_looked_for_only_where_there_is_a_policy(
    options: dict[str, Any],
    needed: bool,  # noqa: FBT001
) -> None:
    desk = desk_in("loading", **options)
    assert desk.must_read("OPTIONS", "/api") is needed
    asked = head("/api", method="OPTIONS", headers=[ORIGIN, ASK_POST])
    assert (desk.reply(asked, client=None) is not None) is needed


def test_a_handshake_on_a_probe_path_is_the_applications() -> None:
    upgrade = [(b"upgrade", b"WebSocket"), (b"connection", b"Upgrade")]
    asked = head("/livez", headers=upgrade, body_bytes=None)
    assert desk_in("loading").reply(asked, client=None) is None


def test_an_offer_of_another_protocol_does_not_keep_a_probe_from_its_answer() -> None:
    offer = [(b"upgrade", b"h2c"), (b"connection", b"Upgrade, HTTP2-Settings")]
    reply = desk_in("loading").reply(head("/livez", headers=offer, body_bytes=None), client=None)
    assert parts(reply)[0] == 200
    assert reply is not None
    assert reply.closes


@pytest.mark.parametrize(
    "more", [{"version": "1.0"}, {"body_bytes": None}, {"headers": ((b"connection", b"close"),)}]
)
def test_a_connection_that_cannot_go_on_is_told_so(more: dict[str, Any]) -> None:
    reply = desk_in("loading").reply(head("/livez")._replace(**more), client=None)
    assert reply is not None
    assert reply.closes
    assert (b"connection", b"close") in parts(reply)[1]


# Events.


def test_an_event_stream_opens_for_the_authorised_and_ends_with_its_connection() -> None:
    reply = desk_in("loading").reply(head("/statusz/events", headers=[BEARER]), client=None)
    status, headers, body = parts(reply)
    assert reply is not None
    assert (status, body, reply.is_stream, reply.closes) == (200, b"", True, True)
    assert (b"content-type", b"text/event-stream; charset=utf-8") in headers
    assert (b"connection", b"close") in headers
    assert b"content-length" not in dict(headers)


async def test_one_stream_too_many_is_refused_as_at_the_gate(both: tuple[Desk, Gate]) -> None:
    desk, gate = both
    gate.gate.endpoints._streams = 16
    wish: dict[str, Any] = {"headers": [BEARER]}
    asked = head("/statusz/events", **wish)
    reply = desk.reply(asked, client=PUBLIC_CLIENT, may_stream=False)
    assert reply is not None
    assert not reply.is_stream
    assert parts(reply) == await gate.answer("/statusz/events", **wish)
    assert parts(reply)[0] == 503


def test_an_event_has_what_changed_since_the_last_one() -> None:
    desk, shown = desk_in("loading"), {}
    first = json.loads(desk.event(shown).removeprefix(b"data: "))
    assert first == shown
    assert any("loading" in html for html in first.values())
    desk.fail(FAILURE)
    second = json.loads(desk.event(shown).removeprefix(b"data: "))
    assert any("boot.error" in html for html in second.values())
    assert shown == first | second
    assert second.keys() < first.keys()


# The boot.


def test_the_first_end_of_a_boot_stands() -> None:
    desk = desk_in("failed")
    desk.fail(FAILURE._replace(code="boot.deadline"))
    desk.drain()
    assert desk.phase is Phase.FAILED
    assert parts(desk.reply(head("/livez"), client=None))[2] == b"boot.error"


def test_an_answer_that_would_wait_is_a_fault_and_not_an_empty_answer() -> None:
    desk = desk_in("loading")

    async def serve(*_: Any) -> None:
        await asyncio.sleep(0)

    desk._gate.endpoints.serve = serve  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="waited"):
        desk.reply(head("/livez"), client=None)


def test_the_head_that_the_wire_gives_is_one_that_the_desk_takes() -> None:
    asked = read_head(b"GET /readyz?format=json HTTP/1.1\r\nHost: a\r\n\r\n")
    assert asked is not None
    status, _, body = parts(desk_in("loading").reply(asked, client=("::1", 1)))
    assert (status, json.loads(body)["phase"]) == (503, "loading")


async def test_the_desk_leaves_the_boot_of_its_gate_to_others() -> None:
    desk = desk_in("loading")
    desk.reply(head("/readyz"), client=None)
    desk.refuse(None, client=None)
    assert desk._gate._tasks == []
    assert desk._gate.vitals.boot is None
