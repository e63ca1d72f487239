"""However a load ends, whoever is held gets an answer, and no process is left."""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.fleet.booting import (
    HELLO,
    children,
    connections,
    hold_gil,
    responder_of,
    state_of,
)
from tests.fleet.conftest import ready_pids
from tests.fleet.traffic import HABITS, Traffic
from tests.servers.harness import Client, Load, Loads, Server, until

STOPS = pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT], ids=lambda number: number.name
)
BODY = b"x" * 300_000


@contextmanager
def _held(server: Server) -> Iterator[list[Client]]:
    """A GET, a large POST, a handshake, and half a request, which is held by nobody."""
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    with connections(server, 4) as clients:
        clients[0].request("/hello")
        clients[1].request("/echo", method="POST", body=BODY)
        clients[2].request("/live", headers=upgrade | {"Sec-WebSocket-Key": "x" * 22 + "=="})
        clients[3].send(HELLO[:20])
        server.wait_held(3)
        yield clients[:3]


def _codes(clients: list[Client]) -> set[str]:
    answers = [client.answer() for client in clients]
    assert {answer.status for answer in answers} == {503}
    assert {answer.headers["connection"] for answer in answers} == {"close"}
    return {answer.json["code"] for answer in answers}


def _assert_ended_well(server: Server, code: int = 0) -> None:
    assert server.wait_ended() == code, server.log
    assert "Traceback" not in server.log
    assert "takes its place" not in server.log


@STOPS
def test_a_stop_during_the_load_answers_what_is_held(
    number: signal.Signals, fleet, loads: Loads
) -> None:
    server = fleet()
    loads.next()
    with _held(server) as clients:
        server.tell(number)
        assert _codes(clients) == {"service.draining"}
    _assert_ended_well(server)


@STOPS
def test_a_stop_of_the_whole_group_answers_what_is_held(
    number: signal.Signals, fleet, loads: Loads
) -> None:
    server = fleet()
    loads.next()
    with _held(server) as clients:
        server.tell_group(number)
        assert _codes(clients) == {"service.draining"}
    _assert_ended_well(server)


def test_a_stop_removes_the_pid_file_and_the_socket(fleet, loads: Loads, tmp_path) -> None:
    pid, path = tmp_path / "pid", tmp_path / "socket"
    server = fleet("--pid", str(pid), "--bind", f"unix:{path}")
    loads.next()
    assert pid.exists()
    assert path.exists()
    server.tell(signal.SIGTERM)
    _assert_ended_well(server)
    assert not pid.exists()
    assert not path.exists()


@STOPS
def test_a_stop_while_a_c_call_holds_the_gil_is_told_at_once(
    number: signal.Signals, fleet, loads: Loads
) -> None:
    server = fleet()
    load = loads.next()
    with _held(server) as clients:
        hold_gil(load)
        server.tell(number)
        assert _codes(clients) == {"service.draining"}
        ready, live, new = (server.ask(path) for path in ("/readyz", "/livez", "/hello"))
        assert (ready.status, ready.text) == (503, "draining")
        assert ready.headers["connection"] == "close"
        assert live.status == 200
        assert (new.status, new.json["code"]) == (503, "service.draining")
    load.release_gil()
    _assert_ended_well(server)


@STOPS
def test_a_stop_that_interrupts_nothing_ends_the_load(
    number: signal.Signals, fleet, loads: Loads
) -> None:
    server = fleet()
    loads.next().deflect_stops()
    with _held(server) as clients:
        server.tell(number)
        assert _codes(clients) == {"service.draining"}
        _assert_ended_well(server)


def test_many_stops_are_one(fleet, loads: Loads) -> None:
    server = fleet()
    loads.next()
    with _held(server) as clients:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT) * 3:
            server.tell_group(number)
        assert _codes(clients) == {"service.draining"}
    _assert_ended_well(server)


