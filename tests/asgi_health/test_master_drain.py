"""Real signals to a master: it says so first, serves on for a while, then lets its server stop."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from process_side import Child, Say, forked
from server_side import LIMIT_S

from asgi_health.fleet.alarm import Alarm
from asgi_health.fleet.config import FleetConfig
from asgi_health.fleet.draining import MasterDrain, release_stop_signals
from asgi_health.fleet.masterboard import Masterboard, Stage
from asgi_health.fleet.scoreboard import WorkerRow, process_start
from asgi_health.phase import Phase

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")

TERM, INT, QUIT = signal.SIGTERM, signal.SIGINT, signal.SIGQUIT
LONG_S = 3600.0
BEGINS = "drain begins"


class Instance:
    """A master in a process of its own that tells what its own handlers and its drain heard."""

    def __init__(self, drain_s: float, phase: Phase | None) -> None:
        self.board = Masterboard(FleetConfig(drain_s=drain_s), is_warm=True)
        if phase is not None:
            self.board.workers.write(0, row(phase))
        self.child: Child

    def work(self, say: Say, on_drain: Callable[[], None] = lambda: None) -> None:
        def handle(number: int, _frame: object) -> None:
            say([signal.Signals(number).name, self.board.stage.name])

        def begin() -> None:
            say(BEGINS)
            on_drain()

        for number in (TERM, INT, QUIT):
            signal.signal(number, handle)
        MasterDrain(self.board, alarm=Alarm(), on_drain=begin).install()
        say("installed")
        wait_for_ever()

    def gets(self, *numbers: int) -> None:
        for number in numbers:
            self.child.signal(number)

    def hears(self, count: int) -> list[Any]:
        return [self.child.hears() for _ in range(count)]


def wait_for_ever() -> None:
    reading, _writing = os.pipe()
    os.read(reading, 1)


def wait_until(happened: Callable[[], bool]) -> None:
    end_s = time.monotonic() + LIMIT_S
    while not happened():
        assert time.monotonic() < end_s


def row(phase: Phase) -> WorkerRow:
    """A worker that is alive: this very process."""
    return WorkerRow(
        pid=os.getpid(),
        start=process_start(os.getpid()),
        phase=phase,
        accepting=True,
        started_at=0.0,
        ready_at=0.0,
        updated_s=0.0,
        rss_bytes=0,
    )


@contextmanager
def instance(
    *,
    drain_s: float = LONG_S,
    phase: Phase | None = Phase.READY,
    on_drain: Callable[[], None] = lambda: None,
) -> Iterator[Instance]:
    made = Instance(drain_s, phase)
    with forked(lambda say: made.work(say, on_drain)) as made.child:
        assert made.child.hears() == "installed"
        yield made
    made.board.workers.close()


@pytest.mark.parametrize("number", [TERM, INT])
def test_the_first_signal_is_told_to_all_workers_and_kept_from_the_server(number: int) -> None:
    with instance() as one:
        one.gets(number)
        assert one.hears(1) == [BEGINS]
        assert one.board.stage is Stage.DRAINING
        one.gets(number)
        assert one.hears(1) == [["SIGTERM", "STOPPING"]]
        assert one.board.stage is Stage.STOPPING


@pytest.mark.parametrize("number", [TERM, INT])
def test_when_the_drain_is_over_the_server_gets_a_sigterm(number: int) -> None:
    with instance(drain_s=0.05) as one:
        begun_s = time.monotonic()
        one.gets(number)
        assert one.hears(2) == [BEGINS, ["SIGTERM", "STOPPING"]]
        assert time.monotonic() - begun_s >= 0.05


def test_a_drain_that_was_cut_short_does_not_end_a_second_time() -> None:
    with instance(drain_s=0.05) as one:
        one.gets(TERM)
        assert one.hears(1) == [BEGINS]
        one.gets(TERM)
        assert one.hears(1) == [["SIGTERM", "STOPPING"]]
        end_s = time.monotonic() + 0.1
        wait_until(lambda: time.monotonic() > end_s)  # the timer of the drain rings meanwhile
        one.gets(INT)
        assert one.hears(1) == [["SIGINT", "STOPPING"]]


def test_sigquit_is_passed_on_at_once() -> None:
    with instance() as one:
        one.gets(QUIT)
        assert one.hears(2) == [BEGINS, ["SIGQUIT", "STOPPING"]]


def test_sigquit_ends_a_drain_that_has_begun() -> None:
    with instance() as one:
        one.gets(TERM)
        assert one.hears(1) == [BEGINS]
        one.gets(QUIT)
        assert one.hears(2)[-1] == ["SIGQUIT", "STOPPING"]


@pytest.mark.parametrize("number", [TERM, INT, QUIT])
def test_what_comes_after_the_stop_has_begun_is_passed_on_as_it_is(number: int) -> None:
    with instance(drain_s=0.0) as one:
        one.gets(TERM)
        assert one.hears(2) == [BEGINS, ["SIGTERM", "STOPPING"]]
        one.gets(number)
        heard = [said for said in one.hears(2 if number == QUIT else 1) if said != BEGINS]
        assert heard == [[signal.Signals(number).name, "STOPPING"]]


@pytest.mark.parametrize(
    ("drain_s", "phase"),
    [(0.0, Phase.READY), (LONG_S, None), (LONG_S, Phase.LOADING), (LONG_S, Phase.FAILED)],
)
def test_where_there_is_nobody_to_drain_the_stop_comes_at_once(
    drain_s: float, phase: Phase | None
) -> None:
    with instance(drain_s=drain_s, phase=phase) as one:
        one.gets(INT)
        assert one.hears(2) == [BEGINS, ["SIGTERM", "STOPPING"]]


def test_a_signal_that_interrupts_the_first_is_the_second() -> None:
    def interrupt() -> None:
        os.kill(os.getpid(), TERM)

    with instance(drain_s=0.05, on_drain=interrupt) as one:
        one.gets(TERM)
        assert one.hears(2) == [BEGINS, ["SIGTERM", "STOPPING"]]
        assert one.board.stage is Stage.STOPPING
        one.gets(INT)
        assert one.hears(1) == [["SIGINT", "STOPPING"]]


def test_signals_that_the_server_does_not_handle_keep_their_action() -> None:
    board = Masterboard(FleetConfig(), is_warm=True)

    def work(say: Say) -> Any:
        actions = {TERM: signal.SIG_DFL, INT: signal.SIG_IGN, QUIT: signal.SIG_DFL}
        for number, action in actions.items():
            signal.signal(number, action)
        MasterDrain(board, alarm=Alarm(), on_drain=lambda: None).install()
        return [signal.getsignal(number) is action for number, action in actions.items()]

    with forked(work) as child:
        assert child.hears() == [True, True, True]
    board.workers.close()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_worker_just_forked_keeps_the_signal_until_its_server_listens(moment: str) -> None:
    board = Masterboard(FleetConfig(drain_s=LONG_S), is_warm=True)
    board.workers.write(0, row(Phase.READY))

    def master(say: Say) -> Any:
        drain = MasterDrain(board, alarm=Alarm(), on_drain=lambda: say("the master's drain"))
        worker = new_worker if moment == "before" else waiting_worker
        with forked(lambda say: worker(drain, say)) as child:
            heard = [child.hears()]
            child.signal(TERM)
            return [*heard, child.hears(), board.stage.name]

    with forked(master) as child:
        assert child.hears() == ["forked", "SIGTERM", "SERVING"]
    board.workers.close()


def new_worker(drain: MasterDrain, say: Say) -> None:
    """Is told while it still has its master's handlers."""
    signal.signal(TERM, drain._hear)
    say("forked")
    wait_until(lambda: TERM in drain._early)
    drain.keep_for_worker()
    listen(say)


def waiting_worker(drain: MasterDrain, say: Say) -> None:
    """Is told while its server has reset the handlers and not yet set its own."""
    drain.keep_for_worker()
    signal.signal(TERM, signal.SIG_DFL)
    say("forked")
    wait_until(lambda: TERM in signal.sigpending())
    listen(say)


def listen(say: Say) -> None:
    signal.signal(TERM, lambda number, _frame: say(signal.Signals(number).name))
    release_stop_signals()
    wait_for_ever()
