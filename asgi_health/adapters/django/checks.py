"""System checks: what makes requests leave the event loop, and what to do about each."""

from collections.abc import Iterator
from typing import Any

import django
from django.conf import settings
from django.core.checks import CheckMessage
from django.core.checks import Warning as CheckWarning
from django.core.signals import request_finished, request_started
from django.utils.module_loading import import_string

from asgi_health.adapters.django.application import is_tested
from asgi_health.adapters.django.chain import has_only_hooks
from asgi_health.adapters.django.cycle import foreign_receivers
from asgi_health.adapters.django.pure import is_declared

__all__ = ["check_handoff"]


def check_handoff(app_configs: Any = None, **_kwargs: Any) -> list[CheckMessage]:  # noqa: ARG001 - Django's signature
    """All warnings of the hand-off."""
    return [*_versions(), *_middlewares(), *_receivers()]


def _versions() -> Iterator[CheckMessage]:
    if not is_tested():
        yield CheckWarning(
            f"Django {django.get_version()} is not one that the fast hand-off was tested with.",
            hint="Django's own handler serves; HANDOFF=force takes ours.",
            id="asgi_health.W001",
        )


def _middlewares() -> Iterator[CheckMessage]:
    for path in settings.MIDDLEWARE:
        try:
            factory = import_string(path)
        except ImportError:
            continue  # the server says so
        yield from _middleware(path, factory)


def _middleware(path: str, factory: Any) -> Iterator[CheckMessage]:
    if isinstance(factory, type) and has_only_hooks(factory):
        has_hooks = any(hasattr(factory, f"process_{name}") for name in ("request", "response"))
        if has_hooks and not is_declared(factory):
            yield CheckWarning(
                f"Middleware {path} has synchronous hooks: each request goes to a thread for them.",
                hint="If they only touch the request and the response in memory, say so: "
                "async_inline = True on the class, or its name in ASGI_HEALTH_INLINE_MIDDLEWARE. "
                "Else nothing need be done: hooks, view and template share one hop.",
                id="asgi_health.W003",
            )
    elif not getattr(factory, "async_capable", False):
        yield CheckWarning(
            f"Middleware {path} is synchronous only: each request goes to a thread for it, and an "
            "asynchronous view keeps that thread waiting.",
            hint="Derive it from MiddlewareMixin, or make it async-capable "
            "(django.utils.decorators.sync_and_async_middleware).",
            id="asgi_health.W002",
        )


def _receivers() -> Iterator[CheckMessage]:
    for name, signal in (
        ("request_started", request_started),
        ("request_finished", request_finished),
    ):
        foreign = foreign_receivers(signal)
        if foreign:
            yield CheckWarning(
                f"{name} has receivers besides Django's own ({', '.join(foreign)}): each request "
                "goes to a thread for them.",
                hint="Do the same in an ASGI wrapper or a middleware, or make them asynchronous.",
                id="asgi_health.W004",
            )
