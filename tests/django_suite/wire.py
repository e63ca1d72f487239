"""What goes over the wire between a test's client and an ASGI handler: no Django in here."""

import asyncio
from collections.abc import Mapping
from typing import Any

__all__ = ["ProtocolError", "Wire", "scope_from_environ"]

CHUNK_BYTES = 65_536
SERVER_ONLY = ("SERVER_PROTOCOL", "REQUEST_METHOD", "PATH_INFO", "SCRIPT_NAME", "QUERY_STRING")
ADDRESSES = ("SERVER_NAME", "SERVER_PORT", "REMOTE_ADDR")


class ProtocolError(AssertionError):
    """The handler sent what the ASGI specification forbids, or not what its response says."""


class Wire:
    """One connection as Uvicorn gives it: the body in pieces, then silence until the end."""

    def __init__(self, body: bytes = b"") -> None:
        self.status: int | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        self.chunks: list[bytes] = []
        self._answered = asyncio.Event()
        self._pieces = [
            body[start : start + CHUNK_BYTES] for start in range(0, len(body), CHUNK_BYTES)
        ] or [b""]

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    async def receive(self) -> dict[str, Any]:
        if self._pieces:
            piece = self._pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(self._pieces)}
        await self._answered.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Mapping[str, Any]) -> None:
        if self._answered.is_set():
            raise ProtocolError(f"{message['type']} after the end of the response")
        if message["type"] == "http.response.start":
            self._start(message)
        elif message["type"] == "http.response.body":
            self._continue(message)
        else:
            raise ProtocolError(f"{message['type']} is no message of a response")

    def check_complete(self) -> None:
        """Raises: ProtocolError: the handler returned before its response was out."""
        if not self._answered.is_set():
            raise ProtocolError("the handler returned without a complete response")

    def _start(self, message: Mapping[str, Any]) -> None:
        if self.status is not None:
            raise ProtocolError("a second http.response.start")
        self.status = message["status"]
        self.headers = [(name, value) for name, value in message.get("headers", ())]
        if not all(isinstance(part, bytes) for header in self.headers for part in header):
            raise ProtocolError(f"names and values of headers are bytes, not {self.headers!r}")

    def _continue(self, message: Mapping[str, Any]) -> None:
        if self.status is None:
            raise ProtocolError("http.response.body before http.response.start")
        piece = message.get("body", b"")
        if not isinstance(piece, bytes):
            raise ProtocolError(f"a body is bytes, not {type(piece).__name__}")
        if piece:
            self.chunks.append(piece)
        if not message.get("more_body", False):
            self._answered.set()


def scope_from_environ(environ: Mapping[str, Any]) -> tuple[dict[str, Any], bytes, dict[str, Any]]:
    """The scope and the body that a server makes of a request, and what has no place in a scope.

    The rest is what tests add to the environ, REMOTE_USER above all. Text of it becomes a header as
    well, as Django's AsyncClient sends it.
    """
    root_path = _decoded(environ.get("SCRIPT_NAME", "")).rstrip("/")
    path = _decoded(environ.get("PATH_INFO", "")) or "/"
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": environ["REQUEST_METHOD"],
        "scheme": environ.get("wsgi.url_scheme", "http"),
        "root_path": root_path,
        "path": root_path + "/" + path.removeprefix("/"),
        "query_string": _latin1(environ.get("QUERY_STRING", "")),
        "server": (environ["SERVER_NAME"], int(environ["SERVER_PORT"])),
        "client": (environ["REMOTE_ADDR"], 0) if environ.get("REMOTE_ADDR") else None,
        "headers": [],
    }
    rest: dict[str, Any] = {}
    for key, value in environ.items():
        if name := _header_name(key):
            if value is not None and str(value):
                scope["headers"].append((name, _latin1(value)))
        elif not key.startswith("wsgi.") and key not in SERVER_ONLY + ADDRESSES:
            rest[key] = value
            if isinstance(value, str) and value:
                scope["headers"].append((_dashed(key), _latin1(value)))
    return scope, _body(environ), rest


def _header_name(key: str) -> bytes | None:
    if key.startswith("HTTP_"):
        key = key.removeprefix("HTTP_")
    elif key not in {"CONTENT_TYPE", "CONTENT_LENGTH"}:
        return None
    return _dashed(key)


def _dashed(key: str) -> bytes:
    return key.lower().replace("_", "-").encode("latin-1")


def _body(environ: Mapping[str, Any]) -> bytes:
    """As many bytes as CONTENT_LENGTH says: none without it."""
    try:
        length = int(environ.get("CONTENT_LENGTH") or 0)
    except ValueError:
        length = 0
    return bytes(environ["wsgi.input"].read()[:length]) if length else b""


def _decoded(value: Any) -> str:
    """A path as ASGI gives it, of one as WSGI gives it."""
    return _latin1(value).decode("utf-8", "replace")


def _latin1(value: Any) -> bytes:
    text = str(value)
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode()
