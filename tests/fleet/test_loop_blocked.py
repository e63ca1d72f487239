"""A request that blocks the event loop is named in the log, with the function that blocks."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.fleet.conftest import ready_pids, rows
from tests.servers.harness import LIMIT_S, Answer, Client, Loads, Server, until

LAG = {"LOOP_LAG_WARN_S": "0.3"}


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as threads:
        yield threads


@pytest.fixture
def server(fleet, loads: Loads, worker_class: str) -> Server:
    server = fleet(env=LAG | {"WORKER_CLASS": worker_class})
    loads.release()
    server.wait_ready()
    return server


def block(server: Server) -> Answer:
    with Client(server.port) as client:
        client.request("/block")
        return client.answer()


def lag_of(server: Server, pid: int) -> float:
    (lag_s,) = [row["loop_lag_s"] for row in rows(server) if row["pid"] == pid]
    return lag_s


def test_a_blocked_loop_is_logged_once_with_the_function_and_shown_by_the_others(
    server: Server, loads: Loads, pool: ThreadPoolExecutor
) -> None:
    blocked = pool.submit(block, server)
    load = loads.next("block")
    server.wait_for_log(r"the event loop has been blocked for 0\.\d\d s; its thread stands here:")
    server.wait_for_log(r"in obey$")
    until(lambda: lag_of(server, load.pid) > 0.5, "another worker to show the block as it lasts")
    load.release()
    assert blocked.result(LIMIT_S).status == 200
    until(lambda: lag_of(server, load.pid) > 0.5, "the worker itself to show how late it was")
    until(lambda: lag_of(server, load.pid) < 0.3, "the block to be over")

    again = pool.submit(block, server)
    load = loads.next("block")
    until(lambda: lag_of(server, load.pid) > 0.5, "a second block")
    load.release()
    assert again.result(LIMIT_S).status == 200
    assert server.log.count("the event loop has been blocked") <= 2  # one a minute and worker


def test_a_call_that_keeps_the_gil_is_told_apart(
    server: Server, loads: Loads, pool: ThreadPoolExecutor
) -> None:
    blocked = pool.submit(block, server)
    loads.next("block").order("hold-gil-for 1")
    assert blocked.result(LIMIT_S).status == 200
    server.wait_for_log(r"something held the GIL \(a C call\)")
    assert "has been blocked for" not in server.log


def test_a_loop_that_stays_blocked_is_ended_and_the_log_has_named_the_function(
    worker_class: str, fleet, loads: Loads, pool: ThreadPoolExecutor
) -> None:
    server = fleet(env=LAG | {"WORKER_CLASS": worker_class, "TIMEOUT_S": "2"})
    loads.release()
    server.wait_ready()
    until(lambda: all(row["age_s"] > 2.5 for row in rows(server)), "heartbeats")
    blocked = pool.submit(block, server)
    load = loads.next("block")
    server.wait_for_log(rf"worker {load.pid} ended: blocked for too long; killed by SIGABRT")
    assert isinstance(blocked.exception(LIMIT_S), ConnectionError)
    assert "in obey\n" in server.log
    until(lambda: len(ready_pids(server) - {load.pid}) == 2, "its replacement")
    server.wait_ready()
    assert loads.none_asked
