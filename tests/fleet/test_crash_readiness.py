"""How many workers make an instance ready, with one load for all and with one each."""

import os
import signal
from collections.abc import Iterator

import pytest

from tests.fleet.conftest import page, ready_pids, rows
from tests.fleet.test_crash_recovery import GETS, ROUGH
from tests.fleet.traffic import Traffic
from tests.servers.harness import Client, Loads, Server, until

ASKING = ROUGH | {"STARTUP_ASKS": "1"}


def connections(server: Server, count: int = 20) -> Iterator[Client]:
    """A connection after the other: whichever worker is awake accepts."""
    for _ in range(count):
        with server.connect() as client:
            yield client


def probe(client: Client) -> tuple[int, str]:
    client.request("/readyz")
    answer = client.answer()
    return answer.status, answer.text


def test_two_wanted_workers_are_missing_one_until_both_are_ready(
    worker_class: str, fleet, loads: Loads
) -> None:
    server = fleet(env=ASKING | {"WORKER_CLASS": worker_class, "READY_WORKERS_MIN": "2"})
    first, second = loads.next("startup"), loads.next("startup")
    first.release()
    until(lambda: ready_pids(server) == {first.pid}, "the first worker")
    for client in connections(server):  # whichever worker answers
        status, code = probe(client)
        assert status == 503
        assert code in {"loading", "fleet.starting"}
    second.release()
    # A worker reads the others' words ten times a second.
    until(
        lambda: all(probe(client)[0] == 200 for client in connections(server)),
        "both workers to say so",
    )


def test_one_wanted_worker_is_enough_whichever_answers(
    worker_class: str, fleet, loads: Loads
) -> None:
    server = fleet(env=ASKING | {"WORKER_CLASS": worker_class, "READY_WORKERS_MIN": "1"})
    first, second = loads.next("startup"), loads.next("startup")
    first.release()
    until(lambda: ready_pids(server) == {first.pid}, "the first worker")
    os.kill(first.pid, signal.SIGSTOP)  # so that the other one must answer
    until(lambda: server.ask("/readyz").status == 200, "its word, which it keeps for 0.1 s")
    for client in connections(server, 5):
        assert probe(client)[0] == 200
    assert page(server)["pid"] == second.pid
    os.kill(first.pid, signal.SIGCONT)
    second.release()
    until(lambda: len(ready_pids(server)) == 2, "the second worker")


def test_more_wanted_workers_than_there_are_do_not_keep_the_instance_back(fleet) -> None:
    server = fleet(env=ROUGH | {"READY_WORKERS_MIN": "5"})
    server.wait_ready()
    assert len(ready_pids(server)) == 2


def test_a_worker_that_leaves_speaks_for_the_instance(
    worker_class: str, fleet, loads: Loads
) -> None:
    server = fleet(env={"WORKER_CLASS": worker_class, "READY_WORKERS_MIN": "1"})
    loads.release()
    server.wait_ready()
    until(lambda: len(ready_pids(server)) == 2, "two workers")
    clients = [server.connect() for _ in range(20)]
    by_pid: dict[int, Client] = {}
    for client in clients:
        client.request("/hello")
        by_pid[client.answer().json["pid"]] = client
    leaving = min(by_pid)
    by_pid[leaving].request("/wait")
    request = loads.next("request")  # keeps the worker until it is answered
    os.kill(leaving, signal.SIGTERM)
    until(
        lambda: all(row["leaving"] for row in rows(server) if row["pid"] == leaving),
        "the worker to leave",
    )
    for client in connections(server):
        assert probe(client)[0] == 200
    request.release()
    assert by_pid[leaving].answer().status == 200
    for client in clients:
        client.close()


@pytest.fixture
def cold(fleet, loads: Loads):
    def start(**env: str) -> Server:
        return fleet(env={"WARM_BOOT": "0", "READY_WORKERS_MIN": "1"} | env)

    return start


def test_without_a_warm_boot_the_instance_is_ready_when_all_its_first_workers_are(
    worker_class: str, cold, loads: Loads
) -> None:
    server = cold(WORKER_CLASS=worker_class)
    first, second = loads.next(), loads.next()
    first.release()
    until(lambda: ready_pids(server) == {first.pid}, "the first worker")
    for client in connections(server):
        status, code = probe(client)
        assert status == 503
        assert code in {"loading", "fleet.starting"}
    second.release()
    server.wait_ready()
    assert "each worker loads for itself: WARM_BOOT is off" in server.log


def test_without_a_warm_boot_no_request_waits_for_the_import_of_a_replacement(
    worker_class: str, cold, loads: Loads
) -> None:
    server = cold(WORKER_CLASS=worker_class)
    imports = [loads.next(), loads.next()]
    for load in imports:
        load.release()
    server.wait_ready()
    killed, kept = imports
    os.kill(killed.pid, signal.SIGKILL)
    joining = loads.next()
    with Traffic(server.port, habits=GETS) as traffic:
        traffic.wait_served(100)
        assert {row["pid"]: row["accepting"] for row in rows(server)} == {
            kept.pid: True,
            joining.pid: False,
        }
        assert server.ask("/readyz").status == 200
        joining.release()
        until(lambda: ready_pids(server) == {kept.pid, joining.pid}, "the replacement")
        traffic.wait_served(100)
    assert traffic.losses == []


def test_without_a_warm_boot_a_stop_does_not_wait_for_an_import(cold, loads: Loads) -> None:
    server = cold()
    imports = [loads.next(), loads.next()]
    for load in imports:
        load.release()
    server.wait_ready()
    os.kill(imports[0].pid, signal.SIGKILL)
    loads.next()
    server.tell(signal.SIGTERM)
    assert server.wait_ended() == 0
    assert "SIGKILL" not in server.log.split("Handling signal: term")[1]


def test_without_a_warm_boot_a_replacement_that_cannot_load_is_braked(cold, loads: Loads) -> None:
    server = cold(FAILED_LINGER_S="0.1", CRASH_LIMIT="2")
    imports = [loads.next(), loads.next()]
    for load in imports:
        load.release()
    server.wait_ready()
    os.kill(imports[0].pid, signal.SIGKILL)
    for _ in range(2):
        loads.next().order("raise anything")
    server.wait_for_log("the next worker waits", count=2)
    until(lambda: server.ask("/readyz").text == "fleet.crash_loop", "the crash loop")
    assert imports[1].pid in ready_pids(server)
    assert {ending["reason"] for ending in page(server)["endings"][1:]} == {"exit code 1"}
