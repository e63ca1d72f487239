"""Change projects."""

from datetime import date

from django.db import IntegrityError, transaction
from django.utils import timezone

from apps.accounts.models import User
from apps.core.clock import Clock, now
from apps.projects.errors import DatesReversed, NameTaken
from apps.projects.models import Project

__all__ = ["create_project"]


def create_project(  # noqa: PLR0913 - the fields of a project
    *,
    owner: User,
    name: str,
    description: str = "",
    manager: str = "",
    consumer: str = "",
    color: str | None = None,
    start_date: date | None = None,
    end_date: date | None = None,
    clock: Clock = now,
) -> Project:
    """Create a project.

    Args:
        owner: who may see it.
        name: unique among the projects of `owner`.
        description: free text.
        manager: who leads the production.
        consumer: for whom it is made.
        color: `#rrggbb`; None takes the model's.
        start_date: None is today, or `end_date` when that is earlier.
        end_date: None is the day of the start.
        clock: says what day today is, in the project's time zone.

    Raises:
        NameTaken: `owner` has a project of this name.
        DatesReversed: the end lies before the start.
    """
    today = timezone.localdate(clock())
    start = start_date or min(today, end_date or today)
    end = end_date or start
    if end < start:
        raise DatesReversed
    project = Project(
        owner=owner,
        name=name,
        description=description,
        manager=manager,
        consumer=consumer,
        start_date=start,
        end_date=end,
    )
    if color is not None:
        project.color = color
    try:
        with transaction.atomic():
            project.save(force_insert=True)
    except IntegrityError:
        if Project.objects.filter(owner=owner, name=name).exists():
            raise NameTaken(name=name) from None
        raise
    return project
