"""A span for each request that passes the edge, static files as well.

The middleware of `opentelemetry-instrumentation-django` is not used: docs/decisions/0005 says why.
This takes the same variable and conventions
(https://opentelemetry.io/docs/specs/semconv/http/http-spans/).
"""

import sys
from collections.abc import Sequence
from contextvars import Token
from typing import Final

from django.core.signals import got_request_exception
from opentelemetry.context import Context, attach, detach
from opentelemetry.propagate import extract, get_global_textmap
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import Span, StatusCode, get_current_span, set_span_in_context
from opentelemetry.util.http import get_excluded_urls

from asgi_health.types import Header, Scope
from project.context import CLIENT_LEFT, UNMATCHED, RequestContext
from project.edge import Traced
from project.redaction import REDACTED
from project.tracing import SWITCH
from project.tracing.sampling import NO_CALLER
from project.tracing.spans import record_error, redactor

__all__ = ["record_request_errors", "trace_request"]

_EXCLUDED: Final = get_excluded_urls("DJANGO")
# One call less for each request where nobody excludes anything.
_EXCLUDES: Final = bool(getattr(_EXCLUDED, "_excluded_urls", True))
_METHODS: Final = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"}
)
_FIELDS: Final = frozenset(field.encode("ascii") for field in get_global_textmap().fields)
"""The headers in which a caller may say to which trace the request belongs."""

_FAILED: Final = 500


def trace_request(scope: Scope, context: RequestContext) -> Traced | None:
    """Begin the span of a request: the current one until it has ended.

    Most are not kept: what only a kept one needs is done at its end.
    """
    spans = SWITCH.requests
    if spans is None or (_EXCLUDES and _EXCLUDED.url_disabled(scope["path"])):
        return None
    caller = NO_CALLER
    if context.is_believed:
        for name, _ in scope["headers"]:
            if name in _FIELDS:
                caller = extract(scope["headers"], context=NO_CALLER, getter=_HEADERS)
                break
    method = scope["method"] if scope["method"] in _METHODS else "HTTP"
    decided = spans.decide(method, caller)
    context.trace_id = decided.trace_id
    if decided.not_kept is not None:
        return _NotKept(attach(decided.not_kept))
    span = spans.start(method, caller, decided)
    return _Kept(span, attach(set_span_in_context(span, caller)), scope, context)


def record_request_errors() -> None:
    """From now on, what becomes an error page of Django's is recorded in the request's span."""
    got_request_exception.connect(_record, dispatch_uid=__name__)


def _record(**_: object) -> None:
    error = sys.exception()
    if error is not None:
        record_error(get_current_span(), error)


class _Headers(Getter[Sequence[Header]]):
    """Finds the headers of an ASGI scope."""

    def get(self, carrier: Sequence[Header], key: str) -> list[str] | None:
        wanted = key.lower().encode("latin-1")
        return [value.decode("latin-1") for name, value in carrier if name == wanted] or None

    def keys(self, carrier: Sequence[Header]) -> list[str]:
        return [name.decode("latin-1") for name, _ in carrier]


_HEADERS: Final = _Headers()


class _NotKept:
    """A request that is not sampled: its trace goes on to whom it asks, and that is all."""

    __slots__ = ("_token",)

    def __init__(self, token: Token[Context]) -> None:
        self._token = token

    def fail(self, error: Exception) -> None:
        """Nobody reads it."""

    def end(self, status: int) -> None:  # noqa: ARG002 - the same
        detach(self._token)


class _Kept:
    """A request whose span is exported."""

    __slots__ = ("_context", "_scope", "_span", "_token")

    def __init__(
        self, span: Span, token: Token[Context], scope: Scope, context: RequestContext
    ) -> None:
        self._span, self._token, self._scope, self._context = span, token, scope, context

    def fail(self, error: Exception) -> None:
        record_error(self._span, error)

    def end(self, status: int) -> None:
        span, scope, context = self._span, self._scope, self._context
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        attributes: dict[str, str | int] = {
            "http.request.method": method,
            "request.id": context.request_id,
            "url.path": _path_of(scope, context),
            "url.scheme": scope.get("scheme", "http"),
        }
        name = "HTTP" if method == "_OTHER" else method
        if context.route is not None and context.route != UNMATCHED:
            attributes["http.route"] = context.route
            name = f"{name} {context.route}"
        if status == CLIENT_LEFT:  # or the worker stops
            span.add_event("canceled")
        else:
            attributes["http.response.status_code"] = status
        if status >= _FAILED:
            span.set_status(StatusCode.ERROR)
        span.update_name(name)
        span.set_attributes(attributes)
        detach(self._token)
        span.end()


def _path_of(scope: Scope, context: RequestContext) -> str:
    """The path without its secrets: what looks like one, and parts that are named like one."""
    path, redact = scope["path"], redactor()
    for name, value in (context.parameters or {}).items():
        part = str(value)
        if part and redact.field(name, part) != part:
            path = path.replace(part, REDACTED)
    return redact.text(path)
