"""A span for each query inside of a span that is recorded, on every backend and thread.

What is exported is the text with its placeholders; parameters never are
(https://opentelemetry.io/docs/specs/semconv/database/database-spans/).
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import PurePath
from typing import Any, Final

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from opentelemetry.trace import Span, SpanKind, StatusCode, get_current_span

from project.tracing.spans import TRACER

__all__ = ["trace_connections"]

_TEXT_MAX: Final = 4096
_OPERATION: Final = re.compile(r"\W*(\w{1,30})")
_LITERAL: Final = re.compile(r"'(?:[^']|'')*(?:'|$)")
_ODD: Final = ("--", "/*", "$", "\\")
"""With comments and other ways to quote, nobody knows where a literal ends."""


def trace_connections() -> None:
    """From now on, new connections trace their queries."""
    connection_created.connect(_equip, dispatch_uid=__name__)


def _equip(*, connection: BaseDatabaseWrapper, **_: object) -> None:
    # First, and no `execute_wrapper()`: who opened one around this takes the last off at its end.
    if _execute not in connection.execute_wrappers:
        connection.execute_wrappers.insert(0, _execute)


def _execute(
    execute: Callable[..., Any],
    sql: Any,
    params: Any,
    many: bool,  # noqa: FBT001 - Django's signature
    context: Mapping[str, Any],
) -> Any:
    if not get_current_span().is_recording():
        return execute(sql, params, many, context)
    connection = context["connection"]
    operation, text = _described(sql) if isinstance(sql, str) else ("QUERY", "")
    namespace = _namespace(connection)
    span = TRACER.start_span(
        f"{operation} {namespace}",
        kind=SpanKind.CLIENT,
        attributes={
            "db.system.name": connection.vendor,
            "db.namespace": namespace,
            "db.operation.name": operation,
            "db.query.text": text,
        },
    )
    try:
        return execute(sql, params, many, context)
    except Exception as error:
        _fail(span, error)
        raise
    finally:
        span.end()


def _fail(span: Span, error: Exception) -> None:
    """The kind of the error only: its message may quote a row."""
    span.set_status(StatusCode.ERROR)
    span.set_attribute("error.type", type(error).__name__)
    state = getattr(error.__cause__, "sqlstate", None)
    if state:
        span.set_attribute("db.response.status_code", state)


def _described(sql: str) -> tuple[str, str]:
    """The operation and the text; what somebody wrote into it as a literal is left out."""
    return _parsed(sql) if len(sql) <= _TEXT_MAX else (_parsed(sql[:_TEXT_MAX])[0], "")


@lru_cache(maxsize=512)
def _parsed(sql: str) -> tuple[str, str]:
    found = _OPERATION.match(sql)
    is_plain = sql.count("'") % 2 == 0 and not any(odd in sql for odd in _ODD)
    return found[1].upper() if found else "QUERY", _LITERAL.sub("?", sql) if is_plain else ""


def _namespace(connection: BaseDatabaseWrapper) -> str:
    """The database; of SQLite the file without its folder."""
    name = str(connection.settings_dict["NAME"])
    return PurePath(name).name if connection.vendor == "sqlite" else name
