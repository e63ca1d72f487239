"""Django's entry for this domain."""

from django.apps import AppConfig

__all__ = ["CoreConfig"]


class CoreConfig(AppConfig):
    name = "apps.core"
