"""Workers on cores of their own: which core, and what happens where there is none to choose."""

import logging
import os
from collections.abc import Iterator

import pytest
from worker_side import instance

from asgi_health.fleet.pinning import choose_core, pin_to

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="processes cannot be pinned here"
)


@pytest.fixture
def cores() -> list[int]:
    found = sorted(os.sched_getaffinity(0))
    if len(found) < 2:
        pytest.skip("one core")
    return found


@pytest.fixture
def on_one_core(cores: list[int]) -> Iterator[int]:
    """A container that may use a single core."""
    os.sched_setaffinity(0, cores[-1:])
    yield cores[-1]
    os.sched_setaffinity(0, cores)


def test_each_core_gets_its_share_of_workers(cores: list[int]) -> None:
    taken: list[int | None] = []
    for _ in range(2 * len(cores)):
        taken.append(choose_core(taken))
    assert taken == cores * 2


def test_a_worker_takes_the_core_of_the_one_that_has_gone(cores: list[int]) -> None:
    assert choose_core(cores[:1] + cores) == cores[1]
    assert choose_core([*cores[1:], None]) == cores[0]


def test_with_one_core_there_is_no_choice(on_one_core: int) -> None:
    assert choose_core([]) is None


def test_a_core_that_is_gone_is_logged_and_nothing_is_pinned(
    cores: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    missing = os.sysconf("SC_NPROCESSORS_CONF") + 1000
    pin_to(missing)
    assert sorted(os.sched_getaffinity(0)) == cores
    [record] = caplog.records
    assert (record.levelno, record.getMessage().partition(":")[0]) == (
        logging.WARNING,
        f"the worker is not pinned to core {missing}",
    )


@pytest.mark.parametrize("pinned", [True, False])
def test_workers_are_pinned_only_where_it_is_asked_for(cores: list[int], *, pinned: bool) -> None:
    with instance(pin_workers=pinned) as one:
        first, second = one.worker(), one.worker()
        before = sorted(os.sched_getaffinity(first.pid))
        first.ask("pin")
        second.ask("pin")
        seen = [sorted(os.sched_getaffinity(worker.pid)) for worker in (first, second)]
    assert before == cores
    assert seen == ([cores[:1], cores[1:2]] if pinned else [cores, cores])
    assert sorted(os.sched_getaffinity(0)) == cores
