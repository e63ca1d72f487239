"""A video production, from the first plan to the delivery."""

from typing import TYPE_CHECKING, ClassVar

from django.conf import settings
from django.db import models
from django.db.models import F, Q

from apps.core.models import TimestampedModel

__all__ = ["NAME_LENGTH_MAX", "Project"]

NAME_LENGTH_MAX = 200


class Project(TimestampedModel):
    """One production. Dates are days, without time zone; `progress` is a percentage."""

    class Status(models.TextChoices):
        PLANNING = "planning"
        PRODUCTION = "production"
        REVIEW = "review"
        COMPLETED = "completed"
        ARCHIVED = "archived"

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="projects"
    )
    name = models.CharField(max_length=NAME_LENGTH_MAX)
    description = models.TextField(blank=True)
    manager = models.CharField(max_length=200, blank=True)
    consumer = models.CharField(max_length=200, blank=True)
    status = models.CharField(max_length=20, choices=Status, default=Status.PLANNING)
    progress = models.PositiveSmallIntegerField(default=0)
    color = models.CharField(max_length=7, default="#1631f8")
    start_date = models.DateField()
    end_date = models.DateField()

    class Meta:
        ordering: ClassVar[list[str]] = ["-updated_at", "-id"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(
                fields=["owner", "name"],
                name="projects_project_name_unique",
                violation_error_message="This owner has a project with this name.",
            ),
            models.CheckConstraint(
                condition=Q(end_date__gte=F("start_date")), name="projects_project_dates_in_order"
            ),
            models.CheckConstraint(
                condition=Q(progress__lte=100), name="projects_project_progress_percentage"
            ),
            models.CheckConstraint(
                condition=Q(
                    status__in=["planning", "production", "review", "completed", "archived"]
                ),
                name="projects_project_status_known",
            ),
        ]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["owner", "-updated_at", "-id"], name="projects_owner_recent"),
        ]

    if TYPE_CHECKING:
        id: int
        owner_id: int

    def __str__(self) -> str:
        return self.name
