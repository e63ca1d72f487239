"""The gate's own endpoints over ASGI: probes, the status page and its events, the metrics."""

from typing import TYPE_CHECKING

from asgi_health.access import Access, Guard
from asgi_health.answers import find_header, is_preflight, preflight, send_answer
from asgi_health.config import HealthConfig
from asgi_health.phase import Phase
from asgi_health.probes import Answer, render
from asgi_health.query import Format, Kind, Query, parse_query
from asgi_health.routes import METRICS, PAGE_EVENTS, Route, Routes
from asgi_health.types import Headers, Receive, Scope, Send
from asgi_health.vitals import Vitals

if TYPE_CHECKING:  # most processes are never asked for what these bring
    from asgi_health.scrape import Scrape

__all__ = ["Endpoints", "too_many_streams"]

_EVENT_STREAMS_MAX = 16
_READS = frozenset({"GET", "HEAD"})
_TELLING = frozenset({b"accept", b"authorization", b"origin"})
_CHALLENGE: Headers = (
    (b"www-authenticate", b'Basic realm="status", charset="UTF-8", Bearer realm="status"'),
)


class Endpoints:
    """Answers every path in `routes`; never waits for the application."""

    def __init__(
        self, config: HealthConfig, *, routes: Routes, vitals: Vitals, guard: Guard
    ) -> None:
        self._config = config
        self._routes = routes
        self._vitals = vitals
        self._guard = guard
        self._terse_state: object = None
        self._terse: dict[str, Answer] = {}
        self._streams = 0
        self._scrape: Scrape | None = None
        self.closing = False
        """Set when the process is told to stop: event streams end."""

    def terse(self, path: str, scope: Scope) -> Answer | None:
        """The answer to a probe without any wish; None when `serve` must look closer.

        It is the same for everybody until a phase changes, so it is made once a phase.
        """
        if scope["query_string"] or scope["method"] not in _READS:
            return None
        for name, value in scope["headers"]:
            if name in _TELLING and value != b"*/*":
                return None
        vitals = self._vitals
        state: object = vitals.lifecycle.phase
        if vitals.membership is not None:
            state = (state, vitals.membership.verdict())
        if state != self._terse_state:
            self._terse_state, self._terse = state, self._make_terse()
        return self._terse.get(path)

    def _make_terse(self) -> dict[str, Answer]:
        snapshot, cors = self._vitals.snapshot(), self._cors(None)
        if self._vitals.lifecycle.phase is Phase.DRAINING:
            cors += ((b"connection", b"close"),)
        rendered = {kind: render(Query(kind=kind), snapshot) for kind in Kind}
        return {
            path: rendered[route.kind]._replace(headers=rendered[route.kind].headers + cors)
            for path, route in self._routes.exact.items()
            if isinstance(route.kind, Kind) and route.check is None
        }

    async def serve(self, route: Route, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request on a path of ours."""
        if scope["method"] not in _READS:
            await self._refuse_method(scope, send)
        elif isinstance(route.kind, Kind):
            await self._serve_probe(route.kind, route.check, scope, send)
        else:
            await self._serve_page(route, scope, receive, send)

    async def _serve_probe(self, kind: Kind, check: str | None, scope: Scope, send: Send) -> None:
        access = self._guard.judge(scope)
        if access is Access.LIMITED:
            answer = _plain(429, b"too many wrong tokens", ((b"retry-after", b"60"),))
        else:
            details = access is Access.DETAILS
            query = parse_query(
                kind,
                check=check,
                query_string=scope["query_string"],
                accept=find_header(scope, b"accept") or b"",
                details=details,
            )
            answer = render(query, self._vitals.snapshot(details=details))
        await send_answer(answer, send, extra=self._cors(scope))

    async def _serve_page(self, route: Route, scope: Scope, receive: Receive, send: Send) -> None:
        denial = self.deny_page(scope)
        if denial is not None:
            await send_answer(denial, send)
        elif route.kind == PAGE_EVENTS:
            await self._serve_events(scope, receive, send)
        elif route.kind == METRICS:
            await self._serve_metrics(send)
        else:
            await send_answer(self._page(scope), send)

    def _page(self, scope: Scope) -> Answer:
        from asgi_health.statuspage import render_json, render_page  # noqa: PLC0415 - most processes never show it

        accept = find_header(scope, b"accept") or b""
        wanted = parse_query(
            Kind.READY,
            query_string=scope["query_string"],
            accept=b"" if b"text/html" in accept else accept,
        )
        if wanted.format is not Format.TEXT:
            return render_json(self._vitals.page())
        root = (scope.get("root_path") or "").rstrip("/")
        return render_page(
            self._vitals.page(),
            events_path=f"{root}{self._config.status_path}/events",
        )

    async def _serve_metrics(self, send: Send) -> None:
        if self._scrape is None:
            from asgi_health.scrape import Scrape  # noqa: PLC0415 - most processes are never asked

            self._scrape = Scrape(self._vitals)
        await send_answer(await self._scrape.answer(), send)

    async def _serve_events(self, scope: Scope, receive: Receive, send: Send) -> None:
        from asgi_health.statuspage import stream_events  # noqa: PLC0415 - most processes never show it

        if scope["method"] == "HEAD":
            await send_answer(
                _plain(405, b"an event stream has no HEAD", ((b"allow", b"GET"),)), send
            )
        elif self._streams >= _EVENT_STREAMS_MAX:
            await send_answer(too_many_streams(), send)
        else:
            self._streams += 1
            try:
                await stream_events(self._vitals.page, lambda: self.closing, receive, send)
            finally:
                self._streams -= 1

    def deny_page(self, scope: Scope) -> Answer | None:
        """Why status page, events and metrics are not shown; None when they are."""
        access = self._guard.judge(scope, basic=True)
        if access is Access.DETAILS:
            return None
        if access is Access.LIMITED:
            return _plain(429, b"too many wrong tokens", ((b"retry-after", b"60"),))
        if self._guard.has_token:
            return _plain(
                401,
                b"a token is needed: the password of HTTP Basic, or Authorization: Bearer",
                _CHALLENGE,
            )
        return _plain(
            403, b"this page is off: set HEALTH_TOKEN (32 characters or more) and restart"
        )

    async def _refuse_method(self, scope: Scope, send: Send) -> None:
        policy = self._config.cors
        if policy is not None and is_preflight(scope):
            await send_answer(preflight(scope, policy), send)
        else:
            await send_answer(
                _plain(405, b"method not allowed", ((b"allow", b"GET, HEAD"),)),
                send,
                extra=self._cors(scope),
            )

    def _cors(self, scope: Scope | None) -> Headers:
        """The one CORS policy applies to probes as well: browsers show the true status."""
        if self._config.cors is None:
            return ()
        return self._config.cors.answer_headers(
            None if scope is None else find_header(scope, b"origin")
        )


def too_many_streams() -> Answer:
    """What one more asks for when as many event streams are open as may be."""
    return _plain(503, b"too many event streams", ((b"retry-after", b"60"),))


def _plain(status: int, text: bytes, more: Headers = ()) -> Answer:
    headers: Headers = (
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(text)),
        (b"cache-control", b"no-store"),
    )
    return Answer(status=status, headers=headers + more, body=text)
