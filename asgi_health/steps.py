"""The steps of an awaitable, taken in another context than that of the task that waits for it."""

from collections.abc import Awaitable, Generator
from contextvars import Context
from typing import Any, Generic, TypeVar

__all__ = ["Apart", "go_on"]

_Result = TypeVar("_Result")


class Apart(Generic[_Result]):
    """Await `work` in an empty context: it sees no context variable of the task, and sets none.

    For `send` and `receive`. A server begins the next request of a connection from within the last
    `send` of the one before, and reads on from within `receive`; what begins there has a copy of
    the present context for as long as the connection lives. Source: uvicorn.protocols.http, option
    `reset_contextvars`, https://github.com/python/cpython/issues/140947.
    """

    __slots__ = ("_work",)

    def __init__(self, work: Awaitable[_Result]) -> None:
        self._work = work

    def __await__(self) -> Generator[Any, Any, _Result]:
        result: _Result
        steps, context = self._work.__await__(), Context()
        try:
            waits_for = context.run(next, steps)
        except StopIteration as end:
            result = end.value
            return result
        result = yield from go_on(steps, waits_for, context)
        return result


def go_on(steps: Any, waits_for: Any, context: Context) -> Generator[Any, Any, Any]:
    """The rest of an awaitable whose first step has been taken."""
    try:
        while True:
            try:
                value = yield waits_for
            except BaseException as error:  # noqa: BLE001 - the cancellation, for instance: passed in
                waits_for = context.run(steps.throw, error)
            else:
                waits_for = context.run(steps.send, value)
    except StopIteration as end:
        return end.value
