"""One answer for the whole instance: what the workers know of each other.

Without a managing process of ours, workers find each other by their parent: `uvicorn --workers`
starts its workers with multiprocessing, so that they share one. The first generation is ready when
all its workers are, because they accept already; a worker that joins later loads before it accepts.
"""

import logging
import multiprocessing
import os
import sys
import time
from dataclasses import replace
from typing import Any

from asgi_health.fleet.scoreboard import (
    ROWS,
    Scoreboard,
    WorkerRow,
    process_start,
    rss_bytes,
)
from asgi_health.phase import UNSETTLED, Phase

__all__ = ["Membership", "judge_fleet", "lone_row"]

_log = logging.getLogger("asgi_health.fleet")
_ATTEMPTS = 10
_TOO_MANY = "more than %d workers: this one answers for itself, and its metrics tell of it alone"
_VERDICT_MEMORY_S = 0.1
_ABSENT = frozenset({Phase.DRAINING, Phase.STOPPED})


class Membership:
    """This worker's row among those of its instance."""

    speaks_for_all = False
    """Whether readiness is the instance's, whichever worker is asked."""

    def __init__(
        self, board: Scoreboard, *, joins_quietly: bool, index: int, row: WorkerRow
    ) -> None:
        self.scoreboard = board
        self.tally = board.tallies.take(index)
        self._index = index
        self._row = row
        self._read_s = float("-inf")
        self._verdict: tuple[str | None, str | None] = (None, None)
        self.joins_quietly = joins_quietly

    @classmethod
    def join(cls) -> "Membership | None":
        """Enter the instance's table; None without siblings, or when no table can be had."""
        parent = multiprocessing.parent_process()
        if parent is None or parent.pid is None or sys.platform == "win32":
            return None
        try:
            for _ in range(_ATTEMPTS):
                board = Scoreboard.of_instance(parent_pid=parent.pid)
                membership = cls.enter(board)
                if membership is not None:
                    return membership
                was_removed = board.is_removed
                board.close()
                if not was_removed:
                    break  # no row is free
        except OSError as error:
            _log.warning("no scoreboard, each worker answers for itself: %s", error)
        return None

    @classmethod
    def enter(cls, board: Scoreboard) -> "Membership | None":
        """Take a free row; decide under the lock whether the fleet is ready already.

        None when all rows are taken, or when the last worker removed the table before this one had
        the lock.
        """
        with board.locked():
            if board.is_removed:
                return None
            rows = board.rows()
            taken = {index for index, _ in rows}
            index = next((index for index in range(ROWS) if index not in taken), None)
            if index is None:
                _log.error(_TOO_MANY, ROWS)
                return None
            quiet = any(row.accepting and row.phase is Phase.READY for _, row in rows)
            row = _own_row(accepting=not quiet)
            board.write(index, row)
        return cls(board, joins_quietly=quiet, index=index, row=row)

    def publish(self, phase: Phase, *, accepting: bool) -> None:
        """Write this worker's row."""
        ready_at = self._row.ready_at or (time.time() if phase is Phase.READY else 0.0)
        self._row = replace(
            self._row,
            phase=phase,
            accepting=accepting,
            ready_at=ready_at,
            updated_s=time.monotonic(),
            rss_bytes=rss_bytes(),
        )
        self.scoreboard.write(self._index, self._row)
        self._read_s = float("-inf")

    def rows(self) -> list[WorkerRow]:
        """The rows of all living workers."""
        return [row for _, row in self.scoreboard.rows()]

    def endings(self) -> list[dict[str, Any]]:
        """How workers ended; only a master of ours knows."""
        return []

    def restarts(self) -> int:
        """How many workers have been replaced; only a master of ours knows."""
        return 0

    def restarts_by_reason(self) -> dict[str, int]:
        """Why; only a master of ours knows."""
        return {}

    def verdict(self) -> tuple[str | None, str | None]:
        """Why the instance is not ready, as code and in words.

        Read from the table ten times a second at most.
        """
        now_s = time.monotonic()
        if now_s - self._read_s >= _VERDICT_MEMORY_S:
            self._read_s, self._verdict = now_s, judge_fleet(self.rows())
        return self._verdict

    def leave(self) -> None:
        """Free the row; the last one removes the table."""
        with self.scoreboard.locked():
            self.scoreboard.write(self._index, None)
            if not self.scoreboard.rows():
                self.scoreboard.remove()
        self.scoreboard.close()


def judge_fleet(rows: list[WorkerRow]) -> tuple[str | None, str | None]:
    """Why the instance is not ready, as code and in words; (None, None) when it is.

    A worker that leaves, or that does not accept yet, does not count.
    """
    present = [row for row in rows if row.accepting and row.phase not in _ABSENT]
    failed = [row.pid for row in present if row.phase is Phase.FAILED]
    loading = [row.pid for row in present if row.phase in UNSETTLED]
    if failed:
        return "fleet.worker_failed", f"the boot of worker {', '.join(map(str, failed))} failed"
    if loading:
        return "fleet.starting", f"worker {', '.join(map(str, loading))} is still loading"
    return None, None


def lone_row(phase: Phase) -> WorkerRow:
    """What this process would write if it had siblings."""
    return replace(_own_row(accepting=True), phase=phase)


def _own_row(*, accepting: bool) -> WorkerRow:
    return WorkerRow(
        pid=os.getpid(),
        start=process_start(os.getpid()),
        phase=Phase.STARTING,
        accepting=accepting,
        started_at=time.time(),
        ready_at=0.0,
        updated_s=time.monotonic(),
        rss_bytes=rss_bytes(),
    )
