"""HUP: new workers take over, and nobody outside notices."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.fleet.conftest import CONF, ready_pids, rows
from tests.fleet.stopping import (
    LONG_S,
    assert_ended_well,
    begin_drain,
    connections_to_all,
    pid_of,
)
from tests.fleet.traffic import Traffic
from tests.servers.conftest import Run
from tests.servers.harness import LIMIT_S, Client, Loads, Server, environment, until


@contextmanager
def readiness_watched(server: Server) -> Iterator[list[str]]:
    """Ask for readiness all the time, on new connections; every answer but 200 is kept."""
    stop, refusals = threading.Event(), []
    with connections_to_all(server):
        pass  # all agree that the instance is ready

    def watch() -> None:
        while not stop.wait(0.005):
            try:
                answer = server.ask("/readyz")
            except OSError as error:
                refusals.append(repr(error))
            else:
                if answer.status != 200:
                    refusals.append(f"{answer.status} {answer.text}")

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield refusals
    finally:
        stop.set()
        watcher.join(LIMIT_S)


def hang_up(server: Server) -> set[int]:
    """HUP, and wait until only new workers are left; their pids."""
    old = {row["pid"] for row in rows(server)}
    server.tell(signal.SIGHUP)
    until(lambda: len(ready_pids(server) - old) == 2, "two new workers", pause_s=0.1)
    until(lambda: not old & {row["pid"] for row in rows(server)}, "the old ones gone", pause_s=0.1)
    return ready_pids(server)


H11 = "uvicorn.workers.UvicornH11Worker"
"""A stock worker with asyncio's own loop, which accepts in another way than uvloop."""


@pytest.mark.parametrize("worker", ["asgi_health.adapters.uvicorn.Worker", H11])
def test_five_reloads_in_a_row_lose_nothing_and_never_flip_readiness(
    worker: str, fleet, loads: Loads
) -> None:
    server = fleet(env={"WORKER_CLASS": worker})
    loads.release()
    server.wait_ready()
    with Traffic(server.port, count=14) as traffic, readiness_watched(server) as refusals:
        traffic.wait_served(50)
        for _ in range(5):
            hang_up(server)
        traffic.wait_served(100)
    assert traffic.losses == []
    assert refusals == []
    server.tell(signal.SIGTERM)
    assert_ended_well(server)


def test_reloads_that_overlap_lose_nothing(worker_class: str, fleet, loads: Loads) -> None:
    server = fleet(env={"WORKER_CLASS": worker_class})
    loads.release()
    server.wait_ready()
    old = ready_pids(server)
    with Traffic(server.port, count=14) as traffic, readiness_watched(server) as refusals:
        for count in range(1, 6):
            server.tell(signal.SIGHUP)
            server.wait_for_log("Hang up", count=count)
        until(lambda: len(ready_pids(server)) == 2, "two workers", pause_s=0.1)
        until(lambda: len(rows(server)) == 2, "two workers", pause_s=0.1)
        traffic.wait_served(100)
    assert not old & ready_pids(server)
    assert traffic.losses == []
    assert refusals == []


def test_a_connection_that_was_kept_open_is_told_to_close(
    worker_class: str, fleet, loads: Loads
) -> None:
    server = fleet(env={"WORKER_CLASS": worker_class, "GRACEFUL_S": "60"})
    loads.release()
    server.wait_ready()
    with connections_to_all(server) as clients:
        told = {}
        server.tell(signal.SIGHUP)
        while len(told) < len(clients):
            for pid, client in clients.items():
                if pid in told:
                    continue
                client.request("/hello")
                answer = client.answer()
                assert answer.status == 200
                if answer.headers.get("connection") == "close":
                    assert client.is_closed_by_server()
                    told[pid] = answer
    assert len(told) == 2


def test_a_probe_on_a_kept_connection_of_a_leaving_worker_says_ready(fleet, loads: Loads) -> None:
    server = fleet(env={"GRACEFUL_S": "60"})
    loads.release()
    server.wait_ready()
    with connections_to_all(server) as clients:
        server.tell(signal.SIGHUP)
        for client in clients.values():
            while True:
                client.request("/readyz")
                answer = client.answer()
                assert answer.status == 200, answer.text
                if answer.headers.get("connection") == "close":
                    break


def test_a_long_request_is_finished_and_an_open_websocket_is_told(
    worker_class: str, fleet, loads: Loads
) -> None:
    server = fleet(env={"WORKER_CLASS": worker_class, "GRACEFUL_S": "60"})
    loads.release()
    server.wait_ready()
    with server.connect() as client, connect(f"ws://127.0.0.1:{server.port}/live") as live:
        client.request("/wait")
        flight = loads.next("request")
        server.tell(signal.SIGHUP)
        with pytest.raises(ConnectionClosed) as closed:
            live.recv(LIMIT_S)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        until(lambda: flight.pid not in ready_pids(server), "the old worker leaving")
        flight.release()
        assert client.answer().text == "waited"
        assert client.is_closed_by_server()
    until(lambda: flight.pid not in {row["pid"] for row in rows(server)}, "the old one gone")


