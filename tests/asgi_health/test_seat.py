"""A worker's place: who joins quietly, whether all are ready, who may leave; with real forks."""

import contextlib
import mmap
import os
import signal
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest
from process_side import Say, forked
from server_side import LIMIT_S
from worker_side import instance

from asgi_health.fleet.config import FleetConfig
from asgi_health.fleet.masterboard import Masterboard, Stage
from asgi_health.fleet.scoreboard import process_start
from asgi_health.fleet.seat import Load, Seat, Succession, judge_instance, new_row
from asgi_health.phase import Phase

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")

READY = (None, None)


def code(verdict: Any) -> str | None:
    return verdict[0]


# Taking a seat.


def test_a_reserved_row_is_seen_before_its_worker_is_there() -> None:
    with instance() as one:
        one.master.reserve(7)
        [(index, row)] = one.board.workers.rows()
        assert (index, row.pid, row.generation) == (0, os.getpid(), 7)
        assert (row.phase, row.accepting, row.leaving) == (Phase.STARTING, False, False)


def test_a_seated_worker_has_its_row_to_itself() -> None:
    with instance() as one:
        first, second = one.worker(), one.worker()
        rows = [row for _, row in one.board.workers.rows()]
        assert [row.pid for row in rows] == [first.pid, second.pid]
        assert [row.start for row in rows] == [process_start(first.pid), process_start(second.pid)]
        assert [row.generation for row in rows] == [1, 2]
        assert [row.accepting for row in rows] == [True, True]


@pytest.mark.parametrize(
    ("phase", "quiet"),
    [("starting", False), ("loading", False), ("failed", False), ("ready", True)],
)
def test_a_worker_joins_quietly_where_another_serves(phase: str, quiet: bool) -> None:  # noqa: FBT001
    with instance() as one:
        one.worker(phase)
        newcomer = one.worker()
        assert newcomer.joins_quietly is quiet
        row = one.board.workers.read(1)
        assert row is not None
        assert row.accepting is not quiet
        newcomer.is_in("ready")
        row = one.board.workers.read(1)
        assert row is not None
        assert row.accepting


@pytest.mark.parametrize("gone", ["begin_leaving", "leave", "killed"])
def test_a_worker_that_leaves_or_has_ended_serves_nobody(gone: str) -> None:
    with instance() as one:
        elder = one.worker("ready")
        if gone == "killed":
            elder.is_over(signal=signal.SIGKILL)
        else:
            elder.ask(gone)
        assert not one.worker().joins_quietly


def test_a_row_follows_its_worker_and_keeps_when_it_was_ready() -> None:
    with instance() as one:
        worker = one.worker("loading")
        row = one.board.workers.read(0)
        assert row is not None
        assert (row.phase, row.ready_at) == (Phase.LOADING, 0.0)
        worker.ask("observe", 3, 40, 0.5)
        ready = one.board.workers.read(0) if worker.is_in("ready") else None
        assert ready is not None
        assert (ready.in_flight, ready.served, ready.loop_lag_s) == (3, 40, 0.5)
        assert ready.ready_at > 0.0
        assert ready.rss_bytes > 0
        assert ready.updated_s > row.updated_s
        left = one.board.workers.read(0) if worker.is_in("draining") else None
        assert left is not None
        assert (left.phase, left.ready_at, left.started_at) == (
            Phase.DRAINING,
            ready.ready_at,
            ready.started_at,
        )


def test_a_seat_hears_what_the_master_says() -> None:
    with instance() as one:
        worker = one.worker()
        assert (worker.ask("restarts"), worker.ask("endings")) == (0, [])
        one.board.tell({"restarts": 3, "endings": [{"pid": 1}]})
        assert (worker.ask("restarts"), worker.ask("endings")) == (3, [{"pid": 1}])


# Whether the instance is ready.


@pytest.mark.parametrize(
    ("least", "wanted", "phases", "verdict"),
    [
        (1, 2, [], "0 of 1"),
        (1, 2, ["loading", "starting"], "0 of 1"),
        (1, 2, ["ready", "loading"], None),
        (1, 2, ["draining", "ready"], None),
        (2, 2, ["ready", "loading"], "1 of 2"),
        (2, 2, ["ready", "draining"], "1 of 2"),
        (2, 2, ["ready", "ready"], None),
        (5, 2, ["ready", "ready"], None),
        (5, 2, ["ready"], "1 of 2"),
    ],
)
def test_a_warm_instance_is_ready_with_as_many_workers_as_it_needs(
    least: int, wanted: int, phases: list[str], verdict: str | None
) -> None:
    with instance(ready_workers_min=least, wanted=wanted) as one:
        for phase in phases:
            one.worker(phase)
        rows = [row for _, row in one.board.workers.rows()]
        found = judge_instance(rows, one.board)
        words = verdict and f"{verdict} workers are ready"
        assert found == (verdict and "fleet.starting", words)
        assert one.master.is_ready() is (verdict is None)
        for worker in one.workers:
            assert worker.ask("verdict") == list(found)


