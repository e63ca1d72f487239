"""The edge around any application: ids, addresses, headers, one note of each request."""

import asyncio
import logging
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest

from asgi_health.types import App, Receive, Scope, Send
from asgi_health.warmup import Warmup, send_warmup
from project.access_log import AccessLog
from project.context import current_request
from project.edge import Edge
from project.logs import JsonFormatter
from project.peers import Peers

PROXY, STRANGER = ("100.64.0.7", 4000), ("203.0.113.9", 4000)
HEADERS = {"X-Frame-Options": "DENY", "Content-Security-Policy": "default-src 'self'"}


class Edged:
    """An edge around `app`, and all that it says."""

    def __init__(self, app: App) -> None:
        self.observed: list[tuple[str, str, int]] = []
        self.durations_s: list[float] = []
        self.edge = Edge(
            app,
            peers=Peers(("100.64.0.0/10",), address_header="x-real-ip"),
            access_log=AccessLog(lines_per_s=1000),
            observe=self._observe,
            headers=HEADERS,
            folders={"/static/": "/static/{file}"},
        )

    def _observe(self, method: str, route: str, status: int, duration_s: float) -> None:
        self.observed.append((method, route, status))
        self.durations_s.append(duration_s)

    async def ask(
        self, path: str = "/", *, method: str = "GET", client: Any = STRANGER, **headers: str
    ) -> list[dict[str, Any]]:
        """What the application's answer is made into."""
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        pairs = [(k.replace("_", "-").encode(), v.encode("latin-1")) for k, v in headers.items()]
        scope = {
            "type": "http", "method": method, "path": path, "headers": pairs, "client": client,
        }  # fmt: skip
        await self.edge(scope, receive, send)
        return sent


def answering(
    status: int = 200, *bodies: bytes, see: Callable[[Scope], None] = lambda _: None
) -> App:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        see(scope)
        start = {"type": "http.response.start", "status": status, "headers": [(b"a", b"b")]}
        await send(start)
        for body in bodies:
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body"})

    return app


def id_of(sent: list[dict[str, Any]]) -> str:
    [found] = [value for name, value in sent[0]["headers"] if name == b"x-request-id"]
    return found.decode()


async def test_each_request_has_an_id_of_its_own_and_gets_it_back() -> None:
    seen: list[str] = []

    def see(_: Scope) -> None:
        context = current_request.get()
        assert context is not None
        seen.append(context.request_id)

    edged = Edged(answering(see=see))
    returned = [id_of(await edged.ask()) for _ in range(3)]

    assert returned == seen
    assert len(set(seen)) == 3
    assert current_request.get() is None


async def test_a_trusted_proxys_id_is_kept() -> None:
    edged = Edged(answering())
    assert id_of(await edged.ask(client=PROXY, x_request_id="given-by-proxy")) == "given-by-proxy"
    both = {"x_request_id": "of-the-proxy", "x_railway_request_id": "of-the-client"}
    assert id_of(await edged.ask(client=PROXY, **both)) == "of-the-proxy"
    assert (
        id_of(await edged.ask(client=("198.51.100.1", 0), x_request_id="forwarded")) == "forwarded"
    )


@pytest.mark.parametrize(
    ("client", "given"),
    [
        (STRANGER, "of-a-stranger"),
        (PROXY, "short"),
        (PROXY, "x" * 129),
        (PROXY, "two words"),
        (PROXY, 'quote"quote'),
        (PROXY, "line\nfeed-feed"),
        (PROXY, "éééééééééé"),
    ],
)
async def test_an_id_of_a_stranger_or_of_odd_form_is_not_taken(client: Any, given: str) -> None:
    found = id_of(await Edged(answering()).ask(client=client, x_request_id=given))
    assert found != given
    assert len(found) > 16


async def test_the_application_sees_the_client_that_the_proxy_names() -> None:
    seen: list[Any] = []
    edged = Edged(answering(see=lambda scope: seen.append(scope["client"])))

    await edged.ask(client=PROXY, x_real_ip="198.51.100.1")
    await edged.ask(client=STRANGER, x_real_ip="198.51.100.1")

    assert seen == [("198.51.100.1", 0), STRANGER]


async def test_protecting_headers_are_added_where_the_application_has_none() -> None:
    async def own(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"X-Frame-Options", b"SAMEORIGIN")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body"})

    [plain, _], [special, _] = await Edged(answering()).ask(), await Edged(own).ask()

    assert (b"x-frame-options", b"DENY") in plain["headers"]
    assert (b"content-security-policy", b"default-src 'self'") in plain["headers"]
    assert [v for n, v in special["headers"] if n.lower() == b"x-frame-options"] == [b"SAMEORIGIN"]


async def test_each_request_is_noted_once_with_what_became_of_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "project.access")
    edged = Edged(answering(201, b"12345", b"678"))

    await edged.ask("/anything", method="POST")

    assert edged.observed == [("POST", "unmatched", 201)]
    assert 0 <= edged.durations_s[0] < 60
    [record] = caplog.records
    assert (vars(record)["status"], vars(record)["bytes"]) == (201, 8)


async def test_the_route_is_what_the_application_has_noted() -> None:
    def see(_: Scope) -> None:
        context = current_request.get()
        assert context is not None
        context.route = "/api/projects/<int:id>"

    edged = Edged(answering(see=see))
    await edged.ask("/api/projects/17")

    assert edged.observed == [("GET", "/api/projects/<int:id>", 200)]


