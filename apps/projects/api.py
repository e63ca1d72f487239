"""The endpoints of projects.

They are plain functions on purpose: session, user, query and serialization then share one hop to a
thread, where a coroutine would hop at each of them.
"""

from django.http import HttpRequest
from ninja import Query, Router, Status

from apps.accounts.authentication import request_user
from apps.core.paging import Paged, paged
from apps.core.schemas import ErrorOut, Page
from apps.projects import selectors, services
from apps.projects.models import Project
from apps.projects.schemas import ProjectIn, ProjectOut, ProjectsQuery

__all__ = ["router"]

router = Router(tags=["projects"])


@router.get("", response={200: Page[ProjectOut], 401: ErrorOut, 422: ErrorOut})
def list_projects(request: HttpRequest, query: Query[ProjectsQuery]) -> Paged[Project]:
    """List my projects, page by page."""
    rows = selectors.list_projects(
        owner=request_user(request),
        search=query.search,
        status=query.status,
        ordering=query.ordering,
    )
    return paged(rows, query=query, request=request)


_CREATED = {201: ProjectOut, 401: ErrorOut, 403: ErrorOut, 409: ErrorOut, 422: ErrorOut}


@router.post("", response=_CREATED, operation_id="create_project")
@router.post("/create", response=_CREATED, operation_id="create_project_by_its_other_address")
def create_project(request: HttpRequest, payload: ProjectIn) -> Status[Project]:
    """Create a project of mine. Its name is unique among them."""
    project = services.create_project(owner=request_user(request), **payload.dict())
    return Status(201, project)
