"""HTTP/1.1 as bytes: enough of it to tell a probe from any other request, and to answer it. Pure.

Source: https://www.rfc-editor.org/rfc/rfc9112
"""

from email.utils import formatdate
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import unquote

from asgi_health.types import Headers, Scope

__all__ = ["HEAD_MAX_BYTES", "Head", "answer_bytes", "path_of", "read_head", "scope_of"]

HEAD_MAX_BYTES = 16_384
"""What is looked at of a request; a probe with a longer head is left to the workers."""

_BODY_MAX_BYTES = 65_536


class Head(NamedTuple):
    """The head of a request.

    Args:
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


def path_of(seen: bytes) -> tuple[str, str] | None:
    """Method and path of a request whose first line has come; None when it has not.

    ("", "") when it is no HTTP/1 request line.
    """
    line, end, _ = seen.lstrip(b"\r\n").partition(b"\n")
    if not end:
        return None
    words = line.rstrip(b"\r").split(b" ")
    if len(words) != 3 or words[2] not in {b"HTTP/1.1", b"HTTP/1.0"} or not words[0].isalpha():
        return "", ""
    return words[0].decode("ascii"), _path(words[1])


def _path(target: bytes) -> str:
    raw = _origin_form(target).partition(b"#")[0].partition(b"?")[0]
    return unquote(raw.decode("ascii")) if raw.isascii() else ""


def _origin_form(target: bytes) -> bytes:
    """`/path?query` of a target that may name scheme and host as well (RFC 9112, 3.2.2)."""
    if target.lower().startswith((b"http://", b"https://")):
        authority, slash, rest = target.partition(b"//")[2].partition(b"/")
        return slash + rest if slash and b"?" not in authority else b"/"
    return target


def read_head(seen: bytes) -> Head | None:
    """The whole head at the start of what has come; None when it is incomplete or malformed."""
    skipped = len(seen) - len(seen.lstrip(b"\r\n"))
    end = seen.find(b"\r\n\r\n", skipped)
    if end < 0:
        return None
    lines = seen[skipped:end].split(b"\r\n")
    words = lines[0].split(b" ")
    fields = [line.partition(b":") for line in lines[1:]]
    if len(words) != 3 or not all(name and colon for name, colon, _ in fields):
        return None
    headers = tuple((name.lower(), value.strip(b" \t")) for name, _, value in fields)
    return Head(
        method=words[0].decode("latin-1"),
        target=words[1],
        version=words[2].decode("latin-1").removeprefix("HTTP/"),
        headers=headers,
        size_bytes=end + 4,
        body_bytes=_body_bytes(headers),
    )


def _body_bytes(headers: Headers) -> int | None:
    named = dict(headers)
    if b"transfer-encoding" in named or b"upgrade" in named or b"expect" in named:
        return None
    length = named.get(b"content-length", b"0")
    if not length.isdigit() or len(length) > 9 or int(length) > _BODY_MAX_BYTES:
        return None
    return int(length)


def scope_of(head: Head, *, client: tuple[str, int] | None) -> Scope:
    """The ASGI scope that a server would make of a request."""
    origin = _origin_form(head.target).partition(b"#")[0]
    raw_path, _, query = origin.partition(b"?")
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
