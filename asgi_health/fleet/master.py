"""The master's side of an instance: seats for workers, why they died, how long the next one waits.

Without a name of any server: an adapter calls it from that server's hooks.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass

from asgi_health.fleet.alarm import Alarm
from asgi_health.fleet.brake import Brake, DeathKind
from asgi_health.fleet.config import FleetConfig
from asgi_health.fleet.endings import Ending, Endings, death_kind, reason_of
from asgi_health.fleet.handover import Handover
from asgi_health.fleet.masterboard import Masterboard, Stage
from asgi_health.fleet.pinning import choose_core, pin_to
from asgi_health.fleet.scoreboard import ROWS, is_alive
from asgi_health.fleet.seat import Seat, judge_instance, new_row

__all__ = ["Master"]

_log = logging.getLogger("asgi_health.fleet")

_TOO_MANY = "more than %d workers: the last ones share a row, and what is told of them is wrong"


@dataclass(slots=True)
class _Place:
    """Where a worker sits, when it began its work, and on which core (None: on any)."""

    index: int
    delay_s: float
    started_s: float
    core: int | None


class Master:
    """Lives in the process that forks the workers, for as long as that process.

    Args:
        config: of the fleet.
        is_warm: whether the workers are forked from a loaded process.
    """

    def __init__(self, config: FleetConfig, *, is_warm: bool) -> None:
        self.board = Masterboard(config, is_warm=is_warm)
        self.alarm = Alarm()
        self.endings = Endings()
        self.handover: Handover | None = None
        """The connections that came while the application was loaded."""
        self._brake = Brake(window_s=config.crash_window_s, limit=config.crash_limit)
        self._places: dict[int, _Place] = {}
        self._stillborn: deque[tuple[int, float]] = deque(maxlen=ROWS)
        self._restarts: Counter[str] = Counter()
        self._was_looping = False

    def reconfigure(self, config: FleetConfig, *, workers: int) -> None:
        """The server has read its configuration again."""
        self.board.config, self.board.workers_wanted = config, workers
        self._brake.reconfigure(window_s=config.crash_window_s, limit=config.crash_limit)

    def reserve(self, generation: int) -> None:
        """Before a worker is forked: a row, so that its elders know that it comes."""
        delay_s = self._brake.delay_s()
        index = self._free_index()
        core = self._choose_core()
        self._places[generation] = _Place(index, delay_s, time.monotonic() + delay_s, core)
        if delay_s:
            _log.warning("the next worker waits %.1f s: others have crashed", delay_s)
        self._tell()
        self.board.workers.write(index, new_row(generation=generation))

    def seat(self, generation: int) -> Seat:
        """In the forked worker: its place."""
        place = self._places[generation]
        return Seat(self.board, index=place.index, delay_s=place.delay_s)

    def pin(self, generation: int) -> None:
        """In the forked worker: to its core, if workers are pinned."""
        place = self._places.get(generation)
        if place is not None and place.core is not None:
            pin_to(place.core)

    def watch(self, pids: Iterable[int]) -> list[Ending]:
        """A child has ended: see which and how, before anybody reaps it.

        For a signal handler: writes no log.
        """
        return self.endings.watch(pids)

    def bury(self, pid: int, *, generation: int, aborted: bool = False) -> Ending:
        """A worker has ended and was reaped: free its row, keep the reason.

        Args:
            pid: of the worker.
            generation: by which its place was reserved.
            aborted: whether the server ended it because it was blocked for too long.
        """
        place = self._places.pop(generation, None)
        row = None if place is None else self.board.workers.read(place.index)
        asked = self.board.stage is Stage.STOPPING or (row is not None and row.leaving)
        words = "" if place is None else self.board.take_words(place.index)
        ending = self.endings.conclude(
            pid, generation=generation, asked=asked, aborted=aborted, last_words=words
        )
        if row is not None and not row.ready_at and not asked:
            self._stillborn.append((generation, time.monotonic()))
        if place is not None:
            kind = DeathKind.CRASH if aborted else death_kind(ending, asked=asked)
            self._brake.died(started_s=place.started_s, kind=kind)
        if self.board.stage is Stage.SERVING:
            self._restarts[reason_of(ending, asked=asked, aborted=aborted)] += 1
        is_fine = (asked or ending.exit_code == 0) and not aborted
        level = logging.INFO if is_fine else logging.ERROR
        _log.log(level, "worker %d ended: %s", pid, ending.reason, extra={"worker": pid})
        self._tell()
        if place is not None:  # last: its elders find it in the table or in the notice
            self.board.workers.write(place.index, None)
        return ending

    def is_ready(self) -> bool:
        """Whether the instance is."""
        rows = [row for _, row in self.board.workers.rows()]
        return judge_instance(rows, self.board)[0] is None

    @property
    def is_looping(self) -> bool:
        """Whether workers die again and again."""
        return self._brake.is_looping

    def _tell(self) -> None:
        if self.is_looping and not self._was_looping:
            _log.critical(
                "%d workers or more died within %g s: fleet.crash_loop",
                self.board.config.crash_limit,
                self.board.config.crash_window_s,
                extra={"code": "fleet.crash_loop"},
            )
        self._was_looping = self.is_looping
        # A time, so that the loop ends for every reader without another word from here.
        notice = {
            "looping_until_s": self._brake.looping_until_s,
            "restarts": self._restarts.total(),
            "restarts_by_reason": dict(self._restarts),
            "stillborn": list(self._stillborn),
            "endings": [ending.as_json() for ending in self.endings.recent],
        }
        self.board.tell(notice)

    def _choose_core(self) -> int | None:
        if not self.board.config.pin_workers:
            return None
        return choose_core(place.core for place in self._places.values())

    def _free_index(self) -> int:
        """A row that nobody has; the last one is shared when there are more workers than rows."""
        taken = {place.index for place in self._places.values()}
        for index in range(ROWS):
            row = self.board.workers.read(index)
            if index not in taken and (row is None or not is_alive(row.pid, row.start)):
                return index
        _log.error(_TOO_MANY, ROWS)
        return ROWS - 1
