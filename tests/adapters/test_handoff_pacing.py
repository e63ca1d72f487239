"""Few threads at once while they compute, all of them while they wait."""

import itertools
import threading
from collections.abc import Iterator

import pytest

from asgi_health.adapters.django.lending import Lent
from asgi_health.adapters.django.pacing import LOOK_S, Pace
from asgi_health.adapters.django.threads import Threads
from tests.adapters.handoff_site import LIMIT_S
from tests.servers.harness import until


class Process:
    """What the clocks of a process say."""

    def __init__(self) -> None:
        self.now_s, self.computed_s = 100.0, 5.0
        self.given_back = 0

    def pace(self, limit: int, *, cores: int = 2) -> Pace:
        return Pace(limit=limit, cores=cores, clock=lambda: self.now_s, cpu=lambda: self.computed_s)

    def look(self, pace: Pace, *, in_use: int, waiting: int = 1, **how: float) -> int:
        """The quota after a look; `busy` is a share of one core, `late_s` a delay."""
        passed_s = LOOK_S + how.get("late_s", 0.0)
        self.now_s += passed_s
        self.computed_s += how.get("busy", 0.0) * passed_s
        pace.look(in_use=in_use, waiting=waiting, given_back=self.given_back)
        return pace.quota


@pytest.fixture
def process() -> Process:
    return Process()


@pytest.mark.parametrize("how", [{}, {"busy": 0.7}, {"busy": 0.2, "late_s": 0.05}])
def test_while_they_wait_all_get_a_thread_within_a_few_looks(
    how: dict[str, float], process: Process
) -> None:
    pace = process.pace(20)
    assert pace.quota == 2
    assert [process.look(pace, in_use=pace.quota, **how) for _ in range(5)] == [4, 8, 16, 20, 20]


@pytest.mark.parametrize("how", [{"busy": 0.8}, {"busy": 1.15}, {"busy": 0.5, "late_s": 0.005}])
def test_while_they_compute_two_are_enough(how: dict[str, float], process: Process) -> None:
    pace = process.pace(32)
    for _ in range(50):
        process.given_back += 1
        assert process.look(pace, in_use=2, **how) == 2


@pytest.mark.parametrize(
    ("busy", "cores", "quota"),
    [(1.1, 8, 2), (2.0, 8, 4), (5.9, 8, 4), (6.1, 8, 2), (2.0, 2, 2), (0.9, 1, 2)],
)
def test_who_computes_without_the_lock_gets_as_many_as_there_are_cores(
    busy: float, cores: int, quota: int, process: Process
) -> None:
    pace = process.pace(32, cores=cores)
    process.given_back += 1
    assert process.look(pace, in_use=2, busy=busy) == quota


def test_when_nothing_comes_back_for_long_one_more_is_lent(process: Process) -> None:
    pace, in_use = process.pace(32), 2
    lent = []
    for _ in range(35):
        in_use = max(in_use, process.look(pace, in_use=in_use, busy=1.0))
        lent.append(in_use)
    assert lent[:8] == [2] * 8  # 80 ms
    assert lent[-1] == 5
    assert lent == sorted(lent)


def test_a_quota_that_has_grown_falls_when_they_compute(process: Process) -> None:
    pace = process.pace(32)
    for _ in range(4):
        process.look(pace, in_use=pace.quota)
    assert pace.quota == 32
    falling = [process.look(pace, in_use=12, waiting=0, busy=1.0) for _ in range(20)]
    assert falling[0] < 12
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] == 2


def test_a_quota_that_nobody_waits_for_stays(process: Process) -> None:
    pace = process.pace(32)
    process.look(pace, in_use=2)
    assert process.look(pace, in_use=3, waiting=0) == 4


def test_a_limit_of_one_is_kept(process: Process) -> None:
    pace = process.pace(1)
    assert {process.look(pace, in_use=1, busy=busy) for busy in (0.0, 1.0) * 10} == {1}


def borrow(threads: Threads, count: int, call: object) -> Iterator[Lent]:
    for _ in range(count):
        lent = Lent(threads)
        lent.submit(call)  # type: ignore[arg-type]
        yield lent


def test_those_that_wait_all_run_at_once() -> None:
    threads, together = Threads(limit=40), threading.Barrier(41)
    borrowed = list(borrow(threads, 40, lambda: together.wait(LIMIT_S)))
    together.wait(LIMIT_S)  # each of the forty waits for all others
    for lent in borrowed:
        lent.give_back().result(LIMIT_S)  # type: ignore[union-attr]
    assert threads.lent == 0


class Busy:
    """A process that has computed all the time, by clocks of its own."""

    def __init__(self, limit: int) -> None:
        ticks = itertools.count()
        self.threads = Threads(limit=limit)
        self.threads._pace = Pace(
            limit=limit, clock=lambda: 0.001 * next(ticks), cpu=lambda: 0.001 * next(ticks)
        )
        self.most = self.now = self.done = 0
        self._lock = threading.Lock()

    def work(self) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        sum(range(20_000))
        with self._lock:
            self.now -= 1
            self.done += 1


def test_those_that_compute_run_two_at_a_time() -> None:
    busy = Busy(limit=16)
    borrowed = list(borrow(busy.threads, 60, busy.work))
    for ended in [lent.give_back() for lent in borrowed]:
        assert ended is not None
        ended.result(LIMIT_S)
    assert (busy.done, busy.most) == (60, 2)
    assert (busy.threads.lent, busy.threads.waiting) == (0, 0)


def test_a_busy_process_starves_nobody_when_nothing_comes_back() -> None:
    busy, go = Busy(limit=5), threading.Event()
    borrowed = list(borrow(busy.threads, 5, lambda: go.wait(LIMIT_S)))
    until(lambda: busy.threads.lent == 5, "the last thread")
    go.set()
    for lent in borrowed:
        lent.give_back().result(LIMIT_S)  # type: ignore[union-attr]


def test_a_system_without_threads_loses_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    busy, go = Busy(limit=8), threading.Event()
    first = list(borrow(busy.threads, 2, lambda: go.wait(LIMIT_S)))

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        waiting = list(borrow(busy.threads, 3, busy.work))
        assert (busy.threads.lent, busy.threads.waiting) == (2, 3)
        busy.threads._pace = Pace(limit=8, clock=float, cpu=float)  # which has time to spare
        assert busy.threads.look()
        assert busy.threads._pace.quota == 4
        assert (busy.threads.lent, busy.threads.waiting) == (2, 3)
    go.set()
    for lent in (*first, *waiting):
        lent.give_back().result(LIMIT_S)  # type: ignore[union-attr]
    assert (busy.done, busy.threads.lent) == (3, 0)


def test_nobody_looks_on_when_there_is_nothing_to_do() -> None:
    def lookers() -> list[threading.Thread]:
        return [t for t in threading.enumerate() if t.name == "asgi_health hand-off pace"]

    before = set(lookers())
    threads = Threads(limit=8)
    for lent in list(borrow(threads, 8, int)):
        lent.give_back().result(LIMIT_S)  # type: ignore[union-attr]
    (looker,) = set(lookers()) - before
    looker.join(LIMIT_S)
    assert not looker.is_alive()
    for lent in list(borrow(threads, 8, int)):  # and then somebody does again
        lent.give_back().result(LIMIT_S)  # type: ignore[union-attr]
    assert set(lookers()) - before
