"""The lifespan matrix: how the load goes, what the inner lifespan does, when the stop comes.

Whole lists of messages are compared, on the server's side and on the inner application's.
"""

import asyncio
import contextlib
import itertools
import logging
from typing import Any

import pytest
from server_side import (
    LIMIT_S,
    Exchange,
    Exits,
    GatedLoad,
    Lifespan,
    get,
    hello,
    http_scope,
    limited,
    other_tasks,
    served,
    settle,
)

from asgi_health import HealthConfig, HealthGate, LoadedApp, Warmup
from asgi_health.boot import Boot
from asgi_health.phase import UNSETTLED

STARTED = {"type": "lifespan.startup.complete"}
STOPPED = {"type": "lifespan.shutdown.complete"}


class Inner:
    """An application whose lifespan does what the case says; keeps what it was told."""

    def __init__(self, behavior: str) -> None:
        self.behavior = behavior
        self.received: list[str] = []
        self.state: dict[str, Any] | None = None
        self.ended = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await hello(scope, receive, send)
            return
        if self.behavior == "unsupported":
            raise ValueError("only http here")
        self.state = scope["state"]
        self.received.append((await receive())["type"])
        if self.behavior == "returns early":
            return
        if self.behavior == "startup failed":
            await send({"type": "lifespan.startup.failed", "message": "no database"})
            return
        self.state["pool"] = "open"
        await send(STARTED)
        self.received.append((await receive())["type"])
        if self.behavior == "shutdown failed":
            await send({"type": "lifespan.shutdown.failed", "message": "half closed"})
        else:
            await send(STOPPED)
        self.ended = True


LOADS = ["ok", "slow", "raises", "hangs"]
BEHAVIORS = ["ok", "startup failed", "unsupported", "returns early", "shutdown failed", "none"]
MOMENTS = ["before", "during", "after"]
WAYS = ["lifespan only", "signal first"]


def expected(load: str, behavior: str, moment: str) -> dict[str, Any]:
    """What must be seen; written out, not taken from the code."""
    seen: dict[str, Any] = {
        "server": [STARTED, STOPPED],
        "inner": [],
        "failure": None,
        "exits": [],
        "was_ready": False,
    }
    if moment != "after":
        return seen
    if load == "raises":
        return seen | {"failure": "boot.error", "exits": [3]}
    if load == "hangs":
        return seen | {"failure": "boot.deadline", "exits": [3]}
    if behavior == "startup failed":
        return seen | {"failure": "boot.lifespan", "exits": [3], "inner": ["lifespan.startup"]}
    seen["was_ready"] = True
    if behavior == "returns early":
        seen["inner"] = ["lifespan.startup"]
    elif behavior == "ok":
        seen["inner"] = ["lifespan.startup", "lifespan.shutdown"]
    elif behavior == "shutdown failed":
        seen["inner"] = ["lifespan.startup", "lifespan.shutdown"]
        seen["server"] = [STARTED, {"type": "lifespan.shutdown.failed", "message": "half closed"}]
    return seen


