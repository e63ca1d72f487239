"""The middleware of opentelemetry-instrumentation-django, made asynchronous by a small subclass.

Without `opentelemetry-instrumentation-asgi` it leaves ASGI requests out; here it takes them for
WSGI's, which is the cheaper one of its two ways.
"""

from typing import Any

from asgiref.sync import markcoroutinefunction
from django.http import HttpRequest, HttpResponseBase
from opentelemetry.instrumentation.django.middleware import otel_middleware
from opentelemetry.metrics import get_meter
from opentelemetry.trace import get_tracer

__all__ = ["LibraryTraces"]

otel_middleware._is_asgi_request = lambda _request: False  # noqa: SLF001 - nothing else switches it
_meter = get_meter("benchmark")


class LibraryTraces(otel_middleware._DjangoMiddleware):  # noqa: SLF001 - the library says so
    """Calls the library's hooks in the event loop."""

    async_capable, sync_capable = True, False
    async_inline = True  # no thread for its hooks

    _tracer = get_tracer("benchmark")
    _active_request_counter = _meter.create_up_down_counter("http.server.active_requests")
    _duration_histogram_old = _meter.create_histogram("http.server.duration")

    def __init__(self, get_response: Any) -> None:
        super().__init__(get_response)
        markcoroutinefunction(self)

    async def __call__(self, request: HttpRequest) -> HttpResponseBase:
        request.META["wsgi.url_scheme"] = request.scheme
        self.process_request(request)
        response = await self.get_response(request)
        return self.process_response(request, response)
