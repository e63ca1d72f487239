"""Headers that tell browsers what pages of ours may do; on every answer, static files included.

Django's SecurityMiddleware adds the rest (and redirects to HTTPS) where Django answers.
"""

from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import Final

from asgi_health.types import Header
from project.env import Env

__all__ = ["Defaults", "security_headers"]

_REMEMBERED: Final = 256
_NAME: Final = itemgetter(0)

_CONTENT: Final = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
_PERMISSIONS: Final = "camera=(), geolocation=(), microphone=(), payment=(), usb=()"


def security_headers(env: Env) -> dict[str, str]:
    """The headers for an answer that does not set them itself."""
    headers = {
        "Permissions-Policy": _PERMISSIONS,
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
    }
    if not env.debug:  # Django's pages for developers have their styles inside
        headers["Content-Security-Policy"] = _CONTENT
    if env.https_only and env.hsts_s:
        headers["Strict-Transport-Security"] = f"max-age={env.hsts_s}; includeSubDomains; preload"
    return headers


class Defaults:
    """Headers for answers that do not set them themselves."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = tuple(
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in headers.items()
        )
        self._known: dict[bytes, tuple[Header, ...]] = {}

    def lacking_in(self, headers: Iterable[Header]) -> tuple[Header, ...]:
        """Those whose names do not stand in `headers`."""
        names = b",".join(map(_NAME, headers))  # an application has few sets of them
        lacking = self._known.get(names)
        return self._find(names) if lacking is None else lacking

    def _find(self, names: bytes) -> tuple[Header, ...]:
        there = frozenset(names.lower().split(b","))
        found = tuple(header for header in self._headers if header[0] not in there)
        if len(self._known) < _REMEMBERED:
            self._known[names] = found
        return found
