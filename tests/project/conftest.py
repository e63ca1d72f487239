"""What these tests share: the spans of this process; examples that may take their time."""

from collections.abc import Iterator

import pytest
from hypothesis import settings
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from project import tracing
from project.tracing import spans
from project.tracing.sampling import RequestSpans

settings.register_profile("project", deadline=None)  # the machine may be busy
settings.load_profile("project")


@pytest.fixture(scope="session")
def traced() -> tuple[RequestSpans, InMemorySpanExporter]:
    """The one provider that a process can have."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    requests = RequestSpans(provider)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return requests, exporter


@pytest.fixture
def exported(
    traced: tuple[RequestSpans, InMemorySpanExporter], monkeypatch: pytest.MonkeyPatch
) -> Iterator[InMemorySpanExporter]:
    """Traces are on."""
    requests, exporter = traced
    monkeypatch.setattr(tracing.SWITCH, "open_span", spans.open_span)
    monkeypatch.setattr(tracing.SWITCH, "inject", spans.inject_context)
    monkeypatch.setattr(tracing.SWITCH, "requests", requests)
    exporter.clear()
    yield exporter
    assert not trace.get_current_span().get_span_context().is_valid, "a span is left open"
