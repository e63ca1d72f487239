"""Probes and the page over ASGI: the same bytes for everybody, details for the authorised."""

import asyncio
import base64
import json
from typing import Any

import pytest
from server_side import (
    SECRET,
    Exchange,
    GatedLoad,
    get,
    hello,
    http_scope,
    limited,
    other_tasks,
    served,
    settle,
)

from asgi_health import CorsPolicy, HealthConfig, HealthGate, LoadedApp

BEARER = (b"authorization", b"Bearer " + SECRET.encode())
WRONG = (b"authorization", b"Bearer " + b"x" * 40)
BASIC = (b"authorization", b"Basic " + base64.b64encode(b"me:" + SECRET.encode()))
ORIGIN = (b"origin", b"https://app.example")
CORS = CorsPolicy(origins=("https://app.example",))
PROBES = ["/livez", "/livez/", "/readyz", "/readyz/", "/startupz", "/startupz/"]


def fails_with(text: str) -> Any:
    def load() -> Any:
        raise OSError(text)

    return load


@pytest.mark.parametrize("path", PROBES)
async def test_every_probe_path_answers_200_when_ready(path: str) -> None:
    async with served(lambda: hello) as booted:
        await booted.until("ready")
        for method in ("GET", "HEAD"):
            answer = await get(booted.gate, path, method=method)
            assert (answer.status, answer.headers[b"content-length"]) == (200, b"2")


@pytest.mark.parametrize(
    "path", [*PROBES, "/livez/boot", "/statusz", "/statusz/events", "/metrics"]
)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get", "X"])
async def test_any_other_method_is_405_with_what_is_allowed(path: str, method: str) -> None:
    async with served(lambda: hello) as booted:
        answer = await get(booted.gate, path, method=method)
        assert answer.status == 405
        assert answer.headers[b"allow"] == b"GET, HEAD"
        assert answer.headers[b"cache-control"] == b"no-store"


@pytest.mark.parametrize("phase", ["starting", "loading", "ready", "failed", "draining"])
async def test_a_terse_answer_is_the_same_bytes_for_everybody(
    phase: str, stay_starting: Any
) -> None:
    if phase == "starting":
        stay_starting()
    target = GatedLoad(error=OSError("no") if phase == "failed" else None)
    async with served(target, token=SECRET, details_loopback=True, failed_linger_s=30) as booted:
        if phase != "starting":
            await target.has_been_entered()
        if phase in {"ready", "failed", "draining"}:
            target.opened.set()
            await booted.until("ready", "failed")
        if phase == "draining":
            booted.gate._drain()
        for path in PROBES:
            plain = await get(booted.gate, path)
            local = http_scope(path, client=("127.0.0.1", 1))
            local["headers"] = [(b"host", b"localhost")]
            others = [
                await get(booted.gate, path, headers=[BEARER]),
                await get(booted.gate, path, headers=[WRONG]),
                await get(booted.gate, path, headers=[(b"accept", b"*/*")]),
                await get(booted.gate, path, headers=[(b"accept", b"text/plain")]),
                await get(booted.gate, path, headers=[ORIGIN]),
                await get(booted.gate, path, query=b"a=b"),
                await get(booted.gate, path, method="HEAD"),
                await Exchange(booted.gate, local).end(),
            ]
            for other in others:
                assert other.sent == plain.sent
        target.opened.set()


async def test_the_answer_follows_every_change_of_phase() -> None:
    target = GatedLoad()
    async with served(target) as booted:
        await target.has_been_entered()
        seen = [(await get(booted.gate, "/readyz")).body]
        target.opened.set()
        await booted.until("ready")
        seen.append((await get(booted.gate, "/readyz")).body)
        booted.gate._drain()
        seen.append((await get(booted.gate, "/readyz")).body)
        await booted.lifespan.shutdown()
        seen.append((await get(booted.gate, "/readyz")).body)
        assert seen == [b"loading", b"ok", b"draining", b"stopped"]


ASKS: list[dict[str, Any]] = [
    {},
    {"method": "HEAD"},
    {"method": "POST"},
    {"query": b"verbose&format=json"},
    {"headers": [BEARER]},
    {"headers": [ORIGIN]},
]


@pytest.mark.parametrize(
    "path", [*PROBES, "/livez/boot", "/readyz/nothing", "/statusz", "/metrics"]
)
@pytest.mark.parametrize("ask", ASKS)
async def test_every_answer_asks_for_a_new_connection_while_draining_and_not_before(
    path: str, ask: dict[str, Any]
) -> None:
    async with served(lambda: hello, token=SECRET, cors=CORS) as booted:
        await booted.until("ready")
        assert b"connection" not in (await get(booted.gate, path, **ask)).headers
        booted.gate.begin_drain()
        answer = await get(booted.gate, path, **ask)
        assert answer.headers[b"connection"] == b"close"


