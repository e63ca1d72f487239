"""One line a request, and no flood: under load only some, and the next line says how many not."""

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

from project.context import RequestContext

__all__ = ["AccessLog", "Answered"]

_log = logging.getLogger("project.access")
_SERVER_ERROR = 500


class Answered(NamedTuple):
    """How a request ended.

    Args:
        method: one of the usual ones, or `OTHER`.
        route: a template, or what is written where there is none.
        status: 499 when the client left before it was answered.
        duration_s: seconds until the last byte.
        sent_bytes: of the body.
        path: only where no route tells what was asked for.
    """

    method: str
    route: str
    status: int
    duration_s: float
    sent_bytes: int
    path: str | None = None


class AccessLog:
    """Writes the access lines of one worker.

    Args:
        lines_per_s: at most; failures (5xx) have as many again for themselves. 0 writes none.
        clock: monotonic seconds.
    """

    def __init__(self, *, lines_per_s: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._usual, self._failed = _Quota(lines_per_s), _Quota(lines_per_s)

    def note(self, context: RequestContext, answered: Answered) -> None:
        """A request is over."""
        quota = self._failed if answered.status >= _SERVER_ERROR else self._usual
        if not quota.takes(int(self._clock())) or not _log.isEnabledFor(logging.INFO):
            return
        fields: dict[str, object] = {
            "method": answered.method,
            "route": answered.route,
            "status": answered.status,
            "duration_ms": round(1e3 * answered.duration_s, 2),
            "bytes": answered.sent_bytes,
        }
        if answered.path is not None:
            fields["path"] = answered.path
        if context.user_id is not None:
            fields["user_id"] = context.user_id
        if skipped := quota.take_skipped():
            fields["skipped"] = skipped
        _log.info("%s %s %d", answered.method, answered.route, answered.status, extra=fields)


class _Quota:
    """So many a second; counts what was too much."""

    __slots__ = ("_left", "_per_s", "_second", "_skipped")

    def __init__(self, per_s: int) -> None:
        self._per_s, self._left = per_s, 0
        self._second, self._skipped = -1, 0

    def takes(self, second: int) -> bool:
        """Whether there is room for one more in this second."""
        if second != self._second:
            self._second, self._left = second, self._per_s
        if self._left <= 0:
            self._skipped += 1
            return False
        self._left -= 1
        return True

    def take_skipped(self) -> int:
        """How many had no room since this was asked last."""
        skipped, self._skipped = self._skipped, 0
        return skipped
