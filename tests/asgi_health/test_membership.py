"""One answer for the instance: first generation together, later workers quietly, dead ones gone."""

import contextlib
import logging
import multiprocessing
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from server_side import (
    Exits,
    GatedLoad,
    Lifespan,
    get,
    hello,
    limited,
    served,
    settle,
)

from asgi_health import HealthConfig, HealthGate
from asgi_health.fleet.membership import Membership, judge_fleet
from asgi_health.fleet.scoreboard import ROWS, Scoreboard, WorkerRow, process_start
from asgi_health.phase import Phase


def row(phase: Phase, *, pid: int = 7, accepting: bool = True, start: int = 0) -> WorkerRow:
    return WorkerRow(
        pid=pid,
        start=start,
        phase=phase,
        accepting=accepting,
        started_at=0.0,
        ready_at=0.0,
        updated_s=0.0,
        rss_bytes=0,
    )


def sibling(phase: Phase, *, accepting: bool = True) -> WorkerRow:
    """A row of another process that is alive: the one above this."""
    pid = os.getppid()
    return row(phase, pid=pid, accepting=accepting, start=process_start(pid))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "table"


READY = (None, None)
VERDICTS = [
    ([], READY),
    ([(Phase.READY, True)], READY),
    ([(Phase.STARTING, True)], ("fleet.starting", "worker 1 is still loading")),
    ([(Phase.LOADING, True)], ("fleet.starting", "worker 1 is still loading")),
    ([(Phase.READY, True), (Phase.LOADING, True)], ("fleet.starting", "worker 2 is still loading")),
    (
        [(Phase.LOADING, True), (Phase.STARTING, True)],
        ("fleet.starting", "worker 1, 2 is still loading"),
    ),
    ([(Phase.FAILED, True)], ("fleet.worker_failed", "the boot of worker 1 failed")),
    (
        [(Phase.LOADING, True), (Phase.FAILED, True)],
        ("fleet.worker_failed", "the boot of worker 2 failed"),
    ),
    ([(Phase.READY, True), (Phase.DRAINING, True)], READY),
    ([(Phase.READY, True), (Phase.STOPPED, True)], READY),
    ([(Phase.READY, True), (Phase.LOADING, False)], READY),
    ([(Phase.READY, True), (Phase.FAILED, False)], READY),
]


@pytest.mark.parametrize(("workers", "verdict"), VERDICTS)
def test_the_instance_is_ready_when_all_that_accept_are(workers: Any, verdict: Any) -> None:
    rows = [
        row(phase, pid=index + 1, accepting=accepting)
        for index, (phase, accepting) in enumerate(workers)
    ]
    assert judge_fleet(rows) == verdict


def test_the_first_worker_takes_the_first_row_and_accepts(path: Path) -> None:
    board = Scoreboard(path)
    membership = Membership.enter(board)
    assert membership is not None
    assert not membership.joins_quietly
    [own] = membership.rows()
    assert (own.pid, own.phase, own.accepting) == (os.getpid(), Phase.STARTING, True)
    assert own.start == process_start(os.getpid())
    membership.leave()


@pytest.mark.parametrize(
    ("other", "quiet"),
    [
        (sibling(Phase.READY), True),
        (sibling(Phase.LOADING), False),
        (sibling(Phase.FAILED), False),
        (sibling(Phase.DRAINING), False),
        (sibling(Phase.READY, accepting=False), False),
        (row(Phase.READY, pid=2**22 + 5), False),
    ],
)
def test_a_worker_joins_quietly_when_a_living_one_serves_already(
    path: Path,
    other: WorkerRow,
    quiet: bool,  # noqa: FBT001
) -> None:
    board = Scoreboard(path)
    board.write(0, other)
    membership = Membership.enter(board)
    assert membership is not None
    assert membership.joins_quietly is quiet
    own = next(r for r in membership.rows() if r.pid == os.getpid())
    assert own.accepting is not quiet
    membership.leave()


def test_publishing_changes_the_own_row_only_and_keeps_when_it_was_ready(path: Path) -> None:
    board = Scoreboard(path)
    board.write(0, sibling(Phase.READY))
    membership = Membership.enter(board)
    assert membership is not None
    membership.publish(Phase.READY, accepting=True)
    ready_at = board.read(1).ready_at  # type: ignore[union-attr]
    assert ready_at > 0
    membership.publish(Phase.DRAINING, accepting=True)
    assert board.read(1).ready_at == ready_at  # type: ignore[union-attr]
    assert board.read(1).phase is Phase.DRAINING  # type: ignore[union-attr]
    assert board.read(1).rss_bytes > 0  # type: ignore[union-attr]
    assert board.read(0) == sibling(Phase.READY)
    membership.leave()


