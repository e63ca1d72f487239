"""Whether a request is traced, decided before a span is made of it.

Most are not, and for these the SDK needs as long as for all else that the edge does. So requests
that nobody's trace goes on with are decided on ahead, many at once: code that stays in the
processor's caches costs a quarter (benchmarks/bench_telemetry_cost.py).
"""

from contextvars import ContextVar
from typing import Any, Final, NamedTuple

from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)

__all__ = ["NO_CALLER", "Decided", "RequestSpans"]

NO_CALLER: Final = Context()
"""The context of a request that begins a trace."""

_AHEAD: Final = 32
_NOT_KEPT: Final = TraceFlags(TraceFlags.DEFAULT)


class Decided(NamedTuple):
    """What the sampler has said of one request.

    Args:
        trace_id: of its trace.
        not_kept: the context in which it is served when its span is not kept; else None.
        result: the sampler's words.
    """

    trace_id: int
    not_kept: Context | None
    result: SamplingResult


_decided: ContextVar[Decided | None] = ContextVar("_decided", default=None)


class RequestSpans:
    """Makes the spans of requests.

    Args:
        provider: of which no tracer has been asked for yet.
        is_ahead: whether the sampler may be asked before the request is there.
    """

    def __init__(self, provider: TracerProvider, *, is_ahead: bool = False) -> None:
        self._sampler, self._ids = provider.sampler, provider.id_generator
        provider.sampler, provider.id_generator = _Repeating(self._sampler), _Ids()
        self._tracer = provider.get_tracer("project")
        self._count = _AHEAD if is_ahead else 1
        self._ahead: dict[str, list[Decided]] = {}

    def decide(self, name: str, caller: Context) -> Decided:
        """Ask the sampler.

        Args:
            name: one of few.
            caller: what the caller says of its trace.
        """
        if caller is not NO_CALLER:
            trace_id = get_current_span(caller).get_span_context().trace_id
            return self._ask(name, caller, trace_id or self._ids.generate_trace_id())
        ahead = self._ahead.get(name)
        if not ahead:
            ahead = self._ahead[name] = [
                self._ask(name, NO_CALLER, self._ids.generate_trace_id())
                for _ in range(self._count)
            ]
        return ahead.pop()

    def start(self, name: str, caller: Context, decided: Decided) -> Span:
        """Start the span of a request that is kept."""
        token = _decided.set(decided)
        try:
            return self._tracer.start_span(name, context=caller, kind=SpanKind.SERVER)
        finally:
            _decided.reset(token)

    def _ask(self, name: str, caller: Context, trace_id: int) -> Decided:
        result = self._sampler.should_sample(caller, trace_id, name, SpanKind.SERVER)
        if result.decision is not Decision.DROP:
            return Decided(trace_id, None, result)
        span = SpanContext(
            trace_id,
            self._ids.generate_span_id(),
            is_remote=False,
            trace_flags=_NOT_KEPT,
            trace_state=result.trace_state,
        )
        return Decided(trace_id, set_span_in_context(NonRecordingSpan(span), caller), result)


class _Ids(RandomIdGenerator):
    """Gives a span that was decided on the trace that it was decided for."""

    def generate_trace_id(self) -> int:
        decided = _decided.get()
        return super().generate_trace_id() if decided is None else decided.trace_id


class _Repeating(Sampler):
    """Repeats what was decided; of all else, `sampler` decides."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def should_sample(self, *args: Any, **kwargs: Any) -> SamplingResult:
        decided = _decided.get()
        return self._sampler.should_sample(*args, **kwargs) if decided is None else decided.result

    def get_description(self) -> str:
        return self._sampler.get_description()
