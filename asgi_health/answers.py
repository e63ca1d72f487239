"""The gate's own answers to requests that are no probes: refusals and preflights."""

import json

from asgi_health.cors import CorsPolicy
from asgi_health.probes import Answer
from asgi_health.types import Headers, Message, Receive, Scope, Send

__all__ = [
    "Answer",
    "closing",
    "find_header",
    "is_preflight",
    "no_websocket",
    "preflight",
    "refusal",
    "send_answer",
    "send_refusal",
]

_MESSAGES = {
    "service.starting": "The service is starting. Try again in a moment.",
    "service.draining": "The service is stopping. Try again in a moment.",
}
_FAILED = "The service could not start."


def find_header(scope: Scope, name: bytes) -> bytes | None:
    """The first value of a request header, given in lower case; None when it is absent."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


def is_preflight(scope: Scope) -> bool:
    """Whether a browser asks for permission.

    Source: https://fetch.spec.whatwg.org/#cors-preflight-request
    """
    return (
        scope["type"] == "http"
        and scope["method"] == "OPTIONS"
        and find_header(scope, b"origin") is not None
        and find_header(scope, b"access-control-request-method") is not None
    )


def preflight(scope: Scope, policy: CorsPolicy) -> Answer:
    """The answer to a preflight by the one CORS policy."""
    headers = policy.preflight_headers(find_header(scope, b"origin"))
    return Answer(status=200, headers=((b"content-length", b"0"), *headers), body=b"")


def refusal(code: str, *, retry_after_s: int, closes: bool) -> Answer:
    """503 with the reason as JSON; `closes` ends the connection with it."""
    message = _MESSAGES.get(code, _FAILED)
    body = json.dumps(
        {"code": code, "message": message, "detail": message, "retry_after_s": retry_after_s}
    ).encode()
    headers: Headers = (
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        (b"retry-after", b"%d" % retry_after_s),
    )
    if closes:
        headers += ((b"connection", b"close"),)
    return Answer(status=503, headers=headers, body=body)


def no_websocket() -> Answer:
    """404 for a handshake that the application could never answer."""
    body = b'{"code": "websocket.unsupported"}'
    headers: Headers = (
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
    )
    return Answer(status=404, headers=headers, body=body)


async def send_answer(
    answer: Answer, send: Send, *, extra: Headers = (), kind: str = "http"
) -> None:
    """Send a whole answer; `kind` is `http`, or `websocket.http` for the denial of a handshake."""
    headers = [*answer.headers, *extra]  # a list of its own: wrappers around us may append to it
    await send({"type": f"{kind}.response.start", "status": answer.status, "headers": headers})
    await send({"type": f"{kind}.response.body", "body": answer.body})


async def send_refusal(
    answer: Answer, scope: Scope, receive: Receive, send: Send, *, cors: CorsPolicy | None
) -> None:
    """Refuse an HTTP request or a WebSocket handshake.

    A handshake is denied with the same answer where the server knows the denial-response extension
    (https://asgi.readthedocs.io/en/latest/extensions.html#websocket-denial-response); elsewhere it
    is closed with 1013, which servers turn into 403.
    """
    extra = () if cors is None else cors.answer_headers(find_header(scope, b"origin"))
    if scope["type"] == "http":
        await send_answer(answer, send, extra=extra)
        return
    await receive()  # websocket.connect
    if "websocket.http.response" in (scope.get("extensions") or {}):
        await send_answer(answer, send, extra=extra, kind="websocket.http")
    else:
        await send({"type": "websocket.close", "code": 1013, "reason": "try again later"})


def closing(send: Send) -> Send:
    """Ask the client to come back on a new connection: a balancer gives it to another process."""

    async def send_closing(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [
                (name, value)
                for name, value in message.get("headers", ())
                if name.lower() != b"connection"
            ]
            message = {**message, "headers": [*kept, (b"connection", b"close")]}
        await send(message)

    return send_closing
