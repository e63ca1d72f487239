"""A worker's place in an instance that has a master: what it says of itself, what it hears."""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from enum import Enum, auto
from typing import Any, NamedTuple

from asgi_health.fleet.endings import Reason
from asgi_health.fleet.masterboard import Masterboard, Stage
from asgi_health.fleet.membership import judge_fleet
from asgi_health.fleet.scoreboard import ROWS, WorkerRow, process_start, rss_bytes
from asgi_health.phase import UNSETTLED, Phase
from asgi_health.probes import DRAINING_CODE

__all__ = ["Load", "Seat", "Succession", "judge_instance", "new_row"]

_log = logging.getLogger("asgi_health.fleet")

_VERDICT_MEMORY_S = 0.1
_MIB = 2**20
_ON_THE_WAY = UNSETTLED | {Phase.FAILED}
_SERVING = frozenset({Phase.READY, Phase.DRAINING})
_STILLBORN_S = 3.0
"""How long before a worker hears that it shall leave its successors may have died."""
_LIMIT_TOO_LOW = (
    "a worker that has just become ready occupies %d MiB, and worker_rss_limit_mib is %d: "
    "it is not replaced; raise the limit"
)


class Load(NamedTuple):
    """What a worker's server is doing: requests in flight and served, seconds of loop lag."""

    in_flight: int = 0
    served: int = 0
    loop_lag_s: float = 0.0


class Succession(Enum):
    """Who takes over from a worker that was asked to leave."""

    READY = auto()
    COMING = auto()
    FAILED = auto()
    """Of those that were to come, not all have."""
    NONE = auto()
    """Nobody is on the way, and nobody has failed to come."""


