"""Which handler serves: ours, or Django's own where a doubt stands against ours."""

import logging
from collections.abc import Mapping
from typing import Any

import django
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.asgi import ASGIHandler

from asgi_health.adapters.django.handler import THREADS_DEFAULT, Handler

__all__ = ["FIRST_TESTED", "LAST_TESTED", "details_of", "make_handler"]

_log = logging.getLogger("asgi_health.handoff")

FIRST_TESTED = (5, 2)
LAST_TESTED = (6, 1)
_MODES = ("auto", "stock", "force")


def make_handler(handoff: str | None = None, *, threads: int | None = None) -> ASGIHandler:
    """The handler that the arguments, or else the settings, ask for.

    Raises:
        ImproperlyConfigured: a value cannot work.
    """
    mode = handoff
    if mode is None:
        mode = getattr(settings, "ASGI_HEALTH_HANDOFF", "auto")
    if mode not in _MODES:
        raise ImproperlyConfigured(
            f"handoff is {mode!r}; allowed: {', '.join(_MODES)}. Correct HANDOFF."
        )
    count: Any = threads
    if count is None:
        count = getattr(settings, "ASGI_HEALTH_HANDOFF_THREADS", THREADS_DEFAULT)
    if not isinstance(count, int) or count < 1:
        raise ImproperlyConfigured(
            f"threads is {count!r}; allowed: a whole number from 1 on. Correct HANDOFF_THREADS."
        )
    if mode == "stock":
        return ASGIHandler()
    if mode == "auto" and not is_tested():
        _log.warning(
            "Django %s is not one that the fast hand-off was tested with (%s to %s): Django's own "
            "handler serves. HANDOFF=force takes ours.",
            django.get_version(),
            ".".join(map(str, FIRST_TESTED)),
            ".".join(map(str, LAST_TESTED)),
        )
        return ASGIHandler()
    return Handler(threads=count)


def details_of(handler: object) -> Mapping[str, Any]:
    """What the status page shows of a handler: how many threads requests have, and wait for."""
    if not isinstance(handler, Handler):
        return {"handoff": "stock"}
    threads = handler.threads
    return {
        "handoff": "fast",
        "threads_lent": threads.lent,
        "threads_limit": threads.limit,
        "requests_waiting_for_a_thread": threads.waiting,
    }


def is_tested() -> bool:
    """Whether this version of Django is one that the hand-off was tested with."""
    return FIRST_TESTED <= django.VERSION[:2] <= LAST_TESTED