@pytest.mark.parametrize(
    ("method", "path", "noted"),
    [
        ("GET", "/static/admin/css/base.css", ("GET", "/static/{file}", 200)),
        ("GET", "/wp-login.php", ("GET", "unmatched", 200)),
        ("BREW", "/static", ("OTHER", "unmatched", 200)),
    ],
)
async def test_paths_and_methods_of_the_clients_own_make_no_new_names(
    method: str, path: str, noted: tuple[str, str, int]
) -> None:
    edged = Edged(answering())
    await edged.ask(path, method=method)
    assert edged.observed == [noted]


async def test_the_path_is_in_the_log_only_where_no_route_tells_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "project.access")
    edged = Edged(answering())

    await edged.ask("/wp-login.php")
    await edged.ask("/static/page.css")

    assert [vars(record).get("path") for record in caplog.records] == ["/wp-login.php", None]


async def test_the_gates_warm_up_is_nobodys_request(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "project.access")
    edged = Edged(answering())

    await send_warmup(edged.edge, Warmup(path="/"), state=None)

    assert (edged.observed, caplog.records) == ([], [])


async def test_a_path_without_end_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "project.access")
    await Edged(answering()).ask("/" + "token-" * 100_000)
    assert len(vars(caplog.records[0])["path"]) == 500


async def test_who_cannot_count_fails_no_request(caplog: pytest.LogCaptureFixture) -> None:
    edged = Edged(answering())
    edged.durations_s = ()  # type: ignore[assignment]

    sent = await edged.ask()

    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        "a request is not counted"
    ]


async def test_an_answer_without_headers_gets_ours() -> None:
    async def bare(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    assert len(id_of(await Edged(bare).ask())) > 16


async def test_an_application_that_raises_is_noted_as_500_and_still_raises() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("broken")

    edged = Edged(broken)
    with pytest.raises(ValueError, match="broken"):
        await edged.ask()

    assert edged.observed == [("GET", "unmatched", 500)]


async def test_one_that_raises_in_the_middle_keeps_the_status_that_it_has_sent() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ValueError("broken")

    edged = Edged(broken)
    with pytest.raises(ValueError, match="broken"):
        await edged.ask()

    assert edged.observed == [("GET", "unmatched", 200)]


async def test_a_client_that_leaves_before_an_answer_is_noted_as_499() -> None:
    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        """Django returns without an answer when the client has left."""

    edged = Edged(silent)
    await edged.ask()

    assert edged.observed == [("GET", "unmatched", 499)]


async def test_a_request_that_is_cancelled_is_noted_and_stays_cancelled() -> None:
    begun = asyncio.Event()

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        await asyncio.Event().wait()

    edged = Edged(endless)
    task = asyncio.create_task(edged.ask())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert edged.observed == [("GET", "unmatched", 499)]


async def test_log_lines_of_the_request_carry_its_id_in_every_task_and_thread() -> None:
    lines: list[str] = []

    def say() -> None:
        lines.append(JsonFormatter().format(logging.makeLogRecord({"msg": "hello"})))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        say()
        await asyncio.create_task(asyncio.to_thread(say))
        await answering()(scope, receive, send)

    found = id_of(await Edged(app).ask())

    assert len(lines) == 2
    assert all(f'"request_id": "{found}"' in line for line in lines)


async def test_a_websocket_has_an_id_and_a_lifespan_has_none() -> None:
    seen: list[bool] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(current_request.get() is not None)

    async def nothing(*_: Any) -> Any:
        """Neither side says anything."""

    edge = Edged(app).edge
    await edge({"type": "websocket", "headers": [], "client": None}, nothing, nothing)
    await edge({"type": "lifespan"}, nothing, nothing)

    assert seen == [True, False]


async def test_what_the_server_begins_at_the_end_of_an_answer_knows_nothing_of_the_request() -> (
    None
):
    """Servers begin the next request of the connection there, and read on from `receive`."""
    of_others: ContextVar[str] = ContextVar("of_others", default="")
    seen: list[Any] = []

    async def look() -> None:
        seen.append((current_request.get(), of_others.get()))

    async def receive() -> dict[str, Any]:
        await asyncio.create_task(look())
        return {"type": "http.request", "body": b"abc", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body"):
            await asyncio.create_task(look())

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        of_others.set("of the application")
        assert (await receive())["body"] == b"abc"
        await answering(200, b"part")(scope, receive, send)
        assert (current_request.get() is not None, of_others.get()) == (True, "of the application")

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "client": STRANGER}
    await Edged(app).edge(scope, receive, send)

    assert seen == [(None, "")] * 2


@pytest.mark.parametrize("where", ["receive", "send"])
async def test_a_server_that_fails_or_is_canceled_is_heard(where: str) -> None:
    begun = asyncio.Event()

    async def wait(*_: Any) -> Any:
        begun.set()
        await asyncio.Event().wait()

    async def fail(*_: Any) -> Any:
        await asyncio.sleep(0)
        raise OSError("gone")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if where == "receive":
            await receive()
        else:
            await send({"type": "http.response.body"})

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "client": STRANGER}
    with pytest.raises(OSError, match="gone"):
        await Edged(app).edge(scope, fail, fail)
    task = asyncio.create_task(Edged(app).edge(scope, wait, wait))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
