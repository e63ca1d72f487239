"""The responder answers probes, and leaves everybody else's bytes unread in the kernel."""

import json
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from responder_side import FAILURE, PROBE, READY, USER, Client, Side, responding
from server_side import LIMIT_S, SECRET

from asgi_health.fleet.handover import Handover
from asgi_health.fleet.responder import Responder
from asgi_health.fleet.wire import HEAD_MAX_BYTES
from asgi_health.hold import Outcome

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the responder needs epoll")


@pytest.fixture
def side() -> Any:
    with responding() as made:
        yield made


# Probes.


def test_a_probe_is_answered_and_its_connection_stays(side: Side) -> None:
    client = side.client(PROBE)
    answer = client.gets(200)
    assert answer.endswith(b"\r\n\r\nok")
    assert b"connection" not in answer
    client.send(READY).gets(200, 503)
    assert side.kinds == (1, 0, 0, 0)
    assert side.unread() == [b""]


def test_probes_that_come_together_are_answered_in_their_order(side: Side) -> None:
    client = side.client(PROBE + READY + b"\r\n" + PROBE + b"HEAD /livez HTTP/1.1\r\n\r\n" + READY)
    client.gets(200, 503, 200, 200, 503)
    assert side.unread() == [b""]


def test_more_probes_than_one_look_takes_are_answered_all(side: Side) -> None:
    long = b"GET /livez?" + b"a" * 1000 + b" HTTP/1.1\r\n\r\n"
    count = 3 * HEAD_MAX_BYTES // len(long)
    side.client(long * count).gets(*[200] * count)


@pytest.mark.parametrize("cut", range(1, len(PROBE)))
def test_half_a_probe_is_waited_for(side: Side, cut: int) -> None:
    client = side.client(PROBE[:cut])
    client.gets_nothing()
    assert side.kinds == (1, 0, 0, 0)
    client.send(PROBE[cut:]).gets(200)
    assert side.hold.totals[Outcome.SETTLED] == 0


def test_a_probe_that_comes_byte_by_byte_is_answered_once(side: Side) -> None:
    client = side.client()
    for byte in PROBE[:-1]:
        client.send(bytes([byte]))
        side.turn()
    assert client.look() == b""
    client.send(PROBE[-1:]).gets(200)


def test_half_a_probe_after_empty_lines_is_waited_for_too(side: Side) -> None:
    client = side.client(b"\r\n\r\n" + PROBE[:-1])
    client.gets_nothing()
    assert side.kinds == (1, 0, 0, 0)
    client.send(PROBE[-1:]).gets(200)


def test_a_probe_with_a_body_takes_the_body_along(side: Side) -> None:
    asked = b"POST /livez HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(USER)
    client = side.client(asked + USER[:5])
    client.gets_nothing()
    client.send(USER[5:] + PROBE).gets(405, 200)
    assert side.kinds == (1, 0, 0, 0)


@pytest.mark.parametrize("length", [HEAD_MAX_BYTES, 30_000, 10**12])
@pytest.mark.parametrize("at_once", [True, False])
def test_the_body_of_a_probe_is_never_taken_for_a_request(
    side: Side,
    length: int,
    at_once: bool,  # noqa: FBT001
) -> None:
    asked = b"GET /livez HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % length
    body = (READY * 1000)[: min(length, 30_000)]
    client = side.client(asked + body if at_once else asked)
    assert b"connection: close" in client.gets(200)
    if not at_once:
        client.send(body)
    client.ends()
    assert client.statuses() == [200]


def test_a_chunked_body_of_a_probe_is_never_taken_for_a_request(side: Side) -> None:
    asked = b"GET /livez HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    client = side.client(asked + b"%x\r\n%s\r\n0\r\n\r\n" % (len(READY), READY))
    client.ends()
    assert client.statuses() == [200]


