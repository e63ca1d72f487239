"""Django's ASGI handler without what makes it slow; the answers are the same.

What costs in the stock handler, and what is done here (the figures: docs/handoff.md):

- a new thread for each request: here one is lent, and only to a request that needs one;
- two hops to that thread for each middleware: here those that only touch the request and the
  response run in the loop, and the others go together;
- two tasks for each request: here the second one, which listens for the client's leaving, is
  started when the request first waits for something.
"""

import asyncio
from contextvars import ContextVar
from typing import Any, cast

from asgiref.sync import AsyncToSync, SyncToAsync
from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler, get_script_prefix
from django.db import connections
from django.urls import set_script_prefix

from asgi_health.adapters.django.body import AsyncParts, is_sync_stream, read_body
from asgi_health.adapters.django.chain import Chain
from asgi_health.adapters.django.cycle import Cycle
from asgi_health.adapters.django.lending import Lent
from asgi_health.adapters.django.threads import Threads
from asgi_health.adapters.django.watch import Watch
from asgi_health.types import Receive, Scope, Send

__all__ = ["Handler"]

THREADS_DEFAULT = 32
_is_outermost = ContextVar("asgi_health_handoff_is_outermost", default=False)


class Handler(ASGIHandler):
    """A drop-in for `django.core.handlers.asgi.ASGIHandler`.

    Args:
        threads: requests that may run synchronous code at the same time; more wait.
    """

    def __init__(self, *, threads: int = THREADS_DEFAULT) -> None:
        self.threads = Threads(limit=threads, on_retire=connections.close_all)
        super().__init__()

    @property
    def _sender(self) -> type[ASGIHandler]:
        """Who sends the signals: receivers may have asked for Django's handler."""
        return ASGIHandler if type(self) is Handler else type(self)

    def load_middleware(self, is_async: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 - Django's signature
        """Build the chain of middlewares; see `Chain`."""
        self._middleware_chain = Chain(self).build()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        _is_outermost.set(not _is_below_others())
        await super().__call__(scope, receive, send)  # in a context of asgiref; calls `handle`

    async def handle(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a request, with a thread lent to it as soon as it needs one."""
        if not _is_outermost.get():
            await self._serve(scope, receive, send, Cycle(self._sender, scope, threads=None))
            return
        cycle = Cycle(self._sender, scope, threads=self.threads)
        context = SyncToAsync.thread_sensitive_context.get()
        SyncToAsync.context_to_thread_executor[context] = cast("Lent", cycle.lent)
        try:
            await self._serve(scope, receive, send, cycle)
        finally:
            # Not asgiref's to shut down. A task that outlives the request gets a thread of its own.
            SyncToAsync.context_to_thread_executor.pop(context, None)
            await cycle.leave()

    async def _serve(self, scope: Scope, receive: Receive, send: Send, cycle: Cycle) -> None:
        try:
            body_file = await self.read_body(receive)
        except RequestAborted:
            return
        set_script_prefix(get_script_prefix(scope))
        await cycle.begin()
        request, error_response = self.create_request(scope, body_file)
        if request is None:
            body_file.close()
            await self.send_response(error_response, send)
            await cycle.end(error_response)
            return
        watch = Watch(receive)
        try:
            response = await watch.run(self._respond(request, send, cycle, watch))
        except AssertionError:
            body_file.close()
            raise
        if response is None:  # the client has left, and the view went with it
            await cycle.abort()
        else:
            await cycle.end(response)
        body_file.close()

    async def _respond(self, request: Any, send: Send, cycle: Cycle, watch: Watch) -> Any:
        response = await self.run_get_response(request)
        if response.streaming:
            cycle.stream()
        try:
            await self.send_response(response, send)
        except asyncio.CancelledError:
            if not watch.is_left:
                raise
        return response

    async def run_get_response(self, request: Any) -> Any:
        """The response, with the class that it names as the sender of `request_finished`."""
        response: Any = await super().run_get_response(request)
        response._handler_class = self._sender  # noqa: SLF001 - as Django does
        return response

    async def send_response(self, response: Any, send: Any) -> None:
        """Send a response; a synchronous stream part by part, each from the request's thread.

        The stock handler reads all of such a stream before it sends anything.
        """
        parts: Any = AsyncParts(response) if is_sync_stream(response) else response
        await super().send_response(parts, send)

    async def read_body(self, receive: Any) -> Any:
        """The body as a file; see `asgi_health.adapters.django.body.read_body`."""
        return await read_body(receive)


def _is_below_others() -> bool:
    """Whether somebody above decides where synchronous code runs.

    A synchronous caller that waits for us, or a `ThreadSensitiveContext` around us.
    """
    if getattr(AsyncToSync.executors, "current", None) is not None:
        return True
    if SyncToAsync.thread_sensitive_context.get(None) is not None:
        return True
    return asyncio.get_running_loop() in AsyncToSync.loop_thread_executors
