"""Traces of the product on real servers, as a real receiver gets them."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.servers.conftest import Run
from tests.servers.harness import APPS, ROOT, Loads, Server
from tests.services.otlp import Received, Receiver
from tests.services.postgres import Postgres

pytest.importorskip("django")

SERVER, CLIENT = 2, 3
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
INCOMING = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
HANDOFFS = ("auto", "stock")
PREPARE = """
import django
django.setup()
from django.core.management import call_command
from django.test import Client
from apps.accounts.models import User
call_command("migrate", verbosity=0)
client = Client()
client.force_login(User.objects.create_user("somebody@example.org", "only for tests"))
print(client.cookies["sessionid"].value)
"""

Serve = Callable[..., Server]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def silent() -> Iterator[Receiver]:
    made = Receiver(answers=False)
    yield made
    made.close()


@pytest.fixture
def base(tmp_path: Path) -> dict[str, str]:
    return {
        "ENV_FILE": os.devnull,
        "SECRET_KEY": secrets.token_urlsafe(64),
        "ALLOWED_HOSTS": "localhost",
        "HTTPS_ONLY": "0",
        "DRAIN_S": "0",
        "WEB_CONCURRENCY": "2",
        "RELEASE": "release-7",
        "LOG_FORMAT": "json",
        "DATABASE_URL": f"sqlite:///{tmp_path}/db.sqlite3",
        "DJANGO_SETTINGS_MODULE": "traced_project",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }


@pytest.fixture
def serve(run: Run, base: dict[str, str]) -> Serve:
    """Gunicorn in the folder where it finds its configuration, with a migrated database."""

    def serve_traced(*, endpoint: str, **env: str) -> Server:
        whole = base | {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint} | env
        server = run(
            ["gunicorn", "project.asgi:app", "-b", "127.0.0.1:0"],
            env=whole, directory=ROOT, workers=2,
        )  # fmt: skip
        server.wait_ready()
        return server

    return serve_traced


@pytest.fixture
def session(base: dict[str, str]) -> str:
    """The key of somebody who is logged in."""
    path = os.pathsep.join(map(str, (ROOT, APPS)))
    made = subprocess.run(
        [sys.executable, "-c", PREPARE], cwd=ROOT,
        env=os.environ | base | {"LOADS_PORT": "1", "PYTHONPATH": path},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (made.returncode, made.stderr) == (0, "")
    return made.stdout.strip()


def named(spans: list[Received], name: str) -> list[Received]:
    return [span for span in spans if span.name == name]


def children(spans: list[Received], parent: Received) -> list[Received]:
    return [span for span in spans if span.parent_id == parent.span_id]


def lines(server: Server) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]


def access_lines(server: Server) -> list[dict[str, Any]]:
    """Of the requests that were traced: the warm-up's have no trace."""
    found = [line for line in lines(server) if line["logger"] == "project.access"]
    return [line for line in found if "trace_id" in line]


def errors(server: Server) -> list[dict[str, Any]]:
    return [line for line in lines(server) if line["level"] in {"error", "critical"}]


def stop(server: Server) -> None:
    server.tell(signal.SIGTERM)
    assert server.wait_ended() == 0, server.log


