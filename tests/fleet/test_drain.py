"""A draining instance: what it says, what it still does, and what ends."""

import signal
from contextlib import ExitStack

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.fleet.conftest import ready_pids
from tests.fleet.stopping import LONG_S, assert_ended_well, begin_drain, connections_to_all
from tests.servers.harness import LIMIT_S, Loads, until

STOPS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name)


@STOPS
def test_every_worker_says_draining_and_closes_what_it_has_answered(
    number: signal.Signals, worker_class: str, fleet, loads: Loads
) -> None:
    server = fleet(env={"WORKER_CLASS": worker_class, "DRAIN_S": LONG_S})
    loads.release()
    server.wait_ready()
    with connections_to_all(server) as clients:
        begin_drain(server, number)
        for client in clients.values():
            client.request("/readyz")
            answer = client.answer()
            assert (answer.status, answer.text.strip()) == (503, "draining")
    assert len(clients) == 2
    server.tell(number)
    assert_ended_well(server)


@pytest.mark.parametrize("path", ["/hello", "/livez", "/readyz", "/statusz", "/readyz?verbose"])
def test_every_answer_of_every_draining_worker_ends_its_connection(
    path: str, fleet, loads: Loads
) -> None:
    server = fleet(env={"DRAIN_S": LONG_S})
    loads.release()
    server.wait_ready()
    with connections_to_all(server) as clients:
        begin_drain(server)
        for _ in clients:  # each worker looks for itself
            until(lambda: server.ask("/hello").headers.get("connection") == "close", "a close")
        until(lambda: not ready_pids(server), "all workers draining")
        for client in clients.values():
            client.request(path)
            answer = client.answer()
            assert answer.status == (503 if path.startswith("/readyz") else 200)
            assert answer.headers["connection"] == "close"
            assert client.is_closed_by_server()
    server.tell(signal.SIGTERM)
    assert_ended_well(server)


def test_a_draining_instance_serves_new_connections_of_all_kinds(
    worker_class: str, fleet, loads: Loads
) -> None:
    server = fleet(env={"WORKER_CLASS": worker_class, "DRAIN_S": LONG_S})
    loads.release()
    server.wait_ready()
    begin_drain(server)
    until(lambda: not ready_pids(server), "all workers draining")
    body = b"x" * 300_000
    assert server.ask("/echo", method="POST", body=body).body == body
    assert server.ask("/livez").status == 200
    with connect(f"ws://127.0.0.1:{server.port}/live") as live:
        live.send("hello")
        assert live.recv(LIMIT_S) == "hello"
        server.tell(signal.SIGTERM)
        with pytest.raises(ConnectionClosed) as closed:
            live.recv(LIMIT_S)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012
    assert_ended_well(server)


def test_open_websockets_and_event_streams_end_during_the_drain(
    worker_class: str, fleet, loads: Loads
) -> None:
    server = fleet(env={"WORKER_CLASS": worker_class, "DRAIN_S": "4"})
    loads.release()
    server.wait_ready()
    address = f"ws://127.0.0.1:{server.port}/live"
    with ExitStack() as stack, server.connect() as stream:
        sockets = [stack.enter_context(connect(address)) for _ in range(6)]
        stream.request("/statusz/events")
        while not stream.line().startswith(b"data: {"):
            pass
        server.tell(signal.SIGTERM)
        codes = []
        for live in sockets:
            with pytest.raises(ConnectionClosed) as closed:
                live.recv(LIMIT_S)
            codes.append(closed.value.rcvd and closed.value.rcvd.code)
        assert b"event: end\n" in stream.lines()
    assert codes == [1012] * 6
    assert_ended_well(server)


def test_a_handshake_that_the_application_is_still_answering_survives_the_drain(
    fleet, loads: Loads
) -> None:
    server = fleet(env={"DRAIN_S": "0.5", "GRACEFUL_S": "60"})
    loads.release()
    server.wait_ready()
    key = {"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Version": "13"}
    with server.connect() as live:
        live.request("/slow-live", headers={"Upgrade": "websocket", "Connection": "Upgrade"} | key)
        handshake = loads.next("handshake")
        server.tell(signal.SIGTERM)
        server.wait_for_log("Handling signal: term")  # the drain is over
        handshake.release()
        assert live.answer(has_body=False).status == 101
    assert_ended_well(server)


def test_a_request_that_outlives_the_drain_is_finished(
    worker_class: str, fleet, loads: Loads
) -> None:
    env = {"WORKER_CLASS": worker_class, "DRAIN_S": "0.3", "GRACEFUL_S": "60"}
    server = fleet(env=env)
    loads.release()
    server.wait_ready()
    with server.connect() as client:
        client.request("/wait")
        flight = loads.next("request")
        server.tell(signal.SIGTERM)
        server.wait_for_log(r"waiting for \d+ connections")
        flight.release()
        answer = client.answer()
        assert (answer.status, answer.text) == (200, "waited")
        assert answer.headers["connection"] == "close"
        assert client.is_closed_by_server()
    assert_ended_well(server)
    assert server.log.count("the inner shutdown ran") == 2


