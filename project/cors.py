"""The one CORS policy: the gate, the edge and django-cors-headers all take it from here."""

from typing import Final

from asgi_health import CorsPolicy
from project.env import Env

__all__ = ["cors_policy"]

_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_HEADERS: Final = (
    "authorization",
    "content-type",
    "x-idempotency-key",
    "x-requested-with",
    "cache-control",
    "pragma",
    "if-none-match",
    "range",
)
_EXPOSED: Final = (
    "X-Request-ID",
    "Retry-After",
    "ETag",
    "Location",
    "Content-Range",
    "X-Idempotency-Replayed",
)
# Resumable uploads: https://tus.io/protocols/resumable-upload, core and extensions.
_TUS_HEADERS: Final = (
    "tus-resumable",
    "upload-checksum",
    "upload-concat",
    "upload-defer-length",
    "upload-length",
    "upload-metadata",
    "upload-offset",
    "x-http-method-override",
)
_TUS_EXPOSED: Final = (
    "Tus-Checksum-Algorithm",
    "Tus-Extension",
    "Tus-Max-Size",
    "Tus-Resumable",
    "Tus-Version",
    "Upload-Concat",
    "Upload-Defer-Length",
    "Upload-Expires",
    "Upload-Length",
    "Upload-Metadata",
    "Upload-Offset",
)
_MAX_AGE_S: Final = 600


def cors_policy(env: Env) -> CorsPolicy:
    """Return the policy for the origins of `env`, with credentials."""
    return CorsPolicy(
        origins=env.cors_origins,
        allow_credentials=True,
        allow_methods=_METHODS,
        allow_headers=(*_HEADERS, *_TUS_HEADERS),
        expose_headers=(*_EXPOSED, *_TUS_EXPOSED),
        max_age_s=_MAX_AGE_S,
    )