def test_a_cold_instance_is_ready_when_its_first_generation_is_and_stays_so() -> None:
    with instance(is_warm=False) as one:
        first, second = one.worker(), one.worker()
        first.is_in("ready")
        assert first.ask("verdict") == [
            "fleet.starting",
            f"worker {second.pid} is still loading",
        ]
        assert not one.board.was_complete
        second.is_in("ready")
        assert one.board.was_complete
        assert second.ask("verdict") == [None, None]
        second.is_over(signal=signal.SIGKILL)
        assert one.master.is_ready()
        third = one.worker("loading")
        assert third.joins_quietly
        assert one.master.is_ready()
        third.is_in("failed")
        assert one.master.is_ready()


def test_a_cold_instance_waits_for_workers_that_are_not_there_yet() -> None:
    with instance(is_warm=False, wanted=3) as one:
        one.worker("ready")
        one.worker("ready")
        rows = [row for _, row in one.board.workers.rows()]
        assert code(judge_instance(rows, one.board)) == "fleet.starting"
        one.worker("ready")
        assert one.master.is_ready()


def test_a_cold_instance_with_a_worker_that_failed_says_so() -> None:
    with instance(is_warm=False) as one:
        first, second = one.worker(), one.worker("failed")
        first.is_in("ready")
        assert first.ask("verdict") == [
            "fleet.worker_failed",
            f"the boot of worker {second.pid} failed",
        ]


# In one process, with a clock that stands still unless told.


@pytest.fixture
def board() -> Any:
    made = Masterboard(FleetConfig(), is_warm=True)
    made.workers_wanted = 1
    yield made
    made.workers.close()


