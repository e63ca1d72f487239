"""The slow half: Django, loaded behind the gate while it answers probes."""

from asgi_health import LoadedApp
from asgi_health.adapters.django.loader import (
    close_connections,
    handoff_details,
    load_django,
    warmup_for,
)
from asgi_health.boot import step
from project.env import current

__all__ = ["load"]


def load() -> LoadedApp:
    """Build the application that users reach.

    Raises:
        InvalidEnvironment: before anything of Django is imported, with every problem.
        Exception: whatever the settings, an app, the URLconf or a middleware raises.
    """
    with step("environment"):
        current().check()
    env = current()
    django = load_django("project.settings", handoff=env.handoff, threads=env.handoff_threads)
    with step("static files"):
        from project.static_files import with_static_files  # noqa: PLC0415 - needs Django's settings

        app = with_static_files(django)
    # Django's handler has neither lifespan nor WebSockets. The ping passes every middleware and
    # needs no dependency.
    warmup = warmup_for("/api/ping", statuses=frozenset({200}))
    return LoadedApp(
        app,
        lifespan=False,
        warmup=warmup,
        websocket=False,
        before_fork=close_connections,
        details=handoff_details(django),
    )