@pytest.mark.parametrize("handoff", HANDOFFS)
def test_a_trace_goes_on_from_the_caller_to_the_database_on_a_thread(
    serve: Serve, session: str, receiver: Receiver, handoff: str
) -> None:
    server = serve(endpoint=receiver.address, HANDOFF=handoff)

    answer = server.ask("/thread/7/", headers=INCOMING)
    spans = receiver.wait_for(lambda spans: named(spans, "GET /thread/<int:number>/"))

    (request,) = named(spans, "GET /thread/<int:number>/")
    assert (request.trace_id, request.parent_id, request.kind) == (TRACE, PARENT, SERVER)
    assert request.attributes == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "http.route": "/thread/<int:number>/",
        "request.id": answer.headers["x-request-id"],
        "url.path": "/thread/7/",
        "url.scheme": "http",
    }
    (outgoing,) = children(spans, request)
    assert (outgoing.name, outgoing.kind) == ("outgoing", CLIENT)
    assert answer.json["headers"]["traceparent"] == f"00-{TRACE}-{outgoing.span_id}-01"
    (query,) = children(spans, outgoing)
    assert (query.name, query.kind, query.trace_id) == ("SELECT db.sqlite3", CLIENT, TRACE)
    assert query.attributes["db.system.name"] == "sqlite"
    assert query.attributes["db.query.text"].endswith('"accounts_user"."email" = %s')

    server.ask("/loop/", headers=INCOMING)
    spans = receiver.wait_for(lambda spans: named(spans, "GET /loop/"))
    (on_loop,) = named(spans, "GET /loop/")
    assert [span.name for span in children(spans, on_loop)] == ["SELECT db.sqlite3"]
    stop(server)
    assert errors(server) == []


def test_every_worker_traces_and_the_last_spans_before_a_stop_arrive(
    serve: Serve, receiver: Receiver, loads: Loads
) -> None:
    # Nothing is sent before the stop.
    server = serve(endpoint=receiver.address, OTEL_BSP_SCHEDULE_DELAY="3600000")
    with server.connect() as first:
        first.request("/stalls/")
        one = loads.next("view")
        with server.connect() as second:  # a loop that stands still accepts nobody: the other does
            second.request("/stalls/")
            other = loads.next("view")
            other.release()
            assert second.answer().status == 200
        one.release()
        assert first.answer().status == 200
    assert [server.ask("/api/ping").status for _ in range(20)] == [200] * 20
    assert receiver.spans == []
    stop(server)

    names = ["GET /api/ping"] * 20 + ["GET /stalls/"] * 2
    spans = receiver.spans
    assert sorted(span.name for span in spans) == names  # no probe, no warm-up
    assert {span.resource["process.pid"] for span in spans} == {one.pid, other.pid}
    assert {span.resource["service.name"] for span in spans} == {"videoplanet"}
    assert {span.resource["service.version"] for span in spans} == {"release-7"}
    assert len({span.resource["service.instance.id"] for span in spans}) == 2
    assert len({span.trace_id for span in spans}) == len(spans)


def test_probes_have_no_span(serve: Serve, receiver: Receiver) -> None:
    server = serve(endpoint=receiver.address)
    for path in ("/livez", "/readyz", "/startupz", "/health", "/api/health", "/statusz"):
        server.ask(path)
    server.ask("/api/ping")
    stop(server)

    assert [span.name for span in receiver.spans] == ["GET /api/ping"]


def test_a_static_file_has_a_span(serve: Serve, receiver: Receiver) -> None:
    server = serve(endpoint=receiver.address)
    assert server.ask("/static/pages/page.css?t=hidden", headers=INCOMING).status == 200
    stop(server)

    (span,) = receiver.spans
    assert (span.name, span.trace_id, span.parent_id) == ("GET /static/{file}", TRACE, PARENT)
    assert span.attributes["url.path"] == "/static/pages/page.css"
    assert span.attributes["http.response.status_code"] == 200


def test_a_strangers_trace_is_not_believed(serve: Serve, receiver: Receiver) -> None:
    server = serve(endpoint=receiver.address, FORWARDED_ALLOW_IPS="10.0.0.1")
    assert server.ask("/api/ping", headers=INCOMING).status == 200
    stop(server)

    (span,) = receiver.spans
    assert span.trace_id != TRACE
    assert not span.parent_id


