"""The first request through the whole application, before anybody else's."""

import asyncio
from typing import Any

import pytest
from server_side import hello, limited, served

from asgi_health import LoadedApp, Warmup
from asgi_health.errors import ConfigurationError, WarmupFailed
from asgi_health.warmup import send_warmup


def answering(*messages: dict[str, Any]) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    return app


def with_status(status: int) -> Any:
    return answering(
        {"type": "http.response.start", "status": status, "headers": []},
        {"type": "http.response.body", "body": b"a", "more_body": True},
        {"type": "http.response.body", "body": b"b"},
    )


@pytest.mark.parametrize("status", [200, 204, 301, 302, 401, 403, 404, 405, 429, 499])
async def test_any_status_below_500_but_400_shows_that_requests_are_served(status: int) -> None:
    await send_warmup(with_status(status), Warmup("/w"), state=None)


@pytest.mark.parametrize("status", [400, 500, 502, 503])
async def test_a_broken_answer_fails_the_warm_up(status: int) -> None:
    with pytest.raises(WarmupFailed) as caught:
        await send_warmup(with_status(status), Warmup("/w"), state=None)
    assert f"GET /w gave status {status}; allowed: any status below 500 but 400." in str(
        caught.value
    )


async def test_only_the_named_statuses_are_taken_where_some_are_named() -> None:
    warmup = Warmup("/w", statuses=frozenset({204, 200}))
    await send_warmup(with_status(204), warmup, state=None)
    with pytest.raises(WarmupFailed, match=r"gave status 404; allowed: status \[200, 204\]"):
        await send_warmup(with_status(404), warmup, state=None)


@pytest.mark.parametrize(
    "app",
    [
        answering(),
        answering({"type": "http.response.start", "status": 200, "headers": []}),
        answering({"type": "http.response.body", "body": b""}),
        answering(
            {"type": "http.response.start", "status": 200, "headers": []},
            {"type": "http.response.body", "body": b"", "more_body": True},
        ),
    ],
)
async def test_an_answer_that_is_not_complete_fails_the_warm_up(app: Any) -> None:
    with pytest.raises(WarmupFailed, match="gave no complete answer"):
        await send_warmup(app, Warmup("/w"), state=None)


async def test_an_exception_fails_the_warm_up_and_is_its_cause() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await hello(scope, receive, send)
        raise OSError("after the answer")

    with pytest.raises(WarmupFailed, match="gave OSError: after the answer") as caught:
        await send_warmup(app, Warmup("/w"), state=None)
    assert isinstance(caught.value.__cause__, OSError)


async def test_the_request_looks_like_a_real_one() -> None:
    seen: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)
        assert await receive() == {"type": "http.request", "body": b"", "more_body": False}
        leaving = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        assert not leaving.done()
        await hello(scope, receive, send)
        assert await limited(leaving) == {"type": "http.disconnect"}

    state = {"a": 1}
    warmup = Warmup("/wärm", host="app.example", headers=((b"x-forwarded-proto", b"https"),))
    await send_warmup(app, warmup, state=state)
    [scope] = seen
    assert (scope["type"], scope["method"], scope["scheme"]) == ("http", "GET", "https")
    assert (scope["path"], scope["raw_path"]) == ("/wärm", "/wärm".encode())
    assert scope["headers"] == [
        (b"host", b"app.example"),
        (b"user-agent", b"asgi-health-warmup"),
        (b"accept", b"*/*"),
        (b"x-forwarded-proto", b"https"),
    ]
    assert scope["server"] == ("app.example", 443)
    assert scope["state"] == state
    assert scope["state"] is not state


async def test_without_a_state_the_scope_has_none() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert "state" not in scope
        assert scope["server"] == ("localhost", 80)
        await hello(scope, receive, send)

    await send_warmup(app, Warmup("/", scheme="http"), state=None)


async def test_a_failed_warm_up_fails_the_boot_with_its_code() -> None:
    async with served(
        lambda: LoadedApp(with_status(500), lifespan=False), warmup=Warmup("/w")
    ) as booted:
        await limited(booted.exits.happened.wait())
        assert booted.gate.lifecycle.failure.code == "boot.warmup"
        assert not booted.gate.lifecycle.was_ready


async def test_the_load_functions_warm_up_wins_over_the_configured_one() -> None:
    paths: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        paths.append(scope["path"])
        await hello(scope, receive, send)

    loaded = LoadedApp(app, lifespan=False, warmup=Warmup("/mine"))
    async with served(lambda: loaded, warmup=Warmup("/configured")) as booted:
        await booted.until("ready")
        assert paths == ["/mine"]


async def test_a_warm_up_that_never_ends_is_covered_by_the_deadline() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    loaded = LoadedApp(app, lifespan=False, warmup=Warmup("/w"))
    async with served(lambda: loaded, boot_deadline_s=0.1) as booted:
        await limited(booted.exits.happened.wait())
        failure = booted.gate.lifecycle.failure
        assert failure.code == "boot.deadline"
        assert "the last step was 'warm-up'" in failure.message


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
async def test_an_application_that_exits_in_its_warm_up_fails_the_boot(
    error: BaseException,
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise error

    loaded = LoadedApp(app, lifespan=False, warmup=Warmup("/w"))
    async with served(lambda: loaded) as booted:
        await limited(booted.exits.happened.wait())
        assert booted.gate.lifecycle.failure.code == "boot.error"
        assert booted.exits.codes == [3]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"path": "ping"}, "Warmup.path"),
        ({"path": "/ping?x=1"}, "Warmup.path"),
        ({"path": "/a\r\nx: y"}, "Warmup.path"),
        ({"path": "/", "host": ""}, "Warmup.host"),
        ({"path": "/", "host": "예.example"}, "Warmup.host"),
        ({"path": "/", "scheme": "ftp"}, "Warmup.scheme"),
        ({"path": "/", "statuses": frozenset()}, "Warmup.statuses"),
    ],
)
def test_a_warmup_that_cannot_work_is_refused_when_it_is_built(
    options: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"^{named} is .*; allowed: "):
        Warmup(**options)
