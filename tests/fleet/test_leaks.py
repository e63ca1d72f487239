"""Hundred workers later, the master holds no more than before, and nobody is left at the end."""

import os
import re
import signal
from pathlib import Path

from tests.fleet.conftest import page, ready_pids, rows
from tests.fleet.test_crash_recovery import ROUGH, wait_replaced
from tests.servers.harness import Loads, Server, until
from tests.servers.metrics_side import scraped

GENERATIONS = int(os.environ.get("FLEET_GENERATIONS", "100"))


def descriptors(pid: int) -> int:
    """How many are open now: one more than later, while the process reads a file."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def rss_mib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) // 1024


def children(pid: int) -> dict[int, str]:
    """The processes whose parent this is, with their state."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:  # it has ended since
            continue
        if int(fields[1]) == pid:
            found[int(path.parent.name)] = fields[0]
    return found


def replace_all(server: Server) -> None:
    """Kill every worker and wait for the next ones."""
    old = ready_pids(server)
    for pid in old:
        os.kill(pid, signal.SIGKILL)
    wait_replaced(server, old)


def test_a_hundred_killed_workers_leave_nothing_behind(fleet) -> None:
    server = fleet(env=ROUGH | {"CRASH_WINDOW_S": "0.001"})
    server.wait_ready()
    replace_all(server)
    master = server.process.pid
    before, before_mib = descriptors(master), rss_mib(master)
    while max(row["generation"] for row in rows(server)) < GENERATIONS:
        replace_all(server)
    until(lambda: descriptors(master) <= before, f"{before} descriptors again")
    assert set(children(master)) == ready_pids(server)
    assert "Z" not in children(master).values()
    assert len(rows(server)) == 2
    assert len(page(server)["endings"]) == 10
    assert "share a row" not in server.log
    print(f"master: {before_mib} MiB before, {rss_mib(master)} MiB after {GENERATIONS} workers")
    server.tell(signal.SIGTERM)
    assert server.wait_ended() == 0  # every process has closed the log's pipe


def test_hang_ups_again_and_again_leave_nothing_behind(fleet, loads: Loads) -> None:
    server = fleet()
    loads.release()
    server.wait_ready()
    master = server.process.pid

    def hang_up() -> None:
        old = ready_pids(server)
        server.tell(signal.SIGHUP)
        wait_replaced(server, old)
        until(lambda: not old & set(children(master)), "the old workers to leave")

    hang_up()
    before = descriptors(master)
    for _ in range(5):
        hang_up()
    until(lambda: descriptors(master) <= before, f"{before} descriptors again")
    assert set(children(master)) == ready_pids(server)
    assert len(rows(server)) == 2
    assert loads.none_asked
    server.tell(signal.SIGTERM)
    assert server.wait_ended() == 0


def test_workers_do_not_outlive_a_killed_master(worker_class: str, fleet) -> None:
    server = fleet(env=ROUGH | {"WORKER_CLASS": worker_class})
    server.wait_ready()
    server.tell(signal.SIGKILL)
    assert server.wait_ended() == -signal.SIGKILL
    assert server.log.count("the master has gone; this worker leaves") == 2


def test_each_of_seventy_workers_has_a_row_of_its_own(fleet) -> None:
    server = fleet(env=ROUGH, workers=70)
    until(lambda: len(children(server.process.pid)) == 70, "seventy workers")
    server.wait_ready()
    assert {row["pid"] for row in rows(server)} == set(children(server.process.pid))
    assert scraped(server)['asgi_health_workers{phase="ready"}'] == 70
    assert "rows" not in server.log
    for _ in range(20):
        assert server.ask("/hello").status == 200
    server.tell(signal.SIGTERM)
    assert server.wait_ended() == 0


def test_more_workers_than_the_table_is_made_for_are_refused_with_a_sentence(fleet) -> None:
    server = fleet(env=ROUGH, workers=257)
    assert server.wait_ended() == 1
    assert "workers is 257; allowed: at most 256." in server.log
    assert "Traceback" not in server.log
