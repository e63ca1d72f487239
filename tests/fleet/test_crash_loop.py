"""A worker that dies at every start: the waits grow, the others serve, the end is ordered."""

import os
import re
import signal
from pathlib import Path

import pytest

from tests.fleet.conftest import page, ready_pids, rows
from tests.fleet.test_crash_recovery import GETS, ROUGH, die, wait_replaced
from tests.fleet.traffic import Traffic
from tests.servers.harness import Server, until

WAIT = r"the next worker waits ([\d.]+) s"


@pytest.fixture
def crash(tmp_path: Path) -> Path:
    """While this file exists, a worker ends at its startup in the way that it names."""
    return tmp_path / "crash"


@pytest.fixture
def looping(fleet, crash: Path):
    """Two ready workers, one of which is made to die at each start from now on."""

    def start(how: str = "exit", **env: str) -> tuple[Server, int]:
        values = {"CRASH_LIMIT": "4", "CRASH_WINDOW_S": "8", "READY_WORKERS_MIN": "1"} | env
        server = fleet(env=ROUGH | {"STARTUP_FILE": str(crash)} | values)
        server.wait_ready()
        until(lambda: len(ready_pids(server)) == 2, "two workers")
        crash.write_text(how, encoding="utf-8")
        died = die(server, "exit")
        (survivor,) = ready_pids(server) - {died}
        return server, survivor

    return start


def waits(server: Server) -> list[float]:
    return [float(text) for text in re.findall(WAIT, server.log)]


def deaths(server: Server) -> int:
    return server.log.count(" ended: exit code 7")


@pytest.mark.parametrize(
    ("how", "reason"), [("exit", "exit code 7"), ("abort", "killed by SIGABRT")]
)
def test_each_crash_makes_the_next_worker_wait_longer_while_the_other_serves(
    how: str, reason: str, looping, worker_class: str
) -> None:
    server, survivor = looping(how, WORKER_CLASS=worker_class)
    with Traffic(server.port, habits=GETS) as traffic:
        server.wait_for_log(WAIT, count=5)
        traffic.wait_served(50)
    assert traffic.losses == []
    for number, wait_s in enumerate(waits(server)):
        nominal_s = 0.1 * 2**number
        assert nominal_s / 2 - 0.05 <= wait_s <= nominal_s + 0.05
    server.wait_for_log("Booting worker", count=2 + 5)
    assert server.log.count("Booting worker") - len(waits(server)) in {1, 2}  # one may be about to
    assert server.log.count(f" ended: {reason}") >= 4
    assert survivor in ready_pids(server)


def test_a_crash_loop_ends_readiness_once_and_recovers_by_itself(looping, crash: Path) -> None:
    server, survivor = looping()
    until(lambda: server.ask("/readyz").text == "fleet.crash_loop", "the crash loop")
    answer = server.ask("/readyz")
    assert answer.status == 503
    assert server.ask("/livez").status == 200
    assert server.ask("/hello").status == 200  # readiness is advice; the survivor serves
    server.wait_for_log(WAIT, count=5)
    assert server.log.count("[CRITICAL]") == 1
    assert "4 workers or more died within 8 s: fleet.crash_loop" in server.log

    crash.unlink()
    until(lambda: len(ready_pids(server)) == 2, "the worker that waited")
    server.wait_ready()  # nobody dies and nobody is forked: age alone ends the loop
    assert survivor in ready_pids(server)
    assert server.log.count("[CRITICAL]") == 1


def test_a_stop_is_obeyed_at_once_while_a_worker_waits_and_the_other_serves(looping) -> None:
    server, _ = looping()
    server.wait_for_log(WAIT, count=6)  # 1.6 s at least
    died = deaths(server)
    until(lambda: any(row["phase"] == "starting" for row in rows(server)), "a worker that waits")
    server.tell(signal.SIGTERM)
    assert server.wait_ended() == 0
    assert "SIGKILL" not in server.log
    assert deaths(server) == died
    assert "exit code 7" not in server.log[server.log.index("Handling signal: term") :]


