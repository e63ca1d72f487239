"""The master's book of its workers: rows, reasons, waits and restarts, with real deaths."""

import logging
import os
import signal
import sys
from typing import Any

import pytest
from worker_side import Instance, instance

from asgi_health.fleet.config import FleetConfig
from asgi_health.fleet.masterboard import Stage
from asgi_health.fleet.scoreboard import ROWS, WORKERS_MAX

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")


@pytest.fixture
def one() -> Any:
    with instance() as made:
        yield made


def records(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def test_a_worker_that_is_buried_leaves_its_row_to_the_next(one: Instance) -> None:
    first, second = one.worker("ready"), one.worker("ready")
    first.is_over(signal=signal.SIGKILL)
    assert one.board.workers.read(0) is None
    assert [row.pid for _, row in one.board.workers.rows()] == [second.pid]
    third = one.worker()
    assert [(index, row.pid) for index, row in one.board.workers.rows()] == [
        (0, third.pid),
        (1, second.pid),
    ]


def test_a_row_of_a_worker_that_is_dead_but_not_buried_is_given_to_nobody(one: Instance) -> None:
    dead = one.worker("ready")
    dead.child.signal(signal.SIGKILL)
    os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
    one.worker()
    assert one.board.workers.rows()[-1][0] == 1


def test_two_generations_of_as_many_workers_as_are_allowed_have_a_line_each(one: Instance) -> None:
    """As during a reload, when the old workers stay until the new ones are ready."""
    for generation in range(2 * WORKERS_MAX):
        one.master.reserve(generation)
    assert len(one.board.workers.rows()) == 2 * WORKERS_MAX
    for generation in range(2 * WORKERS_MAX):
        one.master.seat(generation).tally.count_to("settled", 1)
    assert one.board.workers.tallies.total("settled") == 2 * WORKERS_MAX


def test_more_workers_than_rows_share_the_last_one(
    one: Instance, caplog: pytest.LogCaptureFixture
) -> None:
    for generation in range(ROWS + 2):
        one.master.reserve(generation)
    assert len(one.board.workers.rows()) == ROWS
    assert [text for _, text in records(caplog)] == [
        f"more than {ROWS} workers: the last ones share a row, and what is told of them is wrong"
    ] * 2
    assert one.master.seat(ROWS + 1).generation == ROWS + 1


@pytest.mark.parametrize(
    ("how", "reason", "level"),
    [
        ({"code": 0}, "exit code 0", "INFO"),
        ({"code": 1}, "exit code 1", "ERROR"),
        ({"signal": signal.SIGKILL}, "killed by SIGKILL", "ERROR"),
        ({"signal": signal.SIGSEGV}, "killed by SIGSEGV", "ERROR"),
        ({"signal": signal.SIGABRT, "aborted": True}, "blocked for too long", "ERROR"),
    ],
)
def test_why_a_worker_ended_is_logged_once_and_told_to_all(
    one: Instance, how: dict[str, Any], reason: str, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "asgi_health.fleet")
    stays, goes = one.worker("ready"), one.worker("ready")
    ending = goes.is_over(**how)
    assert reason in ending.reason
    assert records(caplog) == [(level, f"worker {goes.pid} ended: {ending.reason}")]
    assert stays.ask("endings") == [ending.as_json()]
    assert stays.ask("endings")[0]["generation"] == 2
    assert stays.ask("restarts") == 1
    assert sum(stays.ask("restarts_by_reason").values()) == 1


def test_last_words_go_with_their_worker_and_with_no_other(one: Instance) -> None:
    first, second = one.worker("ready"), one.worker("ready")
    first.ask("leave_words", "ValueError: first")
    assert first.is_over(code=1).last_words == "ValueError: first"
    third = one.worker("ready")
    assert third.is_over(code=1).last_words == ""
    assert second.is_over(code=1).last_words == ""


@pytest.mark.parametrize("asked", ["begin_leaving", "stopping"])
def test_a_worker_that_was_asked_to_leave_is_no_crash(
    one: Instance, asked: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "asgi_health.fleet")
    worker = one.worker("ready")
    if asked == "stopping":
        one.board.stage = Stage.STOPPING
    else:
        worker.ask(asked)
    assert worker.is_over(signal=signal.SIGTERM).reason == "asked to leave"
    assert [level for level, _ in records(caplog)] == ["INFO"]
    assert one.worker().ask("delay_s") == 0.0


@pytest.mark.parametrize(
    ("stage", "restarts"), [(Stage.SERVING, 1), (Stage.DRAINING, 0), (Stage.STOPPING, 0)]
)
def test_what_ends_during_the_stop_is_no_restart(
    one: Instance, stage: Stage, restarts: int
) -> None:
    stays, goes = one.worker("ready"), one.worker("ready")
    one.board.stage = stage
    goes.is_over(code=0)
    assert stays.ask("restarts") == restarts


def test_the_next_worker_waits_after_a_crash_and_longer_after_the_next(
    one: Instance, caplog: pytest.LogCaptureFixture
) -> None:
    worker, waits = one.worker(), []
    for _ in range(3):
        worker.is_over(code=1)
        worker = one.worker()
        waits.append(worker.ask("delay_s"))
    for wait_s, nominal_s in zip(waits, (0.1, 0.2, 0.4), strict=True):
        assert nominal_s / 2 <= wait_s <= nominal_s
    waiting = [text for _, text in records(caplog) if text.startswith("the next worker waits")]
    assert len(waiting) == 3


def test_a_worker_that_the_server_ended_because_it_was_blocked_is_a_crash(one: Instance) -> None:
    one.worker("ready").is_over(signal=signal.SIGKILL, aborted=True)
    assert one.worker().ask("delay_s") > 0.0


def test_a_crash_loop_is_told_to_all_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with instance(crash_limit=3) as one:
        stays = one.worker("ready")
        for number in range(5):
            assert one.master.is_looping is (number >= 3)
            assert one.master.is_ready() is (number < 3)
            one.worker().is_over(code=1)
        assert stays.ask("publish", "ready") is None  # reads the table again
        assert stays.ask("verdict")[0] == "fleet.crash_loop"
        assert stays.ask("restarts") == 5
        critical = [record for record in caplog.records if record.levelname == "CRITICAL"]
        assert [record.code for record in critical] == ["fleet.crash_loop"]  # type: ignore[attr-defined]


def test_ten_endings_are_told_and_no_more() -> None:
    with instance(crash_limit=100) as one:
        stays = one.worker("ready")
        for _ in range(12):
            one.worker().is_over(code=7)
        assert [ending["generation"] for ending in stays.ask("endings")] == list(range(4, 14))


def test_long_last_words_of_many_are_given_up_before_the_news_is(one: Instance) -> None:
    stays = one.worker("ready")
    for _ in range(10):
        goes = one.worker()
        goes.ask("leave_words", "\x1b\\" * 3000)
        goes.is_over(code=1)
    assert stays.ask("restarts") == 10
    assert len(stays.ask("endings")) == 10


def test_a_process_that_is_no_worker_is_buried_without_a_row(one: Instance) -> None:
    worker = one.worker("ready")
    ending = one.master.bury(2**22 + 5, generation=99)
    assert ending.reason == "unknown: ended while nobody looked"
    assert [row.pid for _, row in one.board.workers.rows()] == [worker.pid]


def test_a_new_configuration_counts_from_now_on(one: Instance) -> None:
    for _ in range(2):
        one.worker().is_over(code=1)
    one.master.reconfigure(FleetConfig(crash_limit=3, ready_workers_min=2), workers=3)
    assert not one.master.is_looping
    one.worker().is_over(code=1)
    assert one.master.is_looping
    assert (one.board.workers_wanted, one.board.config.ready_workers_min) == (3, 2)
