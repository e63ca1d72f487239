"""Requests that come before the application is there: none is lost, none is changed."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.servers.conftest import Start
from tests.servers.harness import (
    GUNICORN,
    GUNICORN_ASGI,
    LIMIT_S,
    UVICORN,
    Client,
    Kind,
    Loads,
    Server,
    until,
)

ORIGIN = "https://studio.example"
LARGE = b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(20_000))  # 640 kB of any byte


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as threads:
        yield threads


def _handshake(pool: ThreadPoolExecutor, server: Server) -> "Future[ClientConnection]":
    """Begin a handshake, which is answered when the load has ended."""
    return pool.submit(connect, f"ws://127.0.0.1:{server.port}/live", open_timeout=LIMIT_S)


def _seen(server: Server) -> list[str]:
    """What the application was asked, in its order."""
    seen: list[str] = server.ask("/last").json["seen"]
    return seen[:-1]


def test_requests_of_every_sort_are_held_and_then_served(
    kind: Kind, start: Start, loads: Loads, pool: ThreadPoolExecutor
) -> None:
    server = start(kind)
    imports = [loads.next() for _ in range(server.workers)]
    with server.connect() as get, server.connect() as small, server.connect() as large:
        get.request("/hello?a=b", headers={"X-Mark": "kept"})
        small.request("/echo", method="POST", body=LARGE[:60_000])
        large.request("/echo", method="POST", body=LARGE)
        handshake = _handshake(pool, server)
        if server.workers == 1:
            server.wait_held(4)
        assert get.has_nothing_to_read()

        for load in imports:
            load.release()

        answer = get.answer()
        assert (answer.status, answer.json["path"]) == (200, "/hello")
        assert ["x-mark", "kept"] in answer.json["headers"]
        assert small.answer().body == LARGE[:60_000]
        assert large.answer().body == LARGE
    with handshake.result(LIMIT_S) as live:
        live.send("안녕 \N{WAVING HAND SIGN}")
        assert live.recv(LIMIT_S) == "안녕 \N{WAVING HAND SIGN}"
        live.send(LARGE[:100_000])
        assert live.recv(LIMIT_S) == LARGE[:100_000]


@pytest.mark.parametrize(
    ("own_kind", "arguments"),
    [(GUNICORN_ASGI, ()), (UVICORN, ("--http", "h11", "--loop", "asyncio"))],
    ids=["gunicorn -k asgi", "uvicorn --http h11"],
)
def test_other_implementations_of_the_protocol_hold_and_serve_as_well(
    own_kind: Kind, arguments: tuple[str, ...], start: Start, loads: Loads, pool: ThreadPoolExecutor
) -> None:
    server = start(own_kind, "gated:app", *arguments)
    load = loads.next()
    with server.connect() as get, server.connect() as post, server.connect() as leaving:
        get.request("/hello")
        post.request("/echo", method="POST", body=LARGE)
        handshake = _handshake(pool, server)
        leaving.request("/leaving")
        server.wait_held(4)
        leaving.close()
        server.wait_held(3)
        assert [server.ask("/livez").status, server.ask("/readyz").status] == [200, 503]
        load.release()
        assert get.answer().json["state"] == {"opened": "by the inner startup"}
        assert post.answer().body == LARGE
    with handshake.result(LIMIT_S) as live:
        live.send("hello")
        assert live.recv(LIMIT_S) == "hello"
    assert "/leaving" not in _seen(server)


def test_a_chunked_body_is_held_and_echoed_byte_for_byte(start: Start, loads: Loads) -> None:
    server = start(GUNICORN)
    load = loads.next()
    chunked = {"Transfer-Encoding": "chunked"}
    with server.connect() as client:
        client.request("/echo", method="POST", headers=chunked, body=b"5\r\n\x00half\r\n")
        server.wait_held(1)
        load.release()
        client.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(LARGE), LARGE))
        assert client.answer().body == b"\x00half" + LARGE


def test_a_client_that_waits_for_100_continue_waits_for_the_application(
    start: Start, loads: Loads
) -> None:
    server = start(UVICORN)
    load = loads.next()
    with server.connect() as client:
        wish = {"Expect": "100-continue", "Content-Length": "4"}
        client.request("/echo", method="PUT", headers=wish)
        server.wait_held(1)
        assert client.has_nothing_to_read()
        load.release()
        assert client.answer().status == 100
        client.send(b"\xff\x00ab")
        assert client.answer().body == b"\xff\x00ab"


def test_a_body_is_not_asked_for_when_the_load_fails(start: Start, loads: Loads) -> None:
    server = start(UVICORN, env={"FAILED_LINGER_S": "600"})
    load = loads.next()
    with server.connect() as client:
        wish = {"Expect": "100-continue", "Content-Length": "4"}
        client.request("/echo", method="PUT", headers=wish)
        server.wait_held(1)
        load.order("raise anything")
        assert client.answer().status == 503


def test_a_body_that_comes_while_its_request_is_held_is_not_lost(
    start: Start, loads: Loads
) -> None:
    server = start(UVICORN)
    load = loads.next()
    with server.connect() as client:
        client.request("/echo", method="POST", headers={"Content-Length": "6"}, body=b"abc")
        server.wait_held(1)
        client.send(b"de")
        load.release()
        server.wait_ready()
        client.send(b"f")
        assert client.answer().body == b"abcdef"


def test_held_requests_reach_the_application_in_their_order_of_arrival(
    start: Start, loads: Loads
) -> None:
    server = start(GUNICORN)
    load = loads.next()
    clients: list[Client] = []
    for number in range(24):
        clients.append(server.connect())
        if number % 3:
            clients[-1].request(f"/{number}")
        else:
            clients[-1].request(f"/{number}", method="POST", body=LARGE[: 4**number % 90_000 + 1])
        server.wait_held(number + 1)

    load.release()

    for number, client in enumerate(clients):
        assert client.answer().json["path"] == f"/{number}"
        client.close()
    assert _seen(server) == [f"/{number}" for number in range(24)]


def test_more_than_hold_limit_get_503_at_once_and_the_held_ones_do_not(
    start: Start, loads: Loads
) -> None:
    server = start(UVICORN, env={"HOLD_LIMIT": "2"})
    load = loads.next()
    with server.connect() as first, server.connect() as second:
        for number, client in enumerate((first, second), start=1):
            client.request(f"/{number}")
            server.wait_held(number)

        refused = server.ask("/3")
        load.release()

        assert refused.status == 503
        assert refused.json["code"] == "service.starting"
        assert refused.headers["retry-after"] == "1"
        assert refused.headers["cache-control"] == "no-store"
        assert [first.answer().status, second.answer().status] == [200, 200]
    assert _seen(server) == ["/1", "/2"]


def test_a_request_held_longer_than_hold_s_gets_503_and_never_reaches_the_application(
    start: Start, loads: Loads
) -> None:
    server = start(GUNICORN, env={"HOLD_S": "0.3"})
    load = loads.next()
    with server.connect() as client:
        client.request("/echo", method="POST", body=LARGE)
        late = client.answer()
    load.release()
    server.wait_ready()

    assert (late.status, late.json["code"]) == (503, "service.starting")
    assert late.headers["retry-after"] == "1"
    assert _seen(server) == []


def test_a_handshake_held_longer_than_hold_s_is_denied_with_503(
    start: Start, loads: Loads, pool: ThreadPoolExecutor
) -> None:
    server = start(UVICORN, env={"HOLD_S": "0.3"})
    loads.next()
    with pytest.raises(InvalidStatus) as denied:
        _handshake(pool, server).result(LIMIT_S)
    assert denied.value.response.status_code == 503
    assert denied.value.response.headers["Retry-After"] == "1"


def test_a_browser_may_read_refusals_and_gets_its_preflight_before_ready(
    start: Start, loads: Loads
) -> None:
    server = start(UVICORN, env={"HOLD_LIMIT": "0", "CORS_ORIGIN": ORIGIN})
    loads.next()
    asks = {"Access-Control-Request-Method": "POST"}

    refused = server.ask("/hello", headers={"Origin": ORIGIN})
    foreign = server.ask("/hello", headers={"Origin": "https://evil.example"})
    allowed = server.ask("/hello", method="OPTIONS", headers={"Origin": ORIGIN, **asks})
    denied = server.ask(
        "/hello", method="OPTIONS", headers={"Origin": "https://evil.example", **asks}
    )

    assert refused.status == 503
    assert refused.headers["access-control-allow-origin"] == ORIGIN
    assert refused.headers["vary"] == foreign.headers["vary"] == "Origin"
    assert "access-control-allow-origin" not in foreign.headers
    assert allowed.status == 200
    assert "POST" in allowed.headers["access-control-allow-methods"]
    assert "access-control-allow-origin" not in denied.headers


def test_a_preflight_is_the_applications_own_affair_once_it_is_ready(
    start: Start, loads: Loads
) -> None:
    server = start(UVICORN, env={"CORS_ORIGIN": ORIGIN})
    loads.release()
    server.wait_ready()
    headers = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    assert server.ask("/hello", method="OPTIONS", headers=headers).json["method"] == "OPTIONS"


@pytest.mark.parametrize("body", [b"", b"x" * 1000], ids=["without body", "with body"])
def test_a_client_that_leaves_while_it_is_held_never_reaches_the_application(
    body: bytes, start: Start, loads: Loads
) -> None:
    server = start(UVICORN)
    load = loads.next()
    with server.connect() as leaving, server.connect() as staying:
        leaving.request("/leaving", method="POST", body=body)
        server.wait_held(1)
        staying.request("/staying")
        server.wait_held(2)
        leaving.close()
        server.wait_held(1)
        load.release()
        assert staying.answer().status == 200
    assert _seen(server) == ["/staying"]


def test_a_browser_that_leaves_during_the_handshake_never_reaches_the_application(
    start: Start, loads: Loads
) -> None:
    server = start(UVICORN)
    load = loads.next()
    with server.connect() as leaving:
        key = {"Sec-WebSocket-Key": "MDEyMzQ1Njc4OWFiY2RlZg==", "Sec-WebSocket-Version": "13"}
        leaving.request("/live", headers={"Upgrade": "websocket", "Connection": "Upgrade", **key})
        server.wait_held(1)
    server.wait_held(0)
    load.release()
    server.wait_ready()
    assert _seen(server) == []


def test_a_connection_stays_open_over_the_end_of_the_load(start: Start, loads: Loads) -> None:
    server = start(GUNICORN)
    load = loads.next()
    with server.connect() as client:
        client.request("/livez")
        assert client.answer().text == "ok"
        client.request("/readyz")
        assert client.answer().status == 503
        client.request("/echo", method="POST", body=b"held")
        server.wait_held(1)
        load.release()
        assert client.answer().body == b"held"
        client.request("/readyz")
        assert client.answer().status == 200


def test_pipelined_requests_are_answered_in_their_order(start: Start, loads: Loads) -> None:
    server = start(UVICORN)
    load = loads.next()
    with server.connect() as client:
        client.send(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\nGET /1 HTTP/1.1\r\nHost: a\r\n\r\n")
        client.request("/echo", method="POST", body=b"2")
        client.request("/livez")
        assert client.answer().text == "ok"
        server.wait_held(1)
        load.release()
        assert client.answer().json["path"] == "/1"
        assert client.answer().body == b"2"
        assert client.answer().text == "ok"


def test_early_requests_are_counted_by_what_became_of_them(start: Start, loads: Loads) -> None:
    server = start(UVICORN, env={"HOLD_LIMIT": "1"})
    load = loads.next()
    with server.connect() as leaving:
        leaving.request("/leaving")
        server.wait_held(1)
        assert server.ask("/refused").status == 503
    server.wait_held(0)
    with server.connect() as staying:
        staying.request("/staying")
        server.wait_held(1)
        load.release()
        assert staying.answer().status == 200

    def counted() -> dict[str, int]:
        counts: dict[str, int] = server.ask("/statusz?format=json").json["requests"]
        return counts

    until(lambda: counted()["handed_over"] == 1, "the count of the one that stayed")
    assert counted() == {
        "held_now": 0,
        "handed_over": 1,
        "left_while_held": 1,
        "held_too_long": 0,
        "over_the_limit": 1,
    }
