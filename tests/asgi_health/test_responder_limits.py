"""The responder under pressure: limits, times, floods, slow readers, streams; it never spins."""

import contextlib
import json
import os
import resource
import sys
import time
from collections.abc import Iterator

import pytest
from responder_side import FAILURE, PROBE, READY, USER, CountingClock, Side, responding
from server_side import LIMIT_S, SECRET

from asgi_health.fleet.responder import Limits, Responder
from asgi_health.hold import Outcome

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the responder needs epoll")

EVENTS = b"GET /statusz/events HTTP/1.1\r\nAuthorization: Bearer " + SECRET.encode() + b"\r\n\r\n"
PAGE = b"GET /statusz HTTP/1.1\r\nAuthorization: Bearer " + SECRET.encode() + b"\r\n\r\n"


# How many.


@pytest.mark.parametrize("options", [{"hold_limit": 2}, {"open_max": 3}])
def test_one_request_too_many_is_refused_at_once_and_the_others_stay(
    options: dict[str, int],
) -> None:
    with responding(**options) as side:
        held = [side.client(USER), side.client(USER)]
        side.held(2)
        answer = side.client(USER).gets(503)
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "service.starting"
        assert side.hold.totals[Outcome.REFUSED] == 1
        held[0].leave()
        side.held(1)
        side.client(USER)
        side.held(2)
        assert held[1].look() == b""


@pytest.mark.parametrize("options", [{"hold_limit": 0}, {"hold_s": 0.0}, {"open_max": 1}])
def test_where_nothing_is_held_requests_are_refused_and_probes_are_answered(
    options: dict[str, int],
) -> None:
    with responding(**options) as side:
        client = side.client(USER)
        assert b"retry-after: 1" in client.gets(503)
        client.ends()
        side.client(PROBE).gets(200)
        assert side.hold.totals[Outcome.REFUSED] == 1


def test_the_oldest_silent_connection_makes_room_for_a_new_one() -> None:
    with responding(open_max=4) as side:
        held = side.client(USER)
        side.held(1)
        silent = [side.client(PROBE[:number]) for number in (1, 2, 3)]
        side.until(lambda: side.kinds == (3, 1, 0, 0))
        side.client(PROBE).gets(200)
        silent[0].ends()
        side.client(PROBE).gets(200)
        silent[1].ends()
        assert silent[2].look() == held.look() == b""
        assert side.hold.now == 1


def test_a_flood_at_once_beyond_the_limit_is_answered_to_the_last() -> None:
    with responding(open_max=10, hold_limit=5) as side:
        clients = [side.client(USER if number % 2 else PROBE) for number in range(100)]
        for client in clients[10:]:
            side.until(lambda client=client: client.statuses() or client in clients[-20:])
        side.until(lambda: sum(bool(client.statuses()) for client in clients) == 95)
        assert side.hold.now == 5
        statuses = [client.statuses() for client in clients]
        assert statuses[::2] == [[200]] * 50
        assert statuses[1::2] == [[]] * 5 + [[503]] * 45


def test_an_answered_connection_that_lingers_goes_before_a_held_one() -> None:
    with responding(open_max=3, hold_limit=2) as side:
        held = [side.client(USER), side.client(USER)]
        side.held(2)
        lingering = side.client(USER)
        lingering.gets(503)
        assert side.kinds == (0, 2, 1, 0)
        side.client(PROBE).gets(200)
        assert side.kinds == (1, 2, 0, 0)
        assert [client.look() for client in held] == [b"", b""]


def test_a_number_that_is_given_again_is_not_taken_for_its_last_owner() -> None:
    with responding(open_max=2) as side:
        first = side.client(b"G")
        side.client(b"G")
        side.until(lambda: side.kinds == (2, 0, 0, 0))
        newcomers = [side.client(), side.client()]  # the second takes the number of the first
        first.reset()
        side.turn()
        for newcomer in newcomers:
            newcomer.send(PROBE).gets(200)