@pytest.mark.parametrize("stage", [Stage.DRAINING, Stage.STOPPING])
def test_a_stop_is_seen_at_once_and_the_rest_is_remembered_for_a_tenth_of_a_second(
    board: Masterboard, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = SimpleNamespace(s=100.0)
    clock = SimpleNamespace(monotonic=lambda: now.s, time=lambda: now.s)
    monkeypatch.setattr("asgi_health.fleet.seat.time", clock)
    seat = Seat(board, index=0)
    assert code(seat.verdict()) == "fleet.starting"
    board.workers_wanted = 0
    now.s += 0.09
    assert code(seat.verdict()) == "fleet.starting"
    now.s += 0.02
    assert seat.verdict() == READY
    board.stage = stage
    assert code(seat.verdict()) == "service.draining"
    board.stage = Stage.SERVING
    assert seat.verdict() == READY


def test_the_own_change_is_seen_at_once(board: Masterboard) -> None:
    seat = Seat(board, index=0)
    assert code(seat.verdict()) == "fleet.starting"
    seat.publish(Phase.READY, accepting=True)
    assert seat.verdict() == READY


def test_a_crash_loop_is_over_when_its_time_is(board: Masterboard) -> None:
    seat = Seat(board, index=0)
    seat.publish(Phase.READY, accepting=True)
    board.tell({"looping_until_s": time.monotonic() + 3600})
    assert code(judge_instance(seat.rows(), board)) == "fleet.crash_loop"
    board.tell({"looping_until_s": time.monotonic() - 1})
    assert judge_instance(seat.rows(), board) == READY


def test_a_seat_without_a_row_takes_one_all_the_same(board: Masterboard) -> None:
    seat = Seat(board, index=9, delay_s=1.5)
    assert (seat.generation, seat.delay_s, seat.observe()) == (0, 1.5, Load())
    assert [index for index, _ in board.workers.rows()] == [9]
    assert new_row(generation=4).generation == 4


# Who may leave.


def test_a_worker_may_be_replaced_while_all_others_are_ready() -> None:
    with instance(wanted=3) as one:
        first, second, third = (one.worker("ready") for _ in range(3))
        assert first.ask("may_be_replaced")
        row = one.board.workers.read(0)
        assert row is not None
        assert row.leaving
        assert not second.ask("may_be_replaced")
        assert not third.ask("may_be_replaced")
        first.is_over(code=0)
        assert not second.ask("may_be_replaced")  # one is missing
        fourth = one.worker()
        assert not second.ask("may_be_replaced")  # it is not ready
        fourth.is_in("ready")
        assert second.ask("may_be_replaced")


def test_the_only_worker_may_be_replaced() -> None:
    with instance(wanted=1) as one:
        assert one.worker("ready").ask("may_be_replaced")


def test_of_two_that_want_to_leave_at_once_exactly_one_may() -> None:
    rounds = 60
    boards = [Masterboard(FleetConfig(), is_warm=True) for _ in range(rounds)]
    meeting = mmap.mmap(-1, 4096)

    def compete(number: int, say: Say) -> Any:
        won = []
        for one, board in enumerate(boards):
            board.workers_wanted = 2
            seat = Seat(board, index=number)
            seat.publish(Phase.READY, accepting=True)
            meeting[2 * one + number] = 1
            end_s = time.monotonic() + LIMIT_S
            while not meeting[2 * one + 1 - number] and time.monotonic() < end_s:
                pass
            won.append(seat.may_be_replaced())
        say(won)
        signal.pause()  # a process that has ended would be missing

    with forked(lambda say: compete(0, say)) as first, forked(lambda say: compete(1, say)) as last:
        outcomes = list(zip(first.hears(), last.hears(), strict=True))
    assert {sum(pair) for pair in outcomes} == {1}
    for board in boards:
        board.workers.close()
    meeting.close()


@pytest.mark.parametrize(
    ("younger", "found"),
    [
        ([], Succession.NONE),
        (["starting"], Succession.COMING),
        (["ready", "loading"], Succession.COMING),
        (["ready", "failed"], Succession.COMING),
        (["ready", "ready"], Succession.READY),
        (["ready", "stopped"], Succession.NONE),
    ],
)
def test_an_elder_waits_for_as_many_successors_as_there_should_be(
    younger: list[str], found: Succession
) -> None:
    with instance(wanted=2) as one:
        elder = one.worker("ready")
        for phase in younger:
            one.worker(phase)
        assert elder.ask("succession") == found.name
        row = one.board.workers.read(0)
        assert row is not None
        assert row.leaving is (found is Succession.READY)


@pytest.mark.parametrize("died", ["dead", "buried"])
def test_an_elder_that_hears_late_knows_that_its_successors_have_died(died: str) -> None:
    with instance(wanted=2) as one:
        elder = one.worker("ready")
        younger = [one.worker("loading"), one.worker()]
        for successor in younger:
            if died == "buried":
                successor.is_over(code=7)
            else:
                successor.child.signal(signal.SIGKILL)
                os.waitid(os.P_PID, successor.pid, os.WEXITED | os.WNOWAIT)
        assert elder.ask("hear_of_leaving") == [one.generation for one in younger]
        assert elder.ask("succession") == "FAILED"


@pytest.mark.parametrize(
    ("phase", "age_s", "generation"),
    [("ready", 0.0, 2), ("loading", 60.0, 2), ("loading", 0.0, 1)],
    ids=["was ready", "long ago", "older"],
)
def test_a_death_that_is_no_successors_keeps_no_elder(
    phase: str, age_s: float, generation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with instance(wanted=2) as one:
        elders = [one.worker("ready") for _ in range(1, generation)]
        dead = one.worker(phase)
        begun_s = time.monotonic()
        with monkeypatch.context() as patched:
            patched.setattr(time, "monotonic", lambda: begun_s - age_s)
            dead.is_over(code=7)
        elder = elders[0] if elders else one.worker("ready")
        assert elder.ask("hear_of_leaving") == []
        assert elder.ask("succession") == "NONE"


def test_elders_that_leave_one_after_the_other_never_leave_too_few() -> None:
    with instance(wanted=2) as one:
        elders = [one.worker("ready") for _ in range(2)]
        one.worker("ready")
        assert elders[0].ask("succession") == "READY"  # two stay: an elder and the new one
        assert elders[1].ask("succession") == "NONE"
        one.worker("ready")
        assert elders[1].ask("succession") == "READY"


def test_a_worker_that_stops_is_seen_as_stopped_until_its_master_has_buried_it() -> None:
    with instance() as one:
        worker = one.worker("ready")
        worker.ask("leave")
        row = one.board.workers.read(0)
        assert row is not None
        assert (row.phase, row.accepting) == (Phase.STOPPED, False)
        worker.is_over(code=0)
        assert one.board.workers.read(0) is None


def test_a_worker_is_too_large_when_it_has_grown_over_its_limit() -> None:
    with contextlib.ExitStack() as stack:
        probe = stack.enter_context(instance())
        probe.worker("ready")
        row = probe.board.workers.read(0)
        assert row is not None
        fresh_mib = row.rss_bytes >> 20
        one = stack.enter_context(instance(worker_rss_limit_mib=fresh_mib + 40))
        worker = one.worker("ready")
        assert not worker.ask("is_too_large")
        worker.ask("grow", 80)
        assert worker.ask("is_too_large")
        tight = stack.enter_context(instance(worker_rss_limit_mib=1)).worker("ready")
        assert not tight.ask("is_too_large")  # its successor would be as large
        probe.workers[0].ask("grow", 80)
        assert not probe.workers[0].ask("is_too_large")
