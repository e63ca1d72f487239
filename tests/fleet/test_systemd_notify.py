"""What a service manager hears of a server, and what it hands over to it."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.fleet.conftest import CONF, ready_pids
from tests.fleet.stopping import LONG_S, assert_ended_well, begin_drain
from tests.servers.conftest import Run
from tests.servers.harness import Loads, Server, environment, until

READY = "READY=1\nSTATUS=ready"
STOPPING = "STOPPING=1\nSTATUS=stopping"

ACTIVATED = """\
import os, socket, sys
listener = socket.create_server(("127.0.0.1", 0))
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.execv(sys.executable, [sys.executable, "-m", "gunicorn", "gated:app"])
"""
"""Starts the server as a service manager with an open socket does."""


class Manager:
    """The service manager's end of `NOTIFY_SOCKET`."""

    def __init__(self, path: Path) -> None:
        self.env = {"NOTIFY_SOCKET": str(path)}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(0.0)
        self._heard: list[str] = []

    @property
    def heard(self) -> list[str]:
        """All messages so far."""
        with suppress(BlockingIOError):
            while True:
                self._heard.append(self._socket.recv(4096).decode())
        return self._heard

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    listening = Manager(tmp_path / "notify")
    yield listening
    listening.close()


def _extends(message: str) -> bool:
    """Whether it asks for 10 s or more to start."""
    name, _, value = message.partition("\n")[0].partition("=")
    return name == "EXTEND_TIMEOUT_USEC" and int(value) >= 10_000_000


@pytest.mark.parametrize("warm_boot", ["0", "1"], ids=["cold", "warm"])
def test_the_manager_hears_of_the_boot_of_ready_and_of_the_drain(
    warm_boot: str, worker_class: str, fleet, loads: Loads, manager: Manager
) -> None:
    env = {"WORKER_CLASS": worker_class, "WARM_BOOT": warm_boot, "DRAIN_S": LONG_S}
    server = fleet(env=env | manager.env)
    imports = [loads.next() for _ in range(1 if warm_boot == "1" else 2)]
    until(lambda: manager.heard, "the start")
    server.ask("/livez")
    assert len(manager.heard) == 1
    assert _extends(manager.heard[0])

    for load in imports[1:]:
        load.release()
    if warm_boot == "0":
        until(lambda: len(ready_pids(server)) == 1, "one ready worker")
        assert READY not in manager.heard, "another one still loads"
    imports[0].release()
    until(lambda: READY in manager.heard, "ready")
    server.wait_ready()
    server.tell(signal.SIGHUP)
    old = ready_pids(server)
    if warm_boot == "0":
        loads.release(2)
    until(lambda: ready_pids(server) and not old & ready_pids(server), "new workers", pause_s=0.1)

    begin_drain(server)
    until(lambda: STOPPING in manager.heard, "the stop")
    assert manager.heard[1:] == [READY, STOPPING]
    server.tell(signal.SIGTERM)
    assert_ended_well(server)
    assert manager.heard[1:] == [READY, STOPPING]


def test_the_application_does_not_see_the_managers_socket(
    fleet, loads: Loads, manager: Manager
) -> None:
    server = fleet(env=manager.env | {"TARGET": "environ_of:app"})
    server.wait_ready()
    assert "NOTIFY_SOCKET" not in server.ask("/").json
    assert "LOADS_PORT" in server.ask("/").json


@pytest.mark.parametrize("warm_boot", ["0", "1"], ids=["cold", "warm"])
def test_a_load_that_fails_is_never_called_ready(
    warm_boot: str, fleet, loads: Loads, manager: Manager
) -> None:
    server = fleet(env=manager.env | {"WARM_BOOT": warm_boot, "FAILED_LINGER_S": "0.5"})
    for load in [loads.next() for _ in range(1 if warm_boot == "1" else 2)]:
        load.order("raise the code is broken")
    assert server.wait_ended() == 3, server.log
    assert READY not in manager.heard
    assert _extends(manager.heard[0])


@pytest.mark.parametrize("warm_boot", ["0", "1"], ids=["cold", "warm"])
def test_a_stop_while_loading_is_told_once(
    warm_boot: str, fleet, loads: Loads, manager: Manager
) -> None:
    server = fleet(env=manager.env | {"WARM_BOOT": warm_boot})
    for _ in range(1 if warm_boot == "1" else 2):
        loads.next()
    server.tell(signal.SIGTERM)
    assert server.wait_ended() == 0, server.log
    assert manager.heard[1:] == [STOPPING]


def test_a_quit_is_told(fleet, loads: Loads, manager: Manager) -> None:
    server = fleet(env=manager.env)
    loads.release()
    until(lambda: READY in manager.heard, "ready")
    server.tell(signal.SIGQUIT)
    assert_ended_well(server)
    assert manager.heard[1:] == [READY, STOPPING]


def test_an_application_without_a_gate_is_ready_when_the_port_is_open(
    run: Run, manager: Manager
) -> None:
    server = run(("gunicorn", "plain:app"), env=manager.env, directory=CONF, workers=2)
    until(lambda: READY in manager.heard, "ready")
    assert server.ask("/hello").status == 200
    server.tell(signal.SIGTERM)
    assert server.wait_ended() == 0, server.log
    assert manager.heard.count(READY) == 1


def test_an_entry_point_that_cannot_be_imported_is_never_called_ready(
    run: Run, manager: Manager
) -> None:
    server = run(("gunicorn", "no_such_module:app"), env=manager.env, directory=CONF, workers=2)
    assert server.wait_ended() != 0
    assert READY not in manager.heard


def test_a_socket_of_the_managers_is_served_from_the_boot_on(
    worker_class: str, run: Run, loads: Loads, manager: Manager, tmp_path: Path
) -> None:
    (tmp_path / "activate.py").write_text(ACTIVATED, encoding="utf-8")
    paths = os.pathsep.join([str(tmp_path), environment(tmp_path, loads)["PYTHONPATH"]])
    env = {"WORKER_CLASS": worker_class, "PYTHONPATH": paths} | manager.env
    server = run(("activate",), env=env, directory=CONF, workers=2)
    load = loads.next()
    assert server.ask("/readyz").status == 503
    with server.connect() as client:
        client.request("/hello")
        server.wait_held(1)
        load.release()
        assert client.answer().status == 200
    until(lambda: READY in manager.heard, "ready")
    server.tell(signal.SIGTERM)
    assert_ended_well(server)


def test_two_stops_while_nobody_listens_to_the_managers_socket_end_the_server(
    fleet, loads: Loads, tmp_path: Path
) -> None:
    server: Server = fleet(env={"NOTIFY_SOCKET": str(tmp_path / "nobody"), "DRAIN_S": LONG_S})
    loads.release()
    server.wait_ready()
    begin_drain(server)
    server.tell(signal.SIGTERM)
    assert_ended_well(server)
    assert server.log.count("systemd cannot be notified") == 1
