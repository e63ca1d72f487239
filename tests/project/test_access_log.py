"""One line a request, and no flood."""

import logging

import pytest

from project.access_log import AccessLog, Answered
from project.context import RequestContext


@pytest.fixture(autouse=True)
def _info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "project.access")


def note(
    log: AccessLog,
    *,
    status: int = 200,
    context: RequestContext | None = None,
    now_s: float = 100.0,
) -> None:
    answered = Answered(
        method="GET", route="/api/projects", status=status, duration_s=0.012345, sent_bytes=321
    )
    if log.has_room(status, now_s):
        log.write(context or RequestContext("id-1"), answered)


def fields(record: logging.LogRecord) -> dict[str, object]:
    names = ("method", "route", "status", "duration_ms", "bytes", "user_id", "skipped")
    return {name: vars(record)[name] for name in names if name in vars(record)}


def test_a_line_says_what_was_asked_and_how_it_went(caplog: pytest.LogCaptureFixture) -> None:
    context = RequestContext("id-1")
    context.user_id = 7

    note(AccessLog(lines_per_s=10), context=context)

    [record] = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.INFO, "GET /api/projects 200")
    assert fields(record) == {
        "method": "GET", "route": "/api/projects", "status": 200, "duration_ms": 12.35,
        "bytes": 321, "user_id": 7,
    }  # fmt: skip


def test_what_nobody_knows_is_not_in_it(caplog: pytest.LogCaptureFixture) -> None:
    note(AccessLog(lines_per_s=10))
    assert "user_id" not in fields(caplog.records[0])


def test_under_load_only_so_many_are_written_and_the_next_one_says_how_many_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = AccessLog(lines_per_s=3)
    for _ in range(10):
        note(log)
    note(log, now_s=101.0)
    note(log, now_s=101.9)

    assert len(caplog.records) == 5
    assert [fields(record).get("skipped") for record in caplog.records] == [None] * 3 + [7, None]


def test_failures_are_written_when_successes_have_used_everything(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = AccessLog(lines_per_s=2)
    for _ in range(5):
        note(log)
    for _ in range(5):
        note(log, status=503)

    assert [vars(record)["status"] for record in caplog.records] == [200, 200, 503, 503]


def test_none_are_written_where_none_are_wanted(caplog: pytest.LogCaptureFixture) -> None:
    note(AccessLog(lines_per_s=0))
    note(AccessLog(lines_per_s=0), status=500)
    assert caplog.records == []
