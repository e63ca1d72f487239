"""Traces inside of one process: what a span holds, and that nothing is there when they are off."""

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import DatabaseError, connection
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from project import tracing
from project.env import ROOT, Env
from project.tracing import database, spans
from project.tracing.worker import resource_of

TRACE = "0af7651916cd43dd8448eb211c80319c"
KEY = "p7Vd2mXq9sLrT4wZyB6nKfJhGcA1uE8oRiQtSxCvNbMlPzYaWkD3"
PARENT = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


def env(**environ: str) -> Env:
    return Env.read({"ENV_FILE": os.devnull, "SECRET_KEY": KEY, **environ})


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "x", "OTEL_TRACES_SAMPLER": "always_on"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "console"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"}, False),
        ({"OTEL_SDK_DISABLED": "false", "OTEL_TRACES_EXPORTER": "otlp"}, True),
    ],
)
def test_traces_are_on_when_an_exporter_is_set(
    environ: dict[str, str],
    wanted: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    found = env(**environ)

    assert found.problems == ()
    assert tracing.is_wanted(found) is wanted


def test_an_unknown_exporter_is_a_problem() -> None:
    (problem,) = env(OTEL_TRACES_EXPORTER="jaeger").problems

    assert problem == "OTEL_TRACES_EXPORTER is 'jaeger'. Allowed: otlp or console or none."


def test_the_keys_of_the_receiver_are_secrets() -> None:
    keys = "api-key=not%20for%20you%20at%20all,other=neither-for-you-nor-me"
    found = env(OTEL_EXPORTER_OTLP_HEADERS=f"{keys},tenant=production")

    assert {"not for you at all", "neither-for-you-nor-me"} <= set(found.secrets)
    assert "production" not in found.secrets
    assert "for-you" not in repr(found)


_OFF = """
import asyncio, json, sys
from asgi_health.warmup import send_warmup
from django.conf import settings
from project import django_app, tracing

loaded = django_app.load()
asyncio.run(send_warmup(loaded.app, loaded.warmup, state=None))
with tracing.span("nothing", kind="client", a=1) as span:
    span.set_attribute("b", 2)
tracing.inject(headers := {})
print(json.dumps([
    [name for name in sys.modules if name.startswith(("opentelemetry", "requests"))],
    [name for name in settings.MIDDLEWARE if "trac" in name],
    headers,
]))
"""


def run(code: str, **environ: str) -> str:
    base = {"PATH": os.environ["PATH"], "ENV_FILE": os.devnull, "SECRET_KEY": os.urandom(40).hex()}
    made = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, env=base | environ,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (made.returncode, made.stderr) == (0, "")
    return made.stdout


def test_without_an_exporter_nothing_is_imported_and_nothing_stands_in_the_way() -> None:
    assert run(_OFF).splitlines()[-1] == "[[], [], {}]"


_ON = """
import asyncio, os, threading
from project import django_app, tracing
from project.env import current

before = set(threading.enumerate())
loaded = django_app.load()
assert set(threading.enumerate()) == before, "a thread in the master"

async def work():
    async with tracing.trace_worker(current()):
        with tracing.span("a task", kind="consumer", **{"task.name": "tidy"}) as span:
            span.set_attribute("rows", 3)
asyncio.run(work())
with tracing.span("afterwards"):
    pass
"""


def test_the_load_starts_no_thread_and_the_console_gets_a_line_for_each_span() -> None:
    out = run(_ON, OTEL_TRACES_EXPORTER="console")

    assert '"name": "a task"' in out
    assert '"task.name": "tidy"' in out
    assert '"rows": 3' in out
    assert "afterwards" not in out
    assert len(out.splitlines()) == 1


def test_a_span_has_its_parent_and_records_what_failed(exported: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="no luck"), tracing.span("outer"):  # noqa: SIM117
        with tracing.span("inner", kind="client", number=1):
            raise ValueError("no luck with password=hidden-here")

    inner, outer = exported.get_finished_spans()
    assert inner.parent.span_id == outer.context.span_id
    assert (inner.kind, dict(inner.attributes)) == (
        SpanKind.CLIENT,
        {"number": 1, "error.type": "ValueError"},
    )
    assert "hidden-here" not in inner.to_json()
    assert not inner.status.is_ok
    assert outer.parent is None


def test_another_process_goes_on_with_the_trace(exported: InMemorySpanExporter) -> None:
    carried: dict[str, str] = {}
    with tracing.span("enqueue", kind="producer"):
        tracing.inject(carried)
    with tracing.span("work", kind="consumer", parent=carried):
        pass

    enqueued, worked = exported.get_finished_spans()
    assert worked.parent.span_id == enqueued.context.span_id
    assert worked.context.trace_id == enqueued.context.trace_id


@pytest.fixture
def traced_connection() -> Iterator[None]:
    before = list(connection.execute_wrappers)
    database._equip(connection=connection)
    database._equip(connection=connection)
    yield
    connection.execute_wrappers[:] = before


@pytest.mark.django_db
@pytest.mark.usefixtures("traced_connection")
def test_a_query_is_a_span_without_its_values(exported: InMemorySpanExporter) -> None:
    get_user_model().objects.filter(email="hidden@example.org").exists()  # no parent: no span
    with tracing.span("parent"):
        get_user_model().objects.filter(email="hidden@example.org").exists()
        with connection.cursor() as cursor:
            cursor.execute("SELECT 'hidden ''quoted'' value', 1")

    first, second, parent = exported.get_finished_spans()
    assert first.parent.span_id == second.parent.span_id == parent.context.span_id
    assert first.kind is SpanKind.CLIENT
    assert first.attributes["db.operation.name"] == "SELECT"
    assert first.attributes["db.system.name"] == "sqlite"
    assert "%s" in first.attributes["db.query.text"]
    assert second.attributes["db.query.text"] == "SELECT ?, 1"
    assert "hidden" not in first.to_json() + second.to_json()


@pytest.mark.django_db
@pytest.mark.usefixtures("traced_connection")
def test_a_failed_query_names_its_kind_only(exported: InMemorySpanExporter) -> None:
    with (
        pytest.raises(DatabaseError),
        tracing.span("parent"),
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT hidden FROM nowhere WHERE a = %s", ["hidden-value"])

    query = exported.get_finished_spans()[0]
    assert query.attributes["error.type"] == "OperationalError"
    assert not query.status.is_ok
    assert query.status.description is None
    assert query.events == ()


@pytest.mark.django_db
def test_a_wrapper_that_is_older_than_the_connection_takes_only_itself_off() -> None:
    def others(execute: Any, sql: Any, params: Any, many: Any, context: Any) -> Any:
        return execute(sql, params, many, context)

    before = list(connection.execute_wrappers)
    with connection.execute_wrapper(others):
        database._equip(connection=connection)
    assert connection.execute_wrappers == [database._execute, *before]
    connection.execute_wrappers[:] = before


def test_the_resource_names_the_process_and_the_environment_wins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = resource_of(env(RELEASE="r1", INSTANCE="replica-1")).attributes
    assert found["service.name"] == "videoplanet"
    assert found["service.version"] == "r1"
    assert found["service.instance.id"] == "replica-1"
    assert found["process.pid"] == os.getpid()

    monkeypatch.setenv("OTEL_SERVICE_NAME", "theirs")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.version=r2")
    found = resource_of(env(RELEASE="r1")).attributes
    assert (found["service.name"], found["service.version"]) == ("theirs", "r2")
    assert found["service.instance.id"].endswith(f"-{os.getpid()}")


def test_what_a_database_says_of_a_row_is_not_exported(exported: InMemorySpanExporter) -> None:
    told = DatabaseError("Key (email)=(hidden@example.org) already exists.")

    with (
        pytest.raises(ValueError, match="refused"),
        spans.open_span("work", kind="internal", parent=None, attributes={}),
    ):
        raise ValueError("hidden@example.org was refused") from told

    (span,) = exported.get_finished_spans()
    assert span.attributes is not None
    assert span.attributes["error.type"] == "ValueError"
    assert "hidden" not in span.to_json()


@pytest.mark.parametrize(
    ("sql", "text"),
    [
        ("SELECT a FROM b WHERE c = 'hidden'", "SELECT a FROM b WHERE c = ?"),
        ("SELECT 'it''s hidden', %s", "SELECT ?, %s"),
        ("SELECT 1 -- it's\nWHERE a = 'hidden' AND b = 'x'", ""),
        ("SELECT $$hidden$$", ""),
        ("SELECT E'it\\'s hidden'", ""),
        ("INSERT INTO a VALUES ('" + 5000 * "hidden" + "')", ""),
    ],
)
def test_literals_in_a_query_are_left_out(sql: str, text: str) -> None:
    operation, described = database._described(sql)
    assert (operation, described) == (sql.partition(" ")[0], text)
