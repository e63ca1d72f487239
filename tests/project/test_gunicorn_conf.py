"""Gunicorn's configuration follows the environment."""

import os
import subprocess
import sys

import pytest

from project.env import ROOT


def configuration(*arguments: str, **environ: str) -> dict[str, str]:
    """What Gunicorn makes of our file."""
    made = subprocess.run(
        [sys.executable, "-m", "gunicorn", *arguments, "--print-config", "project.asgi:app"],
        cwd=ROOT, env={**os.environ, **environ}, capture_output=True, text=True, check=True,
        timeout=60,
    )  # fmt: skip
    lines = (line.partition("=") for line in made.stdout.splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, _, value in lines}


def test_values_come_from_the_environment() -> None:
    found = configuration(
        DEBUG="0",
        PORT="8099",
        WEB_CONCURRENCY="3",
        GRACEFUL_S="7",
        FORWARDED_ALLOW_IPS="100.64.0.0/10",
    )

    assert found["bind"] in {"['[::]:8099']", "['0.0.0.0:8099']"}
    assert found["workers"] == "3"
    assert found["graceful_timeout"] == "7"
    assert found["keepalive"] == "75"
    assert found["worker_class"] == "asgi_health.adapters.uvicorn.Worker"
    assert found["forwarded_allow_ips"] == "['100.64.0.0/10', '::ffff:100.64.0.0/106']"
    assert found["control_socket_disable"] == "True"


def test_while_debugging_only_this_machine_can_connect() -> None:
    found = configuration(DEBUG="1", PORT="8099")

    assert found["bind"] in {"['127.0.0.1:8099', '[::1]:8099']", "['127.0.0.1:8099']"}


def test_sqlite_has_one_worker() -> None:
    assert configuration()["workers"] == "1"


def test_the_command_line_wins() -> None:
    found = configuration("-k", "uvicorn_worker.UvicornWorker", "-w", "2")

    assert found["worker_class"] == "uvicorn_worker.UvicornWorker"
    assert found["workers"] == "2"


@pytest.mark.parametrize("name", ["PORT", "GRACEFUL_S", "DATABASE_URL", "SECRET_KEY"])
def test_a_wrong_environment_does_not_stop_the_server(name: str) -> None:
    """The process must start, to answer its probes with `env.invalid`.

    (WEB_CONCURRENCY and FORWARDED_ALLOW_IPS are read by Gunicorn itself, which refuses to start.)
    """
    value = "" if name == "SECRET_KEY" else "nonsense"

    assert configuration(**{name: value})["keepalive"] == "75"
