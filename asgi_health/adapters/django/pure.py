"""Middlewares whose hooks only touch the request and the response in memory.

They run in the event loop. A subclass may do anything: it is not covered unless it says
`async_inline = True` itself, or the setting ASGI_HEALTH_INLINE_MIDDLEWARE names it.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.conf import settings
from django.contrib.messages.storage.base import BaseStorage

__all__ = ["Purity", "is_declared", "purity_of"]

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_GZIP_INLINE_BYTES = 16_384

Test = Callable[[Any, Any], bool]


def _always(_request: Any, _response: Any) -> bool:
    return True


def _session_is_untouched(request: Any, _response: Any) -> bool:
    """Whether nothing has to be saved; reading it was the view's affair."""
    session = getattr(request, "session", None)
    return session is None or not (session.modified or settings.SESSION_SAVE_EVERY_REQUEST)


def _messages_are_untouched(request: Any, _response: Any) -> bool:
    storage = getattr(request, "_messages", None)
    if storage is None:
        return True
    is_known = getattr(type(storage), "update", None) is BaseStorage.update
    return is_known and not (storage.used or storage.added_new)


def _body_is_small(_request: Any, response: Any) -> bool:
    has_body = not getattr(response, "streaming", True) and getattr(response, "is_rendered", True)
    return not has_body or len(response.content) <= _GZIP_INLINE_BYTES


def _method_is_safe(request: Any) -> bool:
    """Whether no form has to be read from the body, which may lie on disk."""
    return request.method in _SAFE_METHODS


@dataclass(frozen=True, slots=True, kw_only=True)
class Purity:
    """When the hooks of a middleware may run in the loop.

    Args:
        may_run_inline: told request and response: whether `process_response` may.
        may_view: told the request: whether `process_view` may.
    """

    may_run_inline: Test = _always
    may_view: Callable[[Any], bool] = _method_is_safe

    def view_hook(self, hook: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
        """`process_view` for the loop."""
        if iscoroutinefunction(hook):
            return hook
        on_thread = sync_to_async(hook)

        async def process_view(request: Any, *rest: Any) -> Any:
            if self.may_view(request):
                return hook(request, *rest)
            return await on_thread(request, *rest)

        process_view.__self__ = hook.__self__  # type: ignore[attr-defined]  # Django names its class
        return process_view


_PURE = {
    "django.middleware.security.SecurityMiddleware": Purity(),
    "django.middleware.common.CommonMiddleware": Purity(),
    "django.middleware.clickjacking.XFrameOptionsMiddleware": Purity(),
    "django.middleware.locale.LocaleMiddleware": Purity(),
    "django.middleware.http.ConditionalGetMiddleware": Purity(may_run_inline=_body_is_small),
    "django.middleware.gzip.GZipMiddleware": Purity(may_run_inline=_body_is_small),
    "django.contrib.sessions.middleware.SessionMiddleware": Purity(
        may_run_inline=_session_is_untouched
    ),
    "django.contrib.auth.middleware.AuthenticationMiddleware": Purity(),
    "django.contrib.messages.middleware.MessageMiddleware": Purity(
        may_run_inline=_messages_are_untouched
    ),
}
_CSRF = "django.middleware.csrf.CsrfViewMiddleware"


def is_declared(kind: type) -> bool:
    """Whether somebody has said that the hooks of this class are pure."""
    return _purity_of_class(kind) is not None


def purity_of(middleware: Any) -> Purity | None:
    """When the hooks of this very class are pure; None when nobody has said that they are."""
    return _purity_of_class(type(middleware))


def _purity_of_class(kind: type) -> Purity | None:
    name = f"{kind.__module__}.{kind.__qualname__}"
    if name == _CSRF:
        return None if settings.CSRF_USE_SESSIONS else Purity()
    declared = getattr(settings, "ASGI_HEALTH_INLINE_MIDDLEWARE", ())
    if vars(kind).get("async_inline") is True or name in declared:
        return Purity(may_view=lambda _request: True)
    return _PURE.get(name)
