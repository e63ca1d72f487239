"""The innermost layer: the view, with the hooks directly around it."""

import asyncio
from collections.abc import Awaitable
from typing import Any

from asgiref.sync import async_to_sync, iscoroutinefunction, sync_to_async
from django.core.handlers.base import BaseHandler
from django.core.handlers.exception import response_for_exception

from asgi_health.adapters.django.layers import Detour, Layer, explain

__all__ = ["Bottom", "Face"]

Request = Any
Response = Any


class Face(BaseHandler):
    """Calls views of one kind, synchronous or not, with the hooks directly around them.

    Args:
        handler: whose methods decide; it has resolved the path already.
    """

    def __init__(self, handler: Any) -> None:
        self._view_middleware: list[Any] = []
        self._template_response_middleware: list[Any] = []
        self._exception_middleware: list[Any] = []
        for name in ("make_view_atomic", "process_exception_by_middleware"):
            setattr(self, name, getattr(handler, name))

    def resolve_request(self, request: Request) -> Any:
        """The view has been resolved already."""
        return request.resolver_match

    def call(self, request: Request) -> Response:
        """The response of a synchronous view."""
        response = self._get_response(request)  # type: ignore[attr-defined]  # the stubs lack it
        if not asyncio.iscoroutine(response):
            return response
        try:  # its render() is asynchronous, which Django knows in its asynchronous half only
            return async_to_sync(_await)(response)
        except Exception as error:
            found = self.process_exception_by_middleware(error, request)
            if found is None:
                raise
            return found

    async def acall(self, request: Request) -> Response:
        """The response of an asynchronous view."""
        return await self._get_response_async(request)  # type: ignore[attr-defined]  # the same


class Bottom(Layer):
    """Resolves the path and calls the view, with what stands directly around it."""

    def __init__(self, handler: Any) -> None:
        self._resolve = handler.resolve_request
        self.sync_face = Face(handler)
        self.async_face = Face(handler)

    async def on_loop(self, request: Request) -> Response:
        try:
            if iscoroutinefunction(self._resolve(request).func):
                return await self.async_face.acall(request)
        except Exception as error:  # noqa: BLE001 - Django's own edge
            return await explain(request, error)
        return await sync_to_async(self._call)(request)

    def on_thread(self, request: Request) -> Response | Detour:
        try:
            if iscoroutinefunction(self._resolve(request).func):
                return Detour(self._acall)
        except Exception as error:  # noqa: BLE001 - Django's own edge
            return response_for_exception(request, error)
        return self._call(request)

    def _call(self, request: Request) -> Response:
        try:
            return self.sync_face.call(request)
        except Exception as error:  # noqa: BLE001 - Django's own edge
            return response_for_exception(request, error)

    async def _acall(self, request: Request) -> Response:
        try:
            return await self.async_face.acall(request)
        except Exception as error:  # noqa: BLE001 - Django's own edge
            return await explain(request, error)


async def _await(awaitable: Awaitable[Response]) -> Response:
    return await awaitable
