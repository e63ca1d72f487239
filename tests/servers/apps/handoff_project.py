"""A Django project in one module, behind the gate; its views wait for the test."""

import os
import threading

import orders
from django.http import HttpRequest, HttpResponse
from django.urls import path

from asgi_health import HealthConfig, HealthGate

SECRET_KEY = "only for tests"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = __name__
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
]


def blocks(request: HttpRequest) -> HttpResponse:
    orders.obey("view")
    return HttpResponse(request.META["QUERY_STRING"])


def echo(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.body, headers={"Thread": str(threading.get_ident())})


async def on_the_loop(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.body, headers={"Thread": str(threading.get_ident())})


urlpatterns = [
    path("blocks/", blocks),
    path("echo/", echo),
    path("loop/", on_the_loop),
]

app = HealthGate.for_django(__name__, config=HealthConfig.from_environ(os.environ))
