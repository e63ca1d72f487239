"""What a process can say of itself, gathered at the moment of asking; changes nothing."""

import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from asgi_health import __version__
from asgi_health.config import HealthConfig
from asgi_health.hold import Hold, Outcome
from asgi_health.phase import UNSETTLED, Lifecycle, Phase
from asgi_health.probes import DRAINING_CODE, Snapshot, judge, results
from asgi_health.query import Kind

if TYPE_CHECKING:  # what these bring is not needed for the first answer
    from asgi_health.boot import Boot
    from asgi_health.fleet.membership import Membership
    from asgi_health.fleet.scoreboard import Scoreboard, WorkerRow
    from asgi_health.fleet.seat import Seat
    from asgi_health.fleet.tally import Tally
    from asgi_health.metrics import Figures

__all__ = ["Vitals", "lag_s"]

_WORD_EVERY_S = 1.0
"""A worker writes its row about so often."""

_SILENT_MAX_S = 1.2


class Vitals:
    """Reads the phase, the boot, the held requests and the other workers."""

    def __init__(self, config: HealthConfig, *, lifecycle: Lifecycle, hold: Hold) -> None:
        self._config = config
        self.lifecycle = lifecycle
        self._hold = hold
        self.boot: Boot | None = None
        """The boot of this process; None until it begins."""
        self.membership: Membership | Seat | None = None
        """This worker's place among its siblings; None when it has none."""
        self._scoreboard: Scoreboard | None = None
        self._scrape_errors = 0
        self.load_report: Callable[[], dict[str, Any] | None] | None = None
        """The report of a load that goes on in another process."""

    def join(self, membership: "Membership | Seat | None") -> None:
        """Take a place among siblings; None: there are none."""
        self.membership = membership
        if membership is not None:
            self.count_on(membership.scoreboard, membership.tally)

    def count_on(self, scoreboard: "Scoreboard", tally: "Tally") -> None:
        """Count where the whole instance sees it."""
        self._scoreboard, self._hold.tally = scoreboard, tally

    def leave(self) -> None:
        """Give the place back."""
        if self.membership is not None:
            self.membership.leave()
        self.membership = self._scoreboard = self._hold.tally = None

    def count_scrape_error(self) -> None:
        """A scrape got less than it asked for."""
        self._scrape_errors += 1
        if self._hold.tally is not None:
            self._hold.tally.count_to("scrape_errors", self._scrape_errors)

    def snapshot(self, *, details: bool = False) -> Snapshot:
        """All that a probe's answer may be made of; `details` adds what only the authorised see."""
        lifecycle, board = self.lifecycle, self.membership
        fleet_code, fleet_output = (None, None) if board is None else board.verdict()
        phase, was_ready = lifecycle.phase, lifecycle.was_ready
        if board is not None and board.speaks_for_all:
            phase = _instance_phase(phase, fleet_code)
            was_ready = was_ready or phase is Phase.READY
        return Snapshot(
            phase=phase,
            was_ready=was_ready,
            failure=lifecycle.failure,
            has_fleet=board is not None,
            fleet_code=fleet_code,
            fleet_output=fleet_output,
            boot_s=self._boot_s(),
            retry_after_s=self._config.retry_after_s,
            time=_timestamp(),
            release=self._config.release,
            details=self._details() if details else {},
        )

    def page(self) -> dict[str, Any]:
        """All that the status page shows."""
        snapshot = self.snapshot()
        verdict = judge(Kind.READY, snapshot)
        failure = snapshot.failure
        now_s = time.monotonic()
        entered_s, own_phase = self.lifecycle.entered_s, self.lifecycle.phase
        shown = results(Kind.READY, snapshot)
        return {
            "title": self._config.title,
            "ready": verdict.passed,
            "phase": snapshot.phase.value,
            "code": verdict.code,
            "phase_s": round(now_s - entered_s[own_phase], 1),
            "uptime_s": round(now_s - entered_s[Phase.STARTING], 1),
            "pid": os.getpid(),
            "time": snapshot.time,
            "release": self._config.release,
            "failure": None
            if failure is None
            else {"code": failure.code, "message": failure.message, "traceback": failure.traceback},
            "checks": [
                {"name": r.name, "passed": r.passed, "code": r.code, "output": r.output}
                for r in shown
            ],
            **self._details(),
        }

    def figures(self) -> "Figures":
        """All that the metrics tell, of the whole instance."""
        from asgi_health.metrics import Figures  # noqa: PLC0415 - most processes are never asked

        snapshot, rows = self.snapshot(), self._numbered_rows()
        outcomes = {outcome.value: count for outcome, count in self._hold.totals.items()}
        return Figures(
            phase=snapshot.phase,
            ready=judge(Kind.READY, snapshot).passed,
            release=self._config.release,
            boot=self._boot_report(),
            workers=rows,
            restarts={} if self.membership is None else self.membership.restarts_by_reason(),
            held_now=self._hold.now + self._held_by_others(rows),
            held={name: self._of_all(name, own=count) for name, count in outcomes.items()},
            scrape_errors=self._of_all("scrape_errors", own=self._scrape_errors),
        )

    def _of_all(self, name: str, *, own: int) -> int:
        """A count of the whole instance, of those that have died as well."""
        return own if self._scoreboard is None else self._scoreboard.tallies.total(name)

    def _held_by_others(self, rows: list[tuple[int, "WorkerRow"]]) -> int:
        if self._scoreboard is None:
            return 0
        read, mine = self._scoreboard.tallies.read, os.getpid()
        return sum(read(index, "held_now") for index, row in rows if row.pid != mine)

    def _numbered_rows(self) -> list[tuple[int, "WorkerRow"]]:
        """The living workers; a process alone is its own only one."""
        if self._scoreboard is not None:
            return self._scoreboard.rows()
        from asgi_health.fleet.membership import lone_row  # noqa: PLC0415 - as above

        return [(0, lone_row(self.lifecycle.phase))]

    def _details(self) -> dict[str, Any]:
        rows = [] if self.membership is None else self.membership.rows()
        return {
            "boot": self._boot_report(),
            "workers": [_worker_json(row) for row in rows],
            "endings": [] if self.membership is None else self.membership.endings(),
            "restarts": 0 if self.membership is None else self.membership.restarts(),
            "requests": self._requests(),
            "application": self._application(),
            "versions": {
                "python": ".".join(map(str, sys.version_info[:3])),
                "asgi_health": __version__,
            },
        }

    def _application(self) -> dict[str, Any]:
        details = None if self.boot is None else self.boot.details
        return {} if details is None else dict(details())

    def _boot_report(self) -> dict[str, Any] | None:
        if self.load_report is not None:
            return self.load_report()
        recorder = None if self.boot is None else self.boot.recorder
        return None if recorder is None else recorder.report().as_json()

    def _requests(self) -> dict[str, int]:
        totals = self._hold.totals
        return {
            "held_now": self._hold.now,
            "handed_over": totals[Outcome.SETTLED],
            "left_while_held": totals[Outcome.GONE],
            "held_too_long": totals[Outcome.EXPIRED],
            "over_the_limit": totals[Outcome.REFUSED],
        }

    def _boot_s(self) -> float:
        entered_s = self.lifecycle.entered_s
        begun_s = entered_s.get(Phase.LOADING, entered_s[Phase.STARTING])
        ended_s = entered_s.get(Phase.READY) or entered_s.get(Phase.FAILED)
        until_s = (
            time.monotonic() if self.lifecycle.phase in UNSETTLED or ended_s is None else ended_s
        )
        return until_s - begun_s


