"""Signals that come to all processes at once, too early, to the wrong one, or not at all."""

import os
import signal
import subprocess
from contextlib import suppress

import pytest

from tests.fleet.conftest import ready_pids
from tests.fleet.stopping import LONG_S, assert_ended_well, begin_drain
from tests.fleet.traffic import Traffic
from tests.servers.harness import LIMIT_S, Client, Loads, Server, until

HELD = 6


def _hold(server: Server, count: int) -> list[Client]:
    """So many requests that wait for the application."""
    clients = []
    for _ in range(count):
        client = server.connect()
        client.request("/hello")
        clients.append(client)
    return clients


def _close(clients: list[Client]) -> None:
    for client in clients:
        client.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name)
def test_a_signal_to_every_process_drains_as_one_to_the_master(
    number: signal.Signals, worker_class: str, fleet, loads: Loads
) -> None:
    server = fleet(env={"WORKER_CLASS": worker_class, "DRAIN_S": LONG_S})
    loads.release()
    server.wait_ready()
    old = ready_pids(server)
    with Traffic(server.port, count=14) as traffic:
        traffic.wait_served(50)
        server.tell_group(number)
        until(lambda: server.ask("/readyz").text.strip() == "draining", "the drain")
        traffic.wait_served(500)  # for longer than a worker waits for its master's word
        assert {row["pid"] for row in server.ask("/statusz?format=json").json["workers"]} == old
    assert traffic.losses == []
    server.tell_group(number)
    assert_ended_well(server)
    assert server.log.count("the inner shutdown ran") == 2


@pytest.mark.parametrize("warm_boot", ["0", "1"], ids=["cold", "warm"])
def test_a_signal_to_every_process_while_loading_answers_what_is_held(
    warm_boot: str, worker_class: str, fleet, loads: Loads
) -> None:
    env = {"WORKER_CLASS": worker_class, "WARM_BOOT": warm_boot, "DRAIN_S": LONG_S}
    server = fleet(env=env)
    for _ in range(1 if warm_boot == "1" else 2):
        loads.next()
    clients = _hold(server, HELD)
    if warm_boot == "1":
        server.wait_held(HELD)
    else:
        until(lambda: server.held() > 0, "held requests")
    server.tell_group(signal.SIGTERM)
    for client in clients:
        answer = client.answer()
        assert (answer.status, answer.json["code"]) == (503, "service.draining")
    assert server.wait_ended() == 0, server.log
    _close(clients)


def test_a_worker_that_still_loads_when_the_drain_begins_serves_what_it_holds(
    worker_class: str, fleet, loads: Loads
) -> None:
    """Without a warm boot the first workers accept, and hold, before they have loaded."""
    env = {"WORKER_CLASS": worker_class, "WARM_BOOT": "0", "DRAIN_S": LONG_S}
    server = fleet(env=env)
    first, second = loads.next(), loads.next()
    clients = _hold(server, HELD)
    first.release()
    until(lambda: ready_pids(server) == {first.pid}, "the first worker")
    server.tell_group(signal.SIGTERM)
    until(lambda: server.ask("/readyz").text.strip() == "draining", "the drain")
    second.release()
    assert [client.answer().status for client in clients] == [200] * HELD
    _close(clients)
    server.tell(signal.SIGTERM)
    assert_ended_well(server)


def test_a_second_signal_to_every_process_ends_the_drain_with_a_request_in_flight(
    worker_class: str, fleet, loads: Loads
) -> None:
    env = {"WORKER_CLASS": worker_class, "DRAIN_S": LONG_S, "GRACEFUL_S": "60"}
    server = fleet(env=env)
    loads.release()
    server.wait_ready()
    with server.connect() as client:
        client.request("/wait")
        flight = loads.next("request")
        server.tell_group(signal.SIGTERM)
        until(lambda: server.ask("/readyz").text.strip() == "draining", "the drain")
        server.tell_group(signal.SIGTERM)
        server.wait_for_log(r"waiting for \d+ connections")
        flight.release()
        assert client.answer().text == "waited"
    assert_ended_well(server)


@pytest.mark.parametrize("is_group", [False, True], ids=["master told", "all told"])
@pytest.mark.parametrize(
    "moment", ["handed 6 connections over", "Booting worker", "Started server process"]
)
def test_a_stop_right_after_the_load_serves_what_was_held(
    *, moment: str, is_group: bool, worker_class: str, fleet, loads: Loads
) -> None:
    """At a moment that differs from run to run, between the fork of the workers and ready."""
    server = fleet(env={"WORKER_CLASS": worker_class, "DRAIN_S": LONG_S})
    load = loads.next()
    clients = _hold(server, HELD)
    server.wait_held(HELD)
    load.release()
    server.wait_for_log(moment)
    (server.tell_group if is_group else server.tell)(signal.SIGTERM)
    statuses = [client.answer().status for client in clients]
    _close(clients)
    server.tell(signal.SIGTERM)
    assert_ended_well(server)
    assert statuses == [200] * HELD, server.log


