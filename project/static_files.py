"""Static files in front of Django: no middleware, and no collectstatic step to forget.

The files are found where the apps keep them, once, at the start; with DEBUG at each request, so
that an edit shows without a restart.
"""

from typing import Any, Final
from wsgiref.headers import Headers

from django.conf import settings
from django.contrib.staticfiles.finders import get_finders
from django.core.files.storage import FileSystemStorage
from servestatic import ServeStaticASGI

__all__ = ["ROUTES", "with_static_files"]

ROUTES: Final = {settings.STATIC_URL: f"{settings.STATIC_URL}{{file}}"}
"""How requests for static files are called in logs and figures, by the start of their path."""

_MAX_AGE_S: Final = 300
"""Names carry no hash: a browser asks again after this time, and mostly gets a 304."""


def with_static_files(app: Any) -> ServeStaticASGI:
    """Return an ASGI application that serves static files itself and hands the rest to `app`.

    Blocking: lists every static folder, unless DEBUG is on.
    """
    served = ServeStaticASGI(
        app,
        autorefresh=settings.DEBUG,
        max_age=0 if settings.DEBUG else _MAX_AGE_S,
        allow_all_origins=False,
        add_headers_function=_add_headers,
    )
    # A later folder wins here, an earlier one in Django.
    for storage in reversed(_storages()):
        served.add_files(storage.location, prefix=_prefix(storage))
    return served


def _storages() -> list[FileSystemStorage]:
    found = (storage for finder in get_finders() for _, storage in finder.list([]))
    return [storage for storage in dict.fromkeys(found) if isinstance(storage, FileSystemStorage)]


def _prefix(storage: FileSystemStorage) -> str:
    below = getattr(storage, "prefix", None) or ""
    return f"{settings.STATIC_URL}{below}"


def _add_headers(headers: Headers, _path: str, _url: str) -> None:
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Cross-Origin-Resource-Policy"] = "same-origin"