async def test_details_are_for_the_token_only() -> None:
    async with served(fails_with("secret reason"), token=SECRET, failed_linger_s=30) as booted:
        await booted.until("failed")
        ask = {"query": b"format=json&verbose"}
        known = await get(booted.gate, "/livez", headers=[BEARER], **ask)
        assert json.loads(known.body)["output"] == "OSError: secret reason"
        for headers in ([], [WRONG], [BASIC], [(b"authorization", b"")]):
            terse = await get(booted.gate, "/livez", headers=headers, **ask)
            assert terse.status == 503
            assert b"secret" not in terse.body


async def test_details_carry_report_requests_versions_and_release() -> None:
    async with served(lambda: hello, token=SECRET, release="abc123") as booted:
        await booted.until("ready")
        answer = await get(booted.gate, "/readyz", headers=[BEARER], query=b"format=json")
        body = json.loads(answer.body)
        assert body["releaseId"] == "abc123"
        assert {"boot", "workers", "requests", "versions"} <= set(body)
        assert [step["name"] for step in body["boot"]["steps"]][:2] == ["import", "load"]
        assert body["requests"] == {
            "held_now": 0,
            "handed_over": 0,
            "left_while_held": 0,
            "held_too_long": 0,
            "over_the_limit": 0,
        }
        assert body["workers"] == []


async def test_ten_wrong_tokens_make_429_on_probes_and_on_the_page() -> None:
    async with served(lambda: hello, token=SECRET) as booted:
        await booted.until("ready")
        for _ in range(10):
            assert (await get(booted.gate, "/readyz", headers=[WRONG])).status == 200
        for path in ("/readyz", "/statusz", "/statusz/events", "/metrics"):
            answer = await get(booted.gate, path, headers=[BEARER])
            assert (answer.status, answer.headers[b"retry-after"]) == (429, b"60")
        assert (await get(booted.gate, "/readyz")).status == 200


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/livez/loop", 200, b"ok"),
        ("/livez/boot/", 200, b"ok"),
        ("/readyz/boot", 503, b"loading"),
        ("/readyz/accepting", 200, b"ok"),
        ("/readyz/fleet", 404, b"unknown check; known: boot, accepting"),
        ("/readyz/x", 404, b"unknown check; known: boot, accepting"),
        ("/livez/%3Cb%3E", 404, b"unknown check; known: loop, boot"),
        ("/livez/<script>", 404, b"unknown check; known: loop, boot"),
    ],
)
async def test_single_checks_answer_below_the_first_path(
    path: str, status: int, body: bytes
) -> None:
    target = GatedLoad()
    async with served(target) as booted:
        await target.has_been_entered()
        answer = await get(booted.gate, path)
        assert (answer.status, answer.body) == (status, body)
        target.opened.set()


@pytest.mark.parametrize("path", ["/readyz", "/readyz/boot", "/livez/nothing"])
async def test_probes_follow_the_cors_policy(path: str) -> None:
    async with served(lambda: hello, cors=CORS) as booted:
        await booted.until("ready")
        stranger = await get(booted.gate, path)
        friend = await get(booted.gate, path, headers=[ORIGIN])
        assert stranger.headers[b"vary"] == friend.headers[b"vary"] == b"Origin"
        assert b"access-control-allow-origin" not in stranger.headers
        assert friend.headers[b"access-control-allow-origin"] == ORIGIN[1]
        assert friend.headers[b"access-control-expose-headers"] == b"Retry-After"


async def test_a_preflight_on_a_probe_is_answered_in_every_phase() -> None:
    headers = [ORIGIN, (b"access-control-request-method", b"GET")]
    async with served(lambda: hello, cors=CORS) as booted:
        for _ in range(2):
            answer = await get(booted.gate, "/readyz", method="OPTIONS", headers=headers)
            assert answer.status == 200
            assert answer.headers[b"access-control-allow-origin"] == ORIGIN[1]
            await booted.until("ready")


async def test_without_a_policy_no_answer_has_a_cors_header() -> None:
    async with served(lambda: hello) as booted:
        for path in ("/readyz", "/livez/x", "/statusz", "/metrics"):
            answer = await get(booted.gate, path, headers=[ORIGIN])
            assert b"vary" not in answer.headers
            assert b"access-control-allow-origin" not in answer.headers


# The page.


@pytest.mark.parametrize("path", ["/statusz", "/metrics"])
async def test_a_page_without_a_token_configured_is_off_and_says_how_to_turn_it_on(
    path: str,
) -> None:
    async with served(lambda: hello) as booted:
        answer = await get(booted.gate, path)
        assert answer.status == 403
        assert b"set HEALTH_TOKEN" in answer.body


@pytest.mark.parametrize("headers", [[], [WRONG], [(b"authorization", b"Basic eDp5")]])
@pytest.mark.parametrize(
    "path", ["/statusz", "/statusz/", "/statusz/events", "/metrics", "/metrics/"]
)
async def test_the_page_asks_for_the_token(headers: Any, path: str) -> None:
    async with served(lambda: hello, token=SECRET) as booted:
        answer = await get(booted.gate, path, headers=headers)
        assert answer.status == 401
        assert answer.headers[b"www-authenticate"].startswith(b"Basic realm=")
        assert b"Bearer" in answer.headers[b"www-authenticate"]
        assert answer.headers[b"cache-control"] == b"no-store"


