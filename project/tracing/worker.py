"""The SDK in one worker: its provider, its thread that exports, and what they write to the log."""

import logging
import os
import socket
import threading
from typing import Final

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter

from project.env import Env
from project.flood import Flood
from project.tracing.database import trace_connections
from project.tracing.requests import record_request_errors
from project.tracing.sampling import RequestSpans

__all__ = ["Tracing", "resource_of"]

_log = logging.getLogger("project.tracing")

_TALKATIVE: Final = (
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.sdk._shared_internal",
)
_SAMPLERS: Final = frozenset(
    prefix + name
    for prefix in ("", "parentbased_")
    for name in ("always_on", "always_off", "traceidratio")
)
_PAUSE_S: Final = 60.0


class Tracing:
    """Exports the spans of this process from its making on; starts a thread.

    Queue, batches, limits, sampler and receiver are those of the `OTEL_` variables.
    """

    def __init__(self, env: Env) -> None:
        _speak_seldom()
        # The SDK's own way out waits for as long as the receiver wants: `end` has a limit.
        provider = TracerProvider(resource=resource_of(env), shutdown_on_exit=False)
        self.requests = RequestSpans(provider, is_ahead=_may_ask_ahead(env))
        self._processor = BatchSpanProcessor(_exporter(env))
        provider.add_span_processor(self._processor)
        trace.set_tracer_provider(provider)
        trace_connections()
        record_request_errors()

    def end(self, *, limit_s: float) -> None:
        """Deliver what is left, and stop. Blocking, for `limit_s` at most."""
        ending = threading.Thread(
            target=self._processor.shutdown, name="project.tracing end", daemon=True
        )
        ending.start()
        ending.join(limit_s)
        if ending.is_alive():
            _log.warning("the receiver of the traces did not take the last ones in %g s", limit_s)


def resource_of(env: Env) -> Resource:
    """Who traces; `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` win."""
    attributes: dict[str, str | int] = {
        "service.name": "videoplanet",
        "service.instance.id": env.instance or f"{socket.gethostname()}-{os.getpid()}",
        "process.pid": os.getpid(),
    }
    if env.release:
        attributes["service.version"] = env.release
    return Resource.create(attributes).merge(OTELResourceDetector().detect())


def _may_ask_ahead(env: Env) -> bool:
    """Whether the sampler is one of the SDK's own, which decide by nothing but the trace's id."""
    return dict(env.otel).get("OTEL_TRACES_SAMPLER", "always_on") in _SAMPLERS


def _exporter(env: Env) -> SpanExporter:
    if env.traces_exporter == "console":
        return ConsoleSpanExporter(formatter=_line)
    variables = dict(env.otel)
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if variables.get(name, "http/protobuf") != "http/protobuf":
            _log.warning("%s is %r; allowed: http/protobuf, which is used", name, variables[name])
    return OTLPSpanExporter()


def _line(span: ReadableSpan) -> str:
    return f"{span.to_json(indent=None)}\n"


def _speak_seldom() -> None:
    """A receiver may be away for days."""
    for name in _TALKATIVE:
        logging.getLogger(name).addFilter(Flood(lines=1, period_s=_PAUSE_S))
