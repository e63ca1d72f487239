"""Workers that have served enough or have grown too large are replaced; nobody notices."""

import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.fleet.conftest import page, ready_pids, rows
from tests.fleet.test_crash_recovery import ROUGH, wait_replaced
from tests.fleet.traffic import Traffic
from tests.servers.harness import Loads, Server, until

GROWTH_MIB = 150


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as threads:
        yield threads


def limit_mib(server: Server) -> int:
    """Between what a worker occupies now and what it will."""
    return max(row["rss_bytes"] for row in rows(server)) // 2**20 + GROWTH_MIB // 2


def test_two_workers_that_have_served_enough_are_replaced_in_turns_and_lose_nothing(
    worker_class: str, fleet, loads: Loads
) -> None:
    server = fleet(
        env={"WORKER_CLASS": worker_class, "MAX_REQUESTS": "40", "READY_WORKERS_MIN": "1"}
    )
    loads.release()
    server.wait_ready()
    until(lambda: len(ready_pids(server)) == 2, "two workers")
    seen: list[list[dict]] = []

    def is_eighth_there() -> bool:
        seen.append(rows(server))
        return any(row["generation"] >= 8 for row in seen[-1])

    with Traffic(server.port) as traffic:
        until(is_eighth_there, "eight generations")
        traffic.wait_served(100)
    assert traffic.losses == []
    assert loads.none_asked
    leaving = [sum(row["leaving"] for row in moment) for moment in seen]
    assert max(leaving) == 1
    served_by = [
        sum(row["phase"] == "ready" and not row["leaving"] for row in moment) for moment in seen
    ]
    assert min(served_by) >= 1
    ended = page(server)["endings"]
    assert {ending["reason"] for ending in ended} == {"asked to leave"}
    assert len(re.findall(r"worker \d+ is replaced: it has served \d+ requests", server.log)) >= 6
    assert "waits" not in server.log


def test_a_single_worker_is_replaced_while_who_comes_waits_in_the_backlog(
    worker_class: str, fleet, loads: Loads
) -> None:
    server = fleet(env={"WORKER_CLASS": worker_class, "MAX_REQUESTS": "40"}, workers=1)
    loads.release()
    server.wait_ready()
    first = ready_pids(server)
    with Traffic(server.port, count=8) as traffic:
        until(lambda: not ready_pids(server) & first and ready_pids(server), "another worker")
        traffic.wait_served(100)
    assert traffic.losses == []


def test_a_worker_that_has_grown_finishes_its_requests_and_is_replaced(
    worker_class: str, fleet, loads: Loads, pool: ThreadPoolExecutor
) -> None:
    limit = limit_mib_of_fresh_workers(fleet)
    server = fleet(env=ROUGH | {"WORKER_CLASS": worker_class, "WORKER_RSS_LIMIT_MIB": str(limit)})
    server.wait_ready()
    old = ready_pids(server)
    with Traffic(server.port) as traffic, server.connect() as client:
        client.request("/hello")
        large = client.answer().json["pid"]
        client.request("/wait", headers={"Connection": "keep-alive"})
        waiting: Future = pool.submit(client.answer)
        request = loads.next("request")
        grow(server, large)
        server.wait_for_log(rf"worker {large} is replaced: it occupies more than {limit} MiB")
        traffic.wait_served(50)
        assert not waiting.done()
        request.release()
        assert waiting.result().status == 200
        new = wait_replaced(server, {large})
        traffic.wait_served(50)
    assert traffic.losses == []
    assert old - {large} < new
    (ending,) = page(server)["endings"]
    assert (ending["pid"], ending["reason"]) == (large, "asked to leave")


def limit_mib_of_fresh_workers(fleet) -> int:
    server = fleet(env=ROUGH)
    server.wait_ready()
    limit = limit_mib(server)
    server.kill()
    return limit


def grow(server: Server, pid: int) -> None:
    """Let that worker grow; any may answer, so they are asked until it does."""

    def has_grown() -> bool:
        with server.connect() as client:
            client.request("/hello")
            if client.answer().json["pid"] != pid:
                return False
            client.request(f"/grow/{GROWTH_MIB}")
            return client.answer().status == 200

    until(has_grown, f"worker {pid} to answer")


def test_workers_that_have_grown_together_are_replaced_one_after_the_other(fleet) -> None:
    limit = limit_mib_of_fresh_workers(fleet)
    server = fleet(env=ROUGH | {"WORKER_RSS_LIMIT_MIB": str(limit), "READY_WORKERS_MIN": "1"})
    server.wait_ready()
    until(lambda: len(ready_pids(server)) == 2, "two workers")
    old = ready_pids(server)
    seen: list[list[dict]] = []

    def are_replaced() -> bool:
        seen.append(rows(server))
        return len(ready_pids(server) - old) == 2

    for pid in old:
        grow(server, pid)
    until(are_replaced, "both to be replaced")
    assert max(sum(row["leaving"] for row in moment) for moment in seen) == 1
    assert all(any(row["phase"] == "ready" for row in moment) for moment in seen)


def test_a_limit_that_a_fresh_worker_is_over_is_told_and_replaces_nobody(fleet) -> None:
    server = fleet(env=ROUGH | {"WORKER_RSS_LIMIT_MIB": "1"})
    server.wait_ready()
    old = ready_pids(server)
    server.wait_for_log("worker_rss_limit_mib is 1: it is not replaced; raise the limit", count=2)
    until(lambda: all(row["age_s"] > 2.5 for row in rows(server)), "two more looks")
    assert ready_pids(server) == old
