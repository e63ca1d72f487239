"""One fault must not hide all others: of one kind of line only so many are written."""

import logging

import pytest

from project.flood import Flood


class Clock:
    def __init__(self) -> None:
        self.now_s = 50.5

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def flood(clock: Clock) -> Flood:
    return Flood(lines=3, clock=clock)


def record(message: str, *arguments: object, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("a.logger", logging.WARNING, __file__, 1, message, arguments, None)
    vars(made).update(fields)
    return made


def test_of_one_kind_only_so_many_pass_and_the_next_says_how_many_did_not(
    flood: Flood, clock: Clock
) -> None:
    passed = [flood.filter(record("no room for %d", number)) for number in range(10)]
    clock.now_s += 1
    last, one_more = record("no room for %d", 10), record("no room for %d", 11)

    assert passed == [True] * 3 + [False] * 7
    assert flood.filter(last)
    assert flood.filter(one_more)
    assert vars(last)["skipped"] == 7
    assert "skipped" not in vars(one_more)


@pytest.mark.parametrize(
    "other",
    [
        {"pathname": "another"}, {"name": "another"}, {"levelno": logging.ERROR},
        {"levelno": logging.CRITICAL}, {"name": "project.access"},
    ],
)  # fmt: skip
def test_lines_of_another_kind_pass(flood: Flood, other: dict[str, object]) -> None:
    for _ in range(10):
        flood.filter(record("flood"))
    assert flood.filter(record("flood", **other))


@pytest.mark.parametrize("always", [{"levelno": logging.CRITICAL}, {"name": "project.access"}])
def test_critical_lines_and_access_lines_always_pass(
    flood: Flood, always: dict[str, object]
) -> None:
    assert all(flood.filter(record("x", **always)) for _ in range(10))


def test_a_client_cannot_make_new_kinds_by_what_it_sends(flood: Flood) -> None:
    passed = [flood.filter(record(f"Invalid host: {number}")) for number in range(10)]
    assert sum(passed) == 3


def test_another_line_of_code_is_another_kind(flood: Flood) -> None:
    for _ in range(10):
        flood.filter(record("x"))
    assert flood.filter(record("x", lineno=2))


def test_of_what_is_to_be_said_seldom_one_line_passes_in_a_minute(clock: Clock) -> None:
    clock.now_s = 59.0
    seldom = Flood(lines=1, period_s=60.0, clock=clock)
    kinds = [record("away"), record("full", lineno=2)]

    assert [seldom.filter(kind) for kind in kinds * 2] == [True, True, False, False]
    clock.now_s = 118.9
    assert not seldom.filter(kinds[0])
    clock.now_s = 119.0
    assert seldom.filter(kinds[0])
    assert vars(kinds[0])["skipped"] == 2
