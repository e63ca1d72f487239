"""What the models of all domains share."""

from typing import ClassVar

from django.db import models

__all__ = ["TimestampedModel"]


class TimestampedModel(models.Model):
    """A row that knows when it was made and last saved."""

    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        abstract: ClassVar[bool] = True
