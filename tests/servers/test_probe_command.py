"""`python -m asgi_health probe` against real servers."""

import socket

import pytest

from tests.servers.conftest import Run, Start
from tests.servers.harness import GUNICORN, UVICORN, Loads, Server


def _probe(run: Run, *arguments: str, server: Server | None = None) -> Server:
    env = {} if server is None else {"PORT": str(server.port)}
    return run(["asgi_health", "probe", *arguments], env=env)


def test_it_tells_not_ready_from_ready(start: Start, run: Run, loads: Loads) -> None:
    server = start(GUNICORN)
    load = loads.next()
    loading, alive = _probe(run, server=server), _probe(run, "/livez", server=server)
    assert (loading.wait_ended(), loading.log) == (1, "503 loading\n")
    assert (alive.wait_ended(), alive.log) == (0, "ok\n")

    load.release()
    server.wait_ready()
    ready = _probe(run, server=server)
    assert (ready.wait_ended(), ready.log) == (0, "ok\n")


def test_it_waits_until_the_service_is_ready(start: Start, run: Run, loads: Loads) -> None:
    server = start(UVICORN)
    load = loads.next()
    waiting = _probe(run, "--wait", "600", server=server)
    server.wait_for_log(r'"GET /readyz HTTP/1.1" 503', count=2)
    assert waiting.process.poll() is None

    load.release()

    assert (waiting.wait_ended(), waiting.log) == (0, "ok\n")


def test_it_gives_up_waiting_when_the_time_is_over(start: Start, run: Run, loads: Loads) -> None:
    server = start(UVICORN)
    loads.next()
    assert _probe(run, "--wait", "0.5", server=server).wait_ended() == 1
    server.wait_for_log(r'"GET /readyz HTTP/1.1" 503', count=2)


def test_it_tells_unreachable_from_not_ready(run: Run) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, never listening: connections are refused
        probe = _probe(run, f"http://127.0.0.1:{unused.getsockname()[1]}/readyz")
        assert probe.wait_ended() == 2
    assert "unreachable" in probe.log


def test_a_server_that_accepts_and_says_nothing_is_unreachable(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/readyz"
        probe = _probe(run, address, "--timeout", "0.3")
        assert probe.wait_ended() == 2
    assert "unreachable" in probe.log


@pytest.mark.parametrize(
    "arguments",
    [("--wait", "soon"), ("--speed", "1"), ("ftp://localhost/",), ("/livez", "/readyz")],
)
def test_wrong_usage_says_what_is_allowed(arguments: tuple[str, ...], run: Run) -> None:
    probe = _probe(run, *arguments)
    assert probe.wait_ended() == 3
    assert "usage: python -m asgi_health probe" in probe.log


def test_a_failed_boot_is_not_ready_and_says_why(start: Start, run: Run, loads: Loads) -> None:
    server = start(UVICORN, env={"FAILED_LINGER_S": "600"})
    loads.next().order("raise anything")
    server.wait_for_log("boot failed")
    probe = _probe(run, "/livez", server=server)
    assert (probe.wait_ended(), probe.log) == (1, "503 boot.error\n")


def test_the_boot_report_loads_what_is_behind_a_gate(run: Run, loads: Loads) -> None:
    report = run(["asgi_health", "boot-report", "gated:app"])
    loads.release()
    assert report.wait_ended() == 0
    assert "slowest modules, by own time" in report.log
    assert "slow" in report.log


def test_the_boot_report_of_an_application_that_raises_shows_its_traceback(
    run: Run, loads: Loads
) -> None:
    report = run(["asgi_health", "boot-report", "gated:app"])
    loads.next().order("raise no such thing")
    assert report.wait_ended() == 1
    assert "RuntimeError: no such thing" in report.log
