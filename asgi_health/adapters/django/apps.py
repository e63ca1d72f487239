"""The Django app: it brings system checks, no models."""

from django.apps import AppConfig
from django.core import checks

__all__ = ["AsgiHealthConfig"]


class AsgiHealthConfig(AppConfig):
    """`"asgi_health.adapters.django"` in INSTALLED_APPS."""

    name = "asgi_health.adapters.django"
    label = "asgi_health"
    verbose_name = "asgi_health"

    def ready(self) -> None:
        """Register the checks."""
        from asgi_health.adapters.django.checks import check_handoff  # noqa: PLC0415 - needs apps

        checks.register(check_handoff)