@pytest.mark.parametrize("warm_boot", ["0", "1"], ids=["cold", "warm"])
def test_workers_leave_when_their_master_was_killed(
    warm_boot: str, worker_class: str, fleet, loads: Loads
) -> None:
    env = {"WORKER_CLASS": worker_class, "WARM_BOOT": warm_boot, "GRACEFUL_S": "60"}
    server = fleet(env=env)
    loads.release(1 if warm_boot == "1" else 2)
    server.wait_ready()
    with server.connect() as client:
        client.request("/wait")
        flight = loads.next("request")
        server.tell(signal.SIGKILL)
        server.wait_for_log("the master has gone", count=2)
        flight.release()
        assert client.answer().text == "waited"
    assert server.wait_ended() == -signal.SIGKILL
    assert server.log.count("the inner shutdown ran") == 2


def test_workers_leave_when_their_master_is_killed_during_the_drain(fleet, loads: Loads) -> None:
    server = fleet(env={"DRAIN_S": LONG_S})
    loads.release()
    server.wait_ready()
    begin_drain(server)
    server.tell(signal.SIGKILL)
    assert server.wait_ended() == -signal.SIGKILL
    assert server.log.count("the inner shutdown ran") == 2


@pytest.mark.parametrize("linger_s", ["0", "1"])
def test_workers_that_fail_to_load_together_end_the_server_once(
    linger_s: str, worker_class: str, fleet, loads: Loads
) -> None:
    """Gunicorn stops at the first one's exit code; the others' must not break that stop."""
    env = {"WORKER_CLASS": worker_class, "WARM_BOOT": "0", "FAILED_LINGER_S": linger_s}
    server = fleet(env=env)
    for load in [loads.next() for _ in range(2)]:
        load.order("raise the code is broken")
    assert server.wait_ended() == 3, server.log
    assert "During handling of the above exception" not in server.log
    assert "HaltServer" not in server.log


def test_a_websocket_whose_client_does_not_read_does_not_stop_the_others(
    worker_class: str, fleet, loads: Loads
) -> None:
    env = {"WORKER_CLASS": worker_class, "DRAIN_S": "0", "GRACEFUL_S": "4"}
    server = fleet(env=env)
    loads.release()
    server.wait_ready()
    key = {"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Version": "13"}
    with server.connect() as deaf:
        deaf.request("/live", headers={"Upgrade": "websocket", "Connection": "Upgrade"} | key)
        assert deaf.answer(has_body=False).status == 101
        frame = b"\x82\xff" + (1 << 20).to_bytes(8, "big") + bytes(4) + bytes(1 << 20)
        deaf.socket.settimeout(0.5)
        with suppress(TimeoutError):  # the echo fills every buffer up to here
            while True:
                deaf.send(frame)
        server.tell(signal.SIGTERM)
        assert server.wait_ended() == 0, server.log
    assert "SIGKILL" not in server.log
    assert "InvalidState" not in server.log
    assert server.log.count("the inner shutdown ran") == 2


def test_a_worker_that_was_told_twice_leaves_once(worker_class: str, fleet, loads: Loads) -> None:
    server = fleet(env={"WORKER_CLASS": worker_class, "READY_WORKERS_MIN": "1"})
    loads.release()
    server.wait_ready()
    old = ready_pids(server)
    for pid in old:
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
    until(lambda: len(ready_pids(server) - old) == 2, "two new workers")
    server.tell(signal.SIGTERM)
    assert_ended_well(server)


def test_requests_that_were_served_end_a_worker_without_a_loss(
    worker_class: str, fleet, loads: Loads
) -> None:
    server = fleet(env={"WORKER_CLASS": worker_class, "MAX_REQUESTS": "150"})
    loads.release()
    server.wait_ready()
    old = ready_pids(server)
    with Traffic(server.port, count=14) as traffic:
        until(lambda: len(ready_pids(server) - old) == 2, "two new workers", pause_s=0.1)
        server.tell(signal.SIGHUP)  # on top
        traffic.wait_served(200)
    assert traffic.losses == []
    server.tell(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        server.process.wait(LIMIT_S)
    assert_ended_well(server)
