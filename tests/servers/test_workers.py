"""`uvicorn --workers`: one answer for the whole instance, and a replacement that nobody notices."""

import os
import re
import signal
import stat
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.servers.conftest import Start
from tests.servers.harness import UVICORN, UVICORN_WORKERS, Load, Loads, Server, until


@pytest.fixture
def ready(start: Start, loads: Loads) -> tuple[Server, list[Load]]:
    """Two workers that are ready."""
    server = start(UVICORN_WORKERS, env={"FAILED_LINGER_S": "0.1"})
    imports = [loads.next(), loads.next()]
    for load in imports:
        load.release()
    server.wait_ready()
    return server, imports


def _pids(server: Server, count: int = 20) -> set[int]:
    """Who answers; a new connection each, so that any worker may."""
    return {server.ask("/who").json["pid"] for _ in range(count)}


def _pids_with_resets(server: Server) -> set[int]:
    """The same while Uvicorn retires a worker, which resets connections that it has not read."""
    try:
        return _pids(server)
    except ConnectionError:
        return _pids_with_resets(server)


def _is_ready_throughout(server: Server) -> bool:
    """Whether whichever worker is asked says that the instance is ready."""
    return all(server.ask("/readyz").status == 200 for _ in range(20))


def _boards(folder: Path) -> list[Path]:
    return list(folder.glob("asgi-health-*.board"))


def _phases(server: Server) -> dict[int, str]:
    workers: Iterable[dict] = server.ask("/statusz?format=json").json["workers"]
    return {worker["pid"]: worker["phase"] for worker in workers}


def test_the_instance_is_ready_when_all_its_first_workers_are(start: Start, loads: Loads) -> None:
    server = start(UVICORN_WORKERS)
    first, second = loads.next(), loads.next()
    assert server.ask("/readyz").status == 503

    first.release()
    until(lambda: _phases(server).get(first.pid) == "ready", "the first worker")
    for _ in range(20):  # whichever worker answers
        answer = server.ask("/readyz")
        assert answer.status == 503
        assert answer.text in {"loading", "fleet.starting"}
        assert server.ask("/livez").status == 200

    second.release()
    until(lambda: _is_ready_throughout(server), "both workers to say that the instance is ready")
    until(lambda: _pids(server) == {first.pid, second.pid}, "both workers to serve")


def test_the_check_fleet_says_which_worker_is_missing(start: Start, loads: Loads) -> None:
    server = start(UVICORN_WORKERS)
    first, second = loads.next(), loads.next()
    first.release()
    until(lambda: _phases(server).get(first.pid) == "ready", "the first worker")

    assert _phases(server) == {first.pid: "ready", second.pid: "loading"}
    assert server.ask("/readyz/fleet").text == "fleet.starting"
    second.release()
    until(lambda: server.ask("/readyz/fleet").text == "ok", "the whole fleet")


def test_a_worker_that_fails_makes_the_instance_not_ready(start: Start, loads: Loads) -> None:
    server = start(UVICORN_WORKERS, env={"FAILED_LINGER_S": "600"})
    first, second = loads.next(), loads.next()
    first.release()
    second.order("raise anything")
    server.wait_for_log("boot failed")
    until(lambda: _phases(server).get(first.pid) == "ready", "the first worker")
    until(lambda: server.ask("/readyz").text == "fleet.worker_failed", "the good worker's word")
    assert all(server.ask("/readyz").status == 503 for _ in range(20))


def test_a_killed_worker_is_replaced_by_one_that_loads_before_it_accepts(
    ready: tuple[Server, list[Load]], loads: Loads
) -> None:
    server, (killed, kept) = ready
    os.kill(killed.pid, signal.SIGKILL)
    joining = loads.next()

    assert _pids(server) == {kept.pid}  # nobody waits for the import
    assert _is_ready_throughout(server)
    assert _phases(server) == {kept.pid: "ready", joining.pid: "loading"}

    joining.release()
    until(lambda: joining.pid in _pids(server, 4), "the new worker to serve")
    assert _is_ready_throughout(server)


def test_a_replacement_that_cannot_load_leaves_the_others_alone(
    ready: tuple[Server, list[Load]], loads: Loads
) -> None:
    server, (killed, kept) = ready
    os.kill(killed.pid, signal.SIGKILL)
    loads.next().order("raise anything")
    server.wait_for_log("boot failed")
    second_try = loads.next()

    assert _is_ready_throughout(server)
    assert _pids(server) == {kept.pid}
    second_try.release()
    until(lambda: second_try.pid in _pids(server, 4), "the second replacement to serve")


def test_all_workers_killed_at_once_come_back_and_accept_at_once(
    ready: tuple[Server, list[Load]], loads: Loads
) -> None:
    server, killed = ready
    for load in killed:
        os.kill(load.pid, signal.SIGKILL)
    imports = [loads.next(), loads.next()]
    assert server.ask("/livez").text == "ok"
    assert server.ask("/readyz").status == 503
    for load in imports:
        load.release()
    server.wait_ready()


def test_a_stop_while_a_replacement_loads_ends_everything(
    ready: tuple[Server, list[Load]], loads: Loads, tmp_path: Path
) -> None:
    server, (killed, _) = ready
    os.kill(killed.pid, signal.SIGKILL)
    loads.next()
    server.tell(signal.SIGTERM)
    assert server.wait_ended() == 0
    assert _boards(tmp_path) == []


def test_hang_up_replaces_every_worker_without_a_moment_of_not_ready(
    ready: tuple[Server, list[Load]], loads: Loads
) -> None:
    server, old = ready
    server.tell(signal.SIGHUP)
    for _ in old:
        load = loads.next()
        assert server.ask("/readyz").status == 200
        load.release()
    retired = {load.pid for load in old}
    until(lambda: not _pids_with_resets(server) & retired, "only new workers")
    assert server.ask("/readyz").status == 200


def test_the_table_of_workers_is_private_and_gone_after_the_stop(
    ready: tuple[Server, list[Load]], tmp_path: Path
) -> None:
    server, _ = ready
    (board,) = _boards(tmp_path)
    assert stat.S_IMODE(board.stat().st_mode) == 0o600
    server.tell(signal.SIGTERM)
    assert server.wait_ended() == 0
    assert _boards(tmp_path) == []


def test_the_table_of_a_killed_instance_is_removed_by_the_next_one(
    start: Start, loads: Loads, tmp_path: Path
) -> None:
    killed = start(UVICORN_WORKERS)
    loads.release(2)
    killed.wait_ready()
    (board,) = _boards(tmp_path)
    killed.kill()
    assert board.exists()

    start(UVICORN_WORKERS)
    loads.release(2)
    assert not board.exists()


def test_two_instances_on_one_machine_do_not_see_each_other(start: Start, loads: Loads) -> None:
    ready = start(UVICORN_WORKERS)
    loads.release(2)
    ready.wait_ready()
    other = start(UVICORN_WORKERS)
    loads.next(), loads.next()
    assert other.ask("/readyz").text == "loading"
    assert ready.ask("/readyz").status == 200


def test_a_single_process_has_no_table(start: Start, loads: Loads, tmp_path: Path) -> None:
    server = start(UVICORN)
    loads.release()
    server.wait_ready()
    assert _boards(tmp_path) == []
    assert not re.search("fleet", server.ask("/readyz?verbose").text)
