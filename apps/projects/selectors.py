"""Read projects."""

from typing import Literal

from django.db.models import Q, QuerySet

from apps.accounts.models import User
from apps.projects.models import Project

__all__ = ["Ordering", "list_projects"]

Ordering = Literal[
    "name", "-name", "status", "-status", "progress", "-progress", "start_date", "-start_date",
    "end_date", "-end_date", "created_at", "-created_at", "updated_at", "-updated_at",
]  # fmt: skip


def list_projects(
    *,
    owner: User,
    search: str = "",
    status: Project.Status | None = None,
    ordering: Ordering = "-updated_at",
) -> QuerySet[Project]:
    """Return the projects of `owner` in a total order.

    Args:
        owner: whose.
        search: a part of the name or description, in any case; empty for all.
        status: only these; None for all.
        ordering: by which field; a minus sign turns it round.
    """
    rows = Project.objects.filter(owner=owner).select_related("owner")
    if search:
        rows = rows.filter(Q(name__icontains=search) | Q(description__icontains=search))
    if status is not None:
        rows = rows.filter(status=status)
    return rows.order_by(ordering, "-id")
