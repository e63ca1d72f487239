"""One CORS policy value, and the headers that it gives to an answer.

Source: https://fetch.spec.whatwg.org/#http-cors-protocol
"""

from dataclasses import dataclass

from asgi_health.errors import ConfigurationError
from asgi_health.types import Headers

__all__ = ["CorsPolicy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CorsPolicy:
    """Which browser origins may read our answers.

    Args:
        origins: exact origins, `scheme://host[:port]`, in lower case, without path. No patterns.
        allow_credentials: whether cookies and `Authorization` may be sent along.
        allow_methods: methods that a preflight allows.
        allow_headers: request headers that a preflight allows, in lower case.
        expose_headers: answer headers that a script may read.
        max_age_s: for how long a browser may keep a preflight's answer.

    Raises:
        ConfigurationError: an origin is not exact.
    """

    origins: tuple[str, ...] = ()
    allow_credentials: bool = False
    allow_methods: tuple[str, ...] = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    allow_headers: tuple[str, ...] = ("authorization", "content-type")
    expose_headers: tuple[str, ...] = ("Retry-After",)
    max_age_s: int = 600

    def __post_init__(self) -> None:
        self._check_headers()
        for origin in self.origins:
            scheme, separator, host = origin.partition("://")
            if (
                not (scheme and separator and host)
                or set(host) & set("/*?#@")
                or origin.split() != [origin]
                or origin != origin.lower()
            ):
                raise ConfigurationError(
                    option="CorsPolicy.origins",
                    found=origin,
                    allowed="scheme://host[:port] in lower case, without path or wildcard",
                    change="Name each origin exactly, as the browser sends it.",
                )
        if self.max_age_s < 0:
            raise ConfigurationError(
                option="CorsPolicy.max_age_s",
                found=self.max_age_s,
                allowed="0 or more",
                change="Use 600.",
            )

    def _check_headers(self) -> None:
        """What cannot be a header would fail at the first answer, and a line end would add one."""
        for option in ("allow_methods", "allow_headers", "expose_headers"):
            for word in getattr(self, option):
                if not word or not all("!" <= character <= "~" for character in word):
                    raise ConfigurationError(
                        option=f"CorsPolicy.{option}",
                        found=word,
                        allowed="words of visible ASCII characters",
                        change="Give each method or header as a string of its own.",
                    )

    def answer_headers(self, origin: bytes | None) -> Headers:
        """The headers for an ordinary answer to a request whose `Origin` header is `origin`."""
        if not self._allows(origin) or origin is None:
            return ((b"vary", b"Origin"),)
        exposed = ", ".join(self.expose_headers).encode("ascii")
        return (*self._grant(origin), (b"access-control-expose-headers", exposed))

    def preflight_headers(self, origin: bytes | None) -> Headers:
        """The headers for the answer to a preflight; only `Vary` when the origin is not allowed."""
        if not self._allows(origin) or origin is None:
            return ((b"vary", b"Origin"),)
        return (
            *self._grant(origin),
            (b"access-control-allow-methods", ", ".join(self.allow_methods).encode("ascii")),
            (b"access-control-allow-headers", ", ".join(self.allow_headers).encode("ascii")),
            (b"access-control-max-age", b"%d" % self.max_age_s),
        )

    def _allows(self, origin: bytes | None) -> bool:
        return origin is not None and origin.decode("latin-1") in self.origins

    def _grant(self, origin: bytes) -> Headers:
        granted: Headers = ((b"vary", b"Origin"), (b"access-control-allow-origin", origin))
        if self.allow_credentials:
            granted += ((b"access-control-allow-credentials", b"true"),)
        return granted
