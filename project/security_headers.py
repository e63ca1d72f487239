"""Headers that tell browsers what pages of ours may do; on every answer, static files included.

Django's SecurityMiddleware adds the rest (and redirects to HTTPS) where Django answers.
"""

from typing import Final

from project.env import Env

__all__ = ["security_headers"]

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
