"""While the application is being imported, and once it is there: the same under every server."""

import re

from tests.servers.conftest import Start
from tests.servers.harness import UVICORN, Kind, Loads

LIVE = ("/livez", "/health", "/healthz", "/api/health/live")
READY = ("/readyz", "/api/health", "/api/health/ready")
STARTUP = ("/startupz",)


def test_probes_tell_the_truth_before_during_and_after_the_import(
    kind: Kind, start: Start, loads: Loads
) -> None:
    server = start(kind)
    imports = [loads.next() for _ in range(server.workers)]

    for path in LIVE:
        answer = server.ask(path)
        assert (answer.status, answer.text) == (200, "ok"), path
        assert "retry-after" not in answer.headers
    for path in (*READY, *STARTUP):
        answer = server.ask(path)
        assert (answer.status, answer.text) == (503, "loading"), path
        assert answer.headers["retry-after"] == "1"
        assert answer.headers["cache-control"] == "no-store"

    for load in imports:
        load.release()
    server.wait_ready()
    for path in (*LIVE, *READY, *STARTUP):
        answer = server.ask(path)
        assert (answer.status, answer.text) == (200, "ok"), path
    assert server.ask("/hello").json["path"] == "/hello"


def test_probes_answer_in_json_during_the_import(start: Start, loads: Loads) -> None:
    server = start(UVICORN)
    loads.next()

    live = server.ask("/livez", headers={"Accept": "application/health+json"})
    ready = server.ask("/readyz?format=json")

    assert live.headers["content-type"] == "application/health+json"
    assert (live.json["status"], live.json["phase"]) == ("pass", "loading")
    assert ready.json["code"] == "service.starting"
    assert ready.json["retry_after_s"] == 1


def test_the_status_page_shows_the_import_that_runs(start: Start, loads: Loads) -> None:
    server = start(UVICORN)
    loads.next()

    page = server.ask("/statusz")

    assert page.status == 200
    assert '<th scope="row">import</th>' in page.text
    assert "running" in page.text


def test_loading_begins_at_the_first_scope_of_a_server_without_lifespan(
    start: Start, loads: Loads
) -> None:
    server = start(UVICORN, "gated:app", "--lifespan", "off")
    server.wait_for_log("running on")
    assert loads.none_asked

    assert server.ask("/readyz").status == 503
    load = loads.next()
    with server.connect() as client:
        client.request("/first")
        server.wait_held(1)
        load.release()
        assert client.answer().json["path"] == "/first"
    assert server.ask("/readyz").status == 200


def test_the_inner_startup_is_driven_once_and_its_state_reaches_requests(
    kind: Kind, start: Start, loads: Loads
) -> None:
    server = start(kind)
    with server.connect() as client:
        client.request("/held")
        server.wait_held(1)
        loads.release(server.workers)
        held = client.answer().json
    server.wait_ready()

    assert held["state"] == {"opened": "by the inner startup"}
    assert server.ask("/later").json["state"] == {"opened": "by the inner startup"}


def test_a_server_logs_no_error_in_a_good_life(kind: Kind, start: Start, loads: Loads) -> None:
    server = start(kind)
    loads.release(server.workers)
    server.wait_ready()
    server.ask("/hello")
    assert not re.findall(r"(?i)traceback|\berror\b|warning", server.log)
