"""The client's leaving cancels the request that it waits for."""

import asyncio
from collections.abc import Coroutine, Generator
from contextvars import copy_context
from typing import Any, cast

from asgi_health.steps import go_on
from asgi_health.types import Receive

__all__ = ["Watch"]


class Watch:
    """Runs a request until the client leaves.

    Django gives a request and its listener a task each. Here the request stays in the server's
    task, in a copied context as a task would have it, and the listener is started when the request
    first waits: nobody could hear of a leaving before.
    """

    __slots__ = ("_error", "_is_over", "_receive", "is_left")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._is_over = False
        self._error: BaseException | None = None
        self.is_left = False
        """Whether the request was canceled because nobody waits for it."""

    async def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """The result of `work`; None when the client left and `work` ended with that.

        Raises:
            AssertionError: the server sent what no server may.
        """
        return await _Driven(self, work)

    def drive(self, work: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """The steps of `run`."""
        steps, context = work.__await__(), copy_context()
        try:
            waits_for = context.run(next, steps)
        except StopIteration as end:
            return end.value
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        cancelled_before = task.cancelling()
        listener = task.get_loop().create_task(self._listen(task))
        result = None
        try:
            result = yield from go_on(steps, waits_for, context)
        except asyncio.CancelledError:
            if not self.is_left or task.cancelling() - 1 > cancelled_before:
                raise  # the server's will, too
        finally:
            self._is_over = True
            listener.cancel()
            if self.is_left:
                task.uncancel()
        if self._error is not None:
            raise self._error
        return result

    async def _listen(self, task: "asyncio.Task[Any]") -> None:
        """Cancel the request when the client leaves, or when the server breaks the protocol."""
        try:
            message = await self._receive()
        except Exception as error:  # noqa: BLE001 - raised where the request is awaited
            self._error = error
        else:
            if message["type"] != "http.disconnect":
                text = f"Invalid ASGI message after request body: {message['type']}"
                self._error = AssertionError(text)
        if not self._is_over:
            self.is_left = True
            task.cancel()


class _Driven:
    """What makes `Watch.drive` awaitable."""

    __slots__ = ("_watch", "_work")

    def __init__(self, watch: Watch, work: Coroutine[Any, Any, Any]) -> None:
        self._watch = watch
        self._work = work

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._watch.drive(self._work)
