"""The gate over ASGI: held, handed over, denied, drained; nothing in the way once it is ready."""

import asyncio
import gc
import json
import logging
from typing import Any

import pytest
from server_side import (
    Exchange,
    GatedLoad,
    Lifespan,
    get,
    hello,
    http_scope,
    limited,
    other_tasks,
    served,
    settle,
    websocket_scope,
)

from asgi_health import CorsPolicy, HealthConfig, HealthGate, LoadedApp
from asgi_health.errors import UnsupportedScope
from asgi_health.hold import Outcome

ORIGIN = (b"origin", b"https://app.example")
CORS = CorsPolicy(origins=("https://app.example",), allow_credentials=True)
PREFLIGHT = {"method": "OPTIONS", "headers": [ORIGIN, (b"access-control-request-method", b"POST")]}


class Keeper:
    """An application that keeps what it was called with, and echoes the body."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Any]] = []
        self.messages: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.calls.append((scope, receive, send))
        if scope["type"] == "websocket":
            self.messages.append(await receive())
            await send({"type": "websocket.accept"})
            self.messages.append(await receive())
            return
        more = True
        while more:
            self.messages.append(await receive())
            more = self.messages[-1].get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-a", b"b")]})
        await send({"type": "http.response.body", "body": scope["path"].encode()})


def keeper_app() -> tuple[Keeper, GatedLoad]:
    keeper = Keeper()
    return keeper, GatedLoad(LoadedApp(keeper, lifespan=False))


# After ready: nothing in the way.


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_after_ready_the_application_gets_the_very_objects_of_the_server(kind: str) -> None:
    keeper = Keeper()
    async with served(lambda: LoadedApp(keeper, lifespan=False)) as booted:
        await booted.until("ready")
        scope = http_scope("/x") if kind == "http" else websocket_scope()
        exchange = Exchange(booted.gate, scope)
        exchange.leave()
        await exchange.end()
        [(seen_scope, seen_receive, seen_send)] = keeper.calls
        assert seen_scope is scope
        assert seen_receive == exchange.receive
        assert seen_send == exchange.send


async def test_after_ready_scope_receive_and_send_are_passed_by_identity() -> None:
    keeper = Keeper()
    async with served(lambda: LoadedApp(keeper, lifespan=False)) as booted:
        await booted.until("ready")

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        scope = http_scope("/x", state={"a": 1})
        before = dict(scope)
        await booted.gate(scope, receive, nowhere)
        assert keeper.calls[0][0] is scope
        assert keeper.calls[0][1] is receive
        assert keeper.calls[0][2] is nowhere
        assert scope == before


async def test_after_ready_the_gate_starts_no_task_of_its_own() -> None:
    seen: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(len(asyncio.all_tasks()))
        await hello(scope, receive, send)

    async with served(lambda: LoadedApp(app, lifespan=False)) as booted:
        await booted.until("ready")
        without = len(asyncio.all_tasks())
        await booted.gate(http_scope(), None, nowhere)
        assert seen == [without]


async def nowhere(message: Any) -> None:
    """A send whose messages nobody looks at."""


async def test_an_exception_of_the_application_reaches_the_server_as_it_is() -> None:
    error = OSError("the application's own")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise error

    async with served(lambda: LoadedApp(app, lifespan=False)) as booted:
        await booted.until("ready")
        with pytest.raises(OSError, match="own") as caught:
            await get(booted.gate)
        assert caught.value is error


async def test_unknown_scope_types_are_the_applications_business_once_it_is_ready() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    async with served(lambda: LoadedApp(app, lifespan=False)) as booted:
        await booted.until("ready")
        await booted.gate({"type": "udp"}, None, None)
        assert seen == ["udp"]


# Before ready: held.


async def test_a_request_is_held_and_then_answered_by_the_application() -> None:
    _, target = keeper_app()
    async with served(target) as booted:
        exchange = Exchange(booted.gate, http_scope("/early"))
        await target.has_been_entered()
        await settle()
        assert exchange.sent == []
        target.opened.set()
        await exchange.end()
        assert (exchange.status, exchange.body) == (200, b"/early")
        assert booted.gate.hold.totals[Outcome.SETTLED] == 1
        assert booted.gate.hold.now == 0
    assert other_tasks() == []


async def test_held_requests_are_handed_over_in_their_order_of_arrival() -> None:
    keeper, target = keeper_app()
    async with served(target) as booted:
        exchanges = []
        for number in range(100):
            kind = http_scope if number % 3 else websocket_scope
            exchanges.append(Exchange(booted.gate, kind(f"/{number}")))
            await settle(number % 4)
        target.opened.set()
        await booted.until("ready")
        for exchange in exchanges:
            if exchange.scope["type"] == "websocket":
                exchange.leave()
            await exchange.end()
        assert [scope["path"] for scope, _, _ in keeper.calls] == [f"/{n}" for n in range(100)]


@pytest.mark.parametrize(
    ("headers", "messages"),
    [
        ([], [b""]),
        ([(b"content-length", b"5")], [b"hello"]),
        ([(b"content-length", b"65536")], [b"a" * 65536]),
        ([(b"content-length", b"6")], [b"ab", b"cd", b"ef"]),
        ([(b"content-length", b"65537")], [b"a" * 65537]),
        ([(b"content-length", b"9" * 5000)], [b"x"]),
        ([(b"content-length", b"-1")], [b"x"]),
        ([(b"content-length", b"")], [b""]),
        ([(b"transfer-encoding", b"chunked")], [b"ab", b"cd"]),
        ([(b"content-length", b"2"), (b"expect", b"100-continue")], [b"ab"]),
    ],
)
async def test_a_held_body_reaches_the_application_unchanged(
    headers: list[tuple[bytes, bytes]], messages: list[bytes]
) -> None:
    keeper, target = keeper_app()
    body = [
        {"type": "http.request", "body": part, "more_body": index + 1 < len(messages)}
        for index, part in enumerate(messages)
    ]
    async with served(target) as booted:
        exchange = Exchange(
            booted.gate, http_scope("/b", method="POST", headers=headers), messages=body
        )
        await target.has_been_entered()
        await settle()
        target.opened.set()
        await exchange.end()
        assert keeper.messages == body
        assert exchange.status == 200
    assert other_tasks() == []


@pytest.mark.parametrize(
    "headers",
    [
        [(b"content-length", b"65537")],
        [(b"content-length", b"9" * 5000)],
        [(b"transfer-encoding", b"chunked")],
        [(b"content-length", b"2"), (b"expect", b"100-continue")],
    ],
)
async def test_a_body_that_may_be_large_or_waits_to_be_asked_for_is_not_read_while_held(
    headers: list[tuple[bytes, bytes]],
) -> None:
    target = GatedLoad()
    async with served(target) as booted:
        exchange = Exchange(booted.gate, http_scope("/b", method="POST", headers=headers))
        await target.has_been_entered()
        await settle()
        assert not exchange.receiving.is_set()
        assert exchange.received == 0
        target.opened.set()
        await exchange.end()


async def test_a_body_half_read_while_held_goes_on_where_it_stopped() -> None:
    keeper, target = keeper_app()
    first = {"type": "http.request", "body": b"ab", "more_body": True}
    last = {"type": "http.request", "body": b"cd", "more_body": False}
    async with served(target) as booted:
        scope = http_scope("/b", method="POST", headers=[(b"content-length", b"4")])
        exchange = Exchange(booted.gate, scope, messages=[first])
        await target.has_been_entered()
        await settle()
        assert exchange.received == 1
        target.opened.set()
        await booted.until("ready")
        assert exchange.sent == []
        exchange.give(**last)
        await exchange.end()
        assert keeper.messages == [first, last]


@pytest.mark.parametrize("scope", [http_scope(), websocket_scope()], ids=["http", "websocket"])
async def test_a_client_that_leaves_while_held_is_dropped(scope: dict[str, Any]) -> None:
    keeper, target = keeper_app()
    async with served(target) as booted:
        exchange = Exchange(booted.gate, scope)
        await target.has_been_entered()
        await settle()
        assert booted.gate.hold.now == 1
        exchange.leave()
        await exchange.end()
        assert exchange.sent == []
        assert booted.gate.hold.now == 0
        assert booted.gate.hold.totals[Outcome.GONE] == 1
        target.opened.set()
        await booted.until("ready")
        assert keeper.calls == []


async def test_a_request_that_the_server_cancels_while_held_frees_its_place() -> None:
    target = GatedLoad()
    async with served(target, hold_limit=1) as booted:
        exchange = Exchange(booted.gate, http_scope())
        await target.has_been_entered()
        await settle()
        exchange.task.cancel()
        await asyncio.wait({exchange.task})
        assert exchange.task.cancelled()
        assert booted.gate.hold.now == 0
        await settle()
        assert not booted.gate.lifecycle._waiters
        target.opened.set()
        assert (await get(booted.gate)).status == 200


async def test_a_receive_that_raises_while_held_reaches_the_server_and_frees_its_place() -> None:
    target = GatedLoad()

    async def receive() -> Any:
        raise OSError("connection lost")

    async with served(target) as booted:
        await target.has_been_entered()
        with pytest.raises(OSError, match="connection lost"):
            await limited(booted.gate(http_scope(), receive, nowhere))
        assert booted.gate.hold.now == 0
        target.opened.set()


async def test_a_receive_that_raises_after_the_hand_over_leaves_no_unread_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken = asyncio.Event()

    async def receive() -> Any:
        await broken.wait()
        raise OSError("connection lost")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        broken.set()
        await settle()

    target = GatedLoad(LoadedApp(app, lifespan=False))
    async with served(target) as booted:
        request = asyncio.create_task(booted.gate(http_scope(), receive, None))
        await target.has_been_entered()
        await settle()
        target.opened.set()
        await limited(request)
        del request
        gc.collect()
        await settle()
        assert "never retrieved" not in caplog.text


@pytest.mark.parametrize(
    ("options", "outcome"),
    [
        ({"hold_s": 0.0}, Outcome.EXPIRED),
        ({"hold_s": 0.01}, Outcome.EXPIRED),
        ({"hold_limit": 0}, Outcome.REFUSED),
    ],
)
async def test_a_request_held_too_long_or_one_too_many_gets_503_and_a_reason(
    options: dict[str, Any], outcome: Outcome
) -> None:
    target = GatedLoad()
    async with served(target, retry_after_s=7, **options) as booted:
        await target.has_been_entered()
        exchange = await get(booted.gate, "/x", headers=[ORIGIN])
        text = "The service is starting. Try again in a moment."
        assert exchange.status == 503
        assert exchange.headers == {
            b"content-type": b"application/json",
            b"content-length": b"%d" % len(exchange.body),
            b"cache-control": b"no-store",
            b"retry-after": b"7",
        }
        assert json.loads(exchange.body) == {
            "code": "service.starting",
            "message": text,
            "detail": text,
            "retry_after_s": 7,
        }
        assert booted.gate.hold.totals[outcome] == 1
        assert booted.gate.hold.now == 0
        target.opened.set()


async def test_the_limit_counts_requests_and_sockets_together_and_frees_places() -> None:
    target = GatedLoad()
    async with served(target, hold_limit=2) as booted:
        await target.has_been_entered()
        first = Exchange(booted.gate, http_scope("/1"))
        second = Exchange(booted.gate, websocket_scope("/2"))
        await settle()
        assert (await get(booted.gate, "/3")).status == 503
        assert (await get(booted.gate, "/livez")).status == 200
        first.leave()
        await first.end()
        fourth = Exchange(booted.gate, http_scope("/4"))
        await settle()
        assert fourth.sent == []
        target.opened.set()
        await fourth.end()
        await second.end()
        assert fourth.status == 200


async def test_a_held_request_sees_the_state_that_the_inner_startup_filled() -> None:
    seen: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            scope["state"]["pool"] = "open"
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        seen.append(scope["state"])
        await hello(scope, receive, send)

    target = GatedLoad(app)
    state: dict[str, Any] = {"region": "here"}
    async with served(target, state=state) as booted:
        early = http_scope("/early", state=state.copy())
        exchange = Exchange(booted.gate, early)
        await target.has_been_entered()
        target.opened.set()
        await exchange.end()
        assert seen == [{"region": "here", "pool": "open"}]
        assert seen[0] is early["state"]
        assert early["state"] is not state


async def test_a_request_held_over_ready_and_stop_still_sees_the_state() -> None:
    seen: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["state"])
        await hello(scope, receive, send)

    async with served(lambda: LoadedApp(app, lifespan=False), state={"a": 1}) as booted:
        exchange = Exchange(booted.gate, http_scope("/early", state={}))
        booted.gate.lifecycle.left(frozenset({"starting", "loading"})).add_done_callback(
            lambda _: booted.gate._drain()
        )
        await exchange.end()
        assert exchange.status == 200
        assert seen == [{"a": 1}]


async def test_a_server_without_lifespan_starts_the_boot_with_its_first_scope() -> None:
    target = GatedLoad()
    gate = HealthGate(target)
    try:
        probe = await get(gate, "/readyz")
        assert (probe.status, probe.body) == (503, b"starting")
        await target.has_been_entered()
        assert (await get(gate, "/readyz")).body == b"loading"
        exchange = Exchange(gate, http_scope())
        await settle()
        target.opened.set()
        await exchange.end()
        assert exchange.body == b"hello"
        assert (await get(gate, "/readyz")).status == 200
        for task in gate._tasks:
            await limited(task)
    finally:
        target.opened.set()
        gate._unchain()


# WebSockets.


async def test_a_websocket_is_held_and_its_connect_reaches_the_application() -> None:
    keeper, target = keeper_app()
    async with served(target) as booted:
        exchange = Exchange(booted.gate, websocket_scope())
        await target.has_been_entered()
        await settle()
        assert exchange.sent == []
        target.opened.set()
        await booted.until("ready")
        exchange.leave()
        await exchange.end()
        assert exchange.sent == [{"type": "websocket.accept"}]
        assert [m["type"] for m in keeper.messages] == ["websocket.connect", "websocket.disconnect"]


@pytest.mark.parametrize("options", [{"hold_s": 0.0}, {"hold_limit": 0}])
async def test_a_handshake_is_denied_with_503_where_the_server_can(options: dict[str, Any]) -> None:
    target = GatedLoad()
    async with served(target, cors=CORS, **options) as booted:
        await target.has_been_entered()
        scope = websocket_scope(denial=True)
        scope["headers"].append(ORIGIN)
        exchange = await Exchange(booted.gate, scope).end()
        start, body = exchange.sent
        assert (start["type"], start["status"]) == ("websocket.http.response.start", 503)
        assert (b"retry-after", b"1") in start["headers"]
        assert (b"access-control-allow-origin", ORIGIN[1]) in start["headers"]
        assert body["type"] == "websocket.http.response.body"
        assert json.loads(body["body"])["code"] == "service.starting"
        assert exchange.received == 1
        target.opened.set()
    assert other_tasks() == []


@pytest.mark.parametrize("extensions", [None, {}, {"tls": {}}])
async def test_a_handshake_is_closed_with_1013_where_the_server_knows_no_denial(
    extensions: Any,
) -> None:
    target = GatedLoad()
    async with served(target, hold_s=0.0) as booted:
        await target.has_been_entered()
        exchange = await Exchange(booted.gate, websocket_scope(extensions=extensions)).end()
        assert exchange.sent == [
            {"type": "websocket.close", "code": 1013, "reason": "try again later"}
        ]
        target.opened.set()


async def test_a_websocket_on_a_probe_path_is_the_applications() -> None:
    keeper = Keeper()
    async with served(lambda: LoadedApp(keeper, lifespan=False)) as booted:
        await booted.until("ready")
        exchange = Exchange(booted.gate, websocket_scope("/livez"))
        exchange.leave()
        await exchange.end()
        assert len(keeper.calls) == 1


# Failed.


@pytest.mark.parametrize("when", ["before", "after"])
async def test_requests_of_a_failed_boot_get_its_code_and_no_reason(when: str) -> None:
    target = GatedLoad(error=OSError("secret of the database"))
    async with served(target, failed_linger_s=30) as booted:
        exchange = Exchange(booted.gate, http_scope()) if when == "before" else None
        await target.has_been_entered()
        target.opened.set()
        await booted.until("failed")
        exchange = await (exchange or Exchange(booted.gate, http_scope())).end()
        assert exchange.status == 503
        assert json.loads(exchange.body)["code"] == "boot.error"
        assert json.loads(exchange.body)["message"] == "The service could not start."
        assert b"secret" not in exchange.body
        assert b"connection" not in exchange.headers
        socket = await Exchange(booted.gate, websocket_scope()).end()
        assert socket.sent[0]["code"] == 1013
        assert booted.exits.codes == []


# Preflights.


async def test_preflights_are_answered_before_ready_and_passed_on_after() -> None:
    _, target = keeper_app()
    async with served(target, cors=CORS) as booted:
        await target.has_been_entered()
        early = await get(booted.gate, "/api", **PREFLIGHT)
        assert early.status == 200
        assert early.headers[b"access-control-allow-origin"] == ORIGIN[1]
        assert early.headers[b"access-control-allow-credentials"] == b"true"
        assert early.headers[b"vary"] == b"Origin"
        assert early.body == b""
        assert booted.gate.hold.totals[Outcome.SETTLED] == 0
        target.opened.set()
        await booted.until("ready")
        assert (await get(booted.gate, "/api", **PREFLIGHT)).body == b"/api"


async def test_a_preflight_of_a_failed_boot_is_answered_too() -> None:
    async with served(_raise, cors=CORS, failed_linger_s=30) as booted:
        await booted.until("failed")
        assert (await get(booted.gate, **PREFLIGHT)).status == 200


def _raise() -> Any:
    raise OSError("no")


@pytest.mark.parametrize(
    "options",
    [
        {"method": "OPTIONS", "headers": [ORIGIN]},
        {"method": "OPTIONS", "headers": [(b"access-control-request-method", b"POST")]},
        {"method": "GET", "headers": PREFLIGHT["headers"]},
    ],
)
async def test_what_only_looks_like_a_preflight_is_held(options: dict[str, Any]) -> None:
    _, target = keeper_app()
    async with served(target, cors=CORS) as booted:
        await target.has_been_entered()
        exchange = Exchange(booted.gate, http_scope(**options))
        await settle()
        assert exchange.sent == []
        target.opened.set()
        await exchange.end()


async def test_without_a_policy_preflights_are_held_like_any_request() -> None:
    _, target = keeper_app()
    async with served(target) as booted:
        await target.has_been_entered()
        exchange = Exchange(booted.gate, http_scope(**PREFLIGHT))
        await settle()
        assert exchange.sent == []
        target.opened.set()
        assert (await exchange.end()).status == 200


@pytest.mark.parametrize(
    ("origin", "named"), [(ORIGIN, True), ((b"origin", b"https://evil.example"), False)]
)
async def test_a_refusal_follows_the_cors_policy(origin: Any, named: bool) -> None:  # noqa: FBT001
    target = GatedLoad()
    async with served(target, cors=CORS, hold_s=0.0) as booted:
        await target.has_been_entered()
        exchange = await get(booted.gate, headers=[origin])
        assert exchange.headers[b"vary"] == b"Origin"
        assert (b"access-control-allow-origin" in exchange.headers) is named
        target.opened.set()


# Draining.


async def test_while_draining_the_application_serves_and_asks_for_a_new_connection() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"x-a", b"b"), (b"Connection", b"keep-alive"), (b"connection", b"x")]
        await send({"type": "http.response.start", "status": 201, "headers": headers})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await send({"type": "http.response.body", "body": b"b"})

    async with served(lambda: LoadedApp(app, lifespan=False)) as booted:
        await booted.until("ready")
        booted.gate._drain()
        assert (await get(booted.gate, "/readyz")).status == 503
        assert (await get(booted.gate, "/livez")).status == 200
        assert (await get(booted.gate, "/startupz")).status == 200
        exchange = await get(booted.gate)
        assert exchange.sent[0] == {
            "type": "http.response.start",
            "status": 201,
            "headers": [(b"x-a", b"b"), (b"connection", b"close")],
        }
        assert exchange.body == b"ab"


async def test_a_response_without_headers_is_closed_too_while_draining() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    async with served(lambda: LoadedApp(app, lifespan=False)) as booted:
        await booted.until("ready")
        booted.gate._drain()
        assert (await get(booted.gate)).headers == {b"connection": b"close"}


async def test_a_handshake_that_comes_while_draining_is_still_accepted() -> None:
    async with served(lambda: hello) as booted:
        await booted.until("ready")
        booted.gate.begin_drain()
        exchange = await Exchange(booted.gate, websocket_scope(denial=True)).end()
        assert [message["type"] for message in exchange.sent] == [
            "websocket.accept",
            "websocket.close",
        ]


async def test_being_told_to_stop_twice_is_the_same_as_once() -> None:
    async with served(lambda: hello) as booted:
        await booted.until("ready")
        booted.gate._drain()
        booted.gate._drain()
        assert booted.gate.lifecycle.phase == "draining"


async def test_a_failed_process_that_is_told_to_stop_ends_by_the_server_and_not_by_itself() -> None:
    async with served(_raise, failed_linger_s=30) as booted:
        await booted.until("failed")
        booted.gate._drain()
        assert booted.gate.lifecycle.phase == "failed"
        assert await booted.lifespan.shutdown() == {"type": "lifespan.shutdown.complete"}
        assert booted.exits.codes == []


# Paths and scopes.


@pytest.mark.parametrize(
    ("root_path", "path", "status"),
    [
        ("", "/livez", 200),
        ("/app", "/app/livez", 200),
        ("/app/", "/app/livez", 200),
        ("/", "/livez", 200),
        ("/app", "/livez", 200),  # servers before ASGI 2.4 leave the root out of the path
        ("/app", "/apps/livez", 418),
        ("/livez", "/livez/livez", 200),
    ],
)
async def test_probes_answer_below_a_root_path(root_path: str, path: str, status: int) -> None:
    async def teapot(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 418, "headers": []})
        await send({"type": "http.response.body"})

    async with served(lambda: LoadedApp(teapot, lifespan=False)) as booted:
        await booted.until("ready")
        assert (await get(booted.gate, path, root_path=root_path)).status == status


async def test_a_scope_without_or_with_an_empty_root_path_is_fine() -> None:
    async with served(lambda: hello) as booted:
        scope = http_scope("/livez")
        del scope["root_path"]
        assert (await Exchange(booted.gate, scope).end()).status == 200
        assert (await get(booted.gate, "/livez", root_path=None)).status == 200


@pytest.mark.parametrize(
    "path", ["/livez//", "//livez", "/LIVEZ", "/livez/x/y", "/livezz", "", "*", "http://h/livez"]
)
async def test_paths_that_only_resemble_a_probe_reach_the_application(path: str) -> None:
    async with served(lambda: hello) as booted:
        await booted.until("ready")
        assert (await get(booted.gate, path)).body == b"hello"


async def test_a_protocol_that_nobody_can_answer_yet_is_refused_with_a_sentence() -> None:
    target = GatedLoad()
    async with served(target) as booted:
        with pytest.raises(UnsupportedScope, match="scope type 'udp' before the application"):
            await booted.gate({"type": "udp"}, None, None)
        target.opened.set()


# Concurrency, and the end of the process.


async def test_a_thousand_probes_and_requests_at_once_lose_nothing() -> None:
    _, target = keeper_app()
    async with served(target) as booted:
        await target.has_been_entered()
        held = [Exchange(booted.gate, http_scope(f"/{n}")) for n in range(500)]
        probes = [Exchange(booted.gate, http_scope("/readyz")) for _ in range(250)]
        for probe in probes:
            await probe.end()
        assert {(p.status, p.body) for p in probes} == {(503, b"loading")}
        target.opened.set()
        later = [Exchange(booted.gate, http_scope("/readyz")) for _ in range(250)]
        for exchange in held + later:
            await exchange.end()
        assert {e.status for e in held} == {200}
        assert {(p.status, p.body) for p in later} <= {(503, b"loading"), (200, b"ok")}
        assert (await get(booted.gate, "/readyz")).body == b"ok"
        assert booted.gate.hold.totals[Outcome.SETTLED] == 500
    assert other_tasks() == []


async def test_readiness_is_never_answered_before_a_real_request_would_succeed() -> None:
    keeper, target = keeper_app()
    async with served(target) as booted:
        first_ready: list[bool] = []

        async def ask() -> None:
            while not first_ready:
                probe = await get(booted.gate, "/readyz")
                if probe.status == 200:
                    first_ready.append(booted.gate._app is keeper)
                await asyncio.sleep(0)

        asking = [asyncio.create_task(ask()) for _ in range(5)]
        await target.has_been_entered()
        target.opened.set()
        for task in asking:
            await limited(task)
        assert set(first_ready) == {True}


async def test_a_failed_boot_ends_the_process_once_with_3() -> None:
    async with served(_raise) as booted:
        await limited(booted.exits.happened.wait())
        await settle()
        assert booted.exits.codes == [3]


async def test_every_answer_of_the_gate_is_refused_to_nobody_for_its_host() -> None:
    async with served(lambda: hello) as booted:
        await booted.until("ready")
        for host in (b"evil.example", b"", b"a" * 5000, b"\xff"):
            scope = http_scope("/readyz")
            scope["headers"] = [(b"host", host)]
            assert (await Exchange(booted.gate, scope).end()).status == 200


async def test_nothing_but_the_boots_one_line_is_logged_in_a_good_life(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "asgi_health")
    async with served(lambda: LoadedApp(hello, lifespan=False)) as booted:
        await booted.until("ready")
        await get(booted.gate)
    assert [r.message.split(" after ")[0] for r in caplog.records] == ["ready"]


async def test_the_gate_for_django_takes_the_settings_module_as_its_target() -> None:
    config = HealthConfig()
    gate = HealthGate.for_django("mysite.settings", config=config)
    assert repr(gate.target) == "mysite.settings"
    assert (gate.config, gate.is_health_gate) == (config, True)


async def test_a_second_server_run_of_the_same_gate_is_answered_and_says_stopped() -> None:
    async with served(lambda: hello) as booted:
        await booted.until("ready")
    again = Lifespan(booted.gate, state={})
    assert await again.startup() == {"type": "lifespan.startup.complete"}
    assert (await get(booted.gate, "/readyz")).status == 503
    assert await again.shutdown() == {"type": "lifespan.shutdown.complete"}


@pytest.mark.parametrize("moment", ["held", "ready"])
@pytest.mark.parametrize("answer", ["websocket.http.response.start", "websocket.close"])
async def test_an_application_that_speaks_http_only_never_sees_a_handshake(
    moment: str, answer: str
) -> None:
    seen: list[str] = []
    is_known = answer == "websocket.http.response.start"

    async def http_only(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    target = GatedLoad(LoadedApp(http_only, lifespan=False, websocket=False))
    async with served(target) as booted:
        if moment == "ready":
            target.opened.set()
            await booted.until("ready")
        exchange = Exchange(booted.gate, websocket_scope(denial=is_known))
        await settle()
        target.opened.set()
        await exchange.end()

        assert seen == []
        assert exchange.sent[0]["type"] == answer
        assert exchange.sent[0].get("status") == (404 if is_known else None)
