"""HTTP/1.1 as bytes: enough of it to tell a probe from any other request, and to answer it. Pure.

Strict, because whoever answers a request also decides where the next one begins: what servers might
read in another way (a bare line feed, two lengths, a folded line) is nobody's probe here.

Source: https://www.rfc-editor.org/rfc/rfc9112
"""

import re
from email.utils import formatdate
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import unquote

from asgi_health.types import Headers, Scope

__all__ = [
    "HEAD_MAX_BYTES",
    "Head",
    "answer_bytes",
    "has_whole_head",
    "path_of",
    "read_head",
    "scope_of",
]

HEAD_MAX_BYTES = 16_384
"""What is looked at of a request; a probe with a longer head is left to the workers."""

_METHODS = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE"})
_VERSIONS = frozenset({b"HTTP/1.1", b"HTTP/1.0"})
_TARGET = re.compile(
    rb"(?:https?://(?:[\da-z.-]+|\[[\da-f:.]+\])(?::[1-5]?\d{1,4})?)?(/[!-~]*)", re.IGNORECASE
)
"""`/path?query`, perhaps after scheme and host (RFC 9112, 3.2.1 and 3.2.2)."""

_NAME = re.compile(rb"[!#$%&'*+.^_`|~\w-]+")
_VALUE = re.compile(rb"[\t -~\x80-\xff]*")
_EMPTY_LINE = re.compile(rb"\n\r?\n")


class Head(NamedTuple):
    """The head of a request.

    Args:
        target: from the path on, without scheme and host.
        size_bytes: of the head with its empty line, and what stood before it.
        body_bytes: of the body that follows; None when only reading on would tell.
    """

    method: str
    target: bytes
    version: str
    headers: Headers
    size_bytes: int
    body_bytes: int | None

    @property
    def keeps_alive(self) -> bool:
        """Whether the client wants the connection to stay, and the next request can be found."""
        if self.version != "1.1" or self.body_bytes is None:
            return False
        tokens = b",".join(value for name, value in self.headers if name == b"connection")
        return b"close" not in [token.strip() for token in tokens.lower().split(b",")]

    @property
    def is_handshake(self) -> bool:
        """Whether it opens a WebSocket, which is no HTTP request to whoever serves sockets."""
        return any(
            name == b"upgrade" and b"websocket" in value.lower() for name, value in self.headers
        )


def path_of(seen: bytes) -> tuple[str, str] | None:
    """Method and path of a request whose first line has come; None when it has not.

    ("", "") when it is no HTTP/1 request line, or one of a method that we do not know.
    """
    line, end, _ = seen.lstrip(b"\r\n").partition(b"\n")
    if not end:
        return None
    words = _request_line(line.removesuffix(b"\r")) if line.endswith(b"\r") else None
    if words is None or words[0] not in _METHODS:
        return "", ""
    return words[0].decode("ascii"), _path(words[1])


def _request_line(line: bytes) -> tuple[bytes, bytes, bytes] | None:
    """Method, target from the path on, and version; None when it is no HTTP/1 request line."""
    words = line.split(b" ")
    if len(words) != 3 or words[2] not in _VERSIONS or not _NAME.fullmatch(words[0]):
        return None
    target = _TARGET.fullmatch(words[1])
    return None if target is None else (words[0], target[1], words[2])


def _path(target: bytes) -> str:
    return unquote(target.partition(b"#")[0].partition(b"?")[0].decode("ascii"))


def has_whole_head(seen: bytes) -> bool:
    """Whether an empty line has come, also one that `read_head` takes for malformed."""
    return _EMPTY_LINE.search(seen.lstrip(b"\r\n")) is not None


def read_head(seen: bytes) -> Head | None:
    """The whole head at the start of what has come; None when it is incomplete or malformed."""
    skipped = len(seen) - len(seen.lstrip(b"\r\n"))
    end = seen.find(b"\r\n\r\n", skipped)
    if end < 0:
        return None
    first, *lines = seen[skipped:end].split(b"\r\n")
    words = _request_line(first)
    fields = [line.partition(b":") for line in lines]
    if words is None or not all(map(_is_field, fields)):
        return None
    headers = tuple((name.lower(), value.strip(b" \t")) for name, _, value in fields)
    if not _is_framed_well(headers):
        return None
    return Head(
        method=words[0].decode("ascii"),
        target=words[1],
        version=words[2].decode("ascii").removeprefix("HTTP/"),
        headers=headers,
        size_bytes=end + 4,
        body_bytes=_body_bytes(headers, room_bytes=HEAD_MAX_BYTES - end - 4),
    )


def _is_field(parts: tuple[bytes, bytes, bytes]) -> bool:
    name, colon, value = parts
    return bool(colon and _NAME.fullmatch(name) and _VALUE.fullmatch(value))


def _is_framed_well(headers: Headers) -> bool:
    """Whether nobody could doubt where the body ends (RFC 9112, 6.3)."""
    lengths = [value for name, value in headers if name == b"content-length"]
    codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
    if codings:
        return codings == [b"chunked"] and not lengths
    return not lengths or (len(lengths) == 1 and lengths[0].isdigit())


def _body_bytes(headers: Headers, *, room_bytes: int) -> int | None:
    """Of the body; None too when it does not fit into what is looked at."""
    named = dict(headers)
    if b"transfer-encoding" in named or b"upgrade" in named or b"expect" in named:
        return None
    length = named.get(b"content-length", b"0")
    return int(length) if len(length) <= 9 and int(length) <= room_bytes else None


def scope_of(head: Head, *, client: tuple[str, int] | None) -> Scope:
    """The ASGI scope that a server would make of a request."""
    raw_path, _, query = head.target.partition(b"#")[0].partition(b"?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": head.version,
        "method": head.method,
        "scheme": "http",
        "path": _path(head.target),
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "headers": list(head.headers),
        "client": client,
        "server": None,
    }


def answer_bytes(
    status: int, headers: Headers, body: bytes, *, closes: bool, has_body: bool = True
) -> bytes:
    """A whole answer; `has_body` is False for HEAD."""
    own = [(b"date", formatdate(usegmt=True).encode("ascii")), *headers]
    if closes and b"connection" not in dict(headers):
        own.append((b"connection", b"close"))
    lines = b"".join(b"%s: %s\r\n" % pair for pair in own)
    phrase = HTTPStatus(status).phrase.encode("ascii")
    head = b"HTTP/1.1 %d %s\r\n%s\r\n" % (status, phrase, lines)
    return head + body if has_body else head
