"""Workers that die or stop answering are replaced by ready ones, and the reason is kept."""

import os
import signal
from pathlib import Path

import pytest

from tests.fleet.conftest import page, ready_pids, rows
from tests.fleet.traffic import HABITS, Traffic
from tests.servers.harness import Loads, Server, until

GETS = HABITS[:1]
ROUGH = {"TARGET": "rough:app"}
# Of each of 20 clients, one request at most can be in flight when a worker dies.
IN_FLIGHT_MAX = 20


def wait_replaced(server: Server, gone: set[int], count: int = 2) -> set[int]:
    """Wait until `count` workers are ready, none of them one of `gone`."""
    found: set[int] = until(
        lambda: len(ready_pids(server) - gone) == count and ready_pids(server) - gone,
        f"{count} workers after the death of {gone}",
    )
    return found


def die(server: Server, how: str) -> int:
    """Let a worker end; its process id."""
    with server.connect() as client:
        client.request("/hello")
        pid: int = client.answer().json["pid"]
        client.request(f"/die/{how}")
        client.lines()
    return pid


def only_lost_connections(losses: list[str]) -> bool:
    return all("Connection" in loss or "closed without" in loss for loss in losses)


def test_a_killed_worker_costs_the_requests_in_flight_on_it_and_no_import(
    worker_class: str, fleet, loads: Loads
) -> None:
    server = fleet(env={"WORKER_CLASS": worker_class})
    loads.release()
    server.wait_ready()
    old = ready_pids(server)
    killed = min(old)
    with Traffic(server.port, habits=GETS) as traffic:
        traffic.wait_served(20)
        os.kill(killed, signal.SIGKILL)
        new = wait_replaced(server, {killed})
        traffic.wait_served(200)
    assert len(traffic.losses) <= IN_FLIGHT_MAX
    assert only_lost_connections(traffic.losses)
    assert old - {killed} < new  # the other was not touched
    assert loads.none_asked
    server.wait_ready()
    shown = page(server)
    (ending,) = shown["endings"]
    assert (ending["pid"], ending["reason"]) == (killed, "killed by SIGKILL")
    assert (ending["signal"], ending["out_of_memory"]) == ("SIGKILL", False)
    assert shown["restarts"] == 1


def test_a_fleet_killed_at_once_comes_back_without_an_import_and_holds_who_comes_meanwhile(
    worker_class: str, fleet, loads: Loads
) -> None:
    server = fleet(env={"WORKER_CLASS": worker_class})
    loads.release()
    server.wait_ready()
    killed = ready_pids(server)
    with Traffic(server.port, habits=GETS) as traffic:
        traffic.wait_served(20)
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        wait_replaced(server, killed)
        traffic.wait_served(200)
    assert len(traffic.losses) <= IN_FLIGHT_MAX
    assert only_lost_connections(traffic.losses)
    assert loads.none_asked
    server.wait_ready()
    shown = page(server)
    assert {ending["pid"] for ending in shown["endings"]} == killed
    assert {ending["reason"] for ending in shown["endings"]} == {"killed by SIGKILL"}
    assert shown["restarts"] == 2
    assert "waits" not in server.log  # two kills are no crashes


def test_a_stopped_worker_is_ended_as_blocked_and_replaced(
    worker_class: str, fleet, loads: Loads
) -> None:
    server = fleet(env={"WORKER_CLASS": worker_class, "TIMEOUT_S": "2"})
    loads.release()
    server.wait_ready()
    # Gunicorn's time-out counts from the first heartbeat on.
    until(lambda: all(row["age_s"] > 2.5 for row in rows(server)), "heartbeats")
    stopped = max(ready_pids(server))
    os.kill(stopped, signal.SIGSTOP)
    server.wait_for_log(rf"worker {stopped} ended: blocked for too long; killed by SIGKILL")
    wait_replaced(server, {stopped})
    (ending,) = page(server)["endings"]
    assert ending["reason"] == "blocked for too long; killed by SIGKILL"
    server.wait_ready()


