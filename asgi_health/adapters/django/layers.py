"""The layers that a request passes on its way to the view.

A layer can be run in two ways:

- on the loop: its hooks in place when they are pure, else by a hop to the request's thread;
- on the thread: its hooks in place. Whoever has to go to the thread goes down from there as far as
  everything is synchronous, the view included, so that all of it costs one hop.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import async_to_sync, sync_to_async
from django.core.handlers.exception import response_for_exception
from django.db import connections

from asgi_health.adapters.django.pure import Purity

__all__ = ["AsyncCall", "Detour", "Layer", "Mixin", "SyncCall", "descent_to", "explain"]

Request = Any
Response = Any


class Layer:
    """Something that makes a response of a request.

    It makes one of an Exception as well, and raises one only where Django does: with
    DEBUG_PROPAGATE_EXCEPTIONS, or when the project's own page for errors fails.
    """

    async def on_loop(self, request: Request) -> Response:
        """Run it on the event loop."""
        raise NotImplementedError

    def on_thread(self, request: Request) -> "Response | Detour":
        """Run it on the request's thread."""
        raise NotImplementedError


class Detour:
    """Came so far on the thread; the rest needs the loop.

    Args:
        resume: goes on from there, on the loop.
    """

    __slots__ = ("_resume", "passed")

    def __init__(self, resume: Callable[[Request], Awaitable[Response]]) -> None:
        self._resume = resume
        self.passed: list[Mixin] = []
        """The layers that have yet to see the response, in this order."""

    async def on_loop(self, request: Request) -> Response:
        """The response; what the layers do with it costs a second hop."""
        found = await self._outcome(request)
        if isinstance(found, Exception) or any(layer.has_after for layer in self.passed):
            return await sync_to_async(self._finish)(request, found)
        return found

    def on_thread(self, request: Request) -> Response:
        """The same for a caller on the thread, which waits for the loop."""
        return self._finish(request, async_to_sync(self._outcome)(request))

    async def _outcome(self, request: Request) -> Response | Exception:
        try:
            return await self._resume(request)
        except Exception as error:  # noqa: BLE001 - each layer gets it
            return error

    def _finish(self, request: Request, found: Response | Exception) -> Response:
        for layer in self.passed:
            try:
                found = layer.finish(request, found)
            except Exception as error:  # noqa: BLE001 - the next layer gets it
                found = error
        if isinstance(found, Exception):
            raise found
        return found


class Mixin(Layer):
    """A middleware whose hooks are called, instead of itself."""

    def __init__(self, middleware: Any, below: Layer, purity: Purity | None) -> None:
        self._below = below
        self._before = getattr(middleware, "process_request", None)
        self._after = getattr(middleware, "process_response", None)
        self._purity = purity
        self._is_inline = purity is not None or not (self._before or self._after)
        self.has_after = self._after is not None

    async def on_loop(self, request: Request) -> Response:
        if self._is_inline:
            return await self._in_place(request)
        found = await sync_to_async(self.on_thread)(request)
        return await found.on_loop(request) if isinstance(found, Detour) else found

    async def _in_place(self, request: Request) -> Response:
        try:
            response = None if self._before is None else self._before(request)
            response = response or await self._below.on_loop(request)
            if self._after is None:
                return response
            if self._purity is None or self._purity.may_run_inline(request, response):
                return self._after(request, response)
            return await sync_to_async(self._after)(request, response)
        except Exception as error:  # noqa: BLE001 - Django's own edge
            return await explain(request, error)

    def on_thread(self, request: Request) -> Response | Detour:
        try:
            response = None if self._before is None else self._before(request)
            response = response or self._below.on_thread(request)
            if isinstance(response, Detour):
                response.passed.append(self)
                return response
            return response if self._after is None else self._after(request, response)
        except Exception as error:  # noqa: BLE001 - Django's own edge
            return response_for_exception(request, error)

    def finish(self, request: Request, found: Response | Exception) -> Response:
        """Do what is to be done with the response of the layer below, on the thread."""
        try:
            if isinstance(found, Exception):
                raise found  # noqa: TRY301 - as it would have come from below
            return found if self._after is None else self._after(request, found)
        except Exception as error:  # noqa: BLE001 - Django's own edge
            return response_for_exception(request, error)


class AsyncCall(Layer):
    """An asynchronous middleware that is called itself."""

    def __init__(self, call: Callable[[Request], Awaitable[Response]]) -> None:
        self._call = call

    async def on_loop(self, request: Request) -> Response:
        try:
            return await self._call(request)
        except Exception as error:  # noqa: BLE001 - Django's own edge
            return await explain(request, error)

    def on_thread(self, request: Request) -> Response | Detour:  # noqa: ARG002 - the loop gets it
        return Detour(self.on_loop)


class SyncCall(Layer):
    """A synchronous middleware that is called itself; all below it that can is called from it."""

    def __init__(self, call: Callable[[Request], Response]) -> None:
        self._call = call

    async def on_loop(self, request: Request) -> Response:
        return await sync_to_async(self.on_thread)(request)

    def on_thread(self, request: Request) -> Response | Detour:
        try:
            return self._call(request)
        except Exception as error:  # noqa: BLE001 - Django's own edge
            return response_for_exception(request, error)


def descent_to(below: Layer) -> Callable[[Request], Response]:
    """The `get_response` of a synchronous middleware."""

    def get_response(request: Request) -> Response:
        found = below.on_thread(request)
        return found.on_thread(request) if isinstance(found, Detour) else found

    return get_response


async def explain(request: Request, error: Exception) -> Response:
    """The response to an exception, made where Django makes it: on another thread."""
    return await sync_to_async(_explain, thread_sensitive=False)(request, error)


def _explain(request: Request, error: Exception) -> Response:
    """Leaves no connection on a thread that no request cycle cares for."""
    try:
        return response_for_exception(request, error)
    finally:
        connections.close_all()
