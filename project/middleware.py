"""What only Django knows of a request, noted for the log, the figures and the trace."""

from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponseBase
from django.utils.decorators import sync_and_async_middleware

from project.context import current_request

__all__ = ["note_request"]

_Answered = HttpResponseBase | Awaitable[HttpResponseBase]


@sync_and_async_middleware
def note_request(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], _Answered]:
    """Note the route and the user of each request. Belongs first in MIDDLEWARE."""
    if iscoroutinefunction(get_response):

        async def note_async(request: HttpRequest) -> HttpResponseBase:
            try:
                response: HttpResponseBase = await get_response(request)
            finally:  # also when the client has left
                _note(request)
            return response

        return note_async

    def note(request: HttpRequest) -> HttpResponseBase:
        response: HttpResponseBase = get_response(request)
        _note(request)
        return response

    return note


def _note(request: HttpRequest) -> None:
    context = current_request.get()
    if context is None:  # a test, without the edge
        return
    match = request.resolver_match
    if match is not None:
        context.route = f"/{match.route.removeprefix('^')}"
        context.parameters = match.kwargs
    # What Django keeps once somebody has asked who it is: nobody is looked up for a log line.
    known = vars(request)
    user = known.get("_cached_user") or known.get("_acached_user")
    if user is not None and user.is_authenticated:
        context.user_id = user.pk
