"""From the first bind until long after ready, nothing is refused, cut or answered 5xx."""

import os
import signal

from tests.fleet.conftest import ready_pids
from tests.fleet.stopping import LONG_S
from tests.fleet.traffic import HABITS, Traffic
from tests.servers.harness import Loads, until


def test_twenty_clients_of_all_habits_lose_nothing(worker_class: str, fleet, loads: Loads) -> None:
    server = fleet(env={"WORKER_CLASS": worker_class})
    load = loads.next()
    with Traffic(server.port) as traffic:
        until(lambda: server.held() >= 14, "the clients to be held")
        load.release()
        server.wait_ready()
        traffic.wait_served(200)
    assert traffic.losses == []
    assert len(ready_pids(server)) == 2


def test_a_worker_killed_under_load_is_replaced_by_a_ready_one(fleet, loads: Loads) -> None:
    server = fleet()
    loads.release()
    server.wait_ready()
    with Traffic(server.port, habits=HABITS[:1]) as traffic:
        traffic.wait_served(20)
        killed = ready_pids(server)
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        until(lambda: len(ready_pids(server) - killed) == 2, "two new workers")
        traffic.wait_served(100)
    assert len(traffic.losses) <= 20, "more than the requests in flight"


def test_hang_up_under_load_loses_nothing(worker_class: str, fleet, loads: Loads) -> None:
    server = fleet(env={"WORKER_CLASS": worker_class})
    loads.release()
    server.wait_ready()
    with Traffic(server.port) as traffic:
        traffic.wait_served(50)
        old = ready_pids(server)
        server.tell(signal.SIGHUP)
        until(lambda: not ready_pids(server) & old and ready_pids(server), "only new workers")
        traffic.wait_served(100)
    assert traffic.losses == []


def test_a_drain_under_load_loses_nothing_until_the_balancer_has_noticed(
    worker_class: str, fleet, loads: Loads
) -> None:
    server = fleet(env={"WORKER_CLASS": worker_class, "DRAIN_S": LONG_S})
    loads.release()
    server.wait_ready()
    with Traffic(server.port) as traffic:
        traffic.wait_served(50)
        server.tell(signal.SIGTERM)
        until(lambda: server.ask("/readyz").text == "draining", "the instance to say so")
        traffic.wait_served(100)
    assert traffic.losses == []
    server.tell(signal.SIGTERM)
    assert server.wait_ended() == 0
