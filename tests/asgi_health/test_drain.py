"""The stop is heard when it is asked for; the server's own handler still gets it."""

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from server_side import GatedLoad, Lifespan, limited, served, settle

from asgi_health import HealthGate
from asgi_health.drain import chain_stop_signals

STOPS = [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT]


class ServersHandler:
    """The handler that a server has installed."""

    def __init__(self) -> None:
        self.got: list[int] = []

    def __call__(self, signum: int, frame: Any) -> None:
        self.got.append(signum)


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
    from server_side import Exchange, get, http_scope  # noqa: PLC0415 - only here

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
