"""Shapes that the endpoints of all domains share."""

from typing import Annotated, Final, Generic, TypeVar

from ninja import Field, Schema
from pydantic import ConfigDict, StringConstraints

__all__ = ["PAGE_SIZE_MAX", "Body", "ErrorOut", "Line", "Page", "PageQuery", "Paragraphs"]

PAGE_SIZE_MAX: Final = 100
_PAGE_MAX: Final = 1_000_000

T = TypeVar("T")


# No control characters: PostgreSQL stores no NUL, and the others only ever hide something.
Line = Annotated[
    str,
    StringConstraints(strip_whitespace=True, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$"),
]
"""Text on one line."""

Paragraphs = Annotated[
    str,
    StringConstraints(max_length=10_000, pattern=r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$"),
]
"""Text on several lines."""


class Body(Schema):
    """A request body: a field that nobody would read is an error, not a surprise."""

    model_config = ConfigDict(extra="forbid")


class PageQuery(Schema):
    """Which page of a list."""

    page: int = Field(1, ge=1, le=_PAGE_MAX)
    page_size: int = Field(20, ge=1, le=PAGE_SIZE_MAX)


class Page(Schema, Generic[T]):
    """One page of a list; `next` and `previous` are addresses, null at the ends."""

    count: int
    next: str | None
    previous: str | None
    results: list[T]


class ErrorOut(Schema):
    """Every answer that is not a success."""

    code: str = Field(description="Stable, for programs.", examples=["projects.name_taken"])
    message: str = Field(description="For people, in the language of Accept-Language.")
    detail: str = Field(description="The same as message.")
    fields: dict[str, list[str]] | None = Field(None, description="What is wrong where.")
    request_id: str | None = None