@pytest.mark.parametrize("graceful_s", ["2", "6"])
def test_a_request_that_outlives_the_graceful_time_is_canceled_and_cleans_up(
    graceful_s: str, worker_class: str, fleet, loads: Loads
) -> None:
    env = {"WORKER_CLASS": worker_class, "DRAIN_S": "0.1", "GRACEFUL_S": graceful_s}
    server = fleet(env=env)
    loads.release()
    server.wait_ready()
    with server.connect() as client:
        client.request("/transaction")
        loads.next("transaction")
        server.tell(signal.SIGTERM)
        rollback = loads.next("rollback")
        shutdowns = server.log.count("the inner shutdown ran")
        assert shutdowns <= 1, "the application was shut down under its transaction"
        rollback.release()
        assert server.wait_ended() == 0, server.log
    assert "the transaction was rolled back" in server.log
    assert "SIGKILL" not in server.log
    rolled_back = server.log.index("the transaction was rolled back")
    assert server.log.rindex("the inner shutdown ran") > rolled_back
    assert server.log.count("the inner shutdown ran") == 2


@STOPS
def test_without_a_drain_the_workers_leave_at_once(
    number: signal.Signals, worker_class: str, fleet, loads: Loads
) -> None:
    server = fleet(env={"WORKER_CLASS": worker_class, "DRAIN_S": "0"})
    loads.release()
    server.wait_ready()
    with server.connect() as silent:
        silent.send(b"GET /hel")
        server.tell(number)
        assert_ended_well(server)
    assert server.log.count("the inner shutdown ran") == 2


@pytest.mark.parametrize(
    ("first", "second"),
    [("TERM", "TERM"), ("TERM", "INT"), ("INT", "TERM"), ("INT", "INT"), ("TERM", "QUIT")],
)
def test_a_second_signal_ends_the_drain(
    first: str, second: str, worker_class: str, fleet, loads: Loads
) -> None:
    server = fleet(env={"WORKER_CLASS": worker_class, "DRAIN_S": LONG_S})
    loads.release()
    server.wait_ready()
    begin_drain(server, signal.Signals[f"SIG{first}"])
    server.tell(signal.Signals[f"SIG{second}"])
    assert_ended_well(server)
    assert server.log.count("the inner shutdown ran") == 2


@pytest.mark.parametrize("is_draining", [False, True], ids=["serving", "draining"])
def test_a_quit_cancels_what_is_in_flight_and_still_cleans_up(
    *, is_draining: bool, worker_class: str, fleet, loads: Loads
) -> None:
    env = {"WORKER_CLASS": worker_class, "DRAIN_S": LONG_S, "GRACEFUL_S": LONG_S, "TIMEOUT_S": "0"}
    server = fleet(env=env)
    loads.release()
    server.wait_ready()
    with server.connect() as client:
        client.request("/transaction")
        loads.next("transaction")
        if is_draining:
            begin_drain(server)
        server.tell(signal.SIGQUIT)
        loads.next("rollback").release()
        assert server.wait_ended() == 0, server.log
    assert "the transaction was rolled back" in server.log
    assert server.log.count("the inner shutdown ran") == 2


def test_an_interrupt_after_the_drain_cancels_what_is_in_flight(fleet, loads: Loads) -> None:
    server = fleet(env={"DRAIN_S": "0", "GRACEFUL_S": LONG_S, "TIMEOUT_S": "0"})
    loads.release()
    server.wait_ready()
    with server.connect() as client:
        client.request("/transaction")
        loads.next("transaction")
        server.tell(signal.SIGINT)
        server.wait_for_log(r"waiting for \d+ connections")
        server.tell(signal.SIGINT)  # as a person does who has lost patience
        loads.next("rollback").release()
        assert server.wait_ended() == 0, server.log
    assert "the transaction was rolled back" in server.log


@STOPS
def test_gunicorns_own_asgi_worker_drains_as_far_as_it_can(
    number: signal.Signals, fleet, loads: Loads
) -> None:
    """It says so and serves on; its answers do not close, as its workers know no drain."""
    server = fleet(env={"WORKER_CLASS": "asgi", "DRAIN_S": LONG_S, "GRACEFUL_S": "5"})
    loads.release(2)
    server.wait_ready()
    begin_drain(server, number)
    assert server.ask("/hello", headers={"Connection": "close"}).status == 200
    assert server.ask("/livez", headers={"Connection": "close"}).status == 200
    server.tell(number)
    assert server.wait_ended() == 0, server.log


def test_a_reload_of_gunicorns_own_asgi_worker_replaces_the_workers(fleet, loads: Loads) -> None:
    server = fleet(env={"WORKER_CLASS": "asgi", "GRACEFUL_S": "5"})
    loads.release(2)
    server.wait_ready()
    old = ready_pids(server)
    server.tell(signal.SIGHUP)
    loads.release(2)
    until(lambda: ready_pids(server) and not old & ready_pids(server), "new workers", pause_s=0.1)
    server.tell(signal.SIGTERM)
    assert server.wait_ended() == 0, server.log
