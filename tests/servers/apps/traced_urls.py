"""The product with views that wait for the test, fail, log, and trace what they do."""

import asyncio
import logging

import orders
from django.contrib.auth import get_user_model
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path

from project import tracing, urls

_log = logging.getLogger("traced")


def on_thread(request: HttpRequest, number: int) -> JsonResponse:
    headers: dict[str, str] = {}
    with tracing.span("outgoing", kind="client", **{"peer.service": "else"}):
        tracing.inject(headers)
        count = get_user_model().objects.filter(email="nobody-secret-row@example.org").count()
    _log.warning("on a thread")
    return JsonResponse({"headers": headers, "count": count, "number": number})


async def on_loop(request: HttpRequest) -> JsonResponse:
    count = await get_user_model().objects.acount()
    _log.warning("on the loop")
    return JsonResponse({"count": count})


def invited(request: HttpRequest, token: str) -> HttpResponse:
    return HttpResponse(token)


def blocks(request: HttpRequest) -> HttpResponse:
    orders.obey("view")
    list(get_user_model().objects.all()[:1])
    return HttpResponse("done")


async def stalls(request: HttpRequest) -> HttpResponse:
    orders.obey("view")  # and no connection is accepted meanwhile
    return HttpResponse("done")


async def waits(request: HttpRequest) -> HttpResponse:
    _log.warning("waiting")
    await asyncio.Event().wait()
    return HttpResponse("never")


def fails(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("no luck with token=hidden-in-the-message")


urlpatterns = [
    path("thread/<int:number>/", on_thread),
    path("loop/", on_loop),
    path("invited/<str:token>/", invited),
    path("blocks/", blocks),
    path("stalls/", stalls),
    path("waits/", waits),
    path("fails/", fails),
    *urls.urlpatterns,
]
handler500 = urls.handler500
