"""A project that `django-admin startproject` has just made, and `python -m asgi_health init`."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.servers.conftest import Run
from tests.servers.harness import LIMIT_S, Client, Loads, Server

FILES = ("health_asgi.py", "gunicorn.conf.py")
ROUTER = """\
from django.core.asgi import get_asgi_application

handler = get_asgi_application()


async def application(scope, receive, send):
    if scope["type"] != "websocket":
        await handler(scope, receive, send)
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"].upper()})
"""


@pytest.fixture
def project(run: Run, tmp_path: Path) -> Path:
    """A new project with one app of its own whose import waits for the test."""
    pytest.importorskip("django")
    made = tmp_path / "made"
    made.mkdir()
    assert run(["django", "startproject", "mysite", str(made)]).wait_ended() == 0
    (made / "slowapp").mkdir()
    code = 'import orders\n\norders.obey("import")\n'
    (made / "slowapp" / "__init__.py").write_text(code, encoding="utf-8")
    _append_settings(made, 'INSTALLED_APPS = [*INSTALLED_APPS, "slowapp"]')
    return made


def _append_settings(project: Path, line: str) -> None:
    with (project / "mysite" / "settings.py").open("a", encoding="utf-8") as settings:
        settings.write(f"\n{line}\n")


def _init(run: Run, project: Path) -> Server:
    return run(["asgi_health", "init", "mysite.settings", "--directory", str(project)])


def _start(run: Run, project: Path) -> Server:
    """Start as `init` says, on a free port."""
    env = {"PORT": "0", "FAILED_LINGER_S": "0.2"}
    return run(["gunicorn", "health_asgi:app"], env=env, directory=project)


@pytest.fixture
def initialized(run: Run, project: Path) -> Path:
    assert _init(run, project).wait_ended() == 0
    return project


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as threads:
        yield threads


def test_init_writes_three_lines_and_a_configuration_and_says_what_next(
    run: Run, project: Path
) -> None:
    init = _init(run, project)
    assert init.wait_ended() == 0
    assert len((project / "health_asgi.py").read_text(encoding="utf-8").splitlines()) == 3
    assert "gunicorn health_asgi:app" in init.log
    assert "/readyz" in init.log


def test_a_second_init_overwrites_nothing(run: Run, initialized: Path) -> None:
    for name in FILES:
        (initialized / name).write_text(f"# mine: {name}", encoding="utf-8")
    second = _init(run, initialized)
    assert second.wait_ended() == 1
    assert "nothing was written" in second.log
    for name in FILES:
        assert (initialized / name).read_text(encoding="utf-8") == f"# mine: {name}"


def test_init_writes_neither_file_when_one_exists(run: Run, project: Path) -> None:
    (project / "gunicorn.conf.py").write_text("# mine", encoding="utf-8")
    assert _init(run, project).wait_ended() == 1
    assert not (project / "health_asgi.py").exists()


def test_probes_answer_while_django_loads_and_the_admin_is_served_afterwards(
    run: Run, initialized: Path, loads: Loads
) -> None:
    server = _start(run, initialized)
    load = loads.next()
    assert server.ask("/livez", headers={"Host": "10.0.0.1"}).text == "ok"
    assert server.ask("/readyz").text == "loading"
    assert server.ask("/statusz").text.count("<svg") >= 2  # the settings are loaded, apps load

    with server.connect() as early:
        early.request("/admin/login/")
        server.wait_held(1)
        load.release()
        answer = early.answer()

    assert answer.status == 200
    assert "csrfmiddlewaretoken" in answer.text
    assert server.ask("/readyz").status == 200
    server.tell(signal.SIGTERM)
    assert server.wait_ended() == 0


def test_the_boot_report_names_the_steps_and_apps_of_django(
    run: Run, initialized: Path, loads: Loads
) -> None:
    server = _start(run, initialized)
    loads.release()
    server.wait_ready()
    boot = server.ask("/statusz?format=json").json["boot"]
    steps = [step["name"] for step in boot["steps"]]
    assert set(steps) >= {"settings", "urlconf", "middleware", "warm-up"}
    assert steps.index("settings") < steps.index("urlconf") < steps.index("warm-up")
    assert "slowapp" in {app["name"] for app in boot["slowest_apps"]}


def test_a_broken_setting_is_a_failed_boot_with_django_s_own_words(
    run: Run, initialized: Path
) -> None:
    _append_settings(initialized, 'MIDDLEWARE = ["no.such.Middleware"]')
    _append_settings(initialized, "INSTALLED_APPS.remove('slowapp')")
    server = _start(run, initialized)
    assert server.wait_ended() == 3
    server.wait_for_log("boot failed: .*no")
    assert server.log.count("Traceback (most recent call last)") == 1


def test_the_projects_own_asgi_application_keeps_its_websockets(
    run: Run, initialized: Path, loads: Loads, pool: ThreadPoolExecutor
) -> None:
    (initialized / "mysite" / "routing.py").write_text(ROUTER, encoding="utf-8")
    _append_settings(initialized, 'ASGI_APPLICATION = "mysite.routing.application"')
    server = _start(run, initialized)
    load = loads.next()
    handshake = pool.submit(connect, f"ws://localhost:{server.port}/live", open_timeout=LIMIT_S)
    server.wait_held(1)
    load.release()

    with handshake.result(LIMIT_S) as live:
        live.send("held")
        assert live.recv(LIMIT_S) == "HELD"
    assert server.ask("/admin/login/").status == 200


def test_the_port_of_the_environment_is_bound_for_ipv4_and_ipv6(
    run: Run, initialized: Path, loads: Loads
) -> None:
    server = _start(run, initialized)
    loads.next()
    for host in ("127.0.0.1", "::1"):
        with Client(server.port, host=host) as client:
            client.request("/livez")
            assert client.answer().text == "ok"
