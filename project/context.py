"""What is known of the request that is being answered: every log line of it says so.

One object a request, made by `project.edge` and reached from every task and thread of the request;
whoever learns something (the route, the user, the trace) notes it there.
"""

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Final

__all__ = ["CLIENT_LEFT", "UNMATCHED", "RequestContext", "current_request"]

CLIENT_LEFT: Final = 499
"""The status of a request whose client left before an answer was begun; the number is nginx's."""

UNMATCHED: Final = "unmatched"
"""The route of a request that has none."""


class RequestContext:
    """One request: who asked what, as far as it is known.

    Args:
        request_id: given back as `X-Request-ID`.
        is_believed: whether what its headers say of other systems comes from a proxy of ours.
    """

    __slots__ = ("is_believed", "parameters", "request_id", "route", "trace_id", "user_id")

    def __init__(self, request_id: str, *, is_believed: bool = False) -> None:
        self.request_id = request_id
        self.is_believed = is_believed
        self.parameters: Mapping[str, object] | None = None
        """What stands in the path for the template's names; None until it is resolved."""
        self.route: str | None = None
        """The template of the path, as in the URLconf; None until it is known."""
        self.trace_id: int | None = None
        """128 bits; None without a trace."""
        self.user_id: int | str | None = None
        """Who is logged in, once somebody has looked."""


current_request: ContextVar[RequestContext | None] = ContextVar("current_request", default=None)
