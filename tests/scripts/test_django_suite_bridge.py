"""The bridge of scripts/django-suite carries requests as a server would."""

import asyncio
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from project.env import ROOT
from tests.django_suite.wire import ProtocolError, Wire, scope_from_environ

# The wire


def environ(**changes: Any) -> dict[str, Any]:
    return {
        "PATH_INFO": "/", "REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "QUERY_STRING": "",
        "SERVER_NAME": "testserver", "SERVER_PORT": "80", "REMOTE_ADDR": "127.0.0.1",
        "SERVER_PROTOCOL": "HTTP/1.1", "HTTP_COOKIE": "", "wsgi.url_scheme": "http",
        "wsgi.input": BytesIO(b""),
    } | changes  # fmt: skip


def test_an_environ_becomes_the_scope_that_a_server_makes() -> None:
    scope, body, rest = scope_from_environ(
        environ(
            REQUEST_METHOD="POST", SCRIPT_NAME="/app", PATH_INFO="/caf\xc3\xa9", QUERY_STRING="a=1",
            CONTENT_LENGTH="3", CONTENT_TYPE="text/plain", HTTP_X_NAME="caf\xe9",
            REMOTE_USER="ada", **{"wsgi.input": BytesIO(b"more than three"), "x.object": 1},
        )
    )  # fmt: skip

    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "root_path": "/app",
        "path": "/app/café",
        "query_string": b"a=1",
        "server": ("testserver", 80),
        "client": ("127.0.0.1", 0),
        "headers": [
            (b"content-length", b"3"),
            (b"content-type", b"text/plain"),
            (b"x-name", b"caf\xe9"),
            (b"remote-user", b"ada"),
        ],
    }
    assert body == b"mor"
    assert rest == {"REMOTE_USER": "ada", "x.object": 1}


async def test_a_body_arrives_in_pieces_and_then_nothing_until_the_response_is_out() -> None:
    wire = Wire(b"x" * 100_000)

    first, second = await wire.receive(), await wire.receive()
    listening = asyncio.create_task(wire.receive())
    await wire.send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
    await wire.send({"type": "http.response.body", "body": b"1", "more_body": True})
    assert not listening.done()
    await wire.send({"type": "http.response.body", "body": b"2"})

    assert (len(first["body"]), first["more_body"]) == (65_536, True)
    assert (len(second["body"]), second["more_body"]) == (34_464, False)
    assert await listening == {"type": "http.disconnect"}
    assert (wire.status, wire.headers, wire.chunks) == (200, [(b"a", b"b")], [b"1", b"2"])
    wire.check_complete()


START = {"type": "http.response.start", "status": 200, "headers": []}
BODY = {"type": "http.response.body", "body": b""}


@pytest.mark.parametrize(
    "messages",
    [
        [BODY],
        [START, START],
        [START, BODY, BODY],
        [START, BODY | {"body": "text"}],
        [START | {"headers": [("name", b"value")]}],
        [{"type": "websocket.accept"}],
    ],
)
async def test_what_the_specification_forbids_is_refused(messages: list[dict[str, Any]]) -> None:
    wire = Wire()
    for message in messages[:-1]:
        await wire.send(message)

    with pytest.raises(ProtocolError):
        await wire.send(messages[-1])


async def test_half_a_response_is_no_response() -> None:
    wire = Wire()
    await wire.send(START)

    with pytest.raises(ProtocolError, match="without a complete response"):
        wire.check_complete()


# The bridge changes its whole process: it is driven in one of its own.

BRIDGE = """
import asyncio
import sys
import threading

import django
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path

main = threading.get_ident()


def echo(request):
    response = HttpResponse(request.body + b" " + request.META["REMOTE_USER"].encode())
    response.set_cookie("seen", "yes", max_age=0)
    response["X-Thread"] = "same" if threading.get_ident() == main else "another"
    response["X-Csrf"] = str(request._dont_enforce_csrf_checks)
    return response


def stream(request):
    return StreamingHttpResponse([b"1", b"2"])


def fail(request):
    raise LookupError("by the view")


urlpatterns = [path("echo/", echo), path("stream/", stream), path("fail/", fail)]
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="x")
django.setup()

from tests.django_suite.bridge import COUNTS, install


class Handler(ASGIHandler):
    async def send_response(self, response, send):
        if "dishonest" in response:
            response.status_code = 200
            await super().send_response(response, send)
            response.status_code = 404
        else:
            await super().send_response(response, send)


elsewhere = sys.argv[1] == "elsewhere"
install(Handler, elsewhere=elsewhere)

from django.core.asgi import get_asgi_application
from django.test import AsyncClient, Client
from django.test.utils import setup_test_environment

setup_test_environment()
assert type(get_asgi_application()) is Handler

client = Client()
response = client.post("/echo/", b"abc", content_type="text/plain", REMOTE_USER="ada")
assert response.content == b"abc ada", response.content
assert response.cookies["seen"]["max-age"] == 0
assert client.cookies["seen"].value == "yes"
assert response["X-Thread"] == ("another" if elsewhere else "same")
assert response["X-Csrf"] == "True"
assert response.wsgi_request.method == "POST"
assert response.wsgi_request.scope["extensions"]
assert Client(enforce_csrf_checks=True).get("/echo/", REMOTE_USER="a")["X-Csrf"] == "False"
assert b"".join(client.get("/stream/").streaming_content) == b"12"
assert b"".join(client.head("/stream/").streaming_content) == b""
try:
    client.get("/fail/")
except LookupError as error:
    assert str(error) == "by the view"
else:
    sys.exit("the client did not raise what the view raised")
assert Client(raise_request_exception=False).get("/fail/").status_code == 500


urlpatterns[0] = path("echo/", lambda request: HttpResponse(request.body))


async def both():
    response = await AsyncClient().post("/echo/?a=1", b"x", content_type="text/plain")
    assert (response.content, response.asgi_request.GET["a"]) == (b"x", "1")
    assert Client().get("/stream/").status_code == 200


from django.urls import clear_url_caches

clear_url_caches()
asyncio.run(both())
assert (COUNTS.requests, COUNTS.served, COUNTS.calls) == (8, 8, 8), COUNTS

from tests.django_suite.wire import ProtocolError
urlpatterns[0] = path("echo/", lambda request: HttpResponse(headers={"dishonest": "1"}))
clear_url_caches()
try:
    client.get("/echo/")
except ProtocolError as error:
    assert "the wire" in str(error)
else:
    sys.exit("what went over the wire was not compared")
"""


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_the_clients_make_a_round_trip_through_the_handler(where: str, tmp_path: Path) -> None:
    script = tmp_path / "drive.py"
    script.write_text(BRIDGE)

    made = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore:StreamingHttpResponse", script, where],
        cwd=tmp_path, env={"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert (made.returncode, made.stderr) == (0, "")
