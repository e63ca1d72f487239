"""The product on a real PostgreSQL: as many connections as its pools may have, and not one more."""

import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.servers.conftest import Run
from tests.servers.harness import ROOT, Server, until
from tests.services.postgres import Postgres

pytest.importorskip("django")

CLIENTS, REQUESTS = 24, 10
POOL_SIZE, WORKERS = 2, 2
OTHERS = "FROM pg_stat_activity WHERE datname = 'product'"
PREPARE = """
import django
django.setup()
from django.core.management import call_command
from django.test import Client
from apps.accounts.models import User
call_command("migrate", verbosity=0)
user = User.objects.create_user("somebody@example.org", "only for tests")
client = Client()
client.force_login(user)
print(client.cookies["sessionid"].value)
"""


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    made = Postgres()
    made.execute("CREATE DATABASE product")
    yield made
    made.stop()


@pytest.fixture
def env(postgres: Postgres) -> dict[str, str]:
    address = f"{postgres.user}:{postgres.password}@{postgres.host}:{postgres.port}"
    return {
        "ENV_FILE": os.devnull,
        "SECRET_KEY": secrets.token_urlsafe(64),
        "ALLOWED_HOSTS": "localhost",
        "HTTPS_ONLY": "0",
        "DRAIN_S": "0",
        "WEB_CONCURRENCY": str(WORKERS),
        "DATABASE_URL": f"postgresql://{address}/product?sslmode=disable",
        "DATABASE_POOL_SIZE": str(POOL_SIZE),
        "DJANGO_SETTINGS_MODULE": "project.settings",
    }


@pytest.fixture
def session(env: dict[str, str]) -> str:
    """The key of somebody who is logged in."""
    made = subprocess.run(
        [sys.executable, "-c", PREPARE],
        cwd=ROOT, env=os.environ | env, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (made.returncode, made.stderr) == (0, "")
    return made.stdout.strip()


@pytest.fixture
def server(run: Run, env: dict[str, str], session: str) -> Server:
    """The command of the README, in the folder where Gunicorn finds its configuration."""
    arguments = ["-k", "uvicorn.workers.UvicornWorker", "project.asgi:app", "-b", "127.0.0.1:0"]
    server = run(["gunicorn", *arguments], env=env, directory=ROOT, workers=WORKERS)
    server.wait_ready()
    return server


def ask(server: Server, session: str, *, count: int) -> list[tuple[int, Any]]:
    """List my projects so often on one connection."""
    found = []
    with server.connect() as client:
        for _ in range(count):
            client.request("/api/projects", headers={"Cookie": f"sessionid={session}"})
            answer = client.answer()
            found.append((answer.status, answer.json.get("count")))
    return found


def test_more_requests_than_connections_wait_for_one(
    server: Server, session: str, postgres: Postgres
) -> None:
    with ThreadPoolExecutor(CLIENTS) as pool:
        asked = [pool.submit(ask, server, session, count=REQUESTS) for _ in range(CLIENTS)]
        most = 0
        while not all(one.done() for one in asked):
            ((now,),) = postgres.execute(f"SELECT count(*) {OTHERS}")
            most = max(most, now)
    answers = [answer for one in asked for answer in one.result()]
    assert answers == [(200, 0)] * (CLIENTS * REQUESTS)
    assert 1 <= most <= WORKERS * POOL_SIZE

    def figures() -> tuple[int, int]:
        """The connections of all pools that are open, and how many they may have, as scraped."""
        text = server.ask("/metrics").text
        names = ("database_pool_connections", "database_pool_connections_limit")
        found = (
            re.search(rf'^{name}{{database="default"}} (\d+)', text, re.MULTILINE) for name in names
        )
        is_open, limit = (0 if one is None else int(one[1]) for one in found)
        return is_open, limit

    ((now,),) = postgres.execute(f"SELECT count(*) {OTHERS}")
    until(lambda: figures()[0] == now, f"a word of {now} connections")
    assert figures()[1] in {POOL_SIZE, POOL_SIZE * WORKERS}  # of the workers that have asked it

    server.tell(signal.SIGTERM)
    assert server.wait_ended() == 0, server.log
    assert "thread" not in server.log  # the pool complains when its threads do not end


def test_connections_that_the_database_ended_fail_no_request(
    server: Server, session: str, postgres: Postgres
) -> None:
    assert ask(server, session, count=REQUESTS) == [(200, 0)] * REQUESTS
    ended = postgres.execute(f"SELECT pg_terminate_backend(pid) {OTHERS}")
    assert ended
    assert ask(server, session, count=REQUESTS) == [(200, 0)] * REQUESTS
