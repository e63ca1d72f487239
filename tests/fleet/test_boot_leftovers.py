"""Applications, listeners and platforms of all sorts; what a boot leaves behind."""

import os
import signal
import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from tests.fleet.booting import (
    HELLO,
    children,
    connections,
    descriptors,
    responder_of,
    state_of,
)
from tests.fleet.conftest import CONF, ready_pids
from tests.fleet.traffic import HABITS, Traffic
from tests.servers.conftest import Run
from tests.servers.harness import APPS, LIMIT_S, ROOT, Load, Loads, Server, until

_NO_FIRST_FORK = """
import errno, os

fork = os.fork

def refuse():
    os.fork = fork
    raise OSError(errno.EAGAIN, "too many processes")

os.fork = refuse
"""


def _workers(server: Server) -> set[int]:
    """Both, once they are ready and the master has no other child."""
    master = server.process.pid
    until(lambda: children(master) == ready_pids(server) and len(children(master)) == 2, "workers")
    return children(master)


def _kinds(pid: int) -> tuple[str, ...]:
    """Sockets, pipes and the like."""
    return tuple(kind for kind in descriptors(pid) if kind.endswith(":"))


def test_a_boot_leaves_no_process_and_no_descriptor(worker_class: str, fleet, loads: Loads) -> None:
    env = {"WORKER_CLASS": worker_class}
    warm = fleet(env=env)
    load = loads.next()
    responder = responder_of(warm)
    with connections(warm, 50) as clients:
        for client in clients:
            client.send(HELLO)
        warm.wait_held(50)
        load.release()
        assert {client.answer().status for client in clients} == {200}
    cold = fleet(env=env | {"WARM_BOOT": "0"})
    loads.release(2)
    workers = _workers(cold) | _workers(warm)
    until(lambda: len(set(map(_kinds, workers))) == 1, "all workers to have the same open")
    assert state_of(responder) == ""
    queue = ("socket:",)
    assert _kinds(warm.process.pid) == tuple(sorted(_kinds(cold.process.pid) + queue))


def test_workers_that_come_later_boot_from_the_same_load(fleet, loads: Loads) -> None:
    server = fleet()
    loads.release()
    old = _workers(server)
    for pid in old:
        os.kill(pid, signal.SIGKILL)
    until(lambda: len(ready_pids(server) - old) == 2, "two new workers")
    assert server.ask("/hello").status == 200
    assert loads.none_asked


def test_a_careless_import_does_not_break_the_boot(fleet, loads: Loads) -> None:
    server = fleet(env={"TARGET": "careless:app"})
    load = loads.next()
    with connections(server, 5) as clients:
        for client in clients:
            client.send(HELLO)
        server.wait_held(5)
        load.release()
        assert {client.answer().status for client in clients} == {200}
    _workers(server)
    assert "the program ended with 7" in server.log
    assert 'thread "forgotten"' in server.log
    assert "handed " in server.log
    server.tell(signal.SIGTERM)
    assert server.wait_ended() == 0


def _forked(server: Server, loads: Loads) -> tuple[Load, Load]:
    """The load of the master, and that of a process which it has forked."""
    load, forked = loads.next(), loads.next()
    return (load, forked) if load.pid == server.process.pid else (forked, load)


def test_a_killed_master_ends_the_responder_though_a_fork_of_it_lives(fleet, loads: Loads) -> None:
    server = fleet(env={"TARGET": "forking:app"})
    load, forked = _forked(server, loads)
    (responder,) = children(load.pid) - {forked.pid}
    assert server.ask("/livez").status == 200
    os.kill(load.pid, signal.SIGKILL)
    until(lambda: state_of(responder) in {"", "Z"}, "the responder to end")
    forked.release()
    assert server.wait_ended() == -signal.SIGKILL