async def end_of_boot(gate: HealthGate, target: GatedLoad, exits: Exits, *, opens: bool) -> None:
    """Wait until the boot is over, and a failed process has ended."""
    if opens:
        target.opened.set()
    await limited(gate.lifecycle.left(frozenset({"starting", "loading"})))
    if gate.lifecycle.failure:
        await limited(exits.happened.wait())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("load", "behavior", "moment"), list(itertools.product(LOADS, BEHAVIORS, MOMENTS))
)
async def test_every_load_with_every_inner_lifespan_stopped_at_every_moment(
    load: str, behavior: str, moment: str, way: str, stay_starting: Any
) -> None:
    if moment == "before":
        stay_starting()
    inner = Inner(behavior)
    result = LoadedApp(inner, lifespan=False) if behavior == "none" else inner
    target = GatedLoad(result, error=OSError("no disk") if load == "raises" else None)
    if load == "ok" and moment != "during":
        target.opened.set()
    exits = Exits()
    deadline_s = 0.05 if (load, moment) == ("hangs", "after") else LIMIT_S
    config = HealthConfig(boot_deadline_s=deadline_s, failed_linger_s=0)
    gate = HealthGate(target, config=config, exit_process=exits)
    server = Lifespan(gate, state={})
    assert await server.startup() == STARTED

    if moment == "during":
        await target.has_been_entered()
        assert gate.lifecycle.phase == "loading"
    if moment == "after":
        await end_of_boot(gate, target, exits, opens=load != "hangs")
    if way == "signal first":
        gate._drain()
        await settle()
    await server.shutdown()
    target.opened.set()
    if target.entered.is_set():
        await asyncio.to_thread(target.left.wait, LIMIT_S)
    await settle()

    failure = gate.lifecycle.failure
    assert {
        "server": server.sent,
        "inner": inner.received,
        "failure": failure and failure.code,
        "exits": exits.codes,
        "was_ready": gate.lifecycle.was_ready,
    } == expected(load, behavior, moment)
    assert gate.lifecycle.phase == "stopped"
    assert other_tasks() == []