def test_a_stop_right_after_the_load_cuts_nobody(fleet, loads: Loads) -> None:
    server = fleet()
    load = loads.next()
    with connections(server, 20) as clients:
        for client in clients:
            client.send(HELLO)
        server.wait_held(20)
        load.release()
        server.tell(signal.SIGTERM)
        assert {client.answer().status for client in clients} <= {200, 503}
    assert server.wait_ended() == 0
    assert "Traceback" not in server.log


def test_hang_up_during_the_load_loses_nothing(worker_class: str, fleet, loads: Loads) -> None:
    server = fleet(env={"WORKER_CLASS": worker_class})
    load = loads.next()
    with Traffic(server.port, count=14, habits=HABITS) as traffic:
        until(lambda: server.held() >= 8, "clients to be held")
        server.tell(signal.SIGHUP)
        load.release()
        server.wait_for_log(r"Hang up|[Hh]andling signal: hup")
        until(lambda: len(ready_pids(server)) == 2, "two workers")
        traffic.wait_served(100)
    assert traffic.losses == []


@pytest.mark.parametrize(
    ("order", "code"),
    [
        ("raise no such table", "boot.error"),
        ("raise " + "\N{SNOWMAN}" * 60_000, "boot.error"),
        ("raise " + "\x01" * 60_000, "boot.error"),
        ("exit too bad", "boot.error"),
        ("exit", "boot.error"),
        ("raise-KeyboardInterrupt", "boot.error"),
        ("raise-BaseException too bad", "boot.error"),
        ("raise-ImportError no such module", "boot.import_error"),
    ],
    ids=["raise", "long", "escaped", "exit", "exit-0", "interrupt", "base", "import"],
)
def test_a_failed_load_is_told_to_all_and_ends_with_3(
    order: str, code: str, fleet, loads: Loads
) -> None:
    server = fleet(env={"FAILED_LINGER_S": "1"})
    load = loads.next()
    with _held(server) as clients:
        load.order(order)
        assert _codes(clients) == {code}
        live, ready, new = (server.ask(path) for path in ("/livez", "/readyz", "/hello"))
        assert (live.status, live.text) == (503, code)
        assert (ready.status, ready.text) == (503, code)
        assert new.json["code"] == code
        failure = server.ask("/statusz?format=json").json["failure"]
        assert failure["code"] == code
        assert failure["traceback"].startswith("Traceback")
    assert server.wait_ended() == 3
    assert server.log.count("boot failed:") == 1
    assert server.log.count("Traceback (most recent call last)") == 1
    assert "takes its place" not in server.log


@STOPS
def test_a_stop_after_a_failure_ends_the_linger(
    number: signal.Signals, fleet, loads: Loads
) -> None:
    server = fleet(env={"FAILED_LINGER_S": "3600"})
    loads.next().order("raise no such table")
    server.wait_for_log("boot failed")
    server.tell(number)
    assert server.wait_ended() == 0
    assert "takes its place" not in server.log


def _assert_all_are_told_of_the_deadline(server: Server, clients: list[Client]) -> None:
    assert _codes(clients) == {"boot.deadline"}
    live, new = server.ask("/livez"), server.ask("/hello")
    assert (live.status, live.text) == (503, "boot.deadline")
    assert (new.status, new.json["code"]) == (503, "boot.deadline")
    server.wait_for_log(r'File ".*orders\.py", line \d+ in (obey|_line)')


def test_a_load_that_hangs_ends_at_the_deadline_with_its_stacks(fleet, loads: Loads) -> None:
    server = fleet(env={"BOOT_DEADLINE_S": "2", "FAILED_LINGER_S": "1"})
    loads.next()
    with _held(server) as clients:
        _assert_all_are_told_of_the_deadline(server, clients)
    assert server.wait_ended() == 3
    assert re.search(r"boot\.deadline: .*\bslow\b|boot\.deadline: .* 2 s", server.log)
    assert "takes its place" not in server.log


