"""How spans are made, and how an exception gets into one: without secrets."""

import traceback
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from functools import cache
from typing import Final

from django.db import DatabaseError
from opentelemetry import trace
from opentelemetry.propagate import extract, inject
from opentelemetry.trace import Span, SpanKind, StatusCode

from project.env import current
from project.redaction import Redactor
from project.tracing import Attribute, Kind

__all__ = ["TRACER", "inject_context", "open_span", "record_error", "redactor"]

TRACER: Final = trace.get_tracer("project")
"""Finds the provider of the worker when there is one; until then its spans are nothing."""

_KINDS: Final[Mapping[Kind, SpanKind]] = {
    "internal": SpanKind.INTERNAL,
    "client": SpanKind.CLIENT,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
}


@cache
def redactor() -> Redactor:
    """Replaces the secrets in whatever is exported."""
    return Redactor(current().secrets)


@contextmanager
def open_span(
    name: str,
    *,
    kind: Kind,
    parent: Mapping[str, str] | None,
    attributes: Mapping[str, Attribute],
) -> Iterator[Span]:
    """What `project.tracing.span` does when traces are on."""
    context = None if parent is None else extract(parent)
    made = TRACER.start_as_current_span(
        name,
        context=context,
        kind=_KINDS[kind],
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    )
    with made as span:
        try:
            yield span
        except Exception as error:
            record_error(span, error)
            raise


def inject_context(headers: MutableMapping[str, str]) -> None:
    """What `project.tracing.inject` does when traces are on."""
    inject(headers)


def record_error(span: Span, error: BaseException) -> None:
    """The span has failed by this exception."""
    if not span.is_recording():
        return
    kind = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    span.set_status(StatusCode.ERROR)
    span.set_attribute("error.type", kind)
    event = {"exception.type": kind}
    if not _quotes_rows(error):
        redact = redactor().text
        event["exception.message"] = redact(str(error))
        event["exception.stacktrace"] = redact("".join(traceback.format_exception(error)))
    span.add_event("exception", event)


def _quotes_rows(error: BaseException | None) -> bool:
    """Whether a database has spoken: its messages contain values of rows. The log has them."""
    while error is not None:
        if isinstance(error, DatabaseError):
            return True
        error = error.__cause__ or error.__context__
    return False
