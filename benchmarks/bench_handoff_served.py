"""Requests a second over sockets: Django under stock ASGI, under ours, and under threaded WSGI.

Gunicorn with two workers: Uvicorn's for both ASGI ones, gthread with two threads for WSGI. wrk (or
a Python client) with kept connections in another process.
"""

import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from harness import APPS, ROOT, alternate, load, options, publish, ratio, start, stop, until_200

SECONDS = 3.0
CONNECTIONS = 16
PORTS = {"stock": 8311, "ours": 8312, "wsgi": 8313}
UVICORN = ("-k", "uvicorn.workers.UvicornWorker")
WORKERS = {"stock": UVICORN, "ours": UVICORN, "wsgi": ("-k", "gthread", "--threads", "2")}
PATHS = (
    ("/async/", "asynchronous view", "≥ 3 ×; ≥ 1.0 ×"),
    ("/sync/", "synchronous view", "≥ 3 ×; ≥ 1.0 ×"),
    ("/people/", "page with a template, 50 rows", "≥ 2 ×; ≥ 1.0 ×"),
    ("/admin/auth/user/", "admin's list, 100 rows", "≥ 2 ×; ≥ 1.0 ×"),
)
MAKE_DATABASE = """
import django
django.setup()
from importlib import import_module
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import User
from django.core.management import call_command
call_command("migrate", verbosity=0)
User.objects.bulk_create(
    User(username=f"user{n}", first_name=f"First {n}", email=f"{n}@example.org") for n in range(200)
)
admin = User.objects.create_superuser("admin", "admin@example.org", "only for benchmarks")
store = import_module("django.contrib.sessions.backends.db").SessionStore()
store[SESSION_KEY] = str(admin.pk)
store[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
store[HASH_SESSION_KEY] = admin.get_session_auth_hash()
store.save()
print(store.session_key)
"""


@contextmanager
def site() -> Iterator[tuple[dict[str, str], str]]:
    """The environment with a database of its own, and an administrator's session key."""
    with TemporaryDirectory(prefix="handoff-") as folder:
        environment = {
            "BENCH_DATABASE": str(Path(folder, "db.sqlite3")),
            "DJANGO_SETTINGS_MODULE": "usual_settings",
        }
        paths = os.pathsep.join([str(ROOT), str(APPS)])
        made = subprocess.run(
            [sys.executable, "-c", MAKE_DATABASE],
            env={**os.environ, "PYTHONPATH": paths, **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        yield environment, made.stdout.split()[-1]


@contextmanager
def servers(environment: dict[str, str]) -> Iterator[None]:
    """All three, one port each; only one is asked at a time."""
    with TemporaryDirectory(prefix="handoff-") as folder:
        running = [
            start(
                *("gunicorn", f"usual_servers:{name}", "-w", "2", *WORKERS[name]),
                *("-b", f"127.0.0.1:{PORTS[name]}", "--keep-alive", "75"),
                *("--log-level", "critical"),
                folder=Path(folder),
                port=PORTS[name],
                environment=environment,
            )
            for name in PORTS
        ]
        try:
            for port in PORTS.values():
                until_200(port, "/sync/")
            yield
        finally:
            for server in running:
                stop(server)


def measure(name: str, path: str, session: str) -> Callable[[], float]:
    """Requests a second with one kind of server."""
    port = PORTS[name]
    if shutil.which("wrk") is None:
        return lambda: load(port, path, seconds=SECONDS, connections=CONNECTIONS) / SECONDS

    def run() -> float:
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS:g}s"]
        header = ["-H", f"Cookie: sessionid={session}"]
        made = subprocess.run(
            [*command, *header, f"http://127.0.0.1:{port}{path}"],
            capture_output=True,
            text=True,
            check=True,
        )
        if "Non-2xx" in made.stdout or "Socket errors" in made.stdout:
            raise RuntimeError(f"{name} {path}: {made.stdout}")
        return float(re.search(r"Requests/sec:\s+([\d.]+)", made.stdout)[1])

    return run


def main() -> None:
    found = options(__doc__)
    rows = []
    with site() as (environment, session), servers(environment):
        for path, what, bar in PATHS:
            stock, ours, wsgi = alternate(
                found.rounds, [measure(name, path, session) for name in ("stock", "ours", "wsgi")]
            )
            rows.append(
                (
                    what,
                    *(f"{statistics.median(values):,.0f}/s" for values in (stock, ours, wsgi)),
                    f"{ratio(ours, stock):.1f} ×",
                    f"{ratio(ours, wsgi):.2f} ×",
                    bar,
                )
            )
    publish(
        "bench_handoff_served",
        title="Hand-off, served",
        how="Gunicorn, two workers each; WSGI: gthread with two threads a worker. SQLite with "
        f"CONN_MAX_AGE. {CONNECTIONS} kept connections for {SECONDS:g} s.",
        head=("request", "stock ASGI", "ours", "gthread WSGI", "over stock", "over WSGI", "bar"),
        rows=rows,
        found=found,
    )


if __name__ == "__main__":
    main()
