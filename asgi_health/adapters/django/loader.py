"""Load all of Django, each step recorded, so that the first request pays for nothing."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, cast

from asgi_health.report import AppCost, add_app_cost, step
from asgi_health.target import LoadedApp
from asgi_health.types import App, Headers
from asgi_health.warmup import Warmup

__all__ = ["WARMUP_PATH", "close_connections", "load_django", "load_project", "warmup_for"]

WARMUP_PATH = "/asgi-health-warmup"
"""Passes all middleware and the URLconf, and is expected not to exist.
"""


def load_project(
    settings_module: str, *, handoff: str | None = None, threads: int | None = None
) -> LoadedApp:
    """Load any project: its `ASGI_APPLICATION` if the settings name one, else Django's handler.

    `DJANGO_SETTINGS_MODULE` wins over `settings_module`, as it does in the files that Django makes.
    """
    handler = load_django(settings_module, handoff=handoff, threads=threads)
    named = _named_application()
    warmup = warmup_for(WARMUP_PATH)
    app = handler if named is None else named
    is_own = not _is_django(app)
    return LoadedApp(
        app,
        lifespan=is_own,
        warmup=warmup,
        websocket=is_own,
        before_fork=close_connections,
        details=handoff_details(handler),
    )


def load_django(
    settings_module: str, *, handoff: str | None = None, threads: int | None = None
) -> App:
    """Set Django up and build its ASGI handler; `handoff` and `threads` as in `make_handler`.

    Raises:
        Exception: whatever the settings, an app, the URLconf or a middleware raises.
    """
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", settings_module)
    with step("settings"):
        from django.conf import settings  # noqa: PLC0415 - this module is imported before Django may be

        settings.SECRET_KEY  # noqa: B018 - imports the settings module; an empty key raises here
    with step("django"):
        import django  # noqa: PLC0415
        from django.apps import AppConfig  # noqa: PLC0415
    with _timed_apps(AppConfig):
        django.setup()
    with step("urlconf"):
        from django.urls import get_resolver  # noqa: PLC0415

        get_resolver().reverse_dict  # noqa: B018 - imports the root URLconf and all that it includes
    with step("middleware"):
        from asgi_health.adapters.django.application import make_handler  # noqa: PLC0415

        return cast("App", make_handler(handoff, threads=threads))


def close_connections() -> None:
    """Close what the calling thread opened of databases, their pools and caches.

    Whoever uses them next, a forked worker too, connects anew. A database in memory stays open, as
    Django refuses to close it. Loads nothing. Blocking.

    Raises:
        Exception: what a database or cache raises while it is closed; the others are closed then.
    """
    with ExitStack() as closing:  # runs last in, first out: a connection goes back into its pool
        if "django.core.cache" in sys.modules:
            from django.core.cache import caches  # noqa: PLC0415 - must not be what loads Django

            for cache in caches.all(initialized_only=True):
                closing.callback(cache.close)
        if "django.db" in sys.modules:
            from django.db import connections  # noqa: PLC0415 - the same

            for connection in connections.all(initialized_only=True):
                if hasattr(connection, "close_pool"):
                    closing.callback(connection.close_pool)
                closing.callback(connection.close)


def handoff_details(handler: App) -> Callable[[], Mapping[str, Any]]:
    """For `LoadedApp.details`: the state of the hand-off to Django."""
    from asgi_health.adapters.django.application import details_of  # noqa: PLC0415

    return partial(details_of, handler)


def warmup_for(path: str, *, statuses: frozenset[int] | None = None) -> Warmup:
    """A warm-up request that the settings let through: allowed Host, secure as a proxy says it."""
    from django.conf import settings  # noqa: PLC0415

    headers: Headers = ()
    if settings.SECURE_PROXY_SSL_HEADER:
        name, value = settings.SECURE_PROXY_SSL_HEADER
        headers = (
            (
                name.removeprefix("HTTP_").replace("_", "-").lower().encode("ascii"),
                value.encode("latin-1"),
            ),
        )
    return Warmup(
        path, host=_allowed_host(settings.ALLOWED_HOSTS), headers=headers, statuses=statuses
    )


def _allowed_host(allowed_hosts: list[str]) -> str:
    """A Host that passes: an empty list allows localhost while debugging and nothing otherwise."""
    if not allowed_hosts or "*" in allowed_hosts or "localhost" in allowed_hosts:
        return "localhost"
    return allowed_hosts[0].removeprefix(".")


def _named_application() -> App | None:
    from django.conf import settings  # noqa: PLC0415
    from django.utils.module_loading import import_string  # noqa: PLC0415

    name = getattr(settings, "ASGI_APPLICATION", None)
    if not name:
        return None
    with step("ASGI_APPLICATION"):
        found = import_string(name)
    return None if getattr(found, "is_health_gate", False) else cast("App", found)


def _is_django(app: App) -> bool:
    """Whether this is Django's own handler, which has no lifespan."""
    from django.core.handlers.asgi import ASGIHandler  # noqa: PLC0415

    return isinstance(app, ASGIHandler)


@contextmanager
def _timed_apps(app_config: type[Any]) -> Iterator[None]:
    """Time what each app costs in each of the three rounds of `apps.populate()`.

    Django imports all apps, then the models of all, then calls each `ready()`; each round is a step
    of the boot. Nothing stays wrapped.
    """
    create = vars(app_config)["create"]
    made: list[Any] = []
    with ExitStack() as running:
        rounds = _Rounds(running)

        def timed_create(cls: type[Any], entry: str) -> Any:
            start_s = time.monotonic()
            config = create.__func__(cls, entry)
            cost = AppCost(label=config.label, import_s=time.monotonic() - start_s)
            add_app_cost(cost)
            vars(config)["import_models"] = _timed(config, "import_models", rounds, "apps: models")
            vars(config)["ready"] = _timed(config, "ready", rounds, "apps: ready")
            made.append(config)
            return config

        app_config.create = classmethod(timed_create)
        rounds.enter("apps: import")
        try:
            yield
        finally:
            app_config.create = create
            for config in made:
                vars(config).pop("import_models", None)
                vars(config).pop("ready", None)


class _Rounds:
    """The step of the round that runs now."""

    def __init__(self, running: ExitStack) -> None:
        self._running = running
        self._name = ""

    def enter(self, name: str) -> None:
        if name != self._name:
            self._running.close()
            self._running.enter_context(step(name))
            self._name = name


def _timed(config: Any, method: str, rounds: _Rounds, name: str) -> Callable[[], None]:
    original: Callable[[], None] = getattr(config, method)

    def timed() -> None:
        rounds.enter(name)
        start_s = time.monotonic()
        try:
            original()
        finally:
            spent_s = time.monotonic() - start_s
            is_models = method == "import_models"
            add_app_cost(
                AppCost(
                    label=config.label,
                    models_s=spent_s if is_models else 0.0,
                    ready_s=0.0 if is_models else spent_s,
                )
            )

    return timed
