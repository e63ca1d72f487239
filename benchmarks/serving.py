"""What the benchmarks of the hand-off share: two Django projects with data, served in every way,
and a load on them.
"""

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from harness import APPS, ROOT, free_port, load, start, stop, until_200

from tests.services.postgres import Postgres

SECONDS = 3.0
CONNECTIONS = 16
FAIR = "runs in which one worker did less than half of the other's work are taken again"
_ATTEMPTS = 6
UVICORN = ("-k", "uvicorn.workers.UvicornWorker")
GTHREAD = ("-k", "gthread", "--threads", "2")

_LOG_IN = """
from django.test import Client
client = Client()
client.force_login(admin)
print(client.cookies["sessionid"].value)
"""
_MIGRATE = """
import django
django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
"""
_USUAL = """
from django.contrib.auth.models import User
User.objects.bulk_create(
    User(username=f"user{n}", first_name=f"First {n}", email=f"{n}@example.org") for n in range(200)
)
admin = User.objects.create_superuser("admin", "admin@example.org", "only for benchmarks")
"""
_PRODUCT = """
from datetime import date
from apps.accounts.models import User
from apps.projects.models import Project
admin = User.objects.create_user("admin@example.org", "only for benchmarks", is_staff=True)
begin, end = date(2026, 1, 1), date(2026, 2, 1)
Project.objects.bulk_create(
    Project(owner=admin, name=f"Project {n}", start_date=begin, end_date=end) for n in range(200)
)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A Django project with data: its environment, and the session key of somebody who is in."""

    environment: Mapping[str, str]
    session: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A server that was started."""

    port: int
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one run of load saw; `p50_ms` is None without wrk."""

    requests_s: float
    p50_ms: float | None


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A server with the role `bench`, whose password costs as much work as is usual."""
    made = Postgres(max_connections=300)
    try:
        made.execute("SET scram_iterations = 4096")
        made.execute(f"CREATE ROLE bench SUPERUSER LOGIN PASSWORD '{made.password}'")
        yield made
    finally:
        made.stop()


@contextmanager
def usual_site(server: Postgres | None = None) -> Iterator[Site]:
    """The project of usual_settings.py, with 201 users, on SQLite or on a server.

    Connections may be kept (`CONN_MAX_AGE`).
    """
    with TemporaryDirectory(prefix="handoff-") as folder:
        kept = {"CONN_MAX_AGE": 600}
        if server is None:
            database = kept | {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": str(Path(folder, "db.sqlite3")),
                "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20},
            }
        else:
            database = kept | {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": _new_database(server),
                "USER": "bench",
                "PASSWORD": server.password,
                "HOST": server.host,
                "PORT": server.port,
            }
        environment = {
            "DJANGO_SETTINGS_MODULE": "usual_settings",
            "BENCH_DATABASE": json.dumps(database),
        }
        yield _site(environment, _USUAL)


def _new_database(server: Postgres) -> str:
    name = f"bench_{secrets.token_hex(4)}"
    server.execute(f"CREATE DATABASE {name} OWNER bench")
    return name


@contextmanager
def product_site(server: Postgres | None = None) -> Iterator[Site]:
    """This repository's own project, as in production, with 200 projects, on SQLite or on a server.

    On a server it has a pool of connections in each process.
    """
    with TemporaryDirectory(prefix="handoff-") as folder:
        url = f"sqlite:///{Path(folder, 'db.sqlite3')}"
        if server is not None:
            address = f"bench:{server.password}@{server.host}:{server.port}"
            url = f"postgresql://{address}/{_new_database(server)}"
        environment = {
            "DJANGO_SETTINGS_MODULE": "project.settings",
            "ENV_FILE": "/dev/null",
            "SECRET_KEY": "only-for-benchmarks-" + 40 * "x",
            "PUBLIC_DOMAIN": "127.0.0.1",
            "ALLOWED_HOSTS": "127.0.0.1,localhost",
            "HTTPS_ONLY": "0",
            "DATABASE_URL": url,
            "LOG_LEVEL": "error",
        }
        yield _site(environment, _PRODUCT)


def _site(environment: dict[str, str], data: str) -> Site:
    made = subprocess.run(
        [sys.executable, "-c", _MIGRATE + data + _LOG_IN],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(APPS)]), **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Site(environment=environment, session=made.stdout.split()[-1])


@contextmanager
def served(
    site: Site, wanted: Mapping[str, tuple[str, ...]], *, ready: str
) -> Iterator[dict[str, Running]]:
    """Start each of `wanted` with `python -m`. Only one should be asked at a time.

    Args:
        site: what they serve.
        wanted: arguments by name; `{port}` and, of another one, `{port_of[NAME]}`.
        ready: a path that all of them answer with 200.
    """
    ports = {name: free_port() for name in wanted}
    running = {}
    with TemporaryDirectory(prefix="handoff-") as folder, ExitStack() as stack:
        for name, arguments in wanted.items():
            words = [word.format(port=ports[name], port_of=ports) for word in arguments]
            process = start(
                *words, folder=Path(folder), port=ports[name], environment=site.environment
            )
            stack.callback(stop, process)
            running[name] = Running(port=ports[name], pid=process.pid)
        for port in ports.values():
            until_200(port, ready)
        yield running


def gunicorn(application: str, *worker: str, conf: Path = Path("/dev/null")) -> tuple[str, ...]:
    """Arguments of Gunicorn with two workers."""
    address = "127.0.0.1:{port}"
    options = ("-w", "2", *worker, "-b", address, "--keep-alive", "75", "--log-level", "critical")
    return ("gunicorn", "-c", str(conf), *options, application)


def loaded(server: Running, path: str, site: Site, *, connections: int = CONNECTIONS) -> Load:
    """Ask for one path all the time over kept connections, with wrk where it is installed.

    Which worker gets how many of them is chance; a run that left one of two workers idle says
    nothing of the handler, so it is taken again, a few times at most.
    """
    for _ in range(_ATTEMPTS):
        before = _computed(server.pid)
        seen = _loaded_once(server.port, path, site, connections=connections)
        work = [after - begun for after, begun in zip(_computed(server.pid), before, strict=True)]
        if not work or min(work) > max(work) / 2:
            break
    return seen


def _computed(pid: int) -> list[int]:
    """The time that each child of a process has computed, in the kernel's ticks."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    fields = [Path(f"/proc/{child}/stat").read_text().rpartition(")")[2] for child in children]
    return [sum(map(int, field.split()[11:13])) for field in fields]


def _loaded_once(port: int, path: str, site: Site, *, connections: int) -> Load:
    if shutil.which("wrk") is None:
        done = load(port, path, seconds=SECONDS, connections=connections)
        return Load(requests_s=done / SECONDS, p50_ms=None)
    options = ("-t1", f"-c{connections}", f"-d{SECONDS:g}s", "--timeout", "30s", "--latency")
    made = subprocess.run(
        [
            "wrk",
            *options,
            "-H",
            f"Cookie: sessionid={site.session}",
            f"http://127.0.0.1:{port}{path}",
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    if "Non-2xx" in made.stdout or "Socket errors" in made.stdout:
        raise RuntimeError(f"{path}: {made.stdout}")
    found = re.search(r"50%\s+([\d.]+)(us|ms|s)", made.stdout)
    return Load(
        requests_s=float(re.search(r"Requests/sec:\s+([\d.]+)", made.stdout)[1]),
        p50_ms=float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found[2]],
    )