def test_a_load_that_hangs_in_c_ends_at_the_last_resort(fleet, loads: Loads) -> None:
    server = fleet(env={"BOOT_DEADLINE_S": "2", "FAILED_LINGER_S": "1"})
    load = loads.next()
    with _held(server) as clients:
        hold_gil(load)
        _assert_all_are_told_of_the_deadline(server, clients)
    assert server.wait_ended() == 1


@pytest.mark.parametrize("order", ["go", "raise too late"])
def test_a_load_that_ends_after_the_deadline_is_refused(order: str, fleet, loads: Loads) -> None:
    server = fleet(env={"BOOT_DEADLINE_S": "1", "FAILED_LINGER_S": "3"})
    load = loads.next()
    until(lambda: server.ask("/livez").text == "boot.deadline", "the deadline")
    load.order(order)
    server.wait_for_log("the load ended after the deadline|too late")
    assert server.ask("/livez").text == "boot.deadline"
    assert server.ask("/hello").json["code"] == "boot.deadline"
    assert server.wait_ended() == 3
    assert "Booting worker" not in server.log


def test_a_killed_responder_is_replaced(worker_class: str, fleet, loads: Loads) -> None:
    server = fleet(env={"WORKER_CLASS": worker_class})
    load = loads.next()
    for _ in range(3):
        killed = responder_of(server)
        os.kill(killed, signal.SIGKILL)
        responder_of(server, but=killed)
        assert server.ask("/livez").status == 200
    with connections(server, 5) as clients:
        for client in clients:
            client.send(HELLO)
        server.wait_held(5)
        load.release()
        assert [client.answer().status for client in clients] == [200] * 5
    assert server.log.count("takes its place") == 3


def test_a_responder_killed_after_a_failure_is_replaced_by_one_that_knows(
    fleet, loads: Loads
) -> None:
    server = fleet()
    loads.next().order("raise no such table")
    until(lambda: server.ask("/livez").status == 503, "the failure")
    killed = responder_of(server)
    os.kill(killed, signal.SIGKILL)
    responder_of(server, but=killed)
    assert server.ask("/livez").text == "boot.error"
    server.tell(signal.SIGTERM)
    assert server.wait_ended() == 0


def test_without_any_responder_the_boot_still_ends_well(fleet, loads: Loads) -> None:
    server = fleet()
    load = loads.next()
    killed = 0
    for _ in range(4):
        killed = responder_of(server, but=killed)
        os.kill(killed, signal.SIGKILL)
    server.wait_for_log("nobody answers until ready")
    until(lambda: not children(server.process.pid), "the last one to be buried")
    with connections(server, 5) as clients:
        for client in clients:
            client.send(HELLO)
        load.release()
        assert [client.answer().status for client in clients] == [200] * 5


def test_a_killed_master_leaves_answers_and_no_process(fleet, loads: Loads) -> None:
    server = fleet()
    loads.next()
    with _held(server) as clients:
        server.process.kill()
        assert _codes(clients) == {"service.draining"}
    assert server.wait_ended() == -signal.SIGKILL


def test_a_stopped_responder_goes_on_where_it_was(fleet, loads: Loads) -> None:
    server = fleet()
    load = loads.next()
    pid = responder_of(server)
    with connections(server, 10) as clients:
        for client in clients[:5]:
            client.send(HELLO)
        server.wait_held(5)
        os.kill(pid, signal.SIGSTOP)
        until(lambda: state_of(pid) == "T", "it to be stopped")
        for client in clients[5:]:
            client.send(HELLO)
        os.kill(pid, signal.SIGCONT)
        server.wait_held(10)
        load.release()
        assert [client.answer().status for client in clients] == [200] * 10
    assert "takes its place" not in server.log


def test_a_stopped_responder_keeps_no_stop_waiting(fleet, loads: Loads) -> None:
    server = fleet()
    load: Load = loads.next()
    pid = responder_of(server)
    os.kill(pid, signal.SIGSTOP)
    until(lambda: state_of(pid) == "T", "it to be stopped")
    os.kill(load.pid, signal.SIGTERM)
    assert server.wait_ended() == 0
