"""An application that echoes, remembers and tells what it was asked."""

import json
import os
from typing import Any

import orders

_seen: list[str] = []


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Three protocols, one function each."""
    serve = {"lifespan": _live, "http": _answer, "websocket": _echo_messages}[scope["type"]]
    await serve(scope, receive, send)


async def _live(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    scope["state"]["opened"] = "by the inner startup"
    await send({"type": "lifespan.startup.complete"})
    await receive()
    print("the inner shutdown ran", flush=True)
    await send({"type": "lifespan.shutdown.complete"})


async def _answer(scope: Any, receive: Any, send: Any) -> None:
    _seen.append(_target(scope))
    if os.environ.get("REDIRECT_TO_HTTPS") and scope["scheme"] == "http":
        location = b"https://" + dict(scope["headers"])[b"host"] + scope["raw_path"]
        await _send(send, 301, b"", (b"location", location))
    elif scope["path"] == "/echo":
        await _send(send, 200, await _read(receive))
    elif scope["path"] == "/wait":
        await orders.obey_in_flight("request")
        await _send(send, 200, b"waited")
    elif scope["path"] == "/transaction":
        await _hold_transaction()
    elif scope["path"] == "/block":
        orders.obey("block")
        await _send(send, 200, b"blocked")
    else:
        await _send(send, 200, json.dumps(_facts(scope)).encode())


async def _hold_transaction() -> None:
    """End by being canceled, and then in two steps, as a rollback does."""
    try:
        await orders.obey_in_flight("transaction")
    finally:
        await orders.obey_in_flight("rollback")
        print("the transaction was rolled back", flush=True)


def _target(scope: Any) -> str:
    query = scope["query_string"].decode()
    return scope["path"] + (f"?{query}" if query else "")


def _facts(scope: Any) -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "method": scope["method"],
        "path": scope["path"],
        "scheme": scope["scheme"],
        "headers": [[k.decode("latin-1"), v.decode("latin-1")] for k, v in scope["headers"]],
        "state": scope.get("state"),
        "seen": _seen,
    }


async def _read(receive: Any) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise ConnectionError("the client has left")
        body += message["body"]
        more = message["more_body"]
    return body


async def _send(send: Any, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body})


async def _echo_messages(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    _seen.append(_target(scope))
    if scope["path"] == "/slow-live":
        await orders.obey_in_flight("handshake")
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        kept = {k: message[k] for k in ("text", "bytes") if message.get(k) is not None}
        await send({"type": "websocket.send", **kept})