def test_a_signal_to_a_process_that_the_load_forked_is_its_own_affair(
    fleet, loads: Loads, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"
    server = fleet("--pid", str(pid_file), env={"TARGET": "forking:app"})
    load, forked = _forked(server, loads)
    os.kill(forked.pid, signal.SIGTERM)
    until(lambda: state_of(forked.pid) in {"", "Z"}, "the fork to end")
    assert server.ask("/readyz").text == "loading"
    load.release()
    server.wait_ready()
    assert pid_file.exists()


def test_a_process_without_an_error_stream_boots(fleet, loads: Loads, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.stderr = None")
    paths = os.pathsep.join([str(tmp_path), str(ROOT), str(APPS)])
    server = fleet("--error-logfile", "/dev/stdout", env={"PYTHONPATH": paths})
    loads.release()
    server.wait_ready()


def test_a_machine_that_starts_no_responder_boots(fleet, loads: Loads, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(_NO_FIRST_FORK)
    paths = os.pathsep.join([str(tmp_path), str(ROOT), str(APPS)])
    server = fleet(env={"PYTHONPATH": paths})
    load = loads.next()
    with server.connect() as client:
        client.send(HELLO)
        load.release()
        assert client.answer().status == 200
    assert server.log.count("nobody answers until ready: no process can be started") == 1


def test_what_was_held_learns_that_the_workers_cannot_start(fleet, loads: Loads) -> None:
    server = fleet(workers=1, env={"TARGET": "unstartable:app", "FAILED_LINGER_S": "1"})
    load = loads.next()
    with connections(server, 20) as clients:
        for client in clients:
            client.send(HELLO)
        server.wait_held(20)
        load.release()
        answers = [client.answer() for client in clients]
    assert {answer.status for answer in answers} == {503}
    assert {answer.json["code"] for answer in answers} == {"boot.lifespan"}
    assert server.wait_ended() == 3
    assert "no broker" in server.log


def test_each_worker_loads_when_warm_boot_is_off(worker_class: str, fleet, loads: Loads) -> None:
    server = fleet(env={"WORKER_CLASS": worker_class, "WARM_BOOT": "0"})
    imports = [loads.next(), loads.next()]
    assert len({load.pid for load in imports}) == 2
    assert server.process.pid not in {load.pid for load in imports}
    with server.connect() as client:
        client.send(HELLO)
        for load in imports:
            load.release()
        assert client.answer().status == 200
    assert server.log.count("each worker loads for itself: WARM_BOOT is off") == 1


def test_an_application_without_a_gate_is_served_as_without_hooks(run: Run, loads: Loads) -> None:
    server = run(("gunicorn", "plain:app"), directory=CONF, workers=2)
    until(lambda: server.ask("/hello").status == 200, "an answer")
    assert server.log.count("is a function, no HealthGate: no hooks") == 1
    server.tell(signal.SIGTERM)
    assert server.wait_ended() == 0


@pytest.mark.parametrize("app", ["no_such_module:app", "gated:no_such_name"])
def test_an_entry_point_that_cannot_be_imported_ends_the_server(app: str, run: Run) -> None:
    server = run(("gunicorn", app), directory=CONF, env={"WEB_CONCURRENCY": "1"})
    assert server.wait_ended() in {3, 4}, server.log
    assert "Traceback" in server.log or "Failed to find attribute" in server.log


def _certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed one for localhost."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    made = ("-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "2")
    try:
        subprocess.run(("openssl", "req", "-x509", *made, *names), check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no certificate without openssl: {error}")
    return key, certificate


def test_listeners_that_speak_tls_are_served_by_workers_that_load(
    worker_class: str, fleet, loads: Loads, tmp_path: Path
) -> None:
    key, certificate = _certificate(tmp_path)
    server = fleet(
        "--keyfile", str(key), "--certfile", str(certificate), env={"WORKER_CLASS": worker_class}
    )
    loads.release(2)
    port = server.wait_for_log(r"Listening at: https://127\.0\.0\.1:(\d+)")[1]
    trust = ssl.create_default_context(cafile=str(certificate))
    with (
        socket.create_connection(("127.0.0.1", int(port)), timeout=LIMIT_S) as plain,
        trust.wrap_socket(plain, server_hostname="localhost") as wire,
    ):
        wire.sendall(HELLO.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert wire.recv(12) == b"HTTP/1.1 200"
    assert server.log.count("each worker loads for itself: the listeners speak TLS") == 1


def test_an_upgrade_loads_beside_the_old_server_and_loses_nothing(run: Run, loads: Loads) -> None:
    server = run(("gunicorn_script", "gated:app"), directory=CONF, workers=2)
    loads.release()
    old = _workers(server)
    with Traffic(server.port, count=10, habits=HABITS[:3]) as traffic:
        traffic.wait_served(20)
        server.tell(signal.SIGUSR2)
        load = loads.next()
        traffic.wait_served(20)
        load.release()
        until(lambda: len(ready_pids(server) - old) == 2, "the new workers")
        server.tell(signal.SIGTERM)
        until(lambda: server.process.poll() is not None, "the old master to end")
        traffic.wait_served(20)
    assert traffic.losses == []
    os.kill(load.pid, signal.SIGTERM)
    assert server.wait_ended() == 0