@contextlib.contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Let this process open so many more descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fillers = [os.dup(0)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (fillers[0] + 64, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                fillers.append(os.dup(0))
        for _ in range(count):
            os.close(fillers.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for filler in fillers:
            os.close(filler)


def test_when_descriptors_run_out_the_oldest_silent_connection_goes() -> None:
    with responding() as side:
        silent = [side.client() for _ in range(10)]
        clients = [side.client(PROBE) for _ in range(5)]
        with descriptors_left(4):
            side.until(lambda: all(client.statuses() == [200] for client in clients))
            assert side.kinds[0] == 3  # accept(2) wants one before it knows that nobody waits
        for client in silent:
            client.ends()


def test_without_a_descriptor_and_nothing_to_close_it_waits_a_moment_and_never_spins() -> None:
    with responding() as side:
        client = side.client(PROBE)
        with descriptors_left(0):
            side.turn()
            assert side.responder._poll.poll(0) == []
            client.gets_nothing()
            side.clock.now_s += 0.11
            side.turn()  # listens again
            side.turn()  # and has no luck
            assert side.responder._poll.poll(0) == []
        side.clock.now_s += 0.11
        client.gets(200)


# How long.


def test_a_request_is_held_as_long_as_it_may_and_not_longer() -> None:
    with responding(hold_s=30.0) as side:
        first = side.client(USER)
        side.held(1)
        side.clock.now_s += 10.0
        second = side.client(b"HEAD" + USER[3:])
        side.held(2)
        side.clock.now_s += 19.9
        first.gets_nothing()
        side.clock.now_s += 0.2
        first.gets(503)
        first.ends()
        second.gets_nothing()
        assert (side.hold.now, side.hold.totals[Outcome.EXPIRED]) == (1, 1)
        side.clock.now_s += 10.0
        assert second.gets(503).endswith(b"\r\n\r\n")


def test_the_loop_wakes_for_the_next_end_and_not_before() -> None:
    with responding(hold_s=30.0) as side:
        assert side.responder._timeout_s(None) == 60.0
        side.client(USER)
        side.held(1)
        assert side.responder._timeout_s(None) == 30.0
        side.clock.now_s += 29.0
        assert side.responder._timeout_s(None) == 1.0
        assert side.responder._timeout_s(side.clock.now_s + 0.25) == 0.25
        assert side.responder._timeout_s(side.clock.now_s - 5.0) == 0.0


def test_what_a_refused_client_still_sends_is_swallowed_and_its_time_is_limited() -> None:
    with responding(hold_limit=0) as side:
        client = side.client(b"POST /user HTTP/1.1\r\nContent-Length: 100000\r\n\r\n")
        client.gets(503)
        for _ in range(10):
            client.send(b"a" * 10_000)
            side.turn()
        assert side.kinds == (0, 0, 1, 0)
        assert side.unread() == []
        side.clock.now_s += 1.9
        side.turn()
        assert side.kinds == (0, 0, 1, 0)
        side.clock.now_s += 0.2
        side.turn()
        assert side.kinds == (0, 0, 0, 0)


# Answers that are large, or that nobody reads.


def test_an_answer_larger_than_a_sockets_buffer_arrives_whole() -> None:
    with responding(title="x" * 150_000) as side:
        client = side.client(PAGE, receive_bytes=4096)
        side.until(lambda: len(client.look()) > 150_000 and client.is_ended)
        head, _, body = client.seen.partition(b"\r\n\r\n")
        assert b"content-length: %d\r\n" % len(body) in head
        assert head.endswith(b"connection: close")


def test_an_answer_that_fits_nowhere_ends_its_connection_and_no_other() -> None:
    with responding(title="x" * 20_000_000) as side:
        held = side.client(USER)
        side.held(1)
        side.client(PAGE, receive_bytes=4096).ends()
        side.client(PROBE).gets(200)
        held.gets_nothing()


def test_a_client_that_reads_no_answers_ends_before_it_fills_the_memory() -> None:
    with responding() as side:
        client = side.client(receive_bytes=4096)
        client.socket.settimeout(0.0)
        long = b"GET /livez?" + b"&exclude=a" * 60 + b" HTTP/1.1\r\n\r\n"
        assert len(side.client(long).gets(200)) > 1000
        end_s = time.monotonic() + LIMIT_S
        sent = 0
        while side.kinds == (2, 0, 0, 0) or not sent:
            assert time.monotonic() < end_s
            with contextlib.suppress(BlockingIOError, ConnectionError):
                sent += client.socket.send(long * 20)
            side.turn()
        assert side.kinds == (1, 0, 0, 0)
        side.client(PROBE).gets(200)


# Streams.


def test_a_stream_is_told_what_changes_twice_a_second_and_not_more_often() -> None:
    with responding() as side:
        client = side.client(EVENTS)
        first = client.gets(200)
        side.until(lambda: b"data: " in client.look())
        assert b"text/event-stream" in first
        assert side.kinds == (0, 0, 0, 1)
        before = len(client.look())
        side.desk.fail(FAILURE)
        side.clock.now_s += 0.4
        side.turn()
        assert len(client.look()) == before
        assert 0.0 < side.responder._timeout_s(None) <= 0.11
        side.clock.now_s += 0.2
        side.turn()
        assert b"boot.error" in client.look()[before:]
        assert side.responder._timeout_s(None) == 0.5


@pytest.mark.parametrize("how", ["leave", "reset"])
def test_a_listener_that_leaves_gives_its_place_back(how: str) -> None:
    with responding() as side:
        client = side.client(EVENTS)
        client.gets(200)
        client.send(PROBE)
        side.turn()
        assert client.statuses() == [200]
        getattr(client, how)()
        side.until(lambda: side.kinds == (0, 0, 0, 0))


def test_streams_are_limited_and_end_with_the_boot() -> None:
    with responding() as side:
        clients = [side.client(EVENTS) for _ in range(16)]
        for client in clients:
            client.gets(200)
        one_more = side.client(EVENTS)
        assert b"retry-after: 60" in one_more.gets(503)
        assert side.kinds[3] == 16
        side.desk.drain()
        side.responder.end_streams()
        for client in clients:
            client.ends()
            assert client.seen.endswith(b"event: end\ndata: draining\n\n")
        assert side.kinds[3] == 0


# No turn without a reason.


def crowd(side: Side) -> None:
    """Somebody in each state in which a connection may sit for long."""
    side.client(USER)
    side.client(USER + PROBE)
    side.client(b"POST /livez HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc")
    side.client(b"GET /livez HTTP/1.1\r\nA: b\r\n")
    side.client(PROBE + PROBE[:9]).gets(200)
    side.client()
    side.held(2)
    side.until(lambda: side.kinds == (4, 2, 0, 0))


def test_half_a_request_wakes_nobody_once_it_has_been_seen() -> None:
    with responding() as side:
        crowd(side)
        side.turn()
        assert side.responder._poll.poll(0.0) == []


def test_a_crowd_of_half_requests_costs_no_turn_of_the_loop() -> None:
    with responding() as side:
        crowd(side)
        clock, end_s = CountingClock(), time.monotonic() + 0.25

        def now_s() -> float:
            clock()
            return time.monotonic()

        side.responder._clock = now_s
        side.responder._is_done = False
        side.responder.run(until_s=lambda: end_s, on_time=side.responder.end)
        assert clock.asked < 20
        assert time.monotonic() >= end_s


def test_a_held_client_that_sends_on_costs_one_turn_each_time_and_no_look() -> None:
    with responding() as side:
        client = side.client(USER)
        side.held(1)
        client.send(READY)
        side.turn()
        assert side.responder._poll.poll(0.0) == []
        assert side.unread() == [USER + READY]


def test_what_is_due_is_done_once_its_time_has_come() -> None:
    with responding() as side:
        heard: list[float] = []

        def ring() -> None:
            heard.append(side.clock.now_s)
            side.responder.end()

        due_s = side.clock.now_s
        side.responder.run(until_s=lambda: due_s, on_time=ring)
        assert heard == [due_s]


def test_the_listeners_are_made_not_to_block() -> None:
    with responding() as side:
        assert side.listener.gettimeout() == 0.0
        again = Responder(
            [side.listener],
            desk=side.desk,
            hold=side.hold,
            limits=Limits(hold_s=1.0, hold_limit=1, open_max=2),
        )
        again._poll.close()
