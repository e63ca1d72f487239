"""Django's entry for this domain."""

from django.apps import AppConfig

__all__ = ["PagesConfig"]


class PagesConfig(AppConfig):
    name = "apps.pages"
