"""Views that say hello, a page with a template over 50 rows, and the admin."""

import time
from functools import cache

from django.contrib import admin
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.template import engines
from django.urls import path

_PAGE = """<!doctype html><title>People</title><table>
{% for person in people %}<tr><td>{{ person.username }}</td><td>{{ person.first_name }}</td>
<td>{{ person.email }}</td><td>{{ person.date_joined|date:"Y-m-d" }}</td></tr>
{% endfor %}</table>"""


async def hello_async(_request: HttpRequest) -> HttpResponse:
    return HttpResponse("hello")


def hello_sync(_request: HttpRequest) -> HttpResponse:
    return HttpResponse("hello")


def waits(_request: HttpRequest) -> HttpResponse:
    """As for a database that takes 10 ms."""
    time.sleep(0.01)
    return HttpResponse("hello")


@cache
def _page() -> object:
    """The template, compiled once, as Django's loaders do it."""
    return engines["django"].from_string(_PAGE)


def people(request: HttpRequest) -> HttpResponse:
    found = User.objects.order_by("username")[:50]
    return HttpResponse(_page().render({"people": found}, request))


urlpatterns = [
    path("async/", hello_async),
    path("sync/", hello_sync),
    path("waits/", waits),
    path("people/", people),
    path("admin/", admin.site.urls),
]