class StartsSlowly:
    """An inner lifespan that waits in its startup, and keeps what happened to it."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.cleaned = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cleaned = True


@pytest.mark.parametrize("way", WAYS)
async def test_a_stop_during_the_inner_startup_cancels_it_and_waits_for_its_cleanup(
    way: str,
) -> None:
    inner = StartsSlowly()
    async with served(lambda: inner) as booted:
        await limited(inner.begun.wait())
        if way == "signal first":
            booted.gate._drain()
        assert await booted.lifespan.shutdown() == STOPPED
        assert inner.cleaned
        assert other_tasks() == []


async def test_a_second_stop_does_not_cut_the_cleanup_of_the_inner_startup_short() -> None:
    cleaning, allowed, cleaned = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaning.set()
            await allowed.wait()
            cleaned.set()

    async with served(lambda: inner) as booted:
        await booted.until("loading")
        while not booted.gate.vitals.boot or not booted.gate.vitals.boot._lifespan:  # noqa: ASYNC110
            await asyncio.sleep(0)
        await settle()
        booted.gate._drain()
        await limited(cleaning.wait())
        booted.lifespan.ask("lifespan.shutdown")
        await settle()
        assert STOPPED not in booted.lifespan.sent
        allowed.set()
        await booted.lifespan.answer()
        await limited(booted.lifespan.task)
        assert cleaned.is_set()
        assert other_tasks() == []


async def test_a_deadline_during_the_inner_startup_fails_the_boot() -> None:
    inner = StartsSlowly()
    async with served(lambda: inner, boot_deadline_s=0.2) as booted:
        await limited(booted.exits.happened.wait())
        assert booted.gate.lifecycle.failure.code == "boot.deadline"
        assert "'lifespan startup'" in booted.gate.lifecycle.failure.message
        assert inner.cleaned


async def test_a_stop_during_the_warm_up_cancels_it() -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with served(lambda: LoadedApp(inner, lifespan=False, warmup=Warmup("/"))) as booted:
        await limited(begun.wait())
        assert await booted.lifespan.shutdown() == STOPPED
        assert cancelled.is_set()
        assert booted.gate.lifecycle.failure is None
        assert other_tasks() == []


@pytest.mark.parametrize("ending", ["answers", "raises", "returns"])
async def test_a_warm_up_that_swallows_its_cancellation_cannot_undo_a_stop(ending: str) -> None:
    begun = asyncio.Event()

    async def stubborn(scope: Any, receive: Any, send: Any) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if ending == "answers":
                await hello(scope, receive, send)
            elif ending == "raises":
                raise OSError("interrupted") from None

    async with served(lambda: LoadedApp(stubborn, lifespan=False, warmup=Warmup("/"))) as booted:
        await limited(begun.wait())
        booted.gate._drain()
        await settle()
        boot = booted.gate._tasks[0]
        assert boot.done()
        assert boot.cancelled() or boot.exception() is None
        assert await booted.lifespan.shutdown() == STOPPED
        assert booted.gate.lifecycle.phase == "stopped"
        assert not booted.gate.lifecycle.was_ready


async def test_a_warm_up_that_swallows_the_deadline_is_late_all_the_same() -> None:
    async def stubborn(scope: Any, receive: Any, send: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await hello(scope, receive, send)

    app = LoadedApp(stubborn, lifespan=False, warmup=Warmup("/"))
    async with served(lambda: app, boot_deadline_s=0.2) as booted:
        await booted.until("failed", "ready")
        assert booted.gate.lifecycle.failure.code == "boot.deadline"
        await limited(booted.exits.happened.wait())


async def test_a_cancellation_that_nobody_asked_for_fails_the_boot() -> None:
    async def inner(scope: Any, receive: Any, send: Any) -> None:
        task = asyncio.create_task(asyncio.Event().wait())
        task.cancel()
        await task

    app = LoadedApp(inner, lifespan=False, warmup=Warmup("/"))
    async with served(lambda: app) as booted:
        await booted.until("failed", "ready")
        assert booted.gate.lifecycle.phase == "failed"
        assert "CancelledError" in booted.gate.lifecycle.failure.message
        await limited(booted.exits.happened.wait())


async def test_a_warm_up_that_ignores_its_cancellation_cannot_hold_up_the_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("asgi_health.gate._CLEANUP_S", 0.0)
    begun, allowed = asyncio.Event(), asyncio.Event()

    async def stubborn(scope: Any, receive: Any, send: Any) -> None:
        begun.set()
        while not allowed.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await allowed.wait()

    async with served(lambda: LoadedApp(stubborn, lifespan=False, warmup=Warmup("/"))) as booted:
        await limited(begun.wait())
        assert await booted.lifespan.shutdown() == STOPPED
        allowed.set()
        await settle()
        assert booted.gate.lifecycle.phase == "stopped"
        assert other_tasks() == []


async def test_what_the_inner_lifespan_put_into_its_state_reaches_the_servers_state() -> None:
    inner, state = Inner("ok"), {"from": "server"}
    async with served(lambda: inner, state=state) as booted:
        await booted.until("ready")
        assert inner.state is state
        assert state == {"from": "server", "pool": "open"}


async def test_a_server_without_state_still_drives_the_inner_lifespan() -> None:
    inner = Inner("ok")
    gate = HealthGate(lambda: inner)
    server = Lifespan(gate)
    await server.startup()
    await limited(gate.lifecycle.left(frozenset({"starting", "loading"})))
    await server.shutdown()
    assert inner.received == ["lifespan.startup", "lifespan.shutdown"]
    assert inner.state == {"pool": "open"}


async def test_a_server_without_lifespan_gives_the_application_none() -> None:
    inner = Inner("ok")
    gate = HealthGate(lambda: inner)
    exchange = await get(gate)
    assert exchange.body == b"hello"
    assert inner.received == []
    for task in gate._tasks:
        await limited(task)
    gate._unchain()


async def test_a_lifespan_that_breaks_while_running_is_logged_and_can_be_stopped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken = asyncio.Event()

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(STARTED)
        await broken.wait()
        raise OSError("the pool is gone")

    async with served(lambda: inner) as booted:
        await booted.until("ready")
        broken.set()
        await settle()
        [record] = [r for r in caplog.records if r.name == "asgi_health.lifespan"]
        assert record.levelno == logging.ERROR
        assert record.exc_info is not None
        assert booted.gate.lifecycle.phase == "ready"
        assert await booted.lifespan.shutdown() == STOPPED


async def test_an_error_after_a_failed_startup_is_not_called_unsupported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "lifespan.startup.failed", "message": "no database"})
        raise OSError("no database")

    async with served(lambda: inner) as booted:
        await booted.until("failed")
        assert booted.gate.lifecycle.failure.message.endswith("failed: no database")
        assert not [r for r in caplog.records if r.name == "asgi_health.lifespan"]


@pytest.mark.parametrize(
    "message",
    [
        {"type": "http.response.start"},
        {"type": "lifespan.startup.soon"},
        {"type": "lifespan.shutdown.maybe"},
    ],
)
async def test_a_message_that_is_no_answer_is_refused_to_its_sender(
    message: dict[str, Any],
) -> None:
    refused: list[str] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        try:
            await send(message)
        except RuntimeError as error:
            refused.append(str(error))
        await send(STARTED)
        try:
            await send(STARTED)
        except RuntimeError as error:
            refused.append(str(error))
        await receive()
        await receive()
        await send(STOPPED)

    async with served(lambda: inner) as booted:
        await booted.until("ready")
        assert [text.partition(" now; allowed")[0] for text in refused] == [
            f"lifespan message {message['type']!r}",
            "lifespan message 'lifespan.startup.complete'",
        ]


async def test_a_shutdown_answer_without_reason_is_still_a_failure() -> None:
    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await send(STARTED)
        await receive()
        await receive()
        await send({"type": "lifespan.shutdown.failed"})

    async with served(lambda: inner) as booted:
        await booted.until("ready")
        assert await booted.lifespan.shutdown() == {
            "type": "lifespan.shutdown.failed",
            "message": "no message given",
        }


async def test_requests_in_hand_at_the_stop_are_answered_before_it_ends() -> None:
    target = GatedLoad()
    async with served(target) as booted:
        await target.has_been_entered()
        held = [Exchange(booted.gate, http_scope("/a")) for _ in range(3)]
        await settle()
        await booted.lifespan.shutdown()
        for exchange in held:
            await exchange.end()
            assert exchange.status == 503
            assert b"service.draining" in exchange.body
            assert exchange.headers[b"connection"] == b"close"


async def test_a_fault_of_our_own_in_the_boot_fails_it_instead_of_loading_for_ever(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(boot: Boot, *, state: dict[str, Any] | None) -> None:
        raise LookupError("a fault of ours")

    monkeypatch.setattr(Boot, "run", broken)
    ended: list[int] = []
    config = HealthConfig(failed_linger_s=0.0)
    gate = HealthGate(lambda: None, config=config, exit_process=ended.append)
    lifespan = Lifespan(gate, state={})

    await lifespan.startup()
    await limited(gate.lifecycle.left(UNSETTLED))
    await limited(lifespan.shutdown())

    assert gate.lifecycle.failure is not None
    assert gate.lifecycle.failure.code == "boot.error"
    assert [record.message for record in caplog.records] == ["the boot broke"]


async def test_an_inner_startup_that_asks_to_exit_fails_the_boot_and_the_probes_go_on() -> None:
    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        raise SystemExit(7)

    async with served(lambda: inner, failed_linger_s=60) as booted:
        await booted.until("failed")

        assert booted.gate.lifecycle.failure.code == "boot.lifespan"
        assert "SystemExit: 7" in booted.gate.lifecycle.failure.message
        assert (await get(booted.gate, "/livez")).status == 503


async def test_a_warmup_that_fails_shuts_the_inner_application_down() -> None:
    heard: list[str] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            raise OSError("no service behind it")
        heard.append((await receive())["type"])
        await send(STARTED)
        heard.append((await receive())["type"])
        await send(STOPPED)

    loaded = LoadedApp(inner, warmup=Warmup("/ping"))
    async with served(lambda: loaded, failed_linger_s=60) as booted:
        await booted.until("failed")
        await settle()

        assert booted.gate.lifecycle.failure.code == "boot.warmup"
        assert heard == ["lifespan.startup", "lifespan.shutdown"]
