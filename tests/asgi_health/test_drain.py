"""The stop is heard when it is asked for; the server's own handler still gets it."""

import asyncio
import gc
import os
import signal
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from server_side import GatedLoad, Lifespan, get, limited, served, settle

from asgi_health import HealthGate
from asgi_health.drain import chain_stop_signals

LONG_S = 3600.0
"""No test waits for it: what happens before its end happens for another reason."""

STOPS = [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT]


class ServersHandler:
    """The handler that a server has installed."""

    def __init__(self) -> None:
        self.got: list[int] = []
        self.threads: list[threading.Thread] = []
        self.reached = asyncio.Event()

    def __call__(self, signum: int, frame: Any) -> None:
        self.got.append(signum)
        self.threads.append(threading.current_thread())
        self.reached.set()


@pytest.fixture
def server() -> Iterator[ServersHandler]:
    """A server that handles all stop signals; the test runner's handlers come back afterwards."""
    handler = ServersHandler()
    before = {signum: signal.signal(signum, handler) for signum in STOPS}
    yield handler
    for signum, previous in before.items():
        signal.signal(signum, previous)


@pytest.mark.parametrize("signum", STOPS)
async def test_the_stop_is_heard_on_the_loop_and_by_the_server(
    signum: int, server: ServersHandler
) -> None:
    heard: list[threading.Thread] = []
    undo = chain_stop_signals(lambda: heard.append(threading.current_thread()))
    os.kill(os.getpid(), signum)
    await settle()
    assert heard == [threading.main_thread()]
    assert server.got == [signum]
    undo()
    os.kill(os.getpid(), signum)
    await settle()
    assert len(heard) == 1
    assert server.got == [signum, signum]


async def test_undoing_gives_every_signal_back_and_can_be_done_twice(
    server: ServersHandler,
) -> None:
    undo = chain_stop_signals(lambda: None)
    assert all(signal.getsignal(signum) is not server for signum in STOPS)
    undo()
    undo()
    assert all(signal.getsignal(signum) is server for signum in STOPS)


@pytest.mark.parametrize("action", [signal.SIG_DFL, signal.SIG_IGN])
async def test_a_default_or_ignored_signal_stays_so(action: Any, server: ServersHandler) -> None:
    signal.signal(signal.SIGQUIT, action)
    undo = chain_stop_signals(lambda: None)
    assert signal.getsignal(signal.SIGQUIT) is action
    undo()
    assert signal.getsignal(signal.SIGQUIT) is action


async def test_a_handler_that_somebody_sets_later_is_not_taken_away(
    server: ServersHandler,
) -> None:
    undo = chain_stop_signals(lambda: None)
    later = ServersHandler()
    signal.signal(signal.SIGTERM, later)
    undo()
    assert signal.getsignal(signal.SIGTERM) is later


async def test_on_another_thread_nothing_is_chained(server: ServersHandler) -> None:
    async def chain() -> None:
        chain_stop_signals(lambda: None)()

    await asyncio.to_thread(asyncio.run, chain())
    assert all(signal.getsignal(signum) is server for signum in STOPS)


def test_after_the_loop_is_closed_the_server_still_gets_its_signal(
    server: ServersHandler,
) -> None:
    async def chain() -> None:
        chain_stop_signals(lambda: None)

    asyncio.run(chain())
    os.kill(os.getpid(), signal.SIGTERM)
    assert server.got == [signal.SIGTERM]


async def test_a_terminated_process_answers_what_it_holds_before_the_server_asks(
    server: ServersHandler,
) -> None:
    from server_side import Exchange, http_scope  # noqa: PLC0415 - only here

    target = GatedLoad()
    async with served(target) as booted:
        await target.has_been_entered()
        held = Exchange(booted.gate, http_scope())
        await settle()
        os.kill(os.getpid(), signal.SIGTERM)
        await held.end()
        assert held.status == 503
        assert b"service.draining" in held.body
        assert (await get(booted.gate, "/readyz")).body == b"draining"
        assert (await get(booted.gate, "/livez")).status == 200
        assert server.got == [signal.SIGTERM]
        await booted.lifespan.shutdown()
    assert all(signal.getsignal(signum) is server for signum in STOPS)


async def test_two_gates_in_one_process_both_hear_of_the_stop(server: ServersHandler) -> None:
    gates = [HealthGate(GatedLoad()) for _ in range(2)]
    lifespans = [Lifespan(gate, state={}) for gate in gates]
    for lifespan in lifespans:
        await lifespan.startup()
    os.kill(os.getpid(), signal.SIGTERM)
    for gate in gates:
        await limited(gate.lifecycle.left(frozenset({"starting", "loading"})))
    assert [gate.lifecycle.phase for gate in gates] == ["draining", "draining"]
    for lifespan in reversed(lifespans):
        await lifespan.shutdown()
    assert server.got == [signal.SIGTERM]
    assert all(signal.getsignal(signum) is server for signum in STOPS)
    for gate in gates:
        gate.target.opened.set()


