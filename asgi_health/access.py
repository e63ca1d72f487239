"""Who may see details: a token, or a direct request from this machine."""

import time
from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Callable, Iterable
from enum import Enum

from asgi_health.config import HealthConfig
from asgi_health.types import Header, Scope

__all__ = ["Access", "Guard"]

_WRONG_TOKENS_PER_WINDOW = 10
_WINDOW_S = 60.0
_ADDRESSES_REMEMBERED = 1024
_FORWARDING = frozenset({b"forwarded", b"x-real-ip", b"via", b"origin"})
_LOCAL_HOSTS = frozenset({b"localhost", b"127.0.0.1", b"[::1]"})


class Access(Enum):
    """What a request may see."""

    TERSE = "terse"
    DETAILS = "details"
    WRONG = "wrong"
    LIMITED = "limited"


class Guard:
    """Decides what a request may see, and counts wrong tokens by address.

    A wrong token is counted against the address that the server reports; after ten in a minute
    every request from there that brings a token is refused unread until the minute is over.
    """

    def __init__(
        self, config: HealthConfig, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._token = None if config.token is None else config.token.encode("utf-8")
        self._loopback = config.details_loopback
        self._clock = clock
        self._wrong: dict[str, tuple[float, int]] = {}

    @property
    def has_token(self) -> bool:
        """Whether any token could be right."""
        return self._token is not None

    def judge(self, scope: Scope, *, basic: bool = False) -> Access:
        """What this request may see; `basic` admits RFC 7617, the token as password."""
        authorization = _header(scope["headers"], b"authorization")
        if authorization is None:
            return Access.DETAILS if self._loopback and is_direct_loopback(scope) else Access.TERSE
        presented = _presented_token(authorization, basic=basic)
        if presented is None or self._token is None:  # no guess: a monitor's own credentials
            return Access.TERSE
        address = str((scope.get("client") or ("unknown",))[0])
        if self._is_limited(address):
            return Access.LIMITED
        from hmac import compare_digest  # noqa: PLC0415 - brings hashlib, 7 ms of the first answer

        if compare_digest(presented, self._token):
            return Access.DETAILS
        self._count(address)
        return Access.WRONG

    def _is_limited(self, address: str) -> bool:
        since, count = self._wrong.get(address, (0.0, 0))
        return count >= _WRONG_TOKENS_PER_WINDOW and self._clock() - since < _WINDOW_S

    def _count(self, address: str) -> None:
        now = self._clock()
        since, count = self._wrong.pop(address, (now, 0))
        if now - since >= _WINDOW_S:
            since, count = now, 0
        self._wrong[address] = (
            since,
            count + 1,
        )  # re-inserted: the dictionary is ordered by last use
        while len(self._wrong) > _ADDRESSES_REMEMBERED:
            del self._wrong[next(iter(self._wrong))]


def is_direct_loopback(scope: Scope) -> bool:
    """Whether a program on this machine asks directly, through no proxy and from no page."""
    client = scope.get("client")
    if not client or not _is_loopback_address(str(client[0])):
        return False
    headers = scope["headers"]
    if any(name in _FORWARDING or name.startswith(b"x-forwarded") for name, _ in headers):
        return False
    hosts = [value for name, value in headers if name == b"host"]
    return len(hosts) == 1 and _without_port(hosts[0]).lower() in _LOCAL_HOSTS


def _is_loopback_address(address: str) -> bool:
    return address == "::1" or address.removeprefix("::ffff:").startswith("127.")


def _without_port(host: bytes) -> bytes:
    name, separator, port = host.rpartition(b":")
    return name if separator and port.isdigit() else host


def _header(headers: Iterable[Header], name: bytes) -> bytes | None:
    return next((value for key, value in headers if key == name), None)


def _presented_token(authorization: bytes, *, basic: bool) -> bytes | None:
    scheme, _, credentials = authorization.partition(b" ")
    if scheme.lower() == b"bearer":
        return credentials.strip()
    if basic and scheme.lower() == b"basic":
        try:
            return a2b_base64(credentials.strip()).partition(b":")[2]
        except Base64Error:
            return None
    return None
