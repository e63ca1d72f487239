"""Django's entry for this domain."""

from django.apps import AppConfig

__all__ = ["ProjectsConfig"]


class ProjectsConfig(AppConfig):
    name = "apps.projects"
