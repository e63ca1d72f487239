"""Django behind the gate on real servers: lent threads under real connections."""

import signal
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from tests.servers.harness import KINDS, Kind, Loads, Server, until

ONE_WORKER = [kind for kind in KINDS if kind.workers == 1]


@pytest.fixture(params=ONE_WORKER, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Every way of starting with one worker: the limit is each worker's own."""
    return request.param


@pytest.fixture
def serve(start: Callable[..., Server], kind: Kind) -> Callable[..., Server]:
    """Start the project, with what its environment shall say."""
    pytest.importorskip("django")

    def serve_project(**env: str) -> Server:
        server = start(kind, "handoff_project:app", env=env)
        server.wait_ready()
        return server

    return serve_project


def application(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = server.ask("/statusz?format=json").json["application"]
    return found


def wait_for(server: Server, *, lent: int, waiting: int) -> None:
    def is_so() -> bool:
        now = application(server)
        return (now["threads_lent"], now["requests_waiting_for_a_thread"]) == (lent, waiting)

    until(is_so, f"{lent} threads lent, {waiting} requests waiting")


def test_more_synchronous_requests_than_threads_wait_and_nothing_else_does(
    serve: Callable[..., Server], loads: Loads
) -> None:
    server = serve(HANDOFF_THREADS="3")
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(8)]
        for number, client in enumerate(clients):
            client.request(f"/blocks/?{number}")
        views = [loads.next("view") for _ in range(3)]
        wait_for(server, lent=3, waiting=5)
        assert server.ask("/loop/").status == 200
        assert server.ask("/livez").text == "ok"
        for view in views:
            view.release()
        for _ in range(5):
            loads.next("view").release()
        assert [client.answer().text for client in clients] == [str(n) for n in range(8)]
    wait_for(server, lent=0, waiting=0)


def test_who_leaves_while_waiting_for_a_thread_is_never_served(
    serve: Callable[..., Server], loads: Loads
) -> None:
    server = serve(HANDOFF_THREADS="1")
    with server.connect() as first:
        first.request("/blocks/?first")
        view = loads.next("view")
        with server.connect() as second:
            second.request("/blocks/?second")
            wait_for(server, lent=1, waiting=1)
        wait_for(server, lent=1, waiting=0)
        view.release()
        assert first.answer().text == "first"
    wait_for(server, lent=0, waiting=0)
    assert loads.none_asked


def test_a_stop_serves_those_that_wait_for_a_thread(
    serve: Callable[..., Server], loads: Loads
) -> None:
    server = serve(HANDOFF_THREADS="1", DRAIN_S="0.2")
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(3)]
        for number, client in enumerate(clients):
            client.request(f"/blocks/?{number}")
        view = loads.next("view")
        wait_for(server, lent=1, waiting=2)
        server.tell(signal.SIGTERM)
        view.release()
        for _ in range(2):
            loads.next("view").release()
        assert [client.answer().text for client in clients] == ["0", "1", "2"]
    assert server.wait_ended() in {0, -signal.SIGTERM}, server.log  # Uvicorn alone raises it again


def test_requests_of_all_kinds_on_one_connection_are_answered_in_order(
    serve: Callable[..., Server],
) -> None:
    server = serve(HANDOFF_THREADS="1")
    with server.connect() as client:
        for body in (b"one by one", b"pipelined"):
            for number in range(12):
                target = "/echo/" if number % 3 else "/loop/"
                client.request(target, method="POST", body=b"%s %d" % (body, number))
                if body == b"one by one":
                    assert client.answer().body == b"%s %d" % (body, number)
        answers = [client.answer() for _ in range(12)]
    assert [answer.body for answer in answers] == [b"pipelined %d" % n for n in range(12)]
    on_loop = {answers[number].headers["thread"] for number in range(0, 12, 3)}
    assert len(on_loop) == 1
    assert not on_loop & {answer.headers["thread"] for n, answer in enumerate(answers) if n % 3}
    wait_for(server, lent=0, waiting=0)


def test_one_thread_serves_one_synchronous_request_after_the_other(
    serve: Callable[..., Server],
) -> None:
    server = serve(HANDOFF_THREADS="4")
    with server.connect() as client:
        seen = set()
        for _ in range(5):
            client.request("/echo/", method="POST", body=b"x")
            seen.add(client.answer().headers["thread"])
            wait_for(server, lent=0, waiting=0)
    assert len(seen) == 1


def test_django_s_own_handler_serves_where_it_is_asked_for(serve: Callable[..., Server]) -> None:
    server = serve(HANDOFF="stock")
    assert server.ask("/echo/", method="POST", body=b"stock").body == b"stock"
    assert application(server) == {"handoff": "stock"}