def test_the_verdict_is_remembered_for_a_tenth_of_a_second(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = SimpleNamespace(s=100.0)
    monkeypatch.setattr(
        "asgi_health.fleet.membership.time",
        SimpleNamespace(monotonic=lambda: now.s, time=lambda: now.s),
    )
    board = Scoreboard(path)
    membership = Membership.enter(board)
    assert membership is not None
    assert membership.verdict()[0] == "fleet.starting"
    membership.publish(Phase.READY, accepting=True)
    assert membership.verdict() == READY
    board.write(5, sibling(Phase.FAILED))
    now.s += 0.09
    assert membership.verdict() == READY
    now.s += 0.02
    assert membership.verdict()[0] == "fleet.worker_failed"
    membership.leave()


def test_the_last_worker_removes_the_table_and_no_other(path: Path) -> None:
    board = Scoreboard(path)
    other = Scoreboard(path)
    other.write(9, sibling(Phase.READY))
    membership = Membership.enter(board)
    assert membership is not None
    membership.leave()
    assert path.exists()
    other.write(9, None)
    again = Membership.enter(Scoreboard(path))
    assert again is not None
    again.leave()
    assert not path.exists()
    other.close()


def test_a_table_that_was_removed_meanwhile_is_not_entered(path: Path) -> None:
    board = Scoreboard(path)
    board.remove()
    assert Membership.enter(board) is None
    assert board.rows() == []
    board.close()


# Joining.


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """This process looks like a worker that multiprocessing started."""
    fake = SimpleNamespace(pid=os.getppid())
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: fake)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return fake


def test_a_process_without_a_parent_of_multiprocessing_has_no_fleet() -> None:
    if multiprocessing.parent_process() is None:
        assert Membership.join() is None


def test_workers_of_one_parent_find_each_other(parent: Any, tmp_path: Path) -> None:
    first, second = Membership.join(), Membership.join()
    assert first is not None
    assert second is not None
    assert len(first.rows()) == 2
    first.leave()
    second.leave()
    assert list(tmp_path.iterdir()) == []


