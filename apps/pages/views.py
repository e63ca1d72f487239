"""The pages."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import get_language
from django.views.decorators.http import require_safe

__all__ = ["front_page"]

_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


@require_safe
async def front_page(request: HttpRequest) -> HttpResponse:
    """Say what this is, in the visitor's language, and where to go from here."""
    language = "ko" if (get_language() or "").startswith("ko") else "en"
    response = render(request, f"pages/front_{language}.html")
    response["Content-Security-Policy"] = _POLICY
    return response