@pytest.mark.parametrize("handoff", HANDOFFS)
def test_who_leaves_in_the_middle_leaves_no_error(
    serve: Serve, session: str, receiver: Receiver, loads: Loads, handoff: str
) -> None:
    server = serve(endpoint=receiver.address, HANDOFF=handoff)
    with server.connect() as on_loop:
        on_loop.request("/waits/")
        server.wait_for_log('"message": "waiting"')
    spans = receiver.wait_for(lambda spans: named(spans, "GET /waits/"))
    (left,) = named(spans, "GET /waits/")
    assert [name for name, _ in left.events] == ["canceled"]
    assert not left.is_error

    with server.connect() as on_thread:
        on_thread.request("/blocks/")
        view = loads.next("view")
    view.release()
    receiver.wait_for(lambda spans: named(spans, "GET /blocks/"))
    assert server.ask("/thread/1/").status == 200
    receiver.wait_for(lambda spans: named(spans, "GET /thread/<int:number>/"))
    stop(server)
    assert errors(server) == []
    assert "detach" not in server.log


@pytest.mark.parametrize("handoff", HANDOFFS)
def test_log_lines_carry_the_trace_of_their_span(
    serve: Serve, session: str, receiver: Receiver, handoff: str
) -> None:
    server = serve(endpoint=receiver.address, HANDOFF=handoff)
    for path in ("/thread/1/", "/loop/", "/api/projects"):
        server.ask(path)
    server.ask("/loop/", headers=INCOMING)
    stop(server)

    roots = [span for span in receiver.spans if span.kind == SERVER]
    access = access_lines(server)
    own = [line for line in lines(server) if line["logger"] == "traced"]
    assert len(roots) == len(access) == 4
    assert sorted((span.attributes["request.id"], span.trace_id) for span in roots) == sorted(
        (line["request_id"], line["trace_id"]) for line in access
    )
    assert {line["trace_id"] for line in own} <= {span.trace_id for span in roots}
    assert TRACE in {line["trace_id"] for line in own}
    (refused,) = named(roots, "GET /api/projects")
    assert refused.attributes["http.response.status_code"] == 401
    assert not refused.is_error


@pytest.mark.parametrize("handoff", HANDOFFS)
def test_an_error_is_recorded_and_no_secret_leaves(
    serve: Serve, session: str, receiver: Receiver, handoff: str
) -> None:
    server = serve(
        endpoint=receiver.address,
        HANDOFF=handoff,
        OTEL_EXPORTER_OTLP_HEADERS="api-key=key-of-the-receiver",
    )
    told = {"Cookie": f"sessionid={session}", "Authorization": "Bearer hidden-in-the-header"}
    listed = server.ask("/api/projects?search=hidden-in-the-query&token=hidden-too", headers=told)
    assert listed.status == 200
    assert server.ask("/fails/?token=hidden-in-the-query", headers=told).status == 500
    assert server.ask("/nothing/eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.hidden").status == 404
    assert server.ask("/invited/hidden-part/").status == 200
    server.ask("/thread/1/?t=hidden-in-the-query")
    stop(server)

    spans = receiver.spans
    (failed,) = named(spans, "GET /fails/")
    assert failed.is_error
    assert failed.attributes["http.response.status_code"] == 500
    assert failed.attributes["error.type"] == "RuntimeError"
    ((event, found),) = failed.events
    assert event == "exception"
    assert found["exception.message"] == "no luck with token=[redacted]"
    assert "in fails" in found["exception.stacktrace"]
    (unmatched,) = named(spans, "GET")
    assert "http.route" not in unmatched.attributes
    assert unmatched.attributes["url.path"] == "/nothing/[redacted]"
    (invited,) = named(spans, "GET /invited/<str:token>/")
    assert invited.attributes["url.path"] == "/invited/[redacted]/"
    (projects,) = named(spans, "GET /api/projects")
    queries = children(spans, projects)
    assert {span.name for span in queries} == {"SELECT db.sqlite3"}
    assert len(queries) >= 3  # session, user, projects
    everything = b"".join(receiver.bodies)
    for secret in ("hidden", session, "nobody-secret-row", "somebody@example.org"):
        where = everything.find(secret.encode())
        assert where < 0, everything[where - 200 : where + 50]
    assert {sent["api-key"] for sent in receiver.headers} == {"key-of-the-receiver"}
    assert "key-of-the-receiver" not in server.log