async def test_a_delayed_stop_is_heard_at_once_and_reaches_the_server_later(
    server: ServersHandler,
) -> None:
    loop, heard = asyncio.get_running_loop(), asyncio.Event()
    undo = chain_stop_signals(heard.set, delay_s=0.05)
    begun_s = loop.time()
    os.kill(os.getpid(), signal.SIGTERM)
    await limited(heard.wait())
    assert server.got == []
    await limited(server.reached.wait())
    assert server.got == [signal.SIGTERM]
    assert server.threads == [threading.main_thread()]
    assert loop.time() - begun_s >= 0.05
    os.kill(os.getpid(), signal.SIGTERM)
    assert server.got == [signal.SIGTERM, signal.SIGTERM]  # there is one delay only
    undo()


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
@pytest.mark.parametrize("has_begun", [True, False], ids=["delay runs", "just told"])
async def test_a_second_signal_ends_the_delay_at_once(
    *, second: int, has_begun: bool, server: ServersHandler
) -> None:
    undo = chain_stop_signals(lambda: None, delay_s=0.01)
    os.kill(os.getpid(), signal.SIGTERM)
    if has_begun:
        await settle(2)
    assert server.got == []
    os.kill(os.getpid(), second)
    assert server.got == [second]
    await _pass_on_the_loop(0.02)
    assert server.got == [second]
    os.kill(os.getpid(), signal.SIGTERM)
    assert server.got == [second, signal.SIGTERM]
    undo()


async def test_a_quit_is_never_delayed_nor_what_follows_it(server: ServersHandler) -> None:
    undo = chain_stop_signals(lambda: None, delay_s=LONG_S)
    os.kill(os.getpid(), signal.SIGQUIT)
    os.kill(os.getpid(), signal.SIGTERM)
    assert server.got == [signal.SIGQUIT, signal.SIGTERM]
    undo()


async def test_the_delay_is_asked_for_once_and_before_the_stop_is_heard(
    server: ServersHandler,
) -> None:
    story: list[str] = []

    def delay_s() -> float:
        story.append("asked")
        return LONG_S

    undo = chain_stop_signals(lambda: story.append("heard"), delay_s=delay_s)
    assert story == []
    os.kill(os.getpid(), signal.SIGINT)
    await settle()
    assert story == ["asked", "heard"]
    os.kill(os.getpid(), signal.SIGINT)
    assert story.count("asked") == 1
    undo()


@pytest.mark.parametrize("has_begun", [True, False], ids=["delay runs", "just told"])
async def test_undone_while_the_delay_runs_nothing_fires(
    *, has_begun: bool, server: ServersHandler
) -> None:
    undo = chain_stop_signals(lambda: None, delay_s=0.01)
    os.kill(os.getpid(), signal.SIGTERM)
    if has_begun:
        await settle(2)
    undo()
    await _pass_on_the_loop(0.02)
    assert server.got == []
    assert all(signal.getsignal(signum) is server for signum in STOPS)


async def test_undone_while_the_delay_runs_no_timer_keeps_anything_alive(
    server: ServersHandler,
) -> None:
    heard = asyncio.Event()
    watched = weakref.ref(heard)
    undo = chain_stop_signals(heard.set, delay_s=LONG_S)
    os.kill(os.getpid(), signal.SIGTERM)
    await limited(heard.wait())
    undo()
    del heard, undo
    await settle()
    gc.collect()
    assert watched() is None


async def _pass_on_the_loop(timer_s: float) -> None:
    """Return when every timer that was set for an earlier time has had its turn."""
    await settle()
    turn = asyncio.Event()
    asyncio.get_running_loop().call_later(timer_s, turn.set)
    await limited(turn.wait())


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
async def test_a_ready_process_drains_and_serves_until_a_second_signal(
    signum: int, server: ServersHandler
) -> None:
    target = GatedLoad()
    target.opened.set()
    async with served(target, drain_s=LONG_S) as booted:
        await booted.until("ready")
        os.kill(os.getpid(), signum)
        await booted.until("draining")
        answer = await get(booted.gate, "/readyz")
        assert (answer.status, answer.body) == (503, b"draining")
        assert answer.headers[b"connection"] == b"close"
        for path, body in (("/livez", b"ok"), ("/hello", b"hello")):
            answer = await get(booted.gate, path)
            assert (answer.status, answer.body) == (200, body)
            assert answer.headers[b"connection"] == b"close"
        assert server.got == []
        os.kill(os.getpid(), signum)
        assert server.got == [signum]


async def test_a_process_that_still_loads_stops_without_the_drain(server: ServersHandler) -> None:
    target = GatedLoad()
    async with served(target, drain_s=LONG_S) as booted:
        await target.has_been_entered()
        os.kill(os.getpid(), signal.SIGTERM)
        assert server.got == [signal.SIGTERM]
        await booted.until("draining")


async def test_a_process_whose_boot_failed_stops_without_the_drain(server: ServersHandler) -> None:
    target = GatedLoad(error=ValueError("no"))
    target.opened.set()
    async with served(target, drain_s=LONG_S, failed_linger_s=LONG_S) as booted:
        await booted.until("failed")
        os.kill(os.getpid(), signal.SIGTERM)
        assert server.got == [signal.SIGTERM]
