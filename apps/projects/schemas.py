"""What goes in and out of the endpoints of projects."""

from datetime import date, datetime
from typing import Annotated

from ninja import Field, Schema
from pydantic import StringConstraints

from apps.accounts.models import User
from apps.core.schemas import Body, Line, PageQuery, Paragraphs
from apps.projects.models import NAME_LENGTH_MAX, Project
from apps.projects.selectors import Ordering

__all__ = ["OwnerOut", "ProjectIn", "ProjectOut", "ProjectsQuery"]

_Color = Annotated[str, StringConstraints(pattern=r"^#[0-9a-fA-F]{6}$")]


class ProjectsQuery(PageQuery):
    """Which projects, in which order."""

    ordering: Ordering = "-updated_at"
    search: Line = ""
    status: Project.Status | None = None


class ProjectIn(Body):
    """A new project. Days that are left out: it starts today, and ends on the day it starts."""

    name: Line = Field(min_length=1, max_length=NAME_LENGTH_MAX, examples=["봄 캠페인 30초"])
    description: Paragraphs = ""
    manager: Line = ""
    consumer: Line = ""
    color: _Color | None = Field(None, examples=["#1631f8"])
    start_date: date | None = Field(None, examples=["2026-03-02"])
    end_date: date | None = Field(None, examples=["2026-04-10"])


class OwnerOut(Schema):
    """Who owns it, as others see them."""

    id: int
    nickname: str

    @staticmethod
    def resolve_nickname(user: User) -> str:
        return user.display_name


class ProjectOut(Schema):
    """A project. `title` is its name, for clients that know it by that word."""

    id: int
    title: str = Field(alias="name")
    name: str
    description: str
    manager: str
    consumer: str
    status: Project.Status
    progress: int
    color: str
    owner: OwnerOut
    start_date: date
    end_date: date
    created_at: datetime
    updated_at: datetime