def test_a_reload_during_a_drain_changes_nothing(worker_class: str, fleet, loads: Loads) -> None:
    server = fleet(env={"WORKER_CLASS": worker_class, "DRAIN_S": LONG_S, "GRACEFUL_S": "5"})
    loads.release()
    server.wait_ready()
    with Traffic(server.port, count=7) as traffic:
        begin_drain(server)
        server.tell(signal.SIGHUP)
        traffic.wait_served(100)
        assert server.ask("/readyz").text.strip() == "draining"
    assert traffic.losses == []
    server.tell(signal.SIGTERM)
    assert_ended_well(server)


@pytest.mark.parametrize("warm_boot", ["0", "1"], ids=["cold", "warm"])
def test_a_stop_during_a_reload_drains_and_ends(
    warm_boot: str, worker_class: str, fleet, loads: Loads
) -> None:
    """Gunicorn's master waits for the old workers then, up to `graceful_timeout`."""
    env = {"WORKER_CLASS": worker_class, "DRAIN_S": "2", "GRACEFUL_S": "6"}
    server = fleet(env=env | {"WARM_BOOT": warm_boot})
    loads.release(1 if warm_boot == "1" else 2)
    server.wait_ready()
    with server.connect() as client:
        client.request("/wait")
        flight = loads.next("request")
        server.tell(signal.SIGHUP)
        fresh = [loads.next() for _ in range(2)] if warm_boot == "0" else []
        until(lambda: len(rows(server)) == 4, "the new workers")
        begin_drain(server)
        assert server.ask("/hello").status == 200
        server.wait_for_log("waiting for")  # the drain is over
        flight.release()
        assert client.answer().text == "waited"
        for load in fresh:
            load.release()
        assert_ended_well(server)


def test_old_workers_serve_until_new_ones_have_loaded(
    worker_class: str, fleet, loads: Loads
) -> None:
    env = {"WORKER_CLASS": worker_class, "WARM_BOOT": "0", "GRACEFUL_S": "1"}
    server = fleet(env=env)
    loads.release(2)
    server.wait_ready()
    old = ready_pids(server)
    with Traffic(server.port, count=14) as traffic, readiness_watched(server) as refusals:
        server.tell(signal.SIGHUP)
        fresh = [loads.next() for _ in range(2)]
        until(lambda: server.log.count("Hang up"), "the reload")
        traffic.wait_served(1000)  # for longer than GRACEFUL_S
        assert ready_pids(server) == old
        for load in fresh:
            load.release()
        until(lambda: ready_pids(server) == {load.pid for load in fresh}, "the new ones")
        traffic.wait_served(100)
    assert traffic.losses == []
    assert refusals == []


@pytest.mark.parametrize("linger_s", ["0", "3"])
def test_old_workers_stay_when_new_ones_cannot_load(
    linger_s: str, worker_class: str, fleet, loads: Loads
) -> None:
    env = {"WORKER_CLASS": worker_class, "WARM_BOOT": "0", "FAILED_LINGER_S": linger_s}
    server = fleet(env=env)
    loads.release(2)
    server.wait_ready()
    old = ready_pids(server)
    with Traffic(server.port, count=14) as traffic, readiness_watched(server) as refusals:
        server.tell(signal.SIGHUP)
        for load in [loads.next() for _ in range(2)]:
            load.order("raise the new code is broken")
        server.wait_for_log("worker \\d+ stays", count=2)
        until(lambda: {row["pid"] for row in rows(server)} == old, "only the old ones")
        traffic.wait_served(100)
    assert ready_pids(server) == old
    assert traffic.losses == []
    assert refusals == []
    assert loads.none_asked
    server.tell(signal.SIGTERM)
    assert server.wait_ended() == 0, server.log


def test_new_workers_that_are_replaced_before_they_have_loaded_cost_nothing(
    fleet, loads: Loads
) -> None:
    server = fleet(env={"WARM_BOOT": "0", "GRACEFUL_S": "1"})
    loads.release(2)
    server.wait_ready()
    with Traffic(server.port, count=14) as traffic, readiness_watched(server) as refusals:
        server.tell(signal.SIGHUP)
        first = [loads.next() for _ in range(2)]
        server.tell(signal.SIGHUP)
        second = [loads.next() for _ in range(2)]
        for load in second:
            load.release()
        until(lambda: {load.pid for load in second} <= ready_pids(server), "the last ones")
        for load in first:
            load.release()
        until(lambda: {row["pid"] for row in rows(server)} == {load.pid for load in second}, "two")
        traffic.wait_served(100)
    assert traffic.losses == []
    assert refusals == []


