"""A real loop on a thread of its own, blocked for real; time passes only when somebody looks.

The last tests play what no test can time: they run the watch on their own thread, turn by turn.
"""

import asyncio
import ctypes
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from server_side import LIMIT_S

from asgi_health.fleet.looplag import LoopWatch

WARN_S = 5.0
TICK_S = 0.1
"""A look is a small part of `WARN_S`, so that a wait of the watch never seems too long."""
HOLD_S = 0.9


class Clock:
    """Ticks at every look, and tells who waits."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._looked = threading.Condition()

    def __call__(self) -> float:
        with self._looked:
            self.now += TICK_S
            self._looked.notify_all()
            return self.now

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        with self._looked:
            assert self._looked.wait_for(is_so, LIMIT_S)

    def let_pass(self, seconds: float) -> None:
        end = self.now + seconds
        self.wait_until(lambda: self.now > end)


class Log(logging.Handler):
    """A logger's records, in the order of their arrival."""

    def __init__(self) -> None:
        super().__init__()
        self._records: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
        self.logger = logging.Logger("test")  # noqa: LOG001 - one of its own, known to nobody
        self.logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self._records.put(record)

    def next(self) -> tuple[str, str]:
        """Level and text of the next record."""
        record = self._records.get(timeout=LIMIT_S)
        return record.levelname, record.getMessage()

    def is_empty(self) -> bool:
        return self._records.empty()


