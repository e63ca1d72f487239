"""A receiver of traces for tests: OTLP over HTTP with protobuf, as a collector takes it."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

__all__ = ["Received", "Receiver"]


@dataclass(frozen=True, slots=True)
class Received:
    """One span; ids in hexadecimal digits, `parent_id` empty for a root."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]]
    is_error: bool
    resource: dict[str, Any]


class Receiver:
    """Listens on loopback.

    Args:
        answers: False: takes what comes, and never answers until it is closed.
    """

    def __init__(self, *, answers: bool = True) -> None:
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.called = threading.Event()
        self._closing = threading.Event()
        self._answers = answers
        self._news = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                receiver._take(self)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def spans(self) -> list[Received]:
        with self._news:
            return [span for body in self.bodies for span in _spans(body)]

    def wait_for(
        self, condition: Callable[[list[Received]], Any], *, limit_s: float = 60
    ) -> list[Received]:
        """Wait until what came fulfills the condition; all that came."""
        with self._news:
            found = [span for body in self.bodies for span in _spans(body)]
            while not condition(found):
                if not self._news.wait(limit_s):
                    raise TimeoutError(f"not received; there is {[span.name for span in found]}")
                found = [span for body in self.bodies for span in _spans(body)]
        return found

    def close(self) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _take(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        with self._news:
            self.bodies.append(body)
            self.headers.append({name.lower(): value for name, value in handler.headers.items()})
            self._news.notify_all()
        self.called.set()
        if not self._answers:
            self._closing.wait()
            handler.close_connection = True
            return
        answer = ExportTraceServiceResponse().SerializeToString()
        handler.send_response(200)
        handler.send_header("Content-Type", "application/x-protobuf")
        handler.send_header("Content-Length", str(len(answer)))
        handler.end_headers()
        handler.wfile.write(answer)


def _spans(body: bytes) -> list[Received]:
    request = ExportTraceServiceRequest.FromString(body)
    return [
        Received(
            name=span.name,
            kind=span.kind,
            trace_id=span.trace_id.hex(),
            span_id=span.span_id.hex(),
            parent_id=span.parent_span_id.hex(),
            attributes=_values(span.attributes),
            events=[(event.name, _values(event.attributes)) for event in span.events],
            is_error=span.status.code == 2,
            resource=_values(of_process.resource.attributes),
        )
        for of_process in request.resource_spans
        for scope in of_process.scope_spans
        for span in scope.spans
    ]


def _values(attributes: Any) -> dict[str, Any]:
    return {
        pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in attributes
    }
