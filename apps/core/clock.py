"""The time of day, as a function that is passed in: a test gives its own."""

from collections.abc import Callable
from datetime import datetime

from django.utils import timezone

__all__ = ["Clock", "now"]

Clock = Callable[[], datetime]


def now() -> datetime:
    """Return the present moment, with its time zone."""
    return timezone.now()