class LoopThread:
    """A loop that runs, and can be blocked."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def call(self, function: Callable[..., Any], *args: Any) -> None:
        """Call it on the loop, and wait for its return."""
        done = threading.Event()
        self.loop.call_soon_threadsafe(lambda: (function(*args), done.set()))
        assert done.wait(LIMIT_S)

    @contextmanager
    def blocked(self) -> Iterator[None]:
        entered, release = threading.Event(), threading.Event()

        def a_callback_that_blocks() -> None:
            entered.set()
            release.wait(LIMIT_S)

        self.loop.call_soon_threadsafe(a_callback_that_blocks)
        try:
            assert entered.wait(LIMIT_S)
            yield
        finally:
            release.set()

    def end(self) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(LIMIT_S)
            self.loop.close()


@pytest.fixture
def running() -> Iterator[LoopThread]:
    thread = LoopThread()
    yield thread
    thread.end()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log() -> Log:
    return Log()


@contextmanager
def watching(
    running: LoopThread, clock: Clock, log: Log, *, warn_s: float = WARN_S
) -> Iterator[LoopWatch]:
    watch = LoopWatch(running.loop, warn_s=warn_s, interval_s=0.001, clock=clock, log=log.logger)
    running.call(watch.start)
    try:
        yield watch
    finally:
        watch.stop()


def test_a_loop_that_runs_has_little_lag_and_nothing_is_logged(
    running: LoopThread, clock: Clock, log: Log
) -> None:
    with watching(running, clock, log) as watch:
        clock.let_pass(3 * WARN_S)
        assert 0.0 < watch.lag_s < WARN_S
    assert (watch.blocked_total, watch.last_block_s) == (0, 0.0)
    assert log.is_empty()


def test_a_block_is_logged_once_with_the_stack_and_its_end_with_its_length(
    running: LoopThread, clock: Clock, log: Log
) -> None:
    with watching(running, clock, log) as watch:
        with running.blocked():
            level, text = log.next()
            clock.let_pass(3 * WARN_S)
            assert log.is_empty()
            assert watch.blocked_total == 1
            assert watch.last_block_s == 0.0
            assert watch.lag_s > 3 * WARN_S
        end_level, end = log.next()
        clock.let_pass(3 * WARN_S)
    assert level == "WARNING"
    assert text.startswith("the event loop has been blocked for ")
    assert "in a_callback_that_blocks" in text
    assert "GIL" not in text
    assert end_level == "INFO"
    assert end == f"the event loop answers again after {watch.last_block_s:.2f} s"
    assert watch.last_block_s > 3 * WARN_S
    assert watch.blocked_total == 1
    assert log.is_empty()


def test_the_lag_grows_while_the_loop_is_blocked_and_falls_afterwards(
    running: LoopThread, clock: Clock, log: Log
) -> None:
    with watching(running, clock, log) as watch:
        with running.blocked():
            clock.wait_until(lambda: watch.lag_s > WARN_S)
            first = watch.lag_s
            clock.let_pass(1.0)
            assert watch.lag_s > first
        clock.wait_until(lambda: watch.lag_s < WARN_S)


def test_a_second_block_within_a_minute_is_counted_and_not_logged(
    running: LoopThread, clock: Clock, log: Log
) -> None:
    with watching(running, clock, log) as watch:
        with running.blocked():
            assert log.next()[0] == "WARNING"
            warned_s = clock.now
        assert log.next()[0] == "INFO"
        first = watch.last_block_s
        with running.blocked():
            clock.wait_until(lambda: watch.blocked_total == 2)
            clock.let_pass(WARN_S)
        clock.wait_until(lambda: watch.last_block_s > first + WARN_S / 2)
        clock.let_pass(1.0)
        assert clock.now < warned_s + 60.0
        assert log.is_empty()

        clock.wait_until(lambda: clock.now > warned_s + 60.0)
        with running.blocked():
            assert log.next()[0] == "WARNING"
        assert log.next()[0] == "INFO"
        assert watch.blocked_total == 3


def test_without_a_limit_the_lag_is_measured_and_nothing_logged(
    running: LoopThread, clock: Clock, log: Log
) -> None:
    with watching(running, clock, log, warn_s=0.0) as watch:
        with running.blocked():
            clock.wait_until(lambda: watch.lag_s > 100.0)
        clock.wait_until(lambda: watch.lag_s < 100.0)
    assert (watch.blocked_total, watch.last_block_s) == (0, 0.0)
    assert log.is_empty()


@pytest.mark.skipif(not hasattr(ctypes.PyDLL(None), "usleep"), reason="no C call to hold the GIL")
@pytest.mark.parametrize("holder", ["the loop", "another thread"])
def test_a_c_call_that_holds_the_gil_is_told_apart(
    running: LoopThread, log: Log, holder: str
) -> None:
    holding = ctypes.PyDLL(None).usleep
    watch = LoopWatch(running.loop, warn_s=0.3, interval_s=0.05, log=log.logger)
    running.call(watch.start)
    try:
        if holder == "the loop":
            running.call(holding, int(HOLD_S * 1e6))
        else:
            holding(int(HOLD_S * 1e6))
        level, text = log.next()
        end = log.next()[1]
    finally:
        watch.stop()
    assert level == "WARNING"
    assert "held the GIL" in text
    assert "who has it now, not who held it" in text
    assert "in run_forever" in text
    assert end.startswith("the event loop answers again after ")
    assert watch.blocked_total == 1
    assert watch.last_block_s > HOLD_S / 2


def test_a_watch_stops_while_the_loop_is_blocked(
    running: LoopThread, clock: Clock, log: Log
) -> None:
    with watching(running, clock, log) as watch, running.blocked():
        log.next()
        watch.stop()
        assert not watch._thread.is_alive()
        assert watch.lag_s == 0.0
    running.call(lambda: None)
    assert watch.lag_s == 0.0


def test_a_watch_can_be_stopped_on_the_loop_and_twice(
    running: LoopThread, clock: Clock, log: Log
) -> None:
    with watching(running, clock, log) as watch:
        running.call(watch.stop)
        assert not watch._thread.is_alive()
        watch.stop()


def test_a_watch_that_never_started_can_be_stopped(running: LoopThread) -> None:
    watch = LoopWatch(running.loop, warn_s=1.0)
    watch.stop()
    assert watch.lag_s == 0.0


def test_the_watch_ends_with_its_loop(running: LoopThread, clock: Clock, log: Log) -> None:
    with watching(running, clock, log) as watch:
        running.end()
        watch._thread.join(LIMIT_S)
        assert not watch._thread.is_alive()
    assert watch.lag_s == 0.0


def test_the_thread_keeps_no_process_alive(running: LoopThread) -> None:
    assert LoopWatch(running.loop, warn_s=1.0)._thread.daemon


def test_real_time_and_the_project_s_log_are_the_default(
    running: LoopThread, caplog: pytest.LogCaptureFixture
) -> None:
    before = time.monotonic()
    watch = LoopWatch(running.loop, warn_s=0.05, interval_s=0.01)
    running.call(watch.start)
    logged = Log()
    logger = logging.getLogger("asgi_health.loop")
    logger.addHandler(logged)
    try:
        with running.blocked():
            assert logged.next()[0] == "WARNING"
    finally:
        watch.stop()
        logger.removeHandler(logged)
    assert time.monotonic() - before > 0.05


class HeldLoop(asyncio.SelectorEventLoop):
    """A loop whose pings can take time to send, as when another thread takes the GIL right then."""

    def hold_next_ping(self, hold: Callable[[], None]) -> None:
        self._hold = hold

    _hold: Callable[[], None] | None = None

    def call_soon_threadsafe(self, *args: Any, **options: Any) -> asyncio.Handle:
        if self._hold is not None:
            self._hold()
            self._hold = None
        return super().call_soon_threadsafe(*args, **options)


class Play(threading.Event):
    """The waits of a watch, by script, with a clock that moves in them only."""

    def __init__(self, log: Log, *, warn_s: float = 5.0, interval_s: float = 1.0) -> None:
        super().__init__()
        self.now = 1000.0
        self.loop = HeldLoop()
        self.waits: list[float] = []
        self._turns: list[Callable[[float], None]] = []
        self.watch = LoopWatch(
            self.loop,
            warn_s=warn_s,
            interval_s=interval_s,
            clock=lambda: self.now,
            log=log.logger,
        )
        self.watch._stopped = self
        self.watch._awake_s = self.now

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waits.append(timeout)
        if self._turns:
            self._turns.pop(0)(timeout)
        else:
            self.set()
        return self.is_set()

    def run(self, *turns: Callable[[float], None]) -> None:
        self._turns = list(turns)
        self.watch._run()

    def pass_(self, seconds: float) -> None:
        self.now += seconds

    def answer(self, seconds: float = 0.0) -> None:
        """The time passes, then the loop runs what is due."""
        self.now += seconds
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def late(self, late_s: float) -> Callable[[float], None]:
        """A wait that takes too long, after which the loop answers first."""
        return lambda seconds: self.answer(seconds + late_s)

    def answered_then_late(self, late_s: float) -> Callable[[float], None]:
        """A wait that takes too long after the loop has answered."""
        return lambda seconds: (self.answer(), self.pass_(seconds + late_s))[1]


@pytest.fixture
def play(log: Log) -> Iterator[Play]:
    playing = Play(log)
    yield playing
    playing.loop.close()


def test_a_hold_of_the_gil_that_the_loop_leaves_first_is_told_once(play: Play, log: Log) -> None:
    play.run(play.answer, play.late(8.0), play.answer, play.answer)
    level, text = log.next()
    assert level == "WARNING"
    assert text.startswith(
        "the event loop was late by 9.00 s, and the thread that watches it by 8."
    )
    assert log.next() == ("INFO", "the event loop answers again after 9.00 s")
    assert log.is_empty()
    assert play.watch.blocked_total == 1


def test_a_hold_of_the_gil_between_two_pings_delays_the_second(play: Play, log: Log) -> None:
    play.run(play.answered_then_late(8.0), play.answer, play.answer)
    assert "held the GIL" in log.next()[1]
    assert log.next() == ("INFO", "the event loop answers again after 9.00 s")
    assert log.is_empty()
    assert (play.watch.blocked_total, play.watch.last_block_s) == (1, 9.0)


def test_a_hold_of_the_gil_while_a_ping_is_sent_is_no_block_of_the_loop(
    play: Play, log: Log
) -> None:
    play.loop.hold_next_ping(lambda: play.pass_(8.0))
    play.run(play.answer, play.answer)
    assert "held the GIL" in log.next()[1]
    assert log.next()[0] == "INFO"
    assert log.is_empty()


def test_a_small_lateness_of_the_watch_is_no_hold_of_the_gil(play: Play, log: Log) -> None:
    play.run(lambda seconds: play.pass_(seconds + 2.4), *[play.pass_] * 5)
    assert log.next()[1].startswith("the event loop has been blocked for ")
    assert log.is_empty()


def test_a_block_that_is_over_before_its_stack_is_read_is_counted_and_not_logged(
    play: Play, log: Log
) -> None:
    play.run(*[play.pass_] * 4, play.late(2.0), play.answer)
    assert log.is_empty()
    assert (play.watch.blocked_total, play.watch.last_block_s) == (1, 7.0)


def test_a_warning_comes_when_it_is_due_and_not_an_interval_later(log: Log) -> None:
    play = Play(log, warn_s=5.0, interval_s=2.0)
    play.run(*[play.pass_] * 4)
    play.loop.close()
    assert play.waits == pytest.approx([2.0, 2.0, 1.001, 2.0, 2.0])
    assert log.next()[1].startswith("the event loop has been blocked for 5.00 s")


def test_a_loop_that_closes_with_a_ping_unanswered_is_watched_no_longer(
    play: Play, log: Log
) -> None:
    play.run(lambda _: play.loop.close(), *[play.pass_] * 9)
    assert len(play.waits) == 1
    assert play.watch.lag_s == 0.0
    assert log.is_empty()


def test_a_loop_that_is_closed_already_is_not_watched(play: Play) -> None:
    play.loop.close()
    play.run()
    assert play.waits == []
    assert play.watch.lag_s == 0.0
