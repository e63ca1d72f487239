"""A Django project whose import leaves what a fork cannot share: it serves, the log says who."""

import json
import signal
from pathlib import Path

import pytest

from tests.servers.conftest import Run
from tests.servers.harness import Server

CODE = {
    "threaded": """\
import threading

threading.Thread(target=threading.Event().wait, name="poller", daemon=True).start()
""",
    "pooled": """\
from concurrent.futures import ThreadPoolExecutor

pool = ThreadPoolExecutor(1, thread_name_prefix="mailer")
pool.submit(print).result()
""",
    "looped": """\
import asyncio

loop = asyncio.new_event_loop()
""",
    "filed": """\
import sqlite3

own = sqlite3.connect("own.sqlite3")
own.execute("create table if not exists notes (text)")
""",
    "connected": "",
    "connected.apps": """\
from django.apps import AppConfig
from django.db import connection


class ConnectedConfig(AppConfig):
    name = "connected"

    def ready(self):
        with connection.cursor() as cursor:
            cursor.execute("create table if not exists seen (pid)")
""",
}
URLS = """

import os, random, secrets, uuid

from django.db import connection
from django.http import JsonResponse
from django.urls import path


def chance(request):
    with connection.cursor() as cursor:
        cursor.execute("insert into seen values (%s)", [os.getpid()])
    values = [str(random.random()), uuid.uuid4().hex, secrets.token_hex()]
    return JsonResponse({"pid": os.getpid(), "values": values})


urlpatterns += [path("chance", chance)]
"""
GUILTY = {
    "threaded": 'thread "poller"',
    "pooled": 'executor "mailer"',
    "looped": "eventpoll",
    "filed": "own.sqlite3, open for writing",
}


@pytest.fixture
def hostile(run: Run, tmp_path: Path) -> Path:
    """A project with one app for each sin."""
    pytest.importorskip("django")
    made = tmp_path / "made"
    made.mkdir()
    assert run(["django", "startproject", "mysite", str(made)]).wait_ended() == 0
    for name, code in CODE.items():
        app, _, module = name.partition(".")
        (made / app).mkdir(exist_ok=True)
        (made / app / f"{module or '__init__'}.py").write_text(code, encoding="utf-8")
    apps = [name for name in CODE if "." not in name]
    append(made / "mysite" / "settings.py", f"\nINSTALLED_APPS = [*INSTALLED_APPS, *{apps}]\n")
    append(made / "mysite" / "urls.py", URLS)
    init = run(["asgi_health", "init", "mysite.settings", "--directory", str(made)])
    assert init.wait_ended() == 0
    return made


def append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def start(run: Run, project: Path, **env: str) -> Server:
    whole = {"PORT": "0", "WEB_CONCURRENCY": "2", "READY_WORKERS_MIN": "2"} | env
    return run(["gunicorn", "health_asgi:app"], env=whole, directory=project, workers=2)


def answers_of_both(server: Server) -> dict[int, list[str]]:
    """What two workers answer, each its own connection."""
    found: dict[int, list[str]] = {}
    while len(found) < 2:
        answer = server.ask("/chance")
        assert answer.status == 200, answer.text
        told = json.loads(answer.body)
        found[told["pid"]] = told["values"]
    return found


def test_it_serves_and_the_log_names_each_guilty_app_and_the_way_out(
    run: Run, hostile: Path
) -> None:
    server = start(run, hostile)
    server.wait_ready()
    first, second = answers_of_both(server).values()
    assert not set(first) & set(second)  # random, uuid4 and secrets differ
    assert server.log.count("forked workers cannot use or must not share") == 1
    for app, sin in GUILTY.items():
        (line,) = [line for line in server.log.splitlines() if sin in line]
        assert line.endswith(f'left by app "{app}": import')
    assert "db.sqlite3" not in server.log  # Django's own connection is closed before the fork
    assert "set WARM_BOOT=0 so that each worker loads" in server.log
    server.tell(signal.SIGTERM)
    assert server.wait_ended() == 0


def test_with_a_load_for_each_worker_there_is_nothing_to_name(run: Run, hostile: Path) -> None:
    server = start(run, hostile, WARM_BOOT="0")
    server.wait_ready()
    first, second = answers_of_both(server).values()
    assert not set(first) & set(second)
    assert "left by" not in server.log
    server.tell(signal.SIGTERM)
    assert server.wait_ended() == 0
