"""`init`: put the gate in front of an existing Django project."""

import argparse
import sys
from collections.abc import Sequence
from keyword import iskeyword
from pathlib import Path

__all__ = ["run"]

ENTRY_POINT = """\
import os
from asgi_health import HealthConfig, HealthGate
app = HealthGate.for_django("{settings}", config=HealthConfig.from_environ(os.environ))
"""
CONFIGURATION = '''\
"""Gunicorn reads this file by itself. Start with: gunicorn health_asgi:app"""

import os

from asgi_health.adapters.gunicorn import Hooks, listen_address, trusted_proxies
from asgi_health.fleet.config import FleetConfig

wsgi_app = "health_asgi:app"
worker_class = "asgi_health.adapters.uvicorn.Worker"
bind = [listen_address(int(os.environ.get("PORT") or 8000))]
workers = int(os.environ.get("WEB_CONCURRENCY") or 1)
timeout = 30  # seconds that a worker may block before Gunicorn replaces it; counts from ready on
graceful_timeout = int(os.environ.get("GRACEFUL_S") or 25)  # seconds for requests at a stop
keepalive = 75  # seconds; longer than the balancer's, so that the balancer closes first
forwarded_allow_ips = trusted_proxies(os.environ.get("FORWARDED_ALLOW_IPS") or "127.0.0.1,::1")
control_socket_disable = True  # its thread in the master would not survive the forks

hooks = Hooks(FleetConfig.from_environ(os.environ))
on_starting = hooks.on_starting
when_ready = hooks.when_ready
on_reload = hooks.on_reload
nworkers_changed = hooks.nworkers_changed
pre_fork = hooks.pre_fork
post_fork = hooks.post_fork
post_worker_init = hooks.post_worker_init
worker_exit = hooks.worker_exit
child_exit = hooks.child_exit
'''
NEXT = """\
Start:        gunicorn health_asgi:app   (PORT, default 8000; WEB_CONCURRENCY, default 1)
Health path:  /readyz   (200 only when a real request would succeed; /livez answers at once)
Status page:  /statusz  (set HEALTH_TOKEN, 32 characters or more; at home HEALTH_DETAILS_LOOPBACK=1)
"""


def run(arguments: Sequence[str]) -> int:
    """Write the two files; 0 written, 1 nothing written because one exists, 3 wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m asgi_health init", exit_on_error=False)
    parser.add_argument("settings", metavar="SETTINGS_MODULE", help="for example mysite.settings")
    parser.add_argument(
        "--directory", default=".", metavar="DIR", help="where manage.py is; default: here"
    )
    try:
        options = parser.parse_args(arguments)
    except (argparse.ArgumentError, SystemExit) as error:
        if isinstance(error, SystemExit):
            return 3 if error.code else 0
        return _refuse(f"{error}", 3)
    return _write(options.settings, Path(options.directory))


def _write(settings: str, directory: Path) -> int:
    if not all(part.isidentifier() and not iskeyword(part) for part in settings.split(".")):
        return _refuse(
            f"SETTINGS_MODULE is {settings!r}; allowed: a dotted name such as mysite.settings", 3
        )
    if not directory.is_dir():
        return _refuse(f"DIR is {str(directory)!r}; allowed: a folder that exists", 3)
    parts = settings.split(".")
    base = directory.joinpath(*parts)
    if not (base.with_suffix(".py").is_file() or (base / "__init__.py").is_file()):
        sys.stderr.write(
            f"note: {settings} is not below {directory}; the server must be able to import it\n"
        )
    files = {
        directory / "health_asgi.py": ENTRY_POINT.format(settings=settings),
        directory / "gunicorn.conf.py": CONFIGURATION,
    }
    existing = [str(path) for path in files if path.exists() or path.is_symlink()]
    if existing:
        return _refuse(
            f"{' and '.join(existing)} exist already; nothing was written. Move them away first", 1
        )
    for path, text in files.items():
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
        sys.stdout.write(f"wrote {path}\n")
    sys.stdout.write(NEXT)
    return 0


def _refuse(reason: str, code: int) -> int:
    sys.stderr.write(reason + "\n")
    return code
