"""The chain of middlewares: pure ones in the loop, the others together on the thread.

Built from the same settings, with the same instances, hooks and order as Django's own
(https://docs.djangoproject.com/en/stable/topics/http/middleware/).
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured, MiddlewareNotUsed
from django.utils.deprecation import MiddlewareMixin
from django.utils.module_loading import import_string

from asgi_health.adapters.django.bottom import Bottom
from asgi_health.adapters.django.layers import (
    AsyncCall,
    Layer,
    Mixin,
    SyncCall,
    descent_to,
)
from asgi_health.adapters.django.pure import Purity, purity_of

__all__ = ["Chain", "has_only_hooks"]

_log = logging.getLogger("django.request")


class Chain:
    """Builds the layers of a handler from the settings, from the view outwards."""

    def __init__(self, handler: Any) -> None:
        self._handler = handler
        self._bottom = Bottom(handler)

    def build(self) -> Callable[[Any], Awaitable[Any]]:
        """The outermost layer as a coroutine function; fills in the handler's lists of hooks."""
        handler, face = self._handler, self._bottom.async_face
        handler._view_middleware = face._view_middleware  # noqa: SLF001
        handler._template_response_middleware = face._template_response_middleware  # noqa: SLF001
        handler._exception_middleware = face._exception_middleware  # noqa: SLF001
        layer: Layer = self._bottom
        for path in reversed(settings.MIDDLEWARE):
            layer = self._wrap(layer, path)
        return layer.on_loop

    def _wrap(self, below: Layer, path: str) -> Layer:
        factory = import_string(path)
        can_sync = getattr(factory, "sync_capable", True)
        can_async = getattr(factory, "async_capable", False)
        if not can_sync and not can_async:
            raise RuntimeError(
                f"Middleware {path} must have at least one of "
                "sync_capable/async_capable set to True."
            )
        try:
            middleware = factory(below.on_loop if can_async else descent_to(below))
        except MiddlewareNotUsed as reason:
            if settings.DEBUG:
                _log_unused(path, reason)
            return below
        if middleware is None:
            raise ImproperlyConfigured(f"Middleware factory {path} returned None.")
        purity = purity_of(middleware)
        self._add_hooks(middleware, purity)
        if has_only_hooks(middleware):
            return Mixin(middleware, below, purity)
        return AsyncCall(middleware) if can_async else SyncCall(middleware)

    def _add_hooks(self, middleware: Any, purity: Purity | None) -> None:
        on_loop, on_thread = self._bottom.async_face, self._bottom.sync_face
        adapt = self._handler.adapt_method_mode
        view = getattr(middleware, "process_view", None)
        if view is not None:
            in_loop = adapt(True, view) if purity is None else purity.view_hook(view)  # noqa: FBT003
            on_loop._view_middleware.insert(0, in_loop)  # noqa: SLF001
            on_thread._view_middleware.insert(0, adapt(False, view))  # noqa: FBT003, SLF001
        template = getattr(middleware, "process_template_response", None)
        if template is not None:
            on_loop._template_response_middleware.append(adapt(True, template))  # noqa: FBT003, SLF001
            on_thread._template_response_middleware.append(adapt(False, template))  # noqa: FBT003, SLF001
        exception = getattr(middleware, "process_exception", None)
        if exception is not None:
            on_loop._exception_middleware.append(adapt(False, exception))  # noqa: FBT003, SLF001


def _log_unused(path: str, reason: MiddlewareNotUsed) -> None:
    if str(reason):
        _log.debug("MiddlewareNotUsed(%r): %s", path, reason)
    else:
        _log.debug("MiddlewareNotUsed: %r", path)


def has_only_hooks(middleware: Any) -> bool:
    """Whether a middleware, or a class of them, is Django's mixin with synchronous hooks."""
    kind = middleware if isinstance(middleware, type) else type(middleware)
    hooks = (getattr(middleware, name, None) for name in ("process_request", "process_response"))
    mixin: Any = MiddlewareMixin
    return (
        issubclass(kind, MiddlewareMixin)
        and kind.__call__ is mixin.__call__
        and kind.__acall__ is mixin.__acall__
        and not any(hook is not None and iscoroutinefunction(hook) for hook in hooks)
    )