def closed_port() -> str:
    gone = Receiver()
    address = gone.address
    gone.close()
    return address


def test_a_dead_receiver_harms_nothing(serve: Serve, session: str) -> None:
    server = serve(endpoint=closed_port(), GRACEFUL_S="8", OTEL_BSP_MAX_QUEUE_SIZE="512")
    with server.connect() as client:
        for _ in range(600):
            client.request("/thread/1/")
            assert client.answer().status == 200
    begun_s = time.monotonic()
    stop(server)

    assert time.monotonic() - begun_s < 8
    told = [line for line in lines(server) if line["logger"].startswith("opentelemetry")]
    assert 1 <= len(told) <= 8, told  # of each kind one a minute and worker
    assert len(lines(server)) > len(told)


def test_a_receiver_that_never_answers_harms_nothing(
    serve: Serve, session: str, silent: Receiver
) -> None:
    server = serve(endpoint=silent.address, GRACEFUL_S="8")
    server.ask("/thread/1/")
    assert silent.called.wait(60)
    with server.connect() as client:
        for _ in range(200):
            client.request("/thread/1/")
            assert client.answer().status == 200
    begun_s = time.monotonic()
    stop(server)

    assert time.monotonic() - begun_s < 8
    assert "did not take the last ones in 2 s" in server.log


def test_the_variables_of_opentelemetry_are_honored(
    serve: Serve, receiver: Receiver, tmp_path: Path
) -> None:
    file = tmp_path / "env"
    file.write_text(
        f"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT={receiver.address}/other/path\n"
        "OTEL_SERVICE_NAME=other-name\n",
        encoding="utf-8",
    )
    server = serve(
        endpoint="",
        ENV_FILE=str(file),
        OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=staging,service.version=theirs",
        OTEL_TRACES_SAMPLER="parentbased_always_off",
        OTEL_PYTHON_DJANGO_EXCLUDED_URLS="loop",
    )
    server.ask("/api/ping")
    server.ask("/api/ping", headers=INCOMING)
    server.ask("/loop/", headers=INCOMING)
    stop(server)

    (span,) = receiver.spans
    assert span.trace_id == TRACE
    assert span.resource["service.name"] == "other-name"
    assert span.resource["service.version"] == "theirs"
    assert span.resource["deployment.environment.name"] == "staging"
    # The first one's trace has an id as well, though nobody keeps it; the last one has no trace.
    assert [line["route"] for line in access_lines(server)] == ["/api/ping", "/api/ping"]


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    made = Postgres()
    made.execute("CREATE DATABASE product")
    yield made
    made.stop()


@pytest.fixture
def pooled(base: dict[str, str], postgres: Postgres) -> None:
    address = f"{postgres.user}:{postgres.password}@{postgres.host}:{postgres.port}"
    base["DATABASE_URL"] = f"postgresql://{address}/product?sslmode=disable"
    base["DATABASE_POOL_SIZE"] = "2"


@pytest.mark.usefixtures("pooled")
def test_queries_of_a_pool_are_traced_once_each(
    serve: Serve, session: str, receiver: Receiver
) -> None:
    server = serve(endpoint=receiver.address)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(server.ask, "/thread/1/") for _ in range(40)]
        assert [one.result().status for one in asked] == [200] * 40
    stop(server)

    spans = receiver.spans
    queries = named(spans, "SELECT product")
    assert len(queries) == 40
    assert {span.attributes["db.system.name"] for span in queries} == {"postgresql"}
    outgoing = {span.span_id: span.trace_id for span in named(spans, "outgoing")}
    assert {span.parent_id: span.trace_id for span in queries} == outgoing
    assert errors(server) == []
