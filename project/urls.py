"""All addresses of the product, but those that the gate answers itself."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.urls import include, path, re_path
from django.views.decorators.http import require_safe
from django.views.defaults import bad_request, page_not_found
from django.views.defaults import server_error as server_error_page

from apps.pages.views import front_page
from project import api

__all__ = ["handler400", "handler404", "handler500", "urlpatterns"]

_API = "/api/"


@require_safe
def _admin_with_slash(request: HttpRequest) -> HttpResponse:
    """The admin's addresses end with a slash; people who type them leave it out."""
    query = request.META.get("QUERY_STRING", "")
    return HttpResponseRedirect(f"{request.path}/{'?' if query else ''}{query}")


def _bad_request(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    if request.path.startswith(_API):
        return api.bad_request(exception)
    return bad_request(request, exception)


def _not_found(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    if request.path.startswith(_API):
        return api.not_found(request)
    return page_not_found(request, exception)


def _server_error(request: HttpRequest) -> HttpResponseBase:
    if request.path.startswith(_API):
        return api.server_error(request)
    return server_error_page(request)


urlpatterns: list[Any] = [
    path("", front_page, name="front-page"),
    path("api/", include((api.urls(), "ninja"), namespace="api")),
    re_path(r"^api(?:/.*)?$", api.not_found),
    re_path(r"^admin(?:/.*[^/])?$", _admin_with_slash),
    path("admin/", admin.site.urls),
]
handler400 = _bad_request
handler404 = _not_found
handler500 = _server_error
