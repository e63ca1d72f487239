"""The span of a request: what it holds, whose trace it belongs to, and which are kept."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import SpanKind

from asgi_health.types import App, Receive, Scope, Send
from asgi_health.warmup import Warmup, send_warmup
from project import tracing
from project.access_log import AccessLog
from project.context import RequestContext, current_request
from project.edge import Edge
from project.peers import Peers
from project.tracing import spans
from project.tracing.requests import trace_request
from project.tracing.sampling import RequestSpans

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


class Asked:
    """An edge that traces, around `app`."""

    def __init__(self, app: App) -> None:
        self.edge = Edge(
            app,
            peers=Peers(("10.0.0.0/8",)),
            access_log=AccessLog(lines_per_s=1000),
            trace=trace_request,
            folders={"/static/": "/static/{file}"},
        )

    async def ask(
        self, path: str = "/", *, method: str = "GET", client: str = "10.0.0.1", **headers: str
    ) -> None:
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        scope: Scope = {
            "type": "http", "method": method, "path": path, "scheme": "http", "headers": pairs,
            "client": (client, 4000), "query_string": b"token=hidden",
        }  # fmt: skip

        async def nothing(*_: Any) -> Any:
            """Neither side says more."""

        await self.edge(scope, nothing, nothing)


def answering(status: int = 200, see: Callable[[RequestContext], object] = lambda _: None) -> App:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        context = current_request.get()
        if context is not None:  # the warm-up has none
            see(context)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body"})

    return app


async def test_a_request_is_a_span_without_its_query(exported: InMemorySpanExporter) -> None:
    seen: list[RequestContext] = []

    def see(context: RequestContext) -> None:
        seen.append(context)
        context.route = "/invited/<token>"
        context.parameters = {"token": "hidden-too"}

    await Asked(answering(503, see)).ask("/invited/hidden-too", traceparent=TRACEPARENT)

    (span,) = exported.get_finished_spans()
    assert (span.name, span.kind) == ("GET /invited/<token>", SpanKind.SERVER)
    assert f"{seen[0].trace_id:032x}" == TRACE == f"{span.context.trace_id:032x}"
    assert f"{span.parent.span_id:016x}" == PARENT
    assert span.attributes["request.id"] == seen[0].request_id
    assert span.attributes["http.response.status_code"] == 503
    assert not span.status.is_ok
    assert "hidden" not in span.to_json()


async def test_a_static_file_has_a_span_and_a_path_of_ones_own_makes_no_name(
    exported: InMemorySpanExporter,
) -> None:
    asked = Asked(answering())
    await asked.ask("/static/page.css")
    await asked.ask("/wp-login.php")

    file, unmatched = exported.get_finished_spans()
    assert (file.name, file.attributes["http.route"]) == (
        "GET /static/{file}",
        "/static/{file}",
    )
    assert (unmatched.name, unmatched.attributes.get("http.route")) == ("GET", None)


async def test_what_a_stranger_says_of_its_trace_is_not_believed(
    exported: InMemorySpanExporter,
) -> None:
    carried: list[dict[str, str]] = []

    def see(_: RequestContext) -> None:
        carried.append({})
        tracing.inject(carried[-1])

    asked = Asked(answering(see=see))
    told = {"traceparent": TRACEPARENT, "baggage": "user=somebody"}
    await asked.ask(client="10.0.0.1", **told)
    await asked.ask(client="203.0.113.9", **told)

    believed, stranger = exported.get_finished_spans()
    assert (f"{believed.context.trace_id:032x}", carried[0]["baggage"]) == (TRACE, "user=somebody")
    assert f"{believed.parent.span_id:016x}" == PARENT
    assert stranger.parent is None
    assert stranger.context.trace_id != believed.context.trace_id
    assert "baggage" not in carried[1]


@pytest.mark.parametrize("given", ["", "nonsense", f"00-{'0' * 32}-{PARENT}-01", "00-" + "f" * 999])
async def test_a_wrong_traceparent_begins_a_trace(
    exported: InMemorySpanExporter, given: str
) -> None:
    await Asked(answering()).ask(method="BREW", traceparent=given)

    (span,) = exported.get_finished_spans()
    assert span.parent is None
    assert (span.name, span.attributes["http.request.method"]) == ("HTTP", "_OTHER")


async def test_a_canceled_request_ends_its_span_and_leaves_nothing_behind(
    exported: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    begun = asyncio.Event()

    async def wait(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.ensure_future(Asked(wait).ask())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    (span,) = exported.get_finished_spans()
    assert [event.name for event in span.events] == ["canceled"]
    assert caplog.messages == []


async def test_an_application_that_raises_is_recorded(exported: InMemorySpanExporter) -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("no luck")

    with pytest.raises(RuntimeError, match="no luck"):
        await Asked(broken).ask()

    (span,) = exported.get_finished_spans()
    assert span.attributes["error.type"] == "RuntimeError"
    assert span.attributes["http.response.status_code"] == 500
    assert not span.status.is_ok


async def test_the_warm_up_has_no_span(exported: InMemorySpanExporter) -> None:
    await send_warmup(Asked(answering()).edge, Warmup(path="/"), state=None)
    assert exported.get_finished_spans() == ()

    await Asked(answering()).ask(**{"user-agent": "asgi-health-warmup"})
    assert len(exported.get_finished_spans()) == 1  # nobody else hides by a name


async def test_outside_of_a_workers_life_there_is_no_span(
    exported: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing.SWITCH, "requests", None)
    await Asked(answering()).ask()
    assert exported.get_finished_spans() == ()


def spans_of(ratio: float, *, is_ahead: bool) -> tuple[RequestSpans, InMemorySpanExporter]:
    provider = TracerProvider(sampler=ParentBasedTraceIdRatio(ratio), shutdown_on_exit=False)
    exporter = InMemorySpanExporter()
    made = RequestSpans(provider, is_ahead=is_ahead)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return made, exporter


@pytest.mark.parametrize("is_ahead", [True, False])
async def test_of_many_requests_so_many_are_kept_and_all_have_a_trace_of_their_own(
    monkeypatch: pytest.MonkeyPatch, *, is_ahead: bool
) -> None:
    made, exporter = spans_of(0.25, is_ahead=is_ahead)
    monkeypatch.setattr(tracing.SWITCH, "requests", made)
    monkeypatch.setattr(tracing.SWITCH, "inject", spans.inject_context)
    seen: list[str] = []

    def see(context: RequestContext) -> None:
        headers: dict[str, str] = {}
        tracing.inject(headers)
        seen.append(headers["traceparent"])
        assert f"{context.trace_id:032x}" == headers["traceparent"][3:35]

    asked = Asked(answering(see=see))
    for _ in range(1000):
        await asked.ask()

    kept = exporter.get_finished_spans()
    assert 150 < len(kept) < 350
    assert len({parent[3:35] for parent in seen}) == 1000
    flagged = {parent[3:35] for parent in seen if int(parent[-2:], 16) & 1}
    assert {f"{span.context.trace_id:032x}" for span in kept} == flagged


@pytest.mark.parametrize(("flag", "kept"), [("00", 0), ("01", 1)])
async def test_a_believed_caller_decides_whether_its_trace_is_kept(
    monkeypatch: pytest.MonkeyPatch, flag: str, kept: int
) -> None:
    made, exporter = spans_of(0.5, is_ahead=True)
    monkeypatch.setattr(tracing.SWITCH, "requests", made)
    await Asked(answering()).ask(traceparent=f"{TRACEPARENT[:-2]}{flag}")
    assert len(exporter.get_finished_spans()) == kept
