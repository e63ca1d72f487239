"""Traces by OpenTelemetry, when an exporter is set; else nothing of it is imported.

with tracing.span("checks database", kind="client", **{"db.system.name": "postgresql"}):
    ...
tracing.inject(headers)  # of a request to somebody else
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, MutableMapping
from contextlib import AbstractContextManager, asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Final, Literal, Protocol

from project.edge import Trace
from project.env import Env

if TYPE_CHECKING:  # imports OpenTelemetry
    from project.tracing.sampling import RequestSpans

__all__ = [
    "SWITCH",
    "Attribute",
    "Kind",
    "OpenSpan",
    "import_tracing",
    "inject",
    "is_wanted",
    "span",
    "trace_worker",
]

Attribute = str | bool | int | float
Kind = Literal["internal", "client", "producer", "consumer"]

_FLUSH_S: Final = 5.0


class OpenSpan(Protocol):
    """A span while it lasts."""

    def set_attribute(self, key: str, value: Attribute) -> None:
        """Add what is known by now."""


class _Nothing:
    """The span when there are no traces; one for all."""

    __slots__ = ()

    def __enter__(self) -> OpenSpan:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def set_attribute(self, key: str, value: Attribute) -> None:
        pass


class _Switch:
    """What runs when traces are on; None before, and without."""

    __slots__ = ("inject", "open_span", "requests")

    def __init__(self) -> None:
        self.open_span: Callable[..., AbstractContextManager[OpenSpan]] | None = None
        self.inject: Callable[[MutableMapping[str, str]], None] | None = None
        self.requests: RequestSpans | None = None


_NOTHING: Final = _Nothing()
SWITCH: Final = _Switch()


def is_wanted(env: Env) -> bool:
    """Whether an exporter is set."""
    return env.traces_exporter != "none"


def span(
    name: str,
    *,
    kind: Kind = "internal",
    parent: Mapping[str, str] | None = None,
    **attributes: Attribute,
) -> AbstractContextManager[OpenSpan]:
    """Trace what happens inside of the `with`; an exception that leaves it is recorded.

    Args:
        name: of few different values: no ids, no paths.
        kind: `client` for a call to another service, `producer` and `consumer` for a queue.
        parent: what `inject` wrote in the process that asked for this; None: the span around it, or
            a new trace.
        attributes: no secrets, no personal data.
    """
    if SWITCH.open_span is None:
        return _NOTHING
    return SWITCH.open_span(name, kind=kind, parent=parent, attributes=attributes)


def inject(headers: MutableMapping[str, str]) -> None:
    """Add the headers (`traceparent`) by which another process goes on with the current trace."""
    if SWITCH.inject is not None:
        SWITCH.inject(headers)


def import_tracing(env: Env) -> Trace:
    """Import all that a worker needs; starts nothing, so that it may happen before the fork.

    Returns:
        What begins the trace of each request at the edge.
    """
    for name, value in env.otel:  # the SDK knows nothing of our file of variables
        os.environ.setdefault(name, value)
    import_module("project.tracing.worker")
    from project.tracing.requests import trace_request  # noqa: PLC0415 - imports OpenTelemetry

    return trace_request


@asynccontextmanager
async def trace_worker(env: Env) -> AsyncIterator[None]:
    """Trace as long as a worker lives; at its end deliver what is left, for 5 s at most."""
    import_tracing(env)
    from project.tracing.spans import inject_context, open_span  # noqa: PLC0415 - imports OpenTelemetry
    from project.tracing.worker import Tracing  # noqa: PLC0415 - the same

    tracing = await asyncio.to_thread(Tracing, env)
    SWITCH.open_span, SWITCH.inject = open_span, inject_context
    SWITCH.requests = tracing.requests
    try:
        yield
    finally:
        SWITCH.open_span = SWITCH.inject = SWITCH.requests = None
        # A part of the graceful time only: a worker that is killed delivers nothing.
        await asyncio.to_thread(tracing.end, limit_s=min(_FLUSH_S, env.graceful_s / 4))