def test_a_stop_is_obeyed_at_once_while_every_worker_waits(fleet, crash: Path) -> None:
    crash.write_text("exit", encoding="utf-8")
    server = fleet(env=ROUGH | {"STARTUP_FILE": str(crash)}, workers=1)
    until(lambda: any(wait_s > 5 for wait_s in waits(server)), "a long wait")
    held = server.connect()
    held.request("/hello")
    server.wait_held(1)
    server.tell(signal.SIGTERM)
    assert held.answer().status == 503
    held.close()
    assert server.wait_ended() == 0
    assert "SIGKILL" not in server.log


def test_a_waiting_worker_accepts_only_when_no_other_is_ready(looping, crash: Path) -> None:
    server, survivor = looping(CRASH_LIMIT="50")
    server.wait_for_log(WAIT, count=5)
    until(lambda: len(rows(server)) == 2, "a worker that waits")
    (waiting,) = [row for row in rows(server) if row["pid"] != survivor]
    assert not waiting["accepting"]
    assert server.ask("/readyz").status == 200

    os.kill(survivor, signal.SIGKILL)
    until(lambda: any(row["accepting"] for row in rows(server)), "a worker that holds")
    assert server.ask("/readyz").status == 503
    assert server.ask("/livez").status == 200
    with server.connect() as early:
        early.request("/hello")
        server.wait_held(1)
        crash.unlink()
        assert early.answer().status == 200
    wait_replaced(server, {survivor})


def test_the_server_exits_when_it_is_told_to_at_a_crash_loop(looping) -> None:
    server, _ = looping(ON_CRASH_LOOP="exit")
    assert server.wait_ended() == 5
    assert server.log.count("Reason: fleet.crash_loop") == 1
    assert "Traceback" not in server.log
    assert "SIGKILL" not in server.log


def test_only_the_third_kill_in_the_window_is_a_crash(fleet) -> None:
    server = fleet(env=ROUGH, workers=1)
    for kills in (1, 2, 3):
        server.wait_ready()
        # Kills within a second of each other are one.
        until(lambda: all(row["age_s"] > 1.2 for row in rows(server)), "a second without a kill")
        (pid,) = ready_pids(server)
        os.kill(pid, signal.SIGKILL)
        wait_replaced(server, {pid}, 1)
        assert len(waits(server)) == (1 if kills == 3 else 0)
    assert page(server)["restarts"] == 3


def test_a_hang_up_whose_new_workers_die_at_once_leaves_the_old_ones_serving(
    worker_class: str, fleet, crash: Path
) -> None:
    env = {"STARTUP_FILE": str(crash), "WORKER_CLASS": worker_class, "GRACEFUL_S": "4"}
    server = fleet(env=ROUGH | env)
    server.wait_ready()
    old = ready_pids(server)
    crash.write_text("exit", encoding="utf-8")
    with Traffic(server.port, habits=GETS) as traffic:
        server.tell(signal.SIGHUP)
        server.wait_for_log("ended: exit code 7", count=2)
        server.wait_for_log("stays: those who were to replace it have failed", count=2)
        traffic.wait_served(100)
        assert ready_pids(server) == old
        crash.unlink()
        server.tell(signal.SIGHUP)
        wait_replaced(server, old)
        traffic.wait_served(100)
    assert traffic.losses == []


def test_gunicorns_own_worker_is_replaced_braked_and_seen_to_recover(looping, crash: Path) -> None:
    server, survivor = looping(WORKER_CLASS="asgi")
    until(lambda: server.ask("/readyz").text == "fleet.crash_loop", "the crash loop")
    server.wait_for_log(WAIT, count=5)
    assert {ending["reason"] for ending in page(server)["endings"]} == {"exit code 7"}
    crash.unlink()
    until(lambda: len(ready_pids(server)) == 2, "the worker that waited")
    server.wait_ready()
    assert survivor in ready_pids(server)
    server.tell(signal.SIGTERM)
    assert server.wait_ended() == 0
