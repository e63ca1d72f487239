"""Which handler serves, who says so, and what can be seen of it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import django
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.asgi import ASGIHandler
from django.test import override_settings

from asgi_health import HealthConfig
from asgi_health.adapters.django import get_asgi_application
from asgi_health.adapters.django.application import details_of, make_handler
from asgi_health.adapters.django.handler import Handler
from asgi_health.adapters.django.lending import Lent
from asgi_health.errors import ConfigurationError

TOKEN = "a-token-of-the-tests-with-enough-characters"
GATE = """
import asyncio, json
from asgi_health import HealthConfig, HealthGate
from tests.adapters.handoff_site import ask

JSON = (b"accept", b"application/json")

async def main():
    gate = HealthGate.for_django("tests.settings", config=HealthConfig(CONFIG))
    inbox, outbox = asyncio.Queue(), asyncio.Queue()
    server = asyncio.create_task(
        gate({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, inbox.get, outbox.put)
    )
    inbox.put_nowait({"type": "lifespan.startup"})
    await outbox.get()
    await gate.lifecycle.left(frozenset({"starting", "loading"}))
    headers = [(b"host", b"x"), (b"authorization", b"Bearer TOKEN"), JSON]
    page = (await ask(gate, "/readyz", headers=headers)).body
    inbox.put_nowait({"type": "lifespan.shutdown"})
    await server
    print(page.decode())

asyncio.run(main())
""".replace("TOKEN", TOKEN)
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("mode", "kind"),
    [(None, Handler), ("auto", Handler), ("force", Handler), ("stock", ASGIHandler)],
)
def test_the_mode_decides_which_handler_serves(mode: Any, kind: type) -> None:
    assert type(make_handler(mode)) is kind
    assert type(get_asgi_application(handoff=mode)) is kind
    with override_settings(ASGI_HEALTH_HANDOFF=mode or "auto"):
        assert type(make_handler()) is kind


def test_an_argument_wins_over_the_setting() -> None:
    with override_settings(ASGI_HEALTH_HANDOFF="stock", ASGI_HEALTH_HANDOFF_THREADS=3):
        assert type(make_handler("force")) is Handler
        assert make_handler("force").threads.limit == 3  # type: ignore[attr-defined]
        assert make_handler("force", threads=5).threads.limit == 5  # type: ignore[attr-defined]
        assert type(make_handler()) is ASGIHandler


def test_there_are_32_threads_if_nobody_says_otherwise() -> None:
    assert make_handler().threads.limit == 32  # type: ignore[attr-defined]


@pytest.mark.parametrize("mode", ["", "fast", "Stock", 1])
def test_a_mode_that_nobody_knows_is_refused(mode: Any) -> None:
    with pytest.raises(
        ImproperlyConfigured, match=r"allowed: auto, stock, force\. Correct HANDOFF"
    ):
        make_handler(mode)
    with override_settings(ASGI_HEALTH_HANDOFF=mode), pytest.raises(ImproperlyConfigured):
        make_handler()


@pytest.mark.parametrize("threads", [0, -1, "8", 1.5])
def test_a_number_of_threads_that_cannot_work_is_refused(threads: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="a whole number from 1 on"):
        make_handler(threads=threads)
    with (
        override_settings(ASGI_HEALTH_HANDOFF_THREADS=threads),
        pytest.raises(ImproperlyConfigured, match="Correct HANDOFF_THREADS"),
    ):
        make_handler()


@pytest.mark.parametrize(
    ("version", "is_tested"),
    [((5, 1), False), ((5, 2), True), ((6, 0), True), ((6, 1), True), ((6, 2), False)],
)
def test_an_untested_django_is_served_by_its_own_handler_with_a_warning(
    version: tuple[int, int],
    is_tested: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(django, "VERSION", (*version, 0, "final", 0))
    with caplog.at_level("WARNING", "asgi_health"):
        assert isinstance(make_handler(), Handler) == is_tested
        assert len(caplog.records) == (not is_tested)
        assert isinstance(make_handler("force"), Handler)
        assert type(make_handler("stock")) is ASGIHandler
        assert len(caplog.records) == (not is_tested)


def test_the_details_say_how_many_threads_are_lent_and_wanted() -> None:
    handler = Handler(threads=1)
    first, second = Lent(handler.threads), Lent(handler.threads)
    for lent in (first, second):
        lent.submit(int)
    assert details_of(handler) == {
        "handoff": "fast",
        "threads_lent": 1,
        "threads_limit": 1,
        "requests_waiting_for_a_thread": 1,
    }
    for lent in (first, second):
        ended = lent.give_back()
        assert ended is not None
        ended.result(30)
    assert details_of(handler)["threads_lent"] == 0
    assert details_of(ASGIHandler()) == {"handoff": "stock"}


def test_the_gates_configuration_reads_both_switches() -> None:
    config = HealthConfig.from_environ({"HANDOFF": "stock", "HANDOFF_THREADS": "7"})
    assert (config.handoff, config.handoff_threads) == ("stock", 7)
    assert (HealthConfig().handoff, HealthConfig().handoff_threads) == ("auto", 32)


@pytest.mark.parametrize(
    "values", [{"HANDOFF": "fast"}, {"HANDOFF_THREADS": "0"}, {"HANDOFF_THREADS": "x"}]
)
def test_the_gates_configuration_refuses_values_that_cannot_work(values: Any) -> None:
    with pytest.raises(ConfigurationError):
        HealthConfig.from_environ(values)


@pytest.mark.parametrize(
    ("handoff", "shown"), [("stock", "stock"), ("auto", "fast"), ("force", "fast")]
)
def test_the_gate_passes_its_switches_on_and_shows_what_came_of_them(
    handoff: str, shown: str
) -> None:
    config = f"handoff={handoff!r}, handoff_threads=9, token={TOKEN!r}"
    page = python(GATE.replace("CONFIG", config), DJANGO_SETTINGS_MODULE="tests.settings")
    found = page.get("application", page)
    assert found["handoff"] == shown
    assert found.get("threads_limit", 9) == 9


def test_the_projects_environment_decides() -> None:
    code = (
        "import json\nfrom project.django_app import load\n"
        "loaded = load()\nprint(json.dumps(dict(loaded.details())))"
    )
    for values, expected in (
        ({"HANDOFF": "stock"}, {"handoff": "stock"}),
        ({"HANDOFF_THREADS": "5"}, {"handoff": "fast", "threads_limit": 5}),
    ):
        found = python(code, **values)
        assert {name: found[name] for name in expected} == expected


def python(code: str, **environment: str) -> Any:
    """What a fresh interpreter prints as JSON."""
    base = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "DEBUG": "1"}
    names = ("ENV_FILE", "SECRET_KEY", "ALLOWED_HOSTS", "HTTPS_ONLY", "HEALTH_TOKEN")
    base |= {name: os.environ[name] for name in names}
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=base | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])
