"""Django behind the gate: loaded step by step, served without the usual ASGI slow-down.

As an entry of INSTALLED_APPS it adds the system checks `asgi_health.W001` and following.
"""

from typing import Any

__all__ = ["get_asgi_application"]


def get_asgi_application(*, handoff: str | None = None, threads: int | None = None) -> Any:
    """A drop-in for `django.core.asgi.get_asgi_application`.

    Args:
        handoff: `auto`, `stock` (Django's own handler) or `force` (ours, also with a version of
            Django that it was not tested with); None: the setting ASGI_HEALTH_HANDOFF, or `auto`.
        threads: requests that may run synchronous code at the same time; None: the setting
            ASGI_HEALTH_HANDOFF_THREADS, or 32.

    Raises:
        django.core.exceptions.ImproperlyConfigured: a value cannot work.
    """
    import django  # noqa: PLC0415 - this package is imported before Django may be

    django.setup(set_prefix=False)
    from asgi_health.adapters.django.application import make_handler  # noqa: PLC0415

    return make_handler(handoff, threads=threads)
