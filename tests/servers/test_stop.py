"""Told to stop: what is held is answered, what is in flight ends, nothing stays behind."""

import re
import signal
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.servers.conftest import Start
from tests.servers.harness import (
    GUNICORN,
    LIMIT_S,
    UVICORN,
    UVICORN_WORKERS,
    Kind,
    Loads,
    Server,
    until,
)

STOPS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name)

KILLED = re.compile(r"(?i)timeout graceful|SIGKILL|cancel \d+ running")
"""What a log says when a stop was not quick but forced."""


def _stop(server: Server, kind: Kind, number: signal.Signals) -> None:
    """Tell the first process, as a platform does.

    Gunicorn turns SIGINT into SIGQUIT, on which a stock Uvicorn worker serves on until it is
    killed; a terminal's ^C reaches every process.
    """
    if number is signal.SIGINT and kind.is_gunicorn and kind is not GUNICORN:
        server.tell_group(number)
    else:
        server.tell(number)


def _assert_ended_well(server: Server, kind: Kind, number: signal.Signals) -> None:
    """No process is left, and the exit code is that of a server that was told to stop."""
    code = server.wait_ended()
    by_signal = -number if number is signal.SIGTERM else 0  # Uvicorn raises SIGTERM again
    assert code == (by_signal if kind is UVICORN else 0), server.log
    assert not KILLED.search(server.log), server.log
    assert "Traceback" not in server.log, server.log


@STOPS
def test_a_stop_during_the_load_answers_what_is_held_and_ends(
    number: signal.Signals, kind: Kind, start: Start, loads: Loads
) -> None:
    server = start(kind)
    for _ in range(server.workers):
        loads.next()
    with server.connect() as get, server.connect() as post:
        get.request("/hello")
        post.request("/echo", method="POST", body=b"x" * 300_000)
        if server.workers == 1:
            server.wait_held(2)
        _stop(server, kind, number)
        answers = [get.answer(), post.answer()]

    for answer in answers:
        assert (answer.status, answer.json["code"]) == (503, "service.draining")
        assert answer.headers["retry-after"] == "1"
        assert answer.headers["connection"] == "close"
    _assert_ended_well(server, kind, number)


def test_a_stop_during_the_load_denies_the_held_handshake(start: Start, loads: Loads) -> None:
    server = start(GUNICORN)
    loads.next()
    with ThreadPoolExecutor() as pool:
        address = f"ws://127.0.0.1:{server.port}/live"
        handshake = pool.submit(connect, address, open_timeout=LIMIT_S)
        server.wait_held(1)
        server.tell(signal.SIGTERM)
        with pytest.raises(InvalidStatus) as denied:
            handshake.result(LIMIT_S)
    assert denied.value.response.status_code == 503
    _assert_ended_well(server, GUNICORN, signal.SIGTERM)


@STOPS
def test_a_stop_after_a_failed_boot_ends_without_waiting_for_the_linger(
    number: signal.Signals, kind: Kind, start: Start, loads: Loads
) -> None:
    server = start(kind, env={"FAILED_LINGER_S": "600"})
    for load in [loads.next() for _ in range(server.workers)]:
        load.order("raise anything")
    server.wait_for_log("boot failed", count=server.workers)
    _stop(server, kind, number)
    code = server.wait_ended()
    assert code == (-number if kind is UVICORN and number is signal.SIGTERM else 0)


def test_a_stop_while_the_import_holds_the_gil_is_obeyed_when_it_gives_it_back(
    start: Start, loads: Loads
) -> None:
    server = start(GUNICORN)
    load = loads.next()
    with server.connect() as client:
        client.request("/hello")
        server.wait_held(1)
        load.order("hold-gil")
        server.tell(signal.SIGTERM)
        server.wait_for_log("Handling signal: term")
        load.release_gil()
        answer = client.answer()
    assert answer.status in {200, 503}  # the import has ended in the same moment
    _assert_ended_well(server, GUNICORN, signal.SIGTERM)


