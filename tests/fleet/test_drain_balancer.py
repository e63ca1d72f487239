"""Two instances behind a balancer: one is stopped under load, and nobody notices."""

import signal

import pytest

from tests.fleet.balancer import Balancer
from tests.servers.harness import Loads, until

IDLE_MAX_S = 1.0
"""A connection that was idle for longer at the stop may be closed under a request."""


@pytest.mark.parametrize("is_group", [False, True], ids=["master told", "all told"])
def test_nothing_is_lost_when_one_of_two_instances_is_stopped_under_load(
    *, is_group: bool, worker_class: str, fleet, loads: Loads
) -> None:
    instances = [
        fleet(env={"WORKER_CLASS": worker_class, "DRAIN_S": drain_s}) for drain_s in ("3", "0")
    ]
    loads.release(2)
    for server in instances:
        server.wait_ready()
    stopped, other = instances
    with Balancer([server.port for server in instances], interval_s=0.2) as balancer:
        until(lambda: balancer.served >= 500, "requests before the stop")
        (stopped.tell_group if is_group else stopped.tell)(signal.SIGTERM)
        until(lambda: not balancer.serves(stopped.port), "two failed probes")
        assert stopped.wait_ended() == 0, stopped.log
        after = balancer.served
        until(lambda: balancer.served >= max(1000, after + 100), "requests after the stop")
    assert [loss for loss in balancer.losses if (loss.idle_s or 0.0) <= IDLE_MAX_S] == []
    assert balancer.serves(other.port)
    assert "Traceback" not in stopped.log


def test_without_a_drain_a_stop_under_load_is_noticed(fleet, loads: Loads) -> None:
    """What the test above would see if there were no drain."""
    instances = [fleet(env={"DRAIN_S": "0"}) for _ in range(2)]
    loads.release(2)
    for server in instances:
        server.wait_ready()
    with Balancer([server.port for server in instances], interval_s=0.2) as balancer:
        until(lambda: balancer.served >= 100, "requests before the stop")
        instances[0].tell(signal.SIGTERM)
        until(lambda: balancer.losses, "a loss")
        assert instances[0].wait_ended() == 0