def test_a_table_that_cannot_be_had_costs_one_line_and_no_boot(
    parent: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    assert Membership.join() is None
    assert [r.message.split(":")[0] for r in caplog.records] == [
        "no scoreboard, each worker answers for itself"
    ]


def test_a_worker_beyond_the_last_row_answers_for_itself_with_one_line(
    parent: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Scoreboard.of_instance(parent_pid=parent.pid)
    for index in range(ROWS):
        board.write(index, sibling(Phase.LOADING))
    closed: list[Path] = []
    close = Scoreboard.close

    def closing(made: Scoreboard) -> None:
        closed.append(made.path)
        close(made)

    monkeypatch.setattr(Scoreboard, "close", closing)
    assert Membership.join() is None
    assert closed == [board.path]
    assert [r.message for r in caplog.records] == [
        f"more than {ROWS} workers: this one answers for itself, and its metrics tell of it alone"
    ]
    board.close()


def test_a_table_removed_between_opening_and_locking_is_made_anew(
    parent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, seen = Membership.enter.__func__, []  # type: ignore[attr-defined]

    def enter(cls: Any, board: Scoreboard) -> Any:
        if not seen:
            board.remove()
        seen.append(board)
        return original(cls, board)

    monkeypatch.setattr(Membership, "enter", classmethod(enter))
    membership = Membership.join()
    assert membership is not None
    assert len(seen) == 2
    membership.leave()


# The gate as one of several workers.


@pytest.fixture
def fleet(path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The table that the gate of this test enters."""
    board = Scoreboard(path)
    monkeypatch.setattr(
        "asgi_health.gate._join_siblings", lambda: Membership.enter(Scoreboard(path))
    )
    yield board
    with contextlib.suppress(ValueError):
        board.close()


def forget_verdict(gate: HealthGate) -> None:
    gate.vitals.membership._read_s = float("-inf")


async def test_readiness_speaks_for_all_workers_and_liveness_for_this_one(
    fleet: Scoreboard,
) -> None:
    fleet.write(9, sibling(Phase.LOADING))
    async with served(lambda: hello) as booted:
        await booted.until("ready")
        answer = await get(booted.gate, "/readyz")
        assert (answer.status, answer.body) == (503, b"fleet.starting")
        assert (await get(booted.gate, "/livez")).body == b"ok"
        assert (await get(booted.gate, "/startupz")).body == b"ok"
        assert (await get(booted.gate, "/readyz/fleet")).status == 503
        assert (await get(booted.gate, "/readyz", query=b"exclude=fleet")).status == 200
        assert (await get(booted.gate)).body == b"hello"
        fleet.write(9, sibling(Phase.READY))
        forget_verdict(booted.gate)
        assert (await get(booted.gate, "/readyz")).body == b"ok"
        fleet.write(9, sibling(Phase.FAILED))
        forget_verdict(booted.gate)
        assert (await get(booted.gate, "/readyz")).body == b"fleet.worker_failed"


async def test_the_row_follows_the_phase_and_is_free_after_the_stop(fleet: Scoreboard) -> None:
    fleet.write(9, sibling(Phase.LOADING))
    target = GatedLoad()
    async with served(target) as booted:
        await target.has_been_entered()
        assert fleet.read(0).phase is Phase.LOADING  # type: ignore[union-attr]
        target.opened.set()
        await booted.until("ready")
        assert fleet.read(0).phase is Phase.READY  # type: ignore[union-attr]
        booted.gate._drain()
        assert fleet.read(0).phase is Phase.DRAINING  # type: ignore[union-attr]
        await booted.lifespan.shutdown()
        assert fleet.read(0) is None
        assert fleet.path.exists()


async def test_a_late_worker_accepts_only_when_it_is_ready(fleet: Scoreboard) -> None:
    fleet.write(9, sibling(Phase.READY))
    target = GatedLoad()
    gate = HealthGate(target)
    server = Lifespan(gate, state={})
    server.ask("lifespan.startup")
    await target.has_been_entered()
    assert server.sent == []
    assert not fleet.read(0).accepting  # type: ignore[union-attr]
    target.opened.set()
    assert await server.answer() == {"type": "lifespan.startup.complete"}
    assert fleet.read(0).accepting  # type: ignore[union-attr]
    assert fleet.read(0).phase is Phase.READY  # type: ignore[union-attr]
    await server.shutdown()


async def test_a_late_worker_that_fails_ends_alone_and_is_never_told_to_the_server(
    fleet: Scoreboard,
) -> None:
    fleet.write(9, sibling(Phase.READY))
    exits = Exits()
    target = GatedLoad(error=OSError("no"))
    gate = HealthGate(target, config=HealthConfig(failed_linger_s=0), exit_process=exits)
    server = Lifespan(gate, state={})
    server.ask("lifespan.startup")
    target.opened.set()
    await limited(exits.happened.wait())
    await settle()
    assert exits.codes == [1]
    assert server.sent == []
    server.ask("lifespan.shutdown")
    gate._drain()
    await limited(server.task)
    assert server.sent[-1] == {"type": "lifespan.shutdown.complete"}


async def test_a_late_worker_that_is_stopped_while_it_loads_completes_both_ways(
    fleet: Scoreboard,
) -> None:
    fleet.write(9, sibling(Phase.READY))
    target = GatedLoad()
    gate = HealthGate(target)
    server = Lifespan(gate, state={})
    server.ask("lifespan.startup")
    await target.has_been_entered()
    gate._drain()
    assert await server.answer() == {"type": "lifespan.startup.complete"}
    await server.shutdown()
    assert gate.lifecycle.phase == "stopped"
    target.opened.set()


async def test_the_row_is_written_again_and_again(
    fleet: Scoreboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asgi_health.gate._PUBLISH_INTERVAL_S", 0.0)
    async with served(lambda: hello) as booted:
        await booted.until("ready")
        before = fleet.read(0)
        for _ in range(100):
            await settle()
            if fleet.read(0) != before:
                break
        assert fleet.read(0) != before


async def test_the_page_and_the_details_list_the_workers(fleet: Scoreboard) -> None:
    fleet.write(9, sibling(Phase.LOADING))
    async with served(lambda: hello) as booted:
        await booted.until("ready")
        workers = booted.gate.vitals.page()["workers"]
        assert [w["pid"] for w in workers] == [os.getpid(), os.getppid()]
        assert set(workers[0]) == {
            *("pid", "phase", "accepting", "age_s", "rss_bytes", "generation"),
            *("in_flight", "served", "loop_lag_s", "leaving"),
        }


async def test_a_failed_worker_makes_the_fleet_not_ready(
    fleet: Scoreboard, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    async with served(GatedLoad(error=OSError("no")), failed_linger_s=30) as booted:
        booted.gate.target.opened.set()
        await booted.until("failed")
        assert fleet.read(0).phase is Phase.FAILED  # type: ignore[union-attr]