class Seat:
    """One worker's row, and the master's word.

    Args:
        board: shared with the master and all workers.
        index: of this worker's row, which the master has filled in before the fork.
        delay_s: how long this worker waits before it boots, because others have crashed.
    """

    speaks_for_all = True

    def __init__(self, board: Masterboard, *, index: int, delay_s: float = 0.0) -> None:
        self.board = board
        self.scoreboard = board.workers
        self.tally = board.workers.tallies.take(index)
        self.delay_s = delay_s
        """How long this worker must wait before it boots; 0 once it has waited."""
        self._index = index
        row = board.workers.read(index) or new_row(generation=0)
        self._row = replace(row, pid=os.getpid(), start=process_start(os.getpid()))
        self._read_s = float("-inf")
        self._verdict: tuple[str | None, str | None] = (None, None)
        self._fresh_bytes = 0
        self.observe: Callable[[], Load] = Load
        """Asked for the load of this worker's server once a second."""
        with board.workers.locked():
            self.joins_quietly = board.others_serve or self._is_anybody_ready()
            self._row = replace(self._row, accepting=not self.joins_quietly)
            board.workers.write(index, self._row)

    @property
    def generation(self) -> int:
        """The master's count of workers when this one was forked."""
        return self._row.generation

    def publish(self, phase: Phase, *, accepting: bool) -> None:
        """Write this worker's row."""
        load, ready_at = self.observe(), self._row.ready_at
        if phase is Phase.READY and not ready_at:
            self._note_size()
        self._row = replace(
            self._row,
            phase=phase,
            accepting=accepting,
            ready_at=ready_at or (time.time() if phase is Phase.READY else 0.0),
            updated_s=time.monotonic(),
            rss_bytes=rss_bytes(),
            in_flight=load.in_flight,
            served=load.served,
            loop_lag_s=load.loop_lag_s,
        )
        self.board.workers.write(self._index, self._row)
        if not self.board.was_complete and _missing(self.rows(), self.board)[0] is None:
            self.board.was_complete = True
        self._read_s = float("-inf")

    def _note_size(self) -> None:
        """When this worker is ready and has served nobody yet."""
        self._fresh_bytes = rss_bytes()
        limit_mib = self.board.config.worker_rss_limit_mib
        if 0 < limit_mib * _MIB < self._fresh_bytes:
            _log.error(_LIMIT_TOO_LOW, self._fresh_bytes // _MIB, limit_mib)

    def rows(self) -> list[WorkerRow]:
        """The rows of all living workers."""
        return [row for _, row in self.board.workers.rows()]

    def endings(self) -> list[dict[str, Any]]:
        """How the last workers ended, newest last."""
        endings: list[dict[str, Any]] = self.board.notice.get("endings", [])
        return endings

    def restarts(self) -> int:
        """How many workers have ended while the instance served."""
        return int(self.board.notice.get("restarts", 0))

    def restarts_by_reason(self) -> dict[str, int]:
        """How many of them for which reason."""
        found: dict[str, int] = self.board.notice.get("restarts_by_reason", {})
        return dict.fromkeys(Reason, 0) | found

    def verdict(self) -> tuple[str | None, str | None]:
        """Why the instance is not ready, as code and in words; (None, None) when it is.

        Read from the table ten times a second at most; that it drains is seen at once.
        """
        if self.board.stage is not Stage.SERVING:
            return DRAINING_CODE, "the server was told to stop"
        now_s = time.monotonic()
        if now_s - self._read_s >= _VERDICT_MEMORY_S:
            self._read_s, self._verdict = now_s, judge_instance(self.rows(), self.board)
        return self._verdict

    def begin_leaving(self) -> None:
        """Say that this worker goes, so that no other goes at the same time."""
        self._row = replace(self._row, leaving=True)
        self.board.workers.write(self._index, self._row)

    def may_be_replaced(self) -> bool:
        """Leave if no other is leaving, is missing or is not ready; decided under the lock."""
        with self.board.workers.locked():
            others = [row for row in self.rows() if row.pid != self._row.pid]
            if any(row.leaving or row.phase is not Phase.READY for row in others):
                return False
            if len(others) + 1 < min(self.board.workers_wanted, ROWS):  # one has just died
                return False
            self.begin_leaving()
            return True

    def is_too_large(self) -> bool:
        """Whether this worker has grown over its limit.

        One that was over the limit when it became ready would be replaced for ever, so it stays.
        """
        limit_bytes = self.board.config.worker_rss_limit_mib * _MIB
        return self._fresh_bytes <= limit_bytes < rss_bytes() if limit_bytes else False

    def successors(self) -> frozenset[int]:
        """The generations of younger workers that are on their way, or have just died there.

        A signal is heard late on a busy machine. Takes no lock.
        """
        table = (self.board.workers.read(index) for index in range(ROWS))
        buried = self.board.notice.get("stillborn", [])
        since_s, mine = time.monotonic() - _STILLBORN_S, self._row.generation
        dead = {born for born, died_s in buried if born > mine and died_s > since_s}
        return self._younger_on_the_way([row for row in table if row is not None]) | dead

    def _younger_on_the_way(self, rows: list[WorkerRow]) -> frozenset[int]:
        mine = self._row.generation
        return frozenset(
            row.generation for row in rows if row.generation > mine and row.phase in _ON_THE_WAY
        )

    def succession(self, expected: frozenset[int] = frozenset()) -> Succession:
        """Who serves when this worker leaves; decided under the lock.

        With READY this worker has said that it goes.

        Args:
            expected: the generations that were on their way when this worker was asked to leave.
        """
        with self.board.workers.locked():
            others = [row for row in self.rows() if row.pid != self._row.pid]
            ready = sum(row.phase is Phase.READY and not row.leaving for row in others)
            if ready >= min(self.board.workers_wanted, ROWS):
                self.begin_leaving()
                return Succession.READY
        if self._younger_on_the_way(others):
            return Succession.COMING
        have_come = {row.generation for row in others} >= expected
        return Succession.NONE if have_come else Succession.FAILED

    def may_end_the_server(self) -> bool:
        """Whether this worker is the first whose failure ends all; decided under the lock.

        Gunicorn stops at such an exit code, and breaks that stop off at a second one.
        """
        with self.board.workers.locked():
            is_first = self.board.stage is Stage.SERVING and not self.board.is_ended_by_worker
            self.board.is_ended_by_worker = True
            return is_first

    def leave_words(self, words: str) -> None:
        """Keep the last traceback of this worker for the master."""
        self.board.leave_words(self._index, words)

    def leave(self) -> None:
        """The worker has stopped serving; the master frees the row when it has ended."""
        self._row = replace(self._row, phase=Phase.STOPPED, accepting=False)
        self.board.workers.write(self._index, self._row)

    def _is_anybody_ready(self) -> bool:
        return any(
            row.phase in _SERVING and row.accepting and not row.leaving for row in self.rows()
        )


def new_row(*, generation: int) -> WorkerRow:
    """The row of a worker that is about to be forked; it holds the master's pid until then."""
    return WorkerRow(
        pid=os.getpid(),
        start=process_start(os.getpid()),
        phase=Phase.STARTING,
        accepting=False,
        started_at=time.time(),
        ready_at=0.0,
        updated_s=time.monotonic(),
        rss_bytes=0,
        generation=generation,
    )


def judge_instance(rows: list[WorkerRow], board: Masterboard) -> tuple[str | None, str | None]:
    """Why the instance is not ready, as code and in words; (None, None) when it is."""
    if time.monotonic() < board.notice.get("looping_until_s", 0.0):
        return "fleet.crash_loop", "workers die again and again; the endings say why"
    if board.is_warm:
        return _missing(rows, board)
    problem = judge_fleet(rows)
    return _missing(rows, board) if problem[0] is None and not board.was_complete else problem


def _missing(rows: list[WorkerRow], board: Masterboard) -> tuple[str | None, str | None]:
    ready = sum(row.phase is Phase.READY for row in rows)
    # More than there are, or than there are rows for, can never be ready.
    wanted = min(board.workers_wanted, ROWS)
    if board.is_warm:
        wanted = min(wanted, board.config.ready_workers_min)
    if ready >= wanted:
        return None, None
    return "fleet.starting", f"{ready} of {wanted} workers are ready"
