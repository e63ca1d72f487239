"""One line a request, and no flood: under load only some, and the next line says how many not."""

import logging
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
    """

    def __init__(self, *, lines_per_s: int) -> None:
        self._per_s = lines_per_s
        self._second = -1
        self._left = [lines_per_s, lines_per_s]
        """In this second, of the usual ones and of failures."""
        self._skipped = [0, 0]

    def has_room(self, status: int, now_s: float) -> bool:
        """Whether to write a line of a request that is over; to be asked once for each.

        Args:
            status: of the request.
            now_s: monotonic seconds.
        """
        second = int(now_s)
        if second != self._second:
            self._second, self._left = second, [self._per_s, self._per_s]
        kind = status >= _SERVER_ERROR
        if self._left[kind] <= 0:
            self._skipped[kind] += 1
            return False
        self._left[kind] -= 1
        return True

    def write(self, context: RequestContext, answered: Answered) -> None:
        """Write the line of a request that had room."""
        if not _log.isEnabledFor(logging.INFO):
            return
        kind = answered.status >= _SERVER_ERROR
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
        if self._skipped[kind]:
            fields["skipped"], self._skipped[kind] = self._skipped[kind], 0
        _log.info("%s %s %d", answered.method, answered.route, answered.status, extra=fields)
