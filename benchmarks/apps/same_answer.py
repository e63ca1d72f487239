"""Three lines that send what the gate sends for /livez: each header costs the server time."""

from typing import Any

HEADERS = [
    (b"content-type", b"text/plain; charset=utf-8"),
    (b"content-length", b"2"),
    (b"cache-control", b"no-store"),
]


async def app(scope: Any, _receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        raise ValueError(scope["type"])
    await send({"type": "http.response.start", "status": 200, "headers": [*HEADERS]})
    await send({"type": "http.response.body", "body": b"ok"})
