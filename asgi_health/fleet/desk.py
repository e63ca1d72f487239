"""The gate's answers without a server: what a process can say that only holds connections."""

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple

from asgi_health import answers
from asgi_health.endpoints import too_many_streams
from asgi_health.fleet.wire import Head, answer_bytes, scope_of
from asgi_health.phase import Event, Failure, Phase
from asgi_health.routes import PAGE_EVENTS
from asgi_health.statuspage import END_EVENT, EVENT_HEADERS, event_of
from asgi_health.types import Message

if TYPE_CHECKING:
    from asgi_health.gate import HealthGate

__all__ = ["Desk", "Reply"]

Client = tuple[str, int] | None

_LARGE_BYTES = 8192
"""An answer that fits any connection's buffer in the kernel leaves it open."""


class Reply(NamedTuple):
    """The bytes of an answer, and whether the connection ends with it or becomes a stream."""

    data: bytes
    closes: bool
    is_stream: bool = False


class Desk:
    """Answers for a gate whose application is being loaded in another process.

    Everything is rendered by the gate itself, so that nobody can tell the answers apart.
    """

    def __init__(self, gate: "HealthGate") -> None:
        self._gate = gate
        self._cors = gate.config.cors
        gate.lifecycle.advance(Event.LOAD)

    @property
    def phase(self) -> Phase:
        """Of the boot."""
        return self._gate.lifecycle.phase

    def fail(self, failure: Failure) -> None:
        """The load has failed: say so from now on."""
        if self._gate.lifecycle.can(Event.FAIL):
            self._gate.lifecycle.advance(Event.FAIL, failure=failure)

    def drain(self) -> None:
        """The process was told to stop: say so from now on."""
        if self._gate.lifecycle.can(Event.DRAIN):
            self._gate.lifecycle.advance(Event.DRAIN)

    def must_read(self, method: str, path: str) -> bool:
        """Whether the answer may be ours, so that the whole head is needed."""
        is_preflight = method == "OPTIONS" and self._cors is not None
        return is_preflight or self._gate.route_of(path) is not None

    def reply(self, head: Head, *, client: Client, may_stream: bool = True) -> Reply | None:
        """The answer to a probe or a preflight; None for anybody else's request."""
        if head.is_handshake:
            return None
        scope = scope_of(head, client=client)
        route = self._gate.route_of(scope["path"])
        if route is not None and route.kind == PAGE_EVENTS and head.method == "GET":
            return self._open_stream(head, client=client, may_stream=may_stream)
        sent = _Sent()
        if route is not None:
            _finish(self._gate.endpoints.serve(route, scope, _nothing, sent))
        elif self._cors is not None and answers.is_preflight(scope):
            _finish(answers.send_answer(answers.preflight(scope, self._cors), sent))
        else:
            return None
        return sent.reply(head, closes=self.phase is Phase.DRAINING)

    def refuse(self, head: Head | None, *, client: Client) -> Reply:
        """What a request deserves that is held no longer; `head` is None when it is not whole."""
        head = head or Head("GET", b"/", "1.0", (), 0, 0)
        sent = _Sent()
        answer = self._gate.refusal(self.phase)
        scope = scope_of(head, client=client)
        _finish(answers.send_refusal(answer, scope, _nothing, sent, cors=self._cors))
        return sent.reply(head, closes=True)

    def _open_stream(self, head: Head, *, client: Client, may_stream: bool) -> Reply:
        """The beginning of the status page's event stream, which ends with the connection."""
        answer = self._gate.endpoints.deny_page(scope_of(head, client=client))
        if answer is None and not may_stream:
            answer = too_many_streams()
        if answer is not None:
            closes = self.phase is Phase.DRAINING or not head.keeps_alive
            return Reply(answer_bytes(*answer, closes=closes), closes=closes)
        return Reply(
            answer_bytes(200, EVENT_HEADERS, b"", closes=True), closes=True, is_stream=True
        )

    @property
    def farewell(self) -> bytes:
        """What ends an event stream; empty when the client shall ask again."""
        return END_EVENT if self.phase is Phase.DRAINING else b""

    def event(self, shown: dict[str, str]) -> bytes:
        """What changed on the status page since `shown`, which it updates; empty when nothing."""
        return event_of(self._gate.vitals.page(), shown)


class _Sent:
    """The server's side of one answer."""

    def __init__(self) -> None:
        self.status = 500
        self._headers: tuple[tuple[bytes, bytes], ...] = ()
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self._headers = message["status"], tuple(message["headers"])
        else:
            self._body += message.get("body", b"")

    def reply(self, head: Head, *, closes: bool) -> Reply:
        is_large = len(self._body) > _LARGE_BYTES
        closes = closes or is_large or not head.keeps_alive
        has_body = head.method != "HEAD"
        data = answer_bytes(
            self.status, self._headers, self._body, closes=closes, has_body=has_body
        )
        return Reply(data, closes)


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


def _finish(work: Coroutine[Any, Any, None]) -> None:
    """Run what never waits for anything; there is no loop in this process."""
    try:
        work.send(None)
    except StopIteration:
        return
    work.close()
    raise RuntimeError("an answer of the gate's own waited for something")
