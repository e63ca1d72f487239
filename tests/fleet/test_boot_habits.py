"""Whatever a client sends while the master loads, a worker serves; nothing is read before."""

import socket
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.fleet.booting import HELLO, UnixClient, connections
from tests.servers.harness import LIMIT_S, Client, Loads, until

Habit = Callable[[Client], Iterator[None]]
"""Acts until the request is held, yields, and acts again once a worker serves."""
LIVE = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
BODY = bytes(range(256)) * 1200


def get(client: Client) -> Iterator[None]:
    client.request("/hello")
    yield
    assert client.answer().json["path"] == "/hello"


def head(client: Client) -> Iterator[None]:
    client.request("/hello", method="HEAD")
    yield
    assert client.answer(has_body=False).status == 200


def options(client: Client) -> Iterator[None]:
    client.request("/hello", method="OPTIONS", headers={"Origin": "https://a.example"})
    yield
    assert client.answer().json["method"] == "OPTIONS"


def small_post(client: Client) -> Iterator[None]:
    client.request("/echo", method="POST", body=b"a=1&b=2")
    yield
    assert client.answer().body == b"a=1&b=2"


def large_post(client: Client) -> Iterator[None]:
    client.request("/echo", method="POST", body=BODY)
    yield
    assert client.answer().body == BODY


def chunked_post(client: Client) -> Iterator[None]:
    client.send(
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwait\r\n"
    )
    yield
    client.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY))
    assert client.answer().body == b"wait" + BODY


def post_that_asks_first(client: Client) -> Iterator[None]:
    headers = {"Expect": "100-continue", "Content-Length": "4"}
    client.request("/echo", method="POST", headers=headers)
    yield
    assert client.answer().status == 100
    client.send(b"body")
    assert client.answer().body == b"body"


def body_that_comes_later(client: Client) -> Iterator[None]:
    client.request("/echo", method="POST", headers={"Content-Length": "300000"})
    client.send(BODY[:100])
    yield
    client.send(BODY[100:300_000])
    assert client.answer().body == BODY[:300_000]


def keep_alive_after_probes(client: Client) -> Iterator[None]:
    for path in ("/livez", "/health"):
        client.request(path)
        assert client.answer().text == "ok"
    client.request("/hello")
    yield
    assert client.answer().status == 200
    for path in ("/hello", "/livez", "/hello"):
        client.request(path)
        assert client.answer().status == 200


def probe_and_two_requests_in_one_packet(client: Client) -> Iterator[None]:
    client.send(LIVE + HELLO + HELLO.replace(b"hello", b"second"))
    assert client.answer().text == "ok"
    yield
    assert client.answer().json["path"] == "/hello"
    assert client.answer().json["path"] == "/second"


def two_requests_and_a_probe_in_one_packet(client: Client) -> Iterator[None]:
    client.send(HELLO + HELLO.replace(b"hello", b"second") + LIVE)
    yield
    assert client.answer().json["path"] == "/hello"
    assert client.answer().json["path"] == "/second"
    assert client.answer().text == "ok"


def probe_with_a_body_before_a_request(client: Client) -> Iterator[None]:
    client.request("/livez", method="POST", body=b"GET /hidden HTTP/1.1\r\n\r\n")
    client.request("/hello")
    assert client.answer().status == 405
    yield
    assert client.answer().json["path"] == "/hello"


def old_version(client: Client) -> Iterator[None]:
    client.send(b"GET /hello HTTP/1.0\r\n\r\n")
    yield
    assert client.answer().json["path"] == "/hello"
    assert client.is_closed_by_server()


def absolute_target(client: Client) -> Iterator[None]:
    client.send(b"GET http://a.example/hello?x HTTP/1.1\r\nHost: a.example\r\n\r\n")
    yield
    assert client.answer().status == 200


def blank_lines_first(client: Client) -> Iterator[None]:
    client.send(b"\r\n\r\n" + HELLO)
    yield
    assert client.answer().json["path"] == "/hello"


def head_longer_than_what_is_looked_at(client: Client) -> Iterator[None]:
    client.request("/hello", headers={f"X-{n}": "x" * 1000 for n in range(20)})
    yield
    assert client.answer().json["path"] == "/hello"


def handshake(client: Client) -> Iterator[None]:
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    client.request("/live", headers=upgrade | key)
    yield
    answer = client.answer(has_body=False)
    assert answer.headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    client.send(b"\x81\x82\0\0\0\0hi")  # a masked text frame (RFC 6455, 5.2)
    assert client._file.read(4) == b"\x81\x02hi"


