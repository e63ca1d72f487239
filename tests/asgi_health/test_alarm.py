"""Several timers on the kernel's one, with real signals, in a process that has nothing else."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from process_side import Say, done_by_a_child, forked

from asgi_health.fleet.alarm import Alarm

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGALRM")


class Bell:
    """Notes who rang; waiting for it wakes for signals."""

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()

    def ring(self, name: str) -> Callable[[], None]:
        return lambda: self.note(name)

    def note(self, name: str) -> None:
        os.write(self._writing, name.encode())

    def hears(self, count: int) -> str:
        """Who rang, in order, once so many have."""
        heard = b""
        while len(heard) < count:
            heard += os.read(self._reading, count - len(heard))
        return heard.decode()


def armed_s() -> float:
    return signal.getitimer(signal.ITIMER_REAL)[0]


def test_a_call_comes_once_after_its_time() -> None:
    def work(say: Say) -> Any:
        alarm, bell, begun_s = Alarm(), Bell(), time.monotonic()
        alarm.after(0.02, bell.ring("a"))
        assert 0 < armed_s() <= 0.02
        bell.hears(1)
        took_s = time.monotonic() - begun_s
        alarm.after(0.02, bell.ring("b"))
        return [bell.hears(1), took_s >= 0.02, armed_s()]

    assert done_by_a_child(work) == ["b", True, 0.0]


def test_calls_come_in_the_order_of_their_times() -> None:
    def work(say: Say) -> str:
        alarm, bell = Alarm(), Bell()
        for seconds, name in ((0.05, "e"), (0.01, "a"), (0.03, "c"), (0.02, "b"), (0.04, "d")):
            alarm.after(seconds, bell.ring(name))
        return bell.hears(5)

    assert done_by_a_child(work) == "abcde"


@pytest.mark.parametrize("seconds", [0.0, -5.0])
def test_what_is_due_already_comes_at_once_and_in_the_order_of_asking(seconds: float) -> None:
    def work(say: Say) -> str:
        alarm, bell = Alarm(), Bell()
        for name in "abc":
            alarm.after(seconds, bell.ring(name))
        return bell.hears(3)

    assert done_by_a_child(work) == "abc"


def test_a_late_timer_does_not_put_off_an_early_one() -> None:
    def work(say: Say) -> Any:
        alarm, bell = Alarm(), Bell()
        alarm.after(0.01, bell.ring("a"))
        alarm.after(3600.0, bell.ring("z"))
        return [bell.hears(1), 3500 < armed_s() <= 3600]

    assert done_by_a_child(work) == ["a", True]


def test_a_call_may_ask_for_the_next_one() -> None:
    def work(say: Say) -> str:
        alarm, bell = Alarm(), Bell()

        def again(left: str) -> None:
            bell.note(left[0])
            if left[1:]:
                alarm.after(0.001, lambda: again(left[1:]))

        alarm.after(0.001, lambda: again("abcd"))
        return bell.hears(4)

    assert done_by_a_child(work) == "abcd"


def test_a_call_that_raises_costs_the_others_nothing() -> None:
    def fail() -> None:
        raise OSError("no")

    def work(say: Say) -> str:
        alarm, bell, heard = Alarm(), Bell(), ""
        alarm.after(0.001, bell.ring("a"))
        alarm.after(0.002, fail)
        alarm.after(0.003, bell.ring("b"))
        while len(heard) < 2:
            with contextlib.suppress(OSError):
                heard += bell.hears(1)
        return heard

    assert done_by_a_child(work) == "ab"


def test_a_forked_process_forgets_and_its_parent_does_not() -> None:
    def work(say: Say) -> Any:
        alarm, bell = Alarm(), Bell()
        alarm.after(0.05, bell.ring("a"))

        def forget(say: Say) -> Any:
            signal.signal(signal.SIGALRM, alarm._ring)
            Alarm.forget()
            return [armed_s(), signal.getsignal(signal.SIGALRM) is signal.SIG_DFL]

        with forked(forget) as child:
            found = child.hears()
            child.ends()
        return [*found, bell.hears(1)]

    assert done_by_a_child(work) == [0.0, True, "a"]