@pytest.mark.parametrize("credentials", [BEARER, BASIC])
@pytest.mark.parametrize("phase", ["starting", "loading", "ready", "failed", "draining"])
async def test_the_page_is_shown_to_the_authorised_in_every_phase(
    credentials: Any, phase: str, stay_starting: Any
) -> None:
    if phase == "starting":
        stay_starting()
    target = GatedLoad(error=OSError("the <reason>") if phase == "failed" else None)
    async with served(target, token=SECRET, failed_linger_s=30, title="The <service>") as booted:
        if phase != "starting":
            await target.has_been_entered()
        if phase in {"ready", "failed", "draining"}:
            target.opened.set()
            await booted.until("ready", "failed")
        if phase == "draining":
            booted.gate._drain()
        page = await get(booted.gate, "/statusz", headers=[credentials])
        assert page.status == 200
        assert page.headers[b"content-type"] == b"text/html; charset=utf-8"
        assert b"The &lt;service&gt;" in page.body
        assert phase.encode() in page.body
        assert (b"the &lt;reason&gt;" in page.body) is (phase == "failed")
        wanted = [credentials, (b"accept", b"application/json")]
        facts = json.loads((await get(booted.gate, "/statusz", headers=wanted)).body)
        assert facts["phase"] == phase
        assert facts["ready"] is (phase == "ready")
        target.opened.set()


async def test_the_page_is_json_when_asked_but_html_for_a_browser() -> None:
    async with served(lambda: hello, token=SECRET) as booted:
        browser = (b"accept", b"text/html,application/json;q=0.9,*/*;q=0.8")
        page = await get(booted.gate, "/statusz", headers=[BEARER, browser])
        assert page.headers[b"content-type"].startswith(b"text/html")
        asked = await get(booted.gate, "/statusz", headers=[BEARER, browser], query=b"format=json")
        assert asked.headers[b"content-type"] == b"application/json"


@pytest.mark.parametrize(
    ("root_path", "found"),
    [("", b'"/statusz/events"'), ("/app", b'"/app/statusz/events"'), (None, b'"/statusz/events"')],
)
async def test_the_page_finds_its_events_below_a_root_path(root_path: Any, found: bytes) -> None:
    async with served(lambda: hello, token=SECRET) as booted:
        path = f"{root_path or ''}/statusz"
        page = await get(booted.gate, path, headers=[BEARER], root_path=root_path)
        assert b"data-events=" + found in page.body


async def test_no_page_where_it_is_switched_off() -> None:
    async with served(lambda: hello, token=SECRET, status_path=None) as booted:
        await booted.until("ready")
        assert (await get(booted.gate, "/statusz", headers=[BEARER])).body == b"hello"


async def test_event_streams_are_limited_and_their_places_come_back() -> None:
    async with served(lambda: hello, token=SECRET) as booted:
        await booted.until("ready")

        def listen() -> Exchange:
            return Exchange(
                booted.gate, http_scope("/statusz/events", headers=[BEARER]), messages=[]
            )

        streams = [listen() for _ in range(16)]
        await settle()
        one_more = await get(booted.gate, "/statusz/events", headers=[BEARER])
        assert (one_more.status, one_more.headers[b"retry-after"]) == (503, b"60")
        streams[0].leave()
        await streams[0].end()
        again = listen()
        await settle()
        assert again.status == 200
        booted.gate._drain()
        for stream in [*streams, again]:
            await stream.end()
        assert again.sent[-1]["body"] == b"event: end\ndata: draining\n\n"
        assert "more_body" not in again.sent[-1]
    assert other_tasks() == []


async def test_an_event_stream_has_no_head() -> None:
    async with served(lambda: hello, token=SECRET) as booted:
        answer = await get(booted.gate, "/statusz/events", headers=[BEARER], method="HEAD")
        assert (answer.status, answer.headers[b"allow"]) == (405, b"GET")


async def test_a_stream_that_its_server_cancels_gives_its_place_back() -> None:
    async with served(lambda: hello, token=SECRET) as booted:
        scope = http_scope("/statusz/events", headers=[BEARER])
        stream = Exchange(booted.gate, scope, messages=[])
        await settle()
        assert booted.gate.endpoints._streams == 1
        stream.task.cancel()
        await asyncio.wait({stream.task})
        assert booted.gate.endpoints._streams == 0


async def test_probes_of_a_gate_that_has_no_loop_task_yet_start_it() -> None:
    target = GatedLoad(LoadedApp(hello, lifespan=False))
    gate = HealthGate(target, config=HealthConfig())
    assert (await get(gate, "/livez")).status == 200
    await target.has_been_entered()
    target.opened.set()
    for task in gate._tasks:
        await limited(task)
    gate._unchain()