def test_a_changed_configuration_takes_effect(run: Run, loads: Loads, tmp_path: Path) -> None:
    folder = tmp_path / "conf"
    folder.mkdir()
    values = folder / "values"
    text = (CONF / "gunicorn.conf.py").read_text(encoding="utf-8")
    reading = f"os.environ['DRAIN_S'] = Path({str(values)!r}).read_text()"
    text = text.replace("import os\n", f"import os\nfrom pathlib import Path\n{reading}\n")
    (folder / "gunicorn.conf.py").write_text(text, encoding="utf-8")
    values.write_text("0", encoding="utf-8")
    server = run(("gunicorn", "gated:app"), directory=folder, workers=2)
    loads.release()
    server.wait_ready()
    values.write_text(LONG_S, encoding="utf-8")
    hang_up(server)
    begin_drain(server)
    assert server.ask("/hello").status == 200
    server.tell(signal.SIGTERM)
    assert_ended_well(server)


def test_one_more_and_one_less_worker_lose_nothing(worker_class: str, fleet, loads: Loads) -> None:
    server = fleet(env={"WORKER_CLASS": worker_class})
    loads.release()
    server.wait_ready()
    with Traffic(server.port, count=14) as traffic, readiness_watched(server) as refusals:
        server.tell(signal.SIGTTIN)
        until(lambda: len(ready_pids(server)) == 3, "three workers", pause_s=0.1)
        traffic.wait_served(50)
        server.tell(signal.SIGTTOU)
        until(lambda: len(rows(server)) == 2, "two workers", pause_s=0.1)
        server.tell(signal.SIGTTOU)
        until(lambda: len(rows(server)) == 1, "one worker", pause_s=0.1)
        server.tell(signal.SIGTTOU)  # the last one stays
        server.wait_for_log("Handling signal: ttou", count=3)
        traffic.wait_served(50)
    assert traffic.losses == []
    assert refusals == []
    assert len(ready_pids(server)) == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_is_told_to_stop_alone_is_replaced(
    workers: int, worker_class: str, fleet, loads: Loads
) -> None:
    server = fleet(workers=workers, env={"WORKER_CLASS": worker_class, "READY_WORKERS_MIN": "1"})
    loads.release()
    server.wait_ready()
    old = ready_pids(server)
    with Traffic(server.port, count=14) as traffic:
        traffic.wait_served(50)
        os.kill(min(old), signal.SIGTERM)
        until(lambda: min(old) not in {row["pid"] for row in rows(server)}, "the end")
        until(lambda: len(ready_pids(server)) == workers, "the next")
        traffic.wait_served(50)
    assert traffic.losses == []


@pytest.mark.parametrize("warm_boot", ["0", "1"], ids=["cold", "warm"])
def test_another_master_takes_over_without_a_loss(
    warm_boot: str, worker_class: str, run: Run, loads: Loads, tmp_path: Path
) -> None:
    env = {"WORKER_CLASS": worker_class, "WARM_BOOT": warm_boot, "DRAIN_S": "0.5"}
    env["READY_WORKERS_MIN"] = "2"
    (tmp_path / "serve.py").write_text("from gunicorn.app.wsgiapp import run\n\nrun()\n")
    paths = os.pathsep.join([str(tmp_path), environment(tmp_path, loads)["PYTHONPATH"]])
    # Gunicorn starts itself again by the path of its script, which `python -m gunicorn` has not.
    server = run(("serve", "gated:app"), env=env | {"PYTHONPATH": paths}, directory=CONF, workers=2)
    loads.release(1 if warm_boot == "1" else 2)
    server.wait_ready()
    old = ready_pids(server)
    with Traffic(server.port, count=14) as traffic:
        server.tell(signal.SIGUSR2)
        fresh = [loads.next()]
        assert {_pid_served(server) for _ in range(8)} <= old
        traffic.wait_served(50)
        fresh[0].release()
        if warm_boot == "0":
            loads.release()
        until(lambda: {_pid_served(server) for _ in range(8)} - old, "the new ones to serve")
        server.tell(signal.SIGTERM)
        assert server.process.wait(LIMIT_S) == 0
        until(lambda: _pid_served(server) not in old, "only the new ones")
        traffic.wait_served(100)
    assert traffic.losses == []
    server.tell_group(signal.SIGTERM)
    assert server.wait_ended() == 0


def _pid_served(server: Server) -> int:
    with Client(server.port) as client:
        return pid_of(client)
