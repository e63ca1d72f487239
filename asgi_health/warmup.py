"""One request through the whole application before anybody else's, without a socket."""

import asyncio
from dataclasses import dataclass
from typing import Any

from asgi_health.errors import ConfigurationError, WarmupFailed
from asgi_health.types import App, Headers, Message, Scope

__all__ = ["WARMUP_EXTENSION", "Warmup", "send_warmup"]

WARMUP_EXTENSION = "asgi_health.warmup"
"""In the `extensions` of its scope, so that nobody takes it for a user's request."""


@dataclass(frozen=True, slots=True)
class Warmup:
    """The request that a worker sends to itself before it says that it is ready.

    Args:
        path: needs no dependency (no database, no cache); unescaped, without query.
        host: a `Host` that the application accepts.
        scheme: `http` or `https`; https passes a redirect to TLS.
        headers: more headers, names in lower case.
        statuses: the expected ones; None: any below 500 but 400, which is what a refused Host
            gives.

    Raises:
        ConfigurationError: a value cannot work.
    """

    path: str
    host: str = "localhost"
    scheme: str = "https"
    headers: Headers = ()
    statuses: frozenset[int] | None = None

    def __post_init__(self) -> None:
        wrong = {
            "path": not self.path.startswith("/") or bool(set(self.path) & set("?# \r\n")),
            "host": not self.host.isascii()
            or not self.host
            or bool(set(self.host) & set("/ \r\n")),
            "scheme": self.scheme not in {"http", "https"},
            "statuses": self.statuses is not None and not self.statuses,
        }
        for option, is_wrong in wrong.items():
            if is_wrong:
                raise ConfigurationError(
                    option=f"Warmup.{option}",
                    found=getattr(self, option),
                    allowed=_ALLOWED[option],
                    change="See Warmup.",
                )

    def accepts(self, status: int) -> bool:
        """Whether this status shows that a user's request would be served."""
        return (
            status in self.statuses if self.statuses is not None else status < 500 and status != 400
        )

    @property
    def expectation(self) -> str:
        """The accepted statuses in words."""
        return (
            "any status below 500 but 400"
            if self.statuses is None
            else f"status {sorted(self.statuses)}"
        )


_ALLOWED = {
    "path": "a path that starts with a slash, unescaped, without query",
    "host": "a host name in ASCII",
    "scheme": "http or https",
    "statuses": "one status or more, or None",
}


async def send_warmup(app: App, warmup: Warmup, *, state: dict[str, Any] | None) -> None:
    """Send the request and read its whole answer.

    Raises:
        WarmupFailed: another status, no answer, or an exception of the application.
    """
    exchange = _Exchange()
    try:
        await app(_scope(warmup, state), exchange.receive, exchange.send)
    except Exception as error:
        raise WarmupFailed(
            path=warmup.path, found=f"{type(error).__name__}: {error}", allowed=warmup.expectation
        ) from error
    status = exchange.status
    if status is None or not exchange.complete.is_set():
        raise WarmupFailed(path=warmup.path, found="no complete answer", allowed=warmup.expectation)
    if not warmup.accepts(status):
        raise WarmupFailed(path=warmup.path, found=f"status {status}", allowed=warmup.expectation)


class _Exchange:
    """The server's side of one request without body."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.complete = asyncio.Event()
        self._asked = False

    async def receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.complete.wait()  # a server says `http.disconnect` only after the answer
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self.complete.set()


def _scope(warmup: Warmup, state: dict[str, Any] | None) -> Scope:
    headers = (
        (b"host", warmup.host.encode("ascii")),
        (b"user-agent", b"asgi-health-warmup"),
        (b"accept", b"*/*"),
    )
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": warmup.scheme,
        "path": warmup.path,
        "raw_path": warmup.path.encode("utf-8"),
        "query_string": b"",
        "root_path": "",
        "headers": [*headers, *warmup.headers],
        "client": ("127.0.0.1", 0),
        "server": (warmup.host, 443 if warmup.scheme == "https" else 80),
        "extensions": {WARMUP_EXTENSION: {}},
    }
    if state is not None:
        scope["state"] = state.copy()
    return scope