def _worker_json(row: "WorkerRow") -> dict[str, Any]:
    return {
        "pid": row.pid,
        "phase": row.phase.value,
        "accepting": row.accepting,
        "age_s": round(time.time() - row.started_at, 1),
        "rss_bytes": row.rss_bytes,
        "generation": row.generation,
        "in_flight": row.in_flight,
        "served": row.served,
        "loop_lag_s": round(lag_s(row), 3),
        "leaving": row.leaving,
    }


def lag_s(row: "WorkerRow") -> float:
    """How late a worker's event loop is, by its last word or by how late its next one is.

    A worker whose loop is blocked cannot tell, the others can.
    """
    silent_s = time.monotonic() - row.updated_s
    is_overdue = row.phase is Phase.READY and silent_s > _SILENT_MAX_S
    return max(row.loop_lag_s, silent_s - _WORD_EVERY_S if is_overdue else 0.0)


def _instance_phase(own: Phase, fleet_code: str | None) -> Phase:
    """What the instance is doing: one worker that starts or leaves does not speak for all."""
    if fleet_code == DRAINING_CODE:
        return Phase.DRAINING
    is_replaceable = own in UNSETTLED or own is Phase.DRAINING
    return Phase.READY if is_replaceable and fleet_code is None else own


def _timestamp() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
