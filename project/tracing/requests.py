"""A span for each request that reaches Django, as a middleware that runs in the event loop.

The middleware of `opentelemetry-instrumentation-django` leaves ASGI requests out unless one more
package is there, writes the query into the span, asks for the host four times a request, and its
hooks are synchronous: a request that is canceled between them leaves its span open. This one takes
the same variables and conventions (https://opentelemetry.io/docs/specs/semconv/http/http-spans/).
"""

import sys
from asyncio import CancelledError
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Self

from asgiref.sync import iscoroutinefunction
from django.core.signals import got_request_exception
from django.http import HttpRequest, HttpResponseBase
from django.utils.decorators import sync_and_async_middleware
from opentelemetry.context import attach, detach
from opentelemetry.instrumentation.wsgi import wsgi_getter
from opentelemetry.propagate import extract
from opentelemetry.trace import SpanKind, StatusCode, get_current_span, set_span_in_context
from opentelemetry.util.http import get_excluded_urls, sanitize_method

from asgi_health.types import Scope
from asgi_health.warmup import WARMUP_EXTENSION
from project.context import current_request
from project.middleware import route_of
from project.redaction import REDACTED
from project.tracing.spans import TRACER, record_error, redactor

__all__ = ["record_request_errors", "trace_requests"]

_Answered = HttpResponseBase | Awaitable[HttpResponseBase]

_EXCLUDED: Final = get_excluded_urls("DJANGO")
_FAILED: Final = 500


@sync_and_async_middleware
def trace_requests(
    get_response: Callable[[HttpRequest], Any],
) -> Callable[[HttpRequest], _Answered]:
    """Make a span of each request. Belongs right below `project.middleware.note_request`."""
    if iscoroutinefunction(get_response):

        async def trace_async(request: HttpRequest) -> HttpResponseBase:
            if _is_excluded(request):
                return await get_response(request)  # type: ignore[no-any-return]  # Django gives it no type
            with _RequestSpan(request) as span:
                response: HttpResponseBase = await get_response(request)
                span.answered(response)
                return response

        return trace_async

    def trace(request: HttpRequest) -> HttpResponseBase:
        if _is_excluded(request):
            return get_response(request)  # type: ignore[no-any-return]  # the same
        with _RequestSpan(request) as span:
            response: HttpResponseBase = get_response(request)
            span.answered(response)
            return response

    return trace


def record_request_errors() -> None:
    """From now on, what becomes an error page of Django's is recorded in the request's span."""
    got_request_exception.connect(_record, dispatch_uid=__name__)


def _record(**_: object) -> None:
    error = sys.exception()
    if error is not None:
        record_error(get_current_span(), error)


def _is_excluded(request: HttpRequest) -> bool:
    """Whether the operator does not want it, or it is the one that the gate sends at the boot."""
    scope: Scope = getattr(request, "scope", {})  # Django's test client has none
    is_warmup = WARMUP_EXTENSION in (scope.get("extensions") or ())
    return is_warmup or _EXCLUDED.url_disabled(request.path)


class _RequestSpan:
    """The span of one request: the current one inside of the `with`.

    No context manager of the library's: those are generators, which cost more.
    """

    __slots__ = ("_method", "_request", "_span", "_token")

    def __init__(self, request: HttpRequest) -> None:
        self._request = request
        self._method = sanitize_method(request.method) or "HTTP"
        if self._method == "_OTHER":
            self._method = "HTTP"
        remote = extract(request.META, getter=wsgi_getter)
        self._span = TRACER.start_span(self._method, context=remote, kind=SpanKind.SERVER)
        self._token = attach(set_span_in_context(self._span, remote))
        self._note_id()

    def _note_id(self) -> None:
        found, known = self._span.get_span_context(), current_request.get()
        if not found.is_valid or known is None:
            return
        known.trace_id = f"{found.trace_id:032x}"
        if self._span.is_recording():
            self._span.set_attribute("request.id", known.request_id)

    def __enter__(self) -> Self:
        if self._span.is_recording():
            self._span.set_attributes(
                {
                    "http.request.method": sanitize_method(self._request.method) or "_OTHER",
                    "url.scheme": self._request.scheme or "http",
                }
            )
        return self

    def answered(self, response: HttpResponseBase) -> None:
        """There is a response; its body may still be streamed."""
        span, status = self._span, response.status_code
        if not span.is_recording():
            return
        span.set_attribute("http.response.status_code", status)
        if status >= _FAILED:
            span.set_status(StatusCode.ERROR)

    def __exit__(
        self, _kind: object, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        span = self._span
        if span.is_recording():
            span.set_attribute("url.path", _path_of(self._request))
            route = route_of(self._request)
            if route is not None:
                span.set_attribute("http.route", route)
                span.update_name(f"{self._method} {route}")
            if isinstance(error, CancelledError):  # its client left, or the worker stops
                span.add_event("canceled")
            elif error is not None:
                record_error(span, error)
        detach(self._token)
        span.end()


def _path_of(request: HttpRequest) -> str:
    """The path without its secrets: what looks like one, and parts that are named like one."""
    path, redact = request.path, redactor()
    match = request.resolver_match
    for name, value in () if match is None else match.kwargs.items():
        part = str(value)
        if part and redact.field(name, part) != part:
            path = path.replace(part, REDACTED)
    return redact.text(path)
