"""Whatever a client does to the wire, probes answer; during the load and after it."""

import resource
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.servers.conftest import Start
from tests.servers.harness import GUNICORN, UVICORN, Loads, Server


@pytest.fixture(params=["loading", "ready"])
def server(request: pytest.FixtureRequest, start: Start, loads: Loads) -> Server:
    """One whose application redirects plain http, while it loads and when it is ready."""
    made = start(GUNICORN, env={"REDIRECT_TO_HTTPS": "1"})
    load = loads.next()
    if request.param == "ready":
        load.release()
        made.wait_ready()
    return made


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Allow 500 connections here and in the server, which inherits the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2048 if hard == resource.RLIM_INFINITY else min(2048, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_foreign_host_is_answered(server: Server) -> None:
    answer = server.ask("/livez", headers={"Host": "10.1.2.3:9999"})
    assert (answer.status, answer.text) == (200, "ok")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_probes_never_redirect(scheme: str, server: Server) -> None:
    headers = {"X-Forwarded-Proto": scheme, "Host": "public.example"}
    assert server.ask("/livez", headers=headers).status == 200
    assert server.ask("/readyz", headers=headers).status in {200, 503}
    assert "location" not in server.ask("/readyz", headers=headers).headers


def test_the_application_behind_does_redirect(start: Start, loads: Loads) -> None:
    server = start(GUNICORN, env={"REDIRECT_TO_HTTPS": "1"})
    loads.release()
    plain = server.ask("/hello", headers={"Host": "public.example"})
    assert (plain.status, plain.headers["location"]) == (301, "https://public.example/hello")
    assert server.ask("/hello", headers={"X-Forwarded-Proto": "https"}).json["scheme"] == "https"


def test_head_gives_the_headers_of_get_and_no_body(server: Server) -> None:
    for path in ("/livez", "/readyz", "/startupz"):
        with server.connect() as client:
            client.request(path)
            get = client.answer()
            client.request(path, method="HEAD")
            head = client.answer(has_body=False)
            client.request("/livez")
            assert client.answer().text == "ok"  # no body of HEAD stood in the way
        kept = ("content-length", "content-type", "cache-control", "retry-after")
        assert head.status == get.status
        assert [head.headers.get(n) for n in kept] == [get.headers.get(n) for n in kept]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_other_methods_are_refused_with_what_is_allowed(method: str, server: Server) -> None:
    with server.connect() as client:
        client.request("/readyz", method=method, body=b"x" * 200_000)
        answer = client.answer()
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
    assert server.ask("/livez").status == 200


def test_a_trailing_slash_changes_nothing(server: Server) -> None:
    for path in ("/livez", "/readyz", "/startupz", "/health", "/api/health"):
        bare, slashed = server.ask(path), server.ask(path + "/")
        assert (bare.status, bare.text) == (slashed.status, slashed.text)


def test_a_probe_that_is_sent_byte_by_byte_is_answered(server: Server) -> None:
    with server.connect() as client:
        for byte in b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n":
            client.send(bytes([byte]))
        assert client.answer().text == "ok"


@pytest.mark.parametrize(
    "half", [b"", b"G", b"GET /hel", b"GET /livez HTTP/1.1\r\nHos", b"POST /echo HTTP/1.1\r\n"]
)
def test_a_half_sent_request_does_not_keep_a_probe_waiting(half: bytes, server: Server) -> None:
    with server.connect() as slow:
        slow.send(half)
        assert server.ask("/livez").text == "ok"


@pytest.mark.usefixtures("many_descriptors")
def test_500_idle_connections_do_not_keep_a_probe_waiting(start: Start, loads: Loads) -> None:
    server = start(GUNICORN)
    load = loads.next()
    with ExitStack() as idle:
        for number in range(500):
            client = idle.enter_context(server.connect())
            client.send((b"", b"GET / HTTP/1.1\r\nHost", b"\r\n")[number % 3])
        assert server.ask("/livez").text == "ok"
        assert server.ask("/readyz").text == "loading"
        load.release()
        server.wait_ready()


@pytest.mark.usefixtures("many_descriptors")
def test_500_held_requests_do_not_keep_a_probe_waiting_and_none_is_lost(
    start: Start, loads: Loads
) -> None:
    server = start(GUNICORN)
    load = loads.next()
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(500)]
        for number, client in enumerate(clients):
            client.request(f"/{number}")
        server.wait_held(500)
        assert server.ask("/livez").text == "ok"
        load.release()
        assert [client.answer().status for client in clients] == [200] * 500


def test_an_absolute_target_is_understood(server: Server) -> None:
    assert server.ask("http://other.example/livez").text == "ok"


@pytest.mark.parametrize("target", ["/LIVEZ", "/livezz", "//livez", "/livez//", "/x/livez"])
def test_what_only_looks_like_a_probe_path_belongs_to_the_application(
    target: str, start: Start, loads: Loads
) -> None:
    server = start(UVICORN)
    loads.release()
    assert server.ask(target).json["path"] == target


def test_a_root_path_before_the_service_changes_no_probe(start: Start, loads: Loads) -> None:
    server = start(UVICORN, "gated:app", "--root-path", "/api")
    load = loads.next()
    assert server.ask("/livez").text == "ok"
    assert server.ask("/readyz").text == "loading"
    load.release()
    server.wait_ready()
    assert server.ask("/hello").json["path"] == "/api/hello"


def test_an_unknown_check_is_told_with_the_names_of_the_known(server: Server) -> None:
    answer = server.ask("/readyz/databse")
    assert (answer.status, answer.text) == (404, "unknown check; known: boot, accepting")


@pytest.mark.parametrize("size", [8_000, 60_000, 2_000_000])
def test_huge_headers_harm_nobody_else(size: int, server: Server) -> None:
    with server.connect() as client:
        try:
            client.request("/livez", headers={"X-Huge": "a" * size})
            status = client.answer().status
        except ConnectionError:
            status = None
        assert status in {200, 400, 431, None}
    assert server.ask("/livez").text == "ok"


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS handshake
        b"GET /livez\r\n\r\n",
        b"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x00" * 100,
    ],
)
def test_bytes_that_are_no_request_harm_nobody_else(raw: bytes, server: Server) -> None:
    with server.connect() as client:
        client.send(raw)
        assert server.ask("/livez").text == "ok"
