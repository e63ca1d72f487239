"""Cut a query into pages: one query counts, one reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from django.db.models import Model, QuerySet
from django.http import HttpRequest

from apps.core.schemas import PageQuery

__all__ = ["Paged", "paged"]

T = TypeVar("T", bound=Model)


@dataclass(frozen=True, slots=True, kw_only=True)
class Paged(Generic[T]):
    """One page, in the form of `apps.core.schemas.Page`."""

    count: int
    next: str | None
    previous: str | None
    results: Sequence[T]


def paged(rows: QuerySet[T], *, query: PageQuery, request: HttpRequest) -> Paged[T]:
    """Read one page of `rows`, which must have a total order. A page beyond the end is empty.

    Blocking: two queries at most.
    """
    count = rows.count()
    start = (query.page - 1) * query.page_size
    last = max(1, -(-count // query.page_size))
    return Paged(
        count=count,
        next=_address(request, query.page + 1) if query.page < last else None,
        previous=_address(request, min(query.page - 1, last)) if query.page > 1 else None,
        results=list(rows[start : start + query.page_size]) if start < count else [],
    )


def _address(request: HttpRequest, page: int) -> str:
    parameters = request.GET.copy()
    parameters["page"] = str(page)
    return request.build_absolute_uri(f"{request.path}?{parameters.urlencode()}")
