"""What is known of the request that is being answered: every log line of it says so.

One object a request, made by `project.edge` and reached from every task and thread of the request;
whoever learns something (the route, the user, the trace) notes it there.
"""

from contextvars import ContextVar

__all__ = ["RequestContext", "current_request"]


class RequestContext:
    """One request: who asked what, as far as it is known.

    Args:
        request_id: given back as `X-Request-ID`.
    """

    __slots__ = ("request_id", "route", "trace_id", "user_id")

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.route: str | None = None
        """The template of the path, as in the URLconf; None until it is resolved."""
        self.trace_id: str | None = None
        """32 hexadecimal digits; None without a trace."""
        self.user_id: int | str | None = None
        """Who is logged in, once somebody has looked."""


current_request: ContextVar[RequestContext | None] = ContextVar("current_request", default=None)
