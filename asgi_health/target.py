"""From the name that a user gave to an ASGI application."""

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeAlias

from asgi_health.django_project import DjangoProject
from asgi_health.errors import TargetError
from asgi_health.report import step
from asgi_health.types import App
from asgi_health.warmup import Warmup

__all__ = ["LoadedApp", "Target", "load_target"]

Target: TypeAlias = str | Callable[..., Any]
"""`module:name`, the dotted name of a settings module, or the function or application itself.
"""

_DJANGO_LOADER = "asgi_health.adapters.django.loader"


@dataclass(frozen=True, slots=True)
class LoadedApp:
    """What a load function may return instead of a plain ASGI application.

    Args:
        app: the ASGI 3 application.
        lifespan: False when the application has no lifespan of its own, so that it never sees that
            scope.
        warmup: the request to send before ready; None: the one of the configuration, or none.
        websocket: False when the application speaks HTTP only: handshakes are answered 404 then.
        before_fork: called in the process that loaded, before it forks workers: closes what must
            not be shared. None: there is nothing to close.
        details: called for the status page: what the application says of itself, ready for JSON.
        metrics: called for each scrape, on a thread of its own: more families of metrics as
            OpenMetrics text, none of which may be called `asgi_health_…`. Blocking.
    """

    app: App
    lifespan: bool = True
    warmup: Warmup | None = None
    websocket: bool = True
    before_fork: Callable[[], None] | None = None
    details: Callable[[], Mapping[str, Any]] | None = None
    metrics: Callable[[], str] | None = None


def load_target(target: Target) -> LoadedApp:
    """Import and build the application; the slow part of a boot.

    Raises:
        TargetError: the name leads to nothing that can serve.
        Exception: whatever the application's own code raises.
    """
    name = target if isinstance(target, str) else repr(target)
    with step("import"):
        found = _find(target) if isinstance(target, str) else target
    if isinstance(found, DjangoProject):
        return _as_loaded(found(), name)
    if isinstance(found, ModuleType):
        loader = importlib.import_module(_DJANGO_LOADER)
        return _as_loaded(loader.load_project(found.__name__), name)
    if _takes_no_argument(found):
        with step("load"):
            found = found()
    return _as_loaded(found, name)


def _find(target: str) -> Any:
    module_name, colon, attribute = target.partition(":")
    if not colon:
        if _is_module(target):
            return importlib.import_module(target)
        module_name, _, attribute = target.rpartition(".")
    if not module_name.strip("."):
        raise TargetError(target=target, found="no module that can be imported")
    found: Any = importlib.import_module(module_name)
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise TargetError(
                target=target, found=f"missing: {module_name} has no {attribute!r}"
            ) from None
    return found


def _is_module(name: str) -> bool:
    """Whether a dotted name is a module, not a name inside one; imports what stands above it."""
    parent, _, last = name.rpartition(".")
    if parent.strip(".") and not hasattr(importlib.import_module(parent), "__path__"):
        return False
    return bool(last) and importlib.util.find_spec(name) is not None


def _takes_no_argument(found: Any) -> bool:
    if isinstance(found, LoadedApp) or not callable(found):
        return False
    try:
        parameters = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):
        return False
    kinds = inspect.Parameter
    return all(p.default is not kinds.empty or p.kind is kinds.VAR_KEYWORD for p in parameters)


def _as_loaded(found: Any, name: str) -> LoadedApp:
    if inspect.iscoroutine(found):
        found.close()
        raise TargetError(target=name, found="an asynchronous function without arguments")
    loaded = found if isinstance(found, LoadedApp) else LoadedApp(found)
    flaw = _flaw(loaded.app)
    if flaw is not None:
        raise TargetError(target=name, found=flaw)
    return loaded


def _flaw(app: Any) -> str | None:
    """Why this cannot be the application; None when it can. Without a warm-up nothing else would
    notice before the first request.
    """
    if not callable(app):
        return f"a {type(app).__name__}"
    if getattr(app, "is_health_gate", False):
        return "a HealthGate itself"
    try:
        signature = inspect.signature(app)
    except (TypeError, ValueError):  # it cannot be inspected
        return None
    try:
        signature.bind("scope", "receive", "send")
    except TypeError:
        return "callable, but not with (scope, receive, send); perhaps a WSGI application"
    return None
