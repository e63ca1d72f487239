"""Each worker on a core of its own."""

import os
import signal
from pathlib import Path

import pytest

from tests.fleet.conftest import ready_pids
from tests.fleet.test_crash_recovery import wait_replaced
from tests.servers.harness import Loads, until

CORES = sorted(os.sched_getaffinity(0))


@pytest.mark.skipif(len(CORES) < 2, reason="one core")
def test_who_takes_the_place_of_a_dead_worker_takes_its_core(
    worker_class: str, fleet, loads: Loads
) -> None:
    server = fleet(env={"WORKER_CLASS": worker_class, "PIN_WORKERS": "1"})
    loads.release()
    server.wait_ready()
    first = until(lambda: len(ready_pids(server)) == 2 and ready_pids(server), "two workers")
    assert {pid: len(os.sched_getaffinity(pid)) for pid in first} == dict.fromkeys(first, 1)
    assert set.union(*(os.sched_getaffinity(pid) for pid in first)) == set(CORES[:2])
    gone = min(first)
    core = os.sched_getaffinity(gone)
    os.kill(gone, signal.SIGKILL)
    [comes] = wait_replaced(server, {gone}) - first
    assert os.sched_getaffinity(comes) == core
    threads = [int(task.name) for task in Path(f"/proc/{comes}/task").iterdir()]
    assert len(threads) > 1
    assert [os.sched_getaffinity(thread) for thread in threads] == [core] * len(threads)
    assert sorted(os.sched_getaffinity(server.process.pid)) == CORES
