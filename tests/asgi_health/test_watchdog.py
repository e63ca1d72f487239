"""Stacks of all threads, and an interval timer that never takes anything from the application."""

import faulthandler
import io
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from server_side import LIMIT_S

from asgi_health.watchdog import BootWatch, stacks


@pytest.fixture(autouse=True)
def clean_alarm() -> Iterator[None]:
    """SIGALRM and its timer as in a fresh process; the test runner's own come back afterwards."""
    handler = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    timer = signal.setitimer(signal.ITIMER_REAL, 0.0)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, *timer)


def remaining_s() -> float:
    return signal.getitimer(signal.ITIMER_REAL)[0]


def watch() -> BootWatch:
    return BootWatch(deadline_s=1000, linger_s=500)


def test_the_stacks_show_every_thread_the_calling_one_included() -> None:
    waiting, entered = threading.Event(), threading.Event()

    def a_function_to_find() -> None:
        entered.set()
        waiting.wait(LIMIT_S)

    thread = threading.Thread(target=a_function_to_find)
    thread.start()
    try:
        assert entered.wait(LIMIT_S)
        text = stacks()
    finally:
        waiting.set()
        thread.join(LIMIT_S)
    assert "in a_function_to_find" in text
    assert "in test_the_stacks_show_every_thread" in text
    assert "Current thread" in text


def test_an_armed_watch_ends_the_process_after_deadline_linger_and_grace() -> None:
    watching = watch()
    watching.arm()
    assert 1490 < remaining_s() <= 1502
    watching.disarm()
    assert remaining_s() == 0.0


def test_after_the_boot_no_stacks_are_written_but_a_failed_process_still_ends() -> None:
    watching = watch()
    watching.arm()
    watching.silence()
    assert remaining_s() > 1490
    assert not watching._dumps
    watching.disarm()
    assert remaining_s() == 0.0


def test_disarming_twice_or_without_arming_does_nothing() -> None:
    watching = watch()
    watching.disarm()
    watching.arm()
    watching.disarm()
    signal.setitimer(signal.ITIMER_REAL, 700.0)
    watching.disarm()
    assert remaining_s() > 690


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda *_: None])
def test_where_somebody_handles_the_signal_no_timer_is_set(handler: Any) -> None:
    signal.signal(signal.SIGALRM, handler)
    watching = watch()
    watching.arm()
    assert remaining_s() == 0.0
    watching.disarm()
    assert signal.getsignal(signal.SIGALRM) is handler


def test_a_timer_that_runs_already_is_left_alone() -> None:
    signal.setitimer(signal.ITIMER_REAL, 700.0)
    watching = watch()
    watching.arm()
    assert 690 < remaining_s() <= 700
    watching.disarm()
    assert 690 < remaining_s() <= 700


def test_a_timer_that_the_application_sets_while_it_loads_is_left_alone() -> None:
    watching = watch()
    watching.arm()
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 30.0)
    watching.disarm()
    assert 25 < remaining_s() <= 30


def test_a_handler_that_the_application_sets_does_not_get_our_timer() -> None:
    watching = watch()
    watching.arm()
    signal.signal(signal.SIGALRM, lambda *_: None)
    watching.disarm()
    assert remaining_s() == 0.0


@pytest.mark.parametrize("stream", [None, io.StringIO()])
def test_without_a_stderr_to_write_to_the_process_still_ends(
    stream: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    watching = watch()
    watching.arm()
    assert not watching._dumps
    assert remaining_s() > 1490
    watching.disarm()


def test_the_dump_is_planned_when_armed_and_cancelled_when_silenced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(
        faulthandler, "dump_traceback_later", lambda s, **options: calls.append((s, options))
    )
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", lambda: calls.append("cancel"))
    watching = watch()
    watching.arm()
    assert calls == [(1001.0, {"exit": False, "file": sys.stderr})]
    watching.silence()
    watching.silence()
    watching.disarm()
    assert calls[1:] == ["cancel"]