def test_a_request_in_flight_is_finished_and_closes_its_connection(
    kind: Kind, start: Start, loads: Loads
) -> None:
    server = start(kind)
    loads.release(server.workers)
    server.wait_ready()
    with server.connect() as client:
        client.request("/wait")
        flight = loads.next("request")
        server.tell(signal.SIGTERM)
        server.wait_for_log(r"Shutting down|Handling signal: term|Received SIGTERM")
        flight.release()
        answer = client.answer()
        assert (answer.status, answer.text) == (200, "waited")
        assert client.is_closed_by_server()
    _assert_ended_well(server, kind, signal.SIGTERM)
    assert server.log.count("the inner shutdown ran") == server.workers


def test_the_answer_that_begins_after_the_stop_says_connection_close(
    start: Start, loads: Loads
) -> None:
    server = start(UVICORN)
    loads.release()
    server.wait_ready()
    with server.connect() as client:
        client.request("/wait")
        flight = loads.next("request")
        server.tell(signal.SIGTERM)
        server.wait_for_log("Waiting for connections to close")
        flight.release()
        assert client.answer().headers["connection"] == "close"
    _assert_ended_well(server, UVICORN, signal.SIGTERM)


@STOPS
@pytest.mark.parametrize("is_loaded", [False, True], ids=["loading", "ready"])
def test_an_open_event_stream_ends_with_the_process(
    *, is_loaded: bool, number: signal.Signals, kind: Kind, start: Start, loads: Loads
) -> None:
    server = start(kind)
    imports = [loads.next() for _ in range(server.workers)]
    if is_loaded:
        for load in imports:
            load.release()
        server.wait_ready()
    with server.connect() as client:
        client.request("/statusz/events")
        while not client.line().startswith(b"data: {"):
            pass
        _stop(server, kind, number)
        _assert_ended_well(server, kind, number)
        assert b"event: end\n" in client.lines()


def test_an_idle_connection_does_not_keep_the_process(
    kind: Kind, start: Start, loads: Loads
) -> None:
    server = start(kind)
    loads.release(server.workers)
    server.wait_ready()
    with server.connect() as silent, server.connect() as kept:
        silent.send(b"GET /hel")
        kept.request("/hello")
        assert kept.answer().status == 200
        server.tell(signal.SIGTERM)
        _assert_ended_well(server, kind, signal.SIGTERM)


def test_an_open_websocket_is_closed_by_the_stop(kind: Kind, start: Start, loads: Loads) -> None:
    server = start(kind)
    loads.release(server.workers)
    server.wait_ready()
    with connect(f"ws://127.0.0.1:{server.port}/live") as live:
        live.send("hello")
        assert live.recv(LIMIT_S) == "hello"
        server.tell(signal.SIGTERM)
        with pytest.raises(ConnectionClosed) as closed:
            live.recv(LIMIT_S)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012
    _assert_ended_well(server, kind, signal.SIGTERM)


def test_a_stop_before_anything_was_asked_ends(kind: Kind, start: Start, loads: Loads) -> None:
    server = start(kind)
    for _ in range(server.workers):
        loads.next()
    server.ask("/livez")
    server.tell(signal.SIGTERM)
    _assert_ended_well(server, kind, signal.SIGTERM)


def test_a_stop_of_a_server_without_lifespan_answers_what_is_held_and_ends(
    start: Start, loads: Loads
) -> None:
    server = start(UVICORN, "gated:app", "--lifespan", "off")
    with server.connect() as client:
        client.request("/hello")
        loads.next()
        server.wait_held(1)
        server.tell(signal.SIGTERM)
        assert client.answer().json["code"] == "service.draining"
    _assert_ended_well(server, UVICORN, signal.SIGTERM)


def test_a_second_signal_ends_a_server_that_still_waits_for_a_request(
    start: Start, loads: Loads
) -> None:
    server = start(UVICORN)
    loads.release()
    server.wait_ready()
    with server.connect() as client:
        client.request("/wait")
        loads.next("request")
        server.tell(signal.SIGINT)
        server.wait_for_log("Waiting for connections to close")
        server.tell(signal.SIGINT)
        server.wait_ended()