def test_a_client_that_says_close_gets_its_answer_and_the_end(side: Side) -> None:
    client = side.client(b"GET /livez HTTP/1.1\r\nConnection: close\r\n\r\n")
    client.gets(200)
    client.ends()
    side.until(lambda: side.kinds == (0, 0, 1, 0))
    client.leave()
    side.until(lambda: side.kinds == (0, 0, 0, 0))


def test_a_client_that_half_closes_after_its_probe_gets_the_answer(side: Side) -> None:
    client = side.client(PROBE)
    client.socket.shutdown(socket.SHUT_WR)
    client.gets(200)
    client.ends()
    assert side.kinds == (0, 0, 0, 0)


# Everybody else.

OTHERS = {
    "user": USER,
    "half a first line": b"GET /us",
    "half a head": USER[:-2],
    "body": b"POST /user HTTP/1.1\r\nContent-Length: 9\r\n\r\n" + PROBE[:9],
    "large": b"POST /user HTTP/1.1\r\nContent-Length: 60000\r\n\r\n" + b"a" * 60_000,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n",
    "handshake": b"GET /livez HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    "two lengths": b"GET /livez HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 9\r\n\r\n" + PROBE,
    "line feeds": b"GET /livez HTTP/1.1\n\n" + PROBE,
    "folded": b"GET /livez HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
    "long": b"GET /livez HTTP/1.1\r\nA: " + b"a" * HEAD_MAX_BYTES + b"\r\n\r\n",
    "endless": b"a" * HEAD_MAX_BYTES,
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_bytes_of_others_stay_unread_for_who_takes_the_connection_over(
    side: Side, name: str
) -> None:
    client = side.client(OTHERS[name])
    client.gets_nothing()
    silent = name.startswith("half a first")
    side.until(lambda: side.kinds == ((1, 0, 0, 0) if silent else (0, 1, 0, 0)))
    assert side.unread() == [OTHERS[name]]


def test_what_follows_a_users_request_waits_behind_it(side: Side) -> None:
    client = side.client(PROBE + USER + PROBE)
    client.gets(200)
    side.held(1)
    client.send(READY)
    side.turn()
    assert client.statuses() == [200]
    assert side.unread() == [USER + PROBE + READY]


def test_connections_are_given_with_those_that_ask_first(side: Side) -> None:
    quiet, first, second = side.client(), side.client(b"GET /1 "), side.client(b"GET /2 ")
    side.until(lambda: side.kinds == (3, 0, 0, 0))
    second.send(b"HTTP/1.1\r\n")
    side.held(1)
    first.send(b"HTTP/1.1\r\n")
    side.held(2)
    quiet.send(b"GET")
    side.turn()
    assert side.unread() == [b"GET /2 HTTP/1.1\r\n", b"GET /1 HTTP/1.1\r\n", b"GET"]


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("how", ["leave", "reset", "half-close"])
def test_a_client_that_leaves_is_forgotten(side: Side, held: bool, how: str) -> None:  # noqa: FBT001
    client = side.client(USER if held else PROBE[:9])
    side.until(lambda: side.kinds == ((0, 1, 0, 0) if held else (1, 0, 0, 0)))
    if how == "half-close":
        client.socket.shutdown(socket.SHUT_WR)
    else:
        getattr(client, how)()
    side.until(lambda: side.kinds == (0, 0, 0, 0))
    assert side.hold.now == 0
    assert side.hold.totals[Outcome.GONE] == int(held)


def test_a_preflight_is_answered_and_other_options_are_held(side: Side) -> None:
    ask = b"OPTIONS /user HTTP/1.1\r\nOrigin: https://a.example\r\n"
    answer = side.client(ask + b"Access-Control-Request-Method: PUT\r\n\r\n").gets(200)
    assert b"access-control-allow-origin: https://a.example" in answer
    side.client(ask + b"\r\n").gets_nothing()
    assert side.hold.now == 1


# The end of the boot.


@pytest.mark.parametrize(("end", "code"), [("fail", "boot.error"), ("drain", "service.draining")])
def test_what_is_held_gets_the_reason_and_so_does_what_comes(
    side: Side, end: str, code: str
) -> None:
    early = [side.client(USER) for _ in range(3)]
    side.held(3)
    side.desk.fail(FAILURE) if end == "fail" else side.desk.drain()
    side.responder.refuse_held()
    for client in [*early, side.client(USER), side.client(b"nonsense\r\n\r\n")]:
        answer = client.gets(503)
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == code
        client.ends()
    assert side.hold.now == 0
    assert side.hold.totals[Outcome.SETTLED] == 5
    closes = b"connection: close" in side.client(PROBE).gets(503 if end == "fail" else 200)
    assert closes is (end == "drain")


def test_the_end_leaves_the_rest_of_the_turn_untouched(side: Side) -> None:
    ours, theirs = socket.socketpair()
    client = side.client(PROBE[:-1])
    client.gets_nothing()
    side.responder.watch(ours.fileno(), side.responder.end)
    with ours, theirs:
        theirs.send(b"go")
        side.turn()  # told before the probe is whole: the order of the kernel's list
        theirs.send(b"go")
        client.send(PROBE[-1:])
        side.turn()
        assert client.look() == b""
        assert side.unread() == [PROBE]
        side.responder.unwatch(ours.fileno())
        side.responder.unwatch(ours.fileno())


def test_the_farewell_waits_for_answers_on_their_way_and_for_nobody_else(side: Side) -> None:
    refused, other = side.client(USER), side.client(PROBE)
    other.gets(200)
    side.held(1)
    side.desk.drain()
    side.responder.refuse_held()
    refused.gets(503)
    assert side.kinds == (1, 0, 1, 0)
    refused.leave()
    side.responder.farewell(limit_s=LIMIT_S)
    assert side.kinds == (1, 0, 0, 0)


# With a thread, as in its process.


def test_hundreds_of_clients_are_answered_or_handed_over_whole() -> None:
    with responding(hold_limit=500) as side:
        reading, writing = socket.socketpair()
        side.responder.watch(reading.fileno(), side.responder.end)
        run = threading.Thread(
            target=Responder.run,
            args=(side.responder,),
            kwargs={"until_s": lambda: None, "on_time": lambda: None},
        )
        run.start()
        users = [side.client(b"GET /%d HTTP/1.1\r\n\r\n" % number) for number in range(200)]
        halves = [side.client(PROBE[:number]) for number in range(1, 21)]
        for _ in range(50):
            assert _ask(side.client(PROBE)) == [200]
        writing.send(b"go")
        run.join(LIMIT_S)
        assert not run.is_alive()
        side.turn()  # whoever was still in the backlog
        queue = Handover()
        queue.put(side.responder.open_connections(), takers=3)
        taken = []
        while portion := queue.take():
            taken += portion
        queue.close()
        found = set()
        for connection in taken:
            try:
                found.add(connection.recv(1000))
            except BlockingIOError:
                found.add(b"")
            connection.close()
        assert len(taken) == len(users) + len(halves) + 50
        assert found == {
            b"",
            *(b"GET /%d HTTP/1.1\r\n\r\n" % number for number in range(200)),
            *(PROBE[:number] for number in range(1, 21)),
        }
        reading.close()
        writing.close()


def _ask(client: Client) -> list[int]:
    client.seen = client.socket.recv(4096)
    return client.statuses()


def test_a_client_of_a_socket_file_has_no_address(tmp_path: Path) -> None:
    with responding(details_loopback=True) as side, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        listener.settimeout(0.0)
        side.responder._listeners[listener.fileno()] = listener
        side.responder._poll.register(listener.fileno(), 1)
        client = Client(side, str(tmp_path / "s"))
        side.clients.append(client)
        asked = b"GET /livez?format=json HTTP/1.1\r\nHost: localhost\r\n"
        client.send(asked + b"\r\n").gets(200)
        assert b"releaseId" not in client.seen
        client.send(asked + b"Authorization: Bearer " + SECRET.encode() + b"\r\n\r\n")
        client.gets(200, 200)
        assert b"releaseId" in client.seen