@pytest.mark.parametrize(
    ("how", "reason", "name", "code"),
    [
        ("exit", "exit code 7", None, 7),
        ("segfault", "killed by SIGSEGV", "SIGSEGV", None),
        ("abort", "killed by SIGABRT", "SIGABRT", None),
        ("kill", "killed by SIGKILL", "SIGKILL", None),
    ],
)
def test_the_page_and_the_log_say_why_a_worker_died(
    how: str, reason: str, name: str | None, code: int | None, fleet
) -> None:
    server = fleet(env=ROUGH)
    server.wait_ready()
    died = die(server, how)
    wait_replaced(server, {died})
    (ending,) = page(server)["endings"]
    assert ending["pid"] == died
    assert (ending["reason"], ending["signal"], ending["exit_code"]) == (reason, name, code)
    assert not ending["out_of_memory"]
    assert f"<td>{died}</td>" in server.ask("/statusz").text
    assert f"<td>{reason}</td>" in server.ask("/statusz").text
    assert f"worker {died} ended: {reason}\n" in server.log


@pytest.mark.parametrize(
    ("how", "code", "words"),
    [
        ("stop-loop", 255, "RuntimeError: Event loop stopped"),
        ("sys-exit", 7, "SystemExit: 7"),
    ],
)
def test_an_exception_that_ends_a_worker_is_its_last_word(
    how: str, code: int, words: str, worker_class: str, fleet
) -> None:
    server = fleet(env=ROUGH | {"WORKER_CLASS": worker_class})
    server.wait_ready()
    died = die(server, how)
    wait_replaced(server, {died})
    (ending,) = page(server)["endings"]
    assert (ending["pid"], ending["exit_code"]) == (died, code)
    assert "Traceback (most recent call last)" in ending["last_words"]
    assert words in ending["last_words"]
    assert words in server.ask("/statusz").text


def test_the_last_words_of_one_worker_are_not_told_of_the_next(fleet) -> None:
    server = fleet(env=ROUGH, workers=1)
    server.wait_ready()
    first = die(server, "stop-loop")
    second = min(wait_replaced(server, {first}, 1))
    os.kill(second, signal.SIGKILL)
    wait_replaced(server, {first, second}, 1)
    assert [bool(ending["last_words"]) for ending in page(server)["endings"]] == [True, False]


def test_a_worker_that_is_told_to_leave_alone_is_replaced_and_is_no_crash(
    worker_class: str, fleet
) -> None:
    server = fleet(env=ROUGH | {"WORKER_CLASS": worker_class})
    server.wait_ready()
    told = min(ready_pids(server))
    with Traffic(server.port) as traffic:
        traffic.wait_served(50)
        os.kill(told, signal.SIGTERM)
        wait_replaced(server, {told})
        traffic.wait_served(100)
    assert traffic.losses == []
    (ending,) = page(server)["endings"]
    assert (ending["pid"], ending["reason"]) == (told, "asked to leave")


def test_gunicorns_boot_error_in_one_worker_ends_the_server_without_killing_the_others(
    fleet, loads: Loads, tmp_path: Path
) -> None:
    file = tmp_path / "end"
    env = ROUGH | {"STARTUP_ASKS": "1", "STARTUP_FILE": str(file), "GRACEFUL_S": "4"}
    server = fleet(env=env, workers=3)
    startups = [loads.next("startup") for _ in range(3)]
    file.write_text("exit-3", encoding="utf-8")
    startups[-1].release()  # the elder ones wait for it, unless the whole instance stops
    assert server.wait_ended() == 3
    assert server.log.count("ended: asked to leave\n") == 2


def test_a_worker_runs_programs_sees_how_they_end_and_blocks_no_signal_of_theirs(
    worker_class: str, fleet
) -> None:
    server = fleet(env=ROUGH | {"WORKER_CLASS": worker_class})
    server.wait_ready()
    assert server.ask("/program").json == [1, 0]