def test_workers_that_are_told_to_stop_all_at_once_end(start: Start, loads: Loads) -> None:
    server = start(UVICORN_WORKERS)
    loads.release(2)
    server.wait_ready()
    server.tell_group(signal.SIGINT)  # what a terminal does at ^C
    assert server.wait_ended() == 0
    assert "Traceback" not in server.log


@STOPS
def test_a_draining_server_accepts_and_serves_until_a_second_signal(
    number: signal.Signals, start: Start, loads: Loads
) -> None:
    server = start(UVICORN, env={"DRAIN_S": "3600"})
    loads.release()
    server.wait_ready()
    with server.connect() as kept:
        kept.request("/hello")
        assert "connection" not in kept.answer().headers
        server.tell(number)
        until(lambda: server.ask("/readyz").status == 503, "the drain")
        assert server.ask("/readyz").text.strip() == "draining"
        kept.request("/hello")
        for answer in (kept.answer(), server.ask("/hello"), server.ask("/livez")):
            assert answer.status == 200
            assert answer.headers["connection"] == "close"
        assert kept.is_closed_by_server()
    assert "Shutting down" not in server.log
    server.tell(number)
    _assert_ended_well(server, UVICORN, number)
    assert server.log.count("the inner shutdown ran") == 1


@pytest.mark.parametrize("kind", [UVICORN, UVICORN_WORKERS], ids=lambda kind: kind.name)
def test_a_drain_ends_by_itself_and_then_the_server_stops(
    kind: Kind, start: Start, loads: Loads
) -> None:
    server = start(kind, env={"DRAIN_S": "0.5"})
    loads.release(server.workers)
    server.wait_ready()
    server.tell(signal.SIGTERM)
    _assert_ended_well(server, kind, signal.SIGTERM)
    assert server.log.count("the inner shutdown ran") == server.workers


def test_a_request_in_flight_outlives_the_drain(start: Start, loads: Loads) -> None:
    server = start(UVICORN, env={"DRAIN_S": "0.1"})
    loads.release()
    server.wait_ready()
    with server.connect() as client:
        client.request("/wait")
        flight = loads.next("request")
        server.tell(signal.SIGTERM)
        server.wait_for_log("Waiting for connections to close")
        flight.release()
        assert client.answer().text == "waited"
    _assert_ended_well(server, UVICORN, signal.SIGTERM)


@pytest.mark.parametrize("is_group", [False, True], ids=["parent told", "all told"])
def test_every_worker_drains_also_when_its_parent_repeats_the_order(
    *, is_group: bool, start: Start, loads: Loads
) -> None:
    server = start(UVICORN_WORKERS, env={"DRAIN_S": "3600"})
    loads.release(2)
    server.wait_ready()
    (server.tell_group if is_group else server.tell)(signal.SIGTERM)
    server.wait_for_log("Terminated child process", count=2)
    dates: defaultdict[int, set[str]] = defaultdict(set)

    def all_drain() -> bool:
        answer = server.ask("/hello")
        assert answer.status == 200
        if answer.headers.get("connection") == "close":
            dates[answer.json["pid"]].add(answer.headers["date"])
        # a server that had heard would tick no more: it sets its Date once a second
        return [len(seen) >= 3 for seen in dates.values()] == [True, True]

    until(all_drain, "both workers draining")
    answer = server.ask("/readyz")
    assert (answer.status, answer.text.strip()) == (503, "draining")
    assert "Shutting down" not in server.log


def test_a_server_that_still_loads_does_not_drain(start: Start, loads: Loads) -> None:
    server = start(UVICORN, env={"DRAIN_S": "3600"})
    loads.next()
    with server.connect() as client:
        client.request("/hello")
        server.wait_held(1)
        server.tell(signal.SIGTERM)
        assert client.answer().json["code"] == "service.draining"
    _assert_ended_well(server, UVICORN, signal.SIGTERM)