HABITS = (
    get,
    head,
    options,
    small_post,
    large_post,
    chunked_post,
    post_that_asks_first,
    body_that_comes_later,
    keep_alive_after_probes,
    probe_and_two_requests_in_one_packet,
    two_requests_and_a_probe_in_one_packet,
    probe_with_a_body_before_a_request,
    old_version,
    absolute_target,
    blank_lines_first,
    head_longer_than_what_is_looked_at,
    handshake,
)


@pytest.mark.parametrize("habit", HABITS, ids=lambda habit: habit.__name__)
def test_a_request_is_held_unread_and_served(
    habit: Habit, worker_class: str, fleet, loads: Loads
) -> None:
    server = fleet(env={"WORKER_CLASS": worker_class})
    load = loads.next()
    with server.connect() as client:
        visit = habit(client)
        next(visit)
        server.wait_held(1)
        assert client.has_nothing_to_read()
        load.release()
        assert next(visit, None) is None
    server.wait_for_log("handed 1 connections over, 1 with a request|handed 2 connections over")


def test_a_listener_on_a_path_holds_and_serves_as_well(
    worker_class: str, fleet, loads: Loads, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    token = "t" * 32
    server = fleet(
        "--bind", f"unix:{path}", env={"WORKER_CLASS": worker_class, "HEALTH_TOKEN": token}
    )
    load = loads.next()
    with ExitStack() as stack:
        probe = stack.enter_context(UnixClient(path))
        clients = [stack.enter_context(UnixClient(path)) for _ in range(4)]
        for client in clients:
            client.request("/hello")

        def held() -> int:
            probe.request("/readyz?verbose", headers={"Accept": "application/json"})
            assert probe.answer().json["phase"] == "loading"
            probe.request("/statusz?format=json", headers={"Authorization": f"Bearer {token}"})
            return int(probe.answer().json["requests"]["held_now"])

        until(lambda: held() == 4, "four held requests")
        load.release()
        assert [client.answer().status for client in clients] == [200] * 4
        probe.request("/livez")
        assert probe.answer().status == 200
    assert "handed 5 connections over, 4 with a request" in server.log


def test_a_listener_on_ipv6_holds_and_serves_as_well(fleet, loads: Loads) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no IPv6 on loopback: {error}")
    server = fleet("--bind", "[::1]:0")
    load = loads.next()
    with Client(server.port, host="::1") as client, Client(server.port, host="::1") as probe:
        client.request("/hello")
        probe.request("/statusz?format=json")
        assert probe.answer().json["requests"]["held_now"] == 1
        load.release()
        assert client.answer().status == 200


def _send_slowly(client: Client, text: bytes) -> None:
    """Each byte in a packet of its own."""
    for byte in text:
        client.send(bytes([byte]))


def test_half_a_request_before_the_hand_over_and_the_rest_after_it(
    worker_class: str, fleet, loads: Loads
) -> None:
    server = fleet(env={"WORKER_CLASS": worker_class})
    load = loads.next()
    with connections(server, len(HELLO) - 1) as clients:
        for sent, client in enumerate(clients, start=1):
            client.send(HELLO[:sent])
        assert server.ask("/livez").status == 200
        load.release()
        for sent in range(1, len(HELLO), 2):  # while the connections are on their way
            _send_slowly(clients[sent - 1], HELLO[sent:])
        server.wait_for_log("connections over")
        for sent in range(2, len(HELLO), 2):
            _send_slowly(clients[sent - 1], HELLO[sent:])
        assert [client.answer().status for client in clients] == [200] * len(clients)


def test_half_a_probe_before_the_hand_over_is_answered_after_it(fleet, loads: Loads) -> None:
    server = fleet()
    load = loads.next()
    with connections(server, len(LIVE) - 1) as clients:
        for sent, client in enumerate(clients, start=1):
            client.send(LIVE[:sent])
        assert server.held() == 0
        load.release()
        server.wait_ready()
        for sent, client in enumerate(clients, start=1):
            client.send(LIVE[sent:])
        assert [client.answer().text for client in clients] == ["ok"] * len(clients)


def test_a_client_that_leaves_while_it_is_held_never_reaches_the_application(
    fleet, loads: Loads
) -> None:
    server = fleet(workers=1)
    load = loads.next()
    with server.connect() as left, server.connect() as cut, server.connect() as stays:
        left.request("/left")
        cut.request("/cut", method="POST", body=b"x" * 100_000)
        stays.request("/stays")
        server.wait_held(3)
        left.close()
        server.wait_held(2)
        reset = b"\1\0\0\0\0\0\0\0"
        cut.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        cut.close()
        server.wait_held(1)
        page = server.ask("/statusz?format=json").json
        assert page["requests"]["left_while_held"] == 2
        load.release()
        assert [path for path in stays.answer().json["seen"] if path != "/"] == ["/stays"]


def test_a_half_closed_client_gets_its_probes_but_is_not_held(fleet, loads: Loads) -> None:
    """Servers take the end of what a client sends for its leaving; so do we."""
    server = fleet(workers=1)
    load = loads.next()
    with server.connect() as probe, server.connect() as client, server.connect() as held:
        probe.send(LIVE + LIVE)
        probe.socket.shutdown(socket.SHUT_WR)
        assert [probe.answer().text, probe.answer().text] == ["ok", "ok"]
        assert probe.is_closed_by_server()
        client.send(HELLO)
        client.socket.shutdown(socket.SHUT_WR)
        assert client.is_closed_by_server()
        held.send(HELLO)
        server.wait_held(1)
        held.socket.shutdown(socket.SHUT_WR)
        assert held.is_closed_by_server()
        server.wait_held(0)
    load.release()
    server.wait_ready()
    assert server.ask("/seen").json["seen"] == ["/seen"]


def test_a_handshake_that_was_held_exchanges_messages(
    worker_class: str, fleet, loads: Loads
) -> None:
    server = fleet(env={"WORKER_CLASS": worker_class})
    load = loads.next()
    with ThreadPoolExecutor() as pool:
        address = f"ws://127.0.0.1:{server.port}/live"
        opened = pool.submit(connect, address, open_timeout=LIMIT_S)
        server.wait_held(1)
        load.release()
        with opened.result(LIMIT_S) as live:
            for message in ("one", b"two", "x" * 100_000):
                live.send(message)
                assert live.recv(LIMIT_S) == message


def test_more_than_the_limit_are_refused_at_once_and_the_others_served(fleet, loads: Loads) -> None:
    server = fleet(env={"HOLD_LIMIT": "3"})
    load = loads.next()
    with connections(server, 3) as held:
        for client in held:
            client.request("/hello")
        server.wait_held(3)
        over = server.ask("/echo", method="POST", body=BODY)
        assert (over.status, over.json["code"]) == (503, "service.starting")
        assert over.headers["retry-after"] == "1"
        assert over.headers["connection"] == "close"
        assert server.ask("/statusz?format=json").json["requests"]["over_the_limit"] == 1
        held[0].close()
        server.wait_held(2)
        with server.connect() as late:
            late.request("/late")
            server.wait_held(3)
            load.release()
            answers = [client.answer().status for client in (*held[1:], late)]
    assert answers == [200, 200, 200]


def test_a_request_held_too_long_gets_503(fleet, loads: Loads) -> None:
    server = fleet(workers=1, env={"HOLD_S": "0.2"})
    load = loads.next()
    for method, body in (("GET", b""), ("POST", BODY), ("HEAD", b"")):
        answer = server.ask("/early", method=method, body=body)
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
    assert server.ask("/statusz?format=json").json["requests"]["held_too_long"] == 3
    load.release()
    server.wait_ready()
    assert server.ask("/seen").json["seen"] == ["/seen"]


def test_nothing_is_held_for_zero_seconds(fleet, loads: Loads) -> None:
    server = fleet(env={"HOLD_S": "0"})
    loads.next()
    assert server.ask("/early").json["code"] == "service.starting"


def test_five_hundred_silent_connections_keep_no_probe_waiting(fleet, loads: Loads) -> None:
    server = fleet()
    load = loads.next()
    with connections(server, 500) as clients:
        for number, client in enumerate(clients):
            client.send(HELLO[: number % 40])
        for path in ("/livez", "/startupz", "/readyz"):
            assert server.ask(path).status in {200, 503}
        load.release()
        server.wait_for_log("connections over")
        for number, client in enumerate(clients):
            client.send(HELLO[number % 40 :])
        statuses = Counter(client.answer().status for client in clients)
    assert statuses == {200: 500}


def test_seven_hundred_held_connections_are_shared_by_the_workers(
    worker_class: str, fleet, loads: Loads
) -> None:
    server = fleet(env={"WORKER_CLASS": worker_class, "HOLD_LIMIT": "1000"})
    load = loads.next()
    with connections(server, 700) as clients:
        for client in clients:
            client.request("/hello")
        server.wait_held(700)
        load.release()
        pids = Counter(client.answer().json["pid"] for client in clients)
    assert pids.total() == 700
    assert len(pids) == 2, "one worker took all"
    server.wait_for_log("handed 70[01] connections over, 700 with a request")
