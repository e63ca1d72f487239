"""A Django project as the target of a gate: light, because the port is not open yet."""

from importlib import import_module
from typing import Any

__all__ = ["DjangoProject"]

_LOADER = "asgi_health.adapters.django.loader"


class DjangoProject:
    """The dotted name of a settings module, and how requests reach Django (see HealthConfig)."""

    __slots__ = ("_handoff", "_settings", "_threads")

    def __init__(self, settings: str, *, handoff: str, threads: int) -> None:
        self._settings = settings
        self._handoff = handoff
        self._threads = threads

    def __call__(self) -> Any:
        """Load it, as a LoadedApp; the slow part of a boot."""
        loader = import_module(_LOADER)
        return loader.load_project(self._settings, handoff=self._handoff, threads=self._threads)

    def __repr__(self) -> str:
        return self._settings
